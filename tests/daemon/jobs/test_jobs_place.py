"""`upframe jobs` finding a daemon or only its records, and long lists."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.jobs.queues import SECRET, ServedQueue, a_job, fill, opened

from upframe.daemon.__main__ import main
from upframe.daemon.jobs.client import listening_daemons, writer_here

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "/dev/null", "/b", "--upscale", "2"),
        ("cancel", "film"),
        ("retry", "--failed"),
        ("watch",),
        ("status",),
        ("list",),
        ("show", "film"),
    ],
)
def test_without_a_daemon_and_a_store_there_is_nothing_to_do(
    words: tuple[str, ...], jobs: Command, tmp_path: Path
) -> None:
    code, out, err = jobs(*words)
    assert (code, out) == (69, "")
    assert err.startswith(f"upframe: no daemon listens on {tmp_path / 'upframe.sock'} (is `upfr")


def test_without_a_daemon_its_records_can_be_read(tmp_path: Path, jobs: Command) -> None:
    with opened(tmp_path) as store:
        store.add(a_job("film", source=SECRET))
    note = "upframe: no daemon is running; this is what it has recorded\n"
    before = (tmp_path / "jobs.sqlite").read_bytes()
    code, out, err = jobs("list")
    assert (code, err) == (0, note)
    assert out.splitlines()[1].split()[:2] == ["film", "queued"]
    code, out, err = jobs("show", "film", "--json")
    assert (code, err) == (0, note)
    assert json.loads(out)["source"] == "rtsp://***@camera/1"
    code, out, _ = jobs("list", "--json")
    assert "geheim" not in out
    assert jobs("show", "nobody")[0] == 66
    assert jobs("cancel", "film")[0] == 69
    assert (tmp_path / "jobs.sqlite").read_bytes() == before


def test_a_stale_socket_is_no_daemon(tmp_path: Path, jobs: Command) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "upframe.sock"))
    assert jobs("status")[0] == 69
    with opened(tmp_path):
        pass
    assert jobs("list")[:2] == (0, "no jobs\n")


def test_the_daemon_is_found_by_its_configuration(
    served: ServedQueue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "upframe.toml"
    config.write_text(f'state_dir = "{tmp_path}"\n[nonsense]\nthat = "the daemon may refuse"\n')
    assert main(["jobs", "list", "--config", str(config)]) == 0
    assert capsys.readouterr().out == "no jobs\n"


def kernels_list(*bound: Path | str) -> str:
    """As /proc/net/unix has them; the last one does not listen."""
    head = "Num       RefCount Protocol Flags    Type St Inode Path\n"
    flags = ["00010000"] * (len(bound) - 1) + ["00000000"]
    return head + "".join(
        f"0000000000000000: 00000002 00000000 {flag} 0001 01 4711{f' {path}' if path else ''}\n"
        for path, flag in zip(bound, flags, strict=True)
    )


def test_daemons_that_listen_are_found_in_the_list_of_the_kernel(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("films", "my cameras", "idle", "gone")]
    for folder in folders[:3]:
        folder.mkdir()
        (folder / "upframe.sock").touch()
    sockets = tmp_path / "unix"
    bound = [folder / ".upframe.sock.new" for folder in folders]
    sockets.write_text(
        kernels_list(bound[0], bound[1], bound[3], "", "@abstract", "/run/other.sock", bound[2])
    )
    assert listening_daemons(sockets) == folders[:2]
    assert listening_daemons(tmp_path / "nothing") == []


def test_a_socket_of_another_user_is_not_spoken_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "upframe.sock").touch()
    sockets = tmp_path / "unix"
    sockets.write_text(kernels_list(tmp_path / ".upframe.sock.new", ""))
    assert listening_daemons(sockets) == [tmp_path]
    if os.geteuid() == 0:
        os.chown(tmp_path / "upframe.sock", 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert listening_daemons(sockets) == []


def test_a_running_daemon_is_found_without_being_named(served: ServedQueue) -> None:
    assert served.socket.parent in listening_daemons()
    served.stop()
    assert served.socket.parent not in listening_daemons()


def test_the_job_of_an_output_is_found_by_every_name_of_it(
    served: ServedQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    served.store.add(a_job("film", sink=str(tmp_path / "out.mkv")))
    for name in ("out.mkv", "sub/../out.mkv", "link/out.mkv", str(tmp_path / "out.mkv")):
        assert str(writer_here(name)).startswith("job 'film' of the daemon, which has not ended, ")
    assert writer_here("other.mkv") is None
    served.run(served.queue.cancel("film"))
    assert writer_here("out.mkv") is None


@pytest.mark.parametrize("answer", [None, b"", b"no HTTP", b"HTTP/1.1 404 No\r\n\r\n{}"])
def test_a_daemon_that_cannot_answer_holds_up_nobody(tmp_path: Path, answer: bytes | None) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / ".upframe.sock.new"))
        listening.listen()
        (tmp_path / ".upframe.sock.new").rename(tmp_path / "upframe.sock")
        assert tmp_path in listening_daemons()

        def reply() -> None:
            with suppress(OSError):  # at the end
                while True:
                    speaking, _ = listening.accept()
                    if answer is None:
                        kept.append(speaking)
                        continue
                    with speaking:
                        speaking.recv(1 << 16)
                        speaking.sendall(answer)

        kept = list[socket.socket]()
        threading.Thread(target=reply, daemon=True).start()
        began = time.monotonic()
        assert writer_here(str(tmp_path / "out.mkv")) is None
        assert time.monotonic() - began < 8
        listening.shutdown(socket.SHUT_RDWR)
    for speaking in kept:
        speaking.close()


def test_of_several_daemons_one_has_to_be_chosen(
    served: ServedQueue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    with ServedQueue(tmp_path / "other") as other:
        assert main(["jobs", "list"]) == 64
        text = capsys.readouterr().err
        assert "daemons are running here; choose one by" in text
        assert f"--socket {served.socket}" in text
        assert f"--socket {other.socket}" in text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('state_dir = "relative"', "state_dir: got 'relative', wanted an absolute path"),
        ("state_dir = 5", "state_dir: got 5, wanted an absolute path"),
        ("state_dir =", "got a file that is not TOML"),
        (None, "got No such file or directory, wanted a readable file"),
    ],
)
def test_a_wrong_configuration_is_said(
    text: str | None, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "upframe.toml"
    if text is not None:
        config.write_text(text)
    assert main(["jobs", "list", "--config", str(config)]) == 78
    assert f"upframe: {config}: {wanted}" in capsys.readouterr().err


def test_a_broken_store_is_said(tmp_path: Path, jobs: Command) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(b"holiday pictures" * 1000)
    code, _, err = jobs("list")
    assert code == 74
    assert err.endswith(f"upframe: {tmp_path / 'jobs.sqlite'}: file is not a database\n")


def test_listing_loads_neither_torch_nor_codecs(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    code = (
        "import sys; from upframe.daemon.__main__ import main; "
        f"main(['jobs', 'list', '--socket', {str(tmp_path / 'upframe.sock')!r}]); "
        "print(sorted({'torch', 'av'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "no jobs\n[]\n"


def test_a_list_of_ten_thousand_jobs_is_there_in_a_moment(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fill(store.path, (a_job(f"job{number}", minute=number) for number in range(10_000)))
    with ServedQueue(tmp_path) as served:
        took: dict[str, float] = {}
        for words in ("list", "list --json", "list --limit 0"):
            command = [sys.executable, "-m", "upframe.daemon", "jobs", *words.split()]
            start = time.monotonic()
            ran = subprocess.run(
                [*command, "--socket", str(served.socket)],
                check=True,
                capture_output=True,
                text=True,
            )
            took[words] = time.monotonic() - start
            assert "job49" in ran.stdout
    assert took["list"] < 2  # 0.3 s on two idle cores
    assert took["list --json"] < 5  # 0.7 s
    assert took["list --limit 0"] < 5  # 1.1 s


def test_a_terminal_gets_a_table_that_fits(served: ServedQueue) -> None:
    served.store.add(a_job("film", sink=f"/out/{'long/' * 40}{'name' * 40}.mp4"))
    master, terminal = os.openpty()
    command = [sys.executable, "-m", "upframe.daemon", "jobs", "list"]
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm-256color"}
    subprocess.run(
        [*command, "--socket", str(served.socket)], check=True, stdout=terminal, env=environment
    )
    os.close(terminal)
    text = os.read(master, 1 << 16).decode()
    os.close(master)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert plain != text  # coloured
    lines = plain.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "film", "1"]
    assert max(map(len, lines)) <= 100
    assert lines[1].split()[1] == "queued"
    assert lines[1].rstrip().endswith("…")
