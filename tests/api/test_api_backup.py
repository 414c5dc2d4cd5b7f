"""A cluster is saved while it works and brought back whole; what cannot be saved or restored is told."""

from __future__ import annotations

import subprocess
import tarfile
import threading
from pathlib import Path

from tests.support import apiserver
from tests.support.http_client import Client

MAPS = "/api/v1/namespaces/default/configmaps"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*apiserver.program(), *arguments], capture_output=True, text=True, timeout=60, check=False)


def save(server: apiserver.Server, file: Path) -> None:
    done = run("backup", "--data-dir", str(server.data_dir), str(file))
    assert done.returncode == 0, done.stderr


def test_a_backup_made_under_load_holds_all_that_was_answered_before_it_began(tmp_path: Path) -> None:
    file, is_over = tmp_path / "backup.tar", threading.Event()
    answered: list[str] = []
    with apiserver.running(tmp_path / "old") as server:

        def write(worker: int) -> None:
            client, number = Client(server), 0
            while not is_over.is_set():
                name, number = f"w{worker}-{number}", number + 1
                assert client.ask("POST", MAPS, {"metadata": {"name": name}})[0] == 201
                answered.append(name)

        writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
        for writer in writers:
            writer.start()
        try:
            while len(answered) < 50:
                is_over.wait(0.01)
            before = list(answered)
            save(server, file)
        finally:
            is_over.set()
            for writer in writers:
                writer.join()
        token = server.token
        last = int(Client(server).ask("GET", MAPS)[1]["metadata"]["resourceVersion"])
    assert file.stat().st_mode & 0o777 == 0o600
    done = run("restore", "--data-dir", str(tmp_path / "new"), str(file))
    assert done.returncode == 0, done.stderr
    with apiserver.running(tmp_path / "new") as server:
        client = Client(server, token=token)
        code, listed = client.ask("GET", MAPS)
        assert code == 200, "the tokens of before are good: the keys came back too"
        assert {item["metadata"]["name"] for item in listed["items"]} >= set(before)
        assert int(listed["metadata"]["resourceVersion"]) > last
        with client.watch(f"{MAPS}?watch=1&resourceVersion={last}") as events:
            assert next(events)["object"]["code"] == 410, "what was lost is not told as if it had never been"


def test_what_stands_in_the_way_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    with apiserver.running(tmp_path / "data") as server:
        save(server, file)
        again = run("backup", "--data-dir", str(server.data_dir), str(file))
        running = run("restore", "--data-dir", str(server.data_dir), "--force", str(file))
    nothing = run("backup", "--data-dir", str(tmp_path / "nothing"), str(tmp_path / "b.tar"))
    held = run("restore", "--data-dir", str(tmp_path / "data"), str(file))
    (tmp_path / "rubbish").write_bytes(b"rubbish" * 1000)
    rubbish = run("restore", "--data-dir", str(tmp_path / "new"), str(tmp_path / "rubbish"))
    told = [
        (again, "is there already"),
        (running, "another server uses"),
        (nothing, "holds no state.db"),
        (held, "holds a cluster"),
        (rubbish, "is no backup of netplane"),
    ]
    for done, words in told:
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert words in done.stderr
    assert not (tmp_path / "new" / "state.db").exists()


def test_a_restore_by_force_keeps_what_it_replaces(tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    with apiserver.running(tmp_path / "data") as server:
        save(server, file)
        assert Client(server).ask("POST", MAPS, {"metadata": {"name": "later"}})[0] == 201
    assert run("restore", "--force", "--data-dir", str(tmp_path / "data"), str(file)).returncode == 0
    assert list((tmp_path / "data").glob("state.db.before-*"))
    assert list((tmp_path / "data").glob("pki.before-*"))
    with apiserver.running(tmp_path / "data") as server:
        assert Client(server).ask("GET", f"{MAPS}/later")[0] == 404


def test_a_damaged_store_is_not_saved_as_if_it_were_whole(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "backup.tar"
    with apiserver.running(data):
        pass
    damaged = bytearray((data / "state.db").read_bytes())
    damaged[4096:40960] = b"\xff" * 36864
    (data / "state.db").write_bytes(damaged)
    done = run("backup", "--data-dir", str(data), str(file))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no backup was made" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_damaged_backup_is_not_restored(tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    with apiserver.running(tmp_path / "data") as server:
        save(server, file)
    with tarfile.open(file) as archive:
        start = archive.getmember("state.db").offset_data
    damaged = bytearray(file.read_bytes())
    damaged[start + 4096 : start + 40960] = b"\xff" * 36864
    file.write_bytes(damaged)
    done = run("restore", "--data-dir", str(tmp_path / "new"), str(file))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot be restored" in done.stderr
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["lock"]
