/* The CNI plugin that a runtime executes: it hands the call to netplane's daemon and its answer back. One start costs
 * a tenth of a millisecond with -DBARE (bare.h), half of one with the C library. shim.py does the same where no
 * compiler is; the protocol is described there. How it is built: run/install.py. */
#ifdef BARE
#include "bare.h"
#else
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
extern char **environ;
#endif

#ifndef SOCKET_PATH
#define SOCKET_PATH "/run/netplane/cni.sock"
#endif
#ifndef BUILD
#define BUILD "netplane-cni build by hand"
#endif
#define LIMIT_SECONDS 90

static char buffer[4 << 20];
static char version[32] = "1.0.0";
__attribute__((used)) static const char build[] = BUILD; /* By it the installer knows whether this one is up to date. */

static int write_all(const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t done = write(1, bytes, length);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return -1;
        bytes += done;
        length -= (size_t)done;
    }
    return 0;
}

static int send_all(int daemon, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t done = send(daemon, bytes, length, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return -1;
        bytes += done;
        length -= (size_t)done;
    }
    return 0;
}

/* Write what is given on standard output, in one piece. */
static void say(const char *const *parts) {
    static char text[1024];
    size_t length = 0;
    for (; *parts; parts++)
        for (const char *at = *parts; *at && length < sizeof text; at++) text[length++] = *at;
    write_all(text, length);
}
#define SAY(...) say((const char *const[]){__VA_ARGS__, NULL})

/* Answers must carry the version of the question: find "cniVersion": "x" without a JSON parser. */
static void find_version(const char *text, size_t length) {
    const char *end = text + length, *at = memmem(text, length, "\"cniVersion\"", 12);
    if (!at) return;
    for (at += 12; at < end && (*at == ' ' || *at == ':' || *at == '\t' || *at == '\n' || *at == '\r'); at++) {}
    if (at >= end || *at++ != '"') return;
    size_t n = 0;
    while (at + n < end && n < sizeof version - 1 && ((at[n] >= '0' && at[n] <= '9') || at[n] == '.')) n++;
    if (n && at + n < end && at[n] == '"') { memcpy(version, at, n); version[n] = 0; }
}

static int is(const char *command) {
    const char *asked = getenv("CNI_COMMAND");
    return asked && strlen(asked) == strlen(command) && !strncmp(asked, command, strlen(command));
}

static int refuse(const char *why, const char *path) {
    if (is("VERSION")) {
        SAY("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n");
        return 0;
    }
    SAY("{\"cniVersion\":\"", version, "\",\"code\":", is("STATUS") ? "50" : "11", ",\"msg\":\"netplane's CNI daemon ",
        why, "\",\"details\":\"socket ", path, ": ", strerror(errno),
        "; is `netplane cni daemon` running on this node?\"}\n");
    return 1;
}

int main(void) {
    size_t head = 0, length;
    for (char **entry = environ; *entry; entry++) {
        size_t size = strlen(*entry) + 1;
        if (strncmp(*entry, "CNI_", 4)) continue;
        if (head + size + 1 > sizeof buffer / 2) { errno = E2BIG; return refuse("was not asked", "-"); }
        memcpy(buffer + head, *entry, size);
        head += size;
    }
    buffer[head++] = 0;
    length = head;
    for (;;) {
        if (length == sizeof buffer) { errno = EFBIG; return refuse("was not asked", "-"); }
        ssize_t got = read(0, buffer + length, sizeof buffer - length);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        length += (size_t)got;
    }
    find_version(buffer + head, length - head);

    const char *path = getenv("NETPLANE_CNI_SOCKET");
    if (!path || !*path) path = SOCKET_PATH;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) { errno = ENAMETOOLONG; return refuse("cannot be reached", path); }
    memcpy(address.sun_path, path, strlen(path) + 1);
    int daemon = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = LIMIT_SECONDS};
    if (daemon < 0 || setsockopt(daemon, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) ||
        setsockopt(daemon, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) ||
        connect(daemon, (struct sockaddr *)&address, sizeof address))
        return refuse("cannot be reached", path);

    /* The daemon may live in another mount namespace, where CNI_NETNS leads elsewhere: give it the open file. */
    const char *netns = getenv("CNI_NETNS");
    int namespace = netns && *netns ? open(netns, O_RDONLY | O_CLOEXEC) : -1;
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    struct iovec first = {buffer, length};
    struct msghdr message = {.msg_iov = &first, .msg_iovlen = 1};
    if (namespace >= 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.space;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &namespace, sizeof(int));
    }
    ssize_t sent = sendmsg(daemon, &message, MSG_NOSIGNAL);
    if (sent < 0 || send_all(daemon, buffer + sent, length - (size_t)sent) || shutdown(daemon, SHUT_WR))
        return refuse("went away", path);

    length = 0;
    for (;;) {
        /* To the end of the answer in one sleep. */
        ssize_t got = recv(daemon, buffer + length, sizeof buffer - length, MSG_WAITALL);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return refuse("did not answer", path);
        if (got == 0) break;
        length += (size_t)got;
    }
    if (length < 1) { errno = ECONNRESET; return refuse("went away", path); }
    return write_all(buffer + 1, length - 1) ? 1 : buffer[0];
}
