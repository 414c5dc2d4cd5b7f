"""Be the CNI plugin that a runtime executes: hand the call to netplane's daemon and its answer back.

Request: the CNI_* variables, each closed by a zero byte, one more zero byte, then standard input; the open file of
CNI_NETNS rides along (SCM_RIGHTS), for the daemon may live in another mount namespace where the path leads elsewhere.
Answer: the exit code as one byte, then standard output. shim.c does the same in a fifth of a millisecond; this one
needs no compiler and imports nothing of ours: `python3 -I -S` starts it in five milliseconds.
"""

import _socket
import posix

SOCKET_PATH = b"/run/netplane/cni.sock"
LIMIT_SECONDS = 90.0
VERSIONS = b'{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}\n'


def main() -> None:
    """Run the plugin; ends the process."""
    environment = {key: value for key, value in posix.environ.items() if key[:4] in (b"CNI_", b"NETP")}
    stdin = _read(0)
    path = environment.pop(b"NETPLANE_CNI_SOCKET", b"") or SOCKET_PATH
    head = b"".join(key + b"=" + value + b"\0" for key, value in environment.items() if key[:4] == b"CNI_")
    try:
        answer = _ask(path, head + b"\0" + stdin, environment.get(b"CNI_NETNS", b""))
        why = "went away" if not answer else ""
    except OSError as error:
        answer, why = b"", f"cannot be reached: {error.strerror or error}"
    if why:
        answer = _refusal(environment.get(b"CNI_COMMAND", b""), path, why, stdin)
    posix.write(1, answer[1:])
    posix._exit(answer[0])


def _ask(path: bytes, request: bytes, netns: bytes) -> bytes:
    daemon = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    daemon.settimeout(LIMIT_SECONDS)
    daemon.connect(path)
    try:
        opened = posix.open(netns, posix.O_RDONLY | posix.O_CLOEXEC) if netns else -1
    except OSError:
        opened = -1
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, opened.to_bytes(4, "little"))] if opened >= 0 else []
    sent = daemon.sendmsg([request], rights, _socket.MSG_NOSIGNAL)
    daemon.sendall(request[sent:])
    daemon.shutdown(_socket.SHUT_WR)
    answer = b""
    while part := daemon.recv(65536):
        answer += part
    return answer


def _read(fd: int) -> bytes:
    whole = b""
    while part := posix.read(fd, 65536):
        whole += part
    return whole


def _refusal(command: bytes, path: bytes, why: str, stdin: bytes) -> bytes:
    if command == b"VERSION":
        return b"\0" + VERSIONS
    code = 50 if command == b"STATUS" else 11
    text = (
        f'{{"cniVersion":"{_version(stdin)}","code":{code},"msg":"netplane\'s CNI daemon {why.partition(":")[0]}",'
        f'"details":"socket {path.decode()}: {why}; is `netplane cni daemon` running on this node?"}}\n'
    )
    return b"\1" + text.encode()


def _version(stdin: bytes) -> str:
    # Answers must carry the version of the question; json would double the start-up time.
    rest = stdin.partition(b'"cniVersion"')[2].lstrip(b" \t\r\n:")
    found = rest[1:].partition(b'"')[0].decode(errors="replace") if rest[:1] == b'"' else ""
    return found if found and all(c in "0123456789." for c in found) else "1.0.0"


if __name__ == "__main__":
    main()
