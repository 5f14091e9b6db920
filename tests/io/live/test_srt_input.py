"""SRT by the ffmpeg program, against a real sender; the program never outlives us."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import av
import pytest
from support.media.clips import make_clip
from support.servers.camera import DEADLINE_SECONDS, free_port

from upframe.io.child import with_parent_death
from upframe.io.errors import InputLost
from upframe.io.live.address import AddressMemory, find_address
from upframe.io.live.live_input import LiveInput
from upframe.io.live.values import DecodedFrame, SoundPacket

PHRASE = "a-long-passphrase"


@contextmanager
def sender(port: int) -> Generator[subprocess.Popen[bytes]]:
    """A real sender that waits for its receiver."""
    ffmpeg = shutil.which("ffmpeg")
    assert ffmpeg is not None, "the ffmpeg program is missing"
    command = [ffmpeg, "-nostdin", "-loglevel", "error", "-re", "-f", "lavfi"]
    command += ["-i", "testsrc=size=160x90:rate=15", "-f", "lavfi", "-i", "sine"]
    command += ["-c:v", "libx264", "-g", "8", "-tune", "zerolatency", "-c:a", "aac"]
    command += ["-f", "mpegts", f"srt://127.0.0.1:{port}?mode=listener&passphrase={PHRASE}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def url_of(port: int, phrase: str = PHRASE) -> str:
    return f"srt://127.0.0.1:{port}?passphrase={phrase}"


def children() -> set[int]:
    """The processes that this one has started and not reaped yet."""
    threads = Path("/proc/self/task").iterdir()
    return {int(pid) for each in threads for pid in (each / "children").read_text().split()}


def quick() -> AddressMemory:
    """The sender has a keyframe every half second."""
    remembered = AddressMemory()
    remembered.look_seconds = 0.7
    return remembered


def connected(
    url: str, *, read_seconds: float = 5.0, remembered: AddressMemory | None = None
) -> LiveInput:
    """Connect, again until the sender listens."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        found = find_address(url, read_seconds=read_seconds, remembered=remembered or quick())
        live = LiveInput(found)
        try:
            live.connect()
        except InputLost as error:
            live.close()
            if error.reason != "timed-out" or time.monotonic() > deadline:
                raise
        else:
            return live


def test_srt_gives_frames_and_sound_and_ends_without_a_trace() -> None:
    before, port = children(), free_port()
    with sender(port) as sending, closing(connected(url_of(port), read_seconds=1.0)) as live:
        form = live.probe()
        assert (form.info.width, form.info.rate, form.codec) == (160, 15, "h264")
        assert form.sound is not None
        events = [event for event, _ in zip(live, range(60), strict=False)]
        frames = [event for event in events if isinstance(event, DecodedFrame)]
        assert frames[0].is_keyframe
        times = [frame.seconds for frame in frames if frame.seconds is not None]
        assert times == sorted(set(times))
        assert any(isinstance(event, SoundPacket) for event in events)
        sending.kill()
        with pytest.raises(InputLost) as caught:
            for _ in live:
                pass
        assert caught.value.reason in ("timed-out", "ended")
        assert PHRASE not in f"{caught.value}{live.lines()}"
    assert children() <= before


def test_a_wrong_passphrase_is_told_and_not_shown() -> None:
    before, port = children(), free_port()
    with sender(port), pytest.raises(InputLost) as caught:
        connected(url_of(port, "another-passphrase")).close()
    assert caught.value.reason == "unauthorised"
    assert "another-passphrase" not in str(caught.value)
    assert children() <= before


def test_nobody_there_times_out() -> None:
    live = LiveInput(find_address(f"srt://127.0.0.1:{free_port()}", connect_seconds=0.5))
    with closing(live), pytest.raises(InputLost) as caught:
        live.connect()
    assert caught.value.reason == "timed-out"


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    live = LiveInput(find_address("srt://127.0.0.1:9"))
    with pytest.raises(InputLost, match="needs the program ffmpeg, which is not there") as caught:
        live.connect()
    assert caught.value.reason == "unsupported"


def joined_late(path: Path) -> bytes:
    """MPEG-TS as one gets it who joins after a keyframe: the next one is three seconds away."""
    options = {"tune": "zerolatency", "x264-params": "keyint=75:scenecut=0"}
    whole = make_clip(path, frames=200, options=options).read_bytes()
    with av.open(str(path)) as container:
        second = [packet.pos for packet in container.demux(video=0) if packet.size][1]
    tables, rest = whole[: 3 * 188], whole[second or 0 :]
    return tables + rest


def test_a_keyframe_that_comes_late_is_looked_for_longer_the_next_time(tmp_path: Path) -> None:
    data, remembered = joined_late(tmp_path / "clip.ts"), AddressMemory()
    remembered.look_seconds = 1.0
    tries: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE_SECONDS)
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        # the program reads TCP in the same way, and lets a test choose every byte
        address = replace(find_address(url, remembered=remembered), needs_ffmpeg=True)
        while len(tries) < 5:
            sending = threading.Thread(target=send_once, args=(server, data))
            sending.start()
            with closing(LiveInput(address)) as live:
                try:
                    live.connect()
                except InputLost as error:
                    tries.append(error.reason)
                else:
                    assert live.probe().info.width == 64
                    break
                finally:
                    sending.join()
    assert tries
    assert set(tries) == {"timed-out"}
    assert remembered.look_seconds == 2 ** len(tries)


def send_once(server: socket.socket, data: bytes) -> None:
    connection, _ = server.accept()
    with connection, suppress(ConnectionError):
        connection.sendall(data)


def test_a_stop_ends_the_reading_at_once() -> None:
    port = free_port()
    with sender(port), closing(connected(url_of(port), read_seconds=60.0)) as live:
        live.probe()
        ended: list[str] = []

        def read() -> None:
            try:
                for _ in live:
                    pass
            except InputLost as error:
                ended.append(error.reason)

        thread = threading.Thread(target=read)
        thread.start()
        live.stop()
        thread.join(DEADLINE_SECONDS)
        assert ended == ["ended"]


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while Path(f"/proc/{pid}").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":  # ended; whoever has inherited it reaps it
            return
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_a_tied_program_dies_with_who_started_it() -> None:
    code = (
        "import subprocess, sys, time; from upframe.io.child import with_parent_death;"
        "child = subprocess.Popen(with_parent_death(['sleep', '600']), start_new_session=True);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        child = int(parent.stdout.readline())
        until_named(child, "sleep")
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.communicate()
    until_gone(child)


def until_named(pid: int, name: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while Path(f"/proc/{pid}/comm").read_text().strip() != name:
        assert time.monotonic() < deadline, f"process {pid} did not become {name}"
        time.sleep(0.02)


def test_a_tied_program_is_the_program_itself() -> None:
    done = subprocess.run(
        with_parent_death(["printf", "%s", "a b"]), stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == b"a b"
