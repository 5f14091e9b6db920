"""Check a configuration on this machine: folders, devices, weights, codecs, secrets.

`examine` checks everything, for `upframe serve --check`. The start of the daemon checks only what
cannot change by itself: a folder that does not exist may be mounted later.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

from ...filters.errors import DeviceUnavailable, WeightsUnavailable
from ...filters.options import FilterOptions
from ...io.encode.options import EncoderOptions
from ...io.errors import MediaError, SinkRefused, SourceMissing
from ...io.web import INSECURE, NetworkRules, network_rules
from ..config import Config, Fault, LiveConfig, MqttConfig
from ..convert.space import MARGIN_BYTES, free_bytes, size_text
from ..errors import BrokerAbsent

log = logging.getLogger("upframe.service.checking")


_PATIENCE_SECONDS = 5.0
_BOTH = {"enable_frame_interpolation": True, "enable_upscaling": True}
_NEEDED = ("nvidiactl", "nvidia0", "nvidia-uvm")


def examine(config: Config, free: Callable[[Path], int | None] = free_bytes) -> Iterator[Fault]:
    """Find everything that would not work; loads torch and codecs, uses no network."""
    unusable = list(_folders(config, may_come_later=False))
    yield from unusable or _full(config, free)
    yield from _devices(config)
    yield from _weights(config)
    for index, watch in enumerate(config.watch):
        yield from _codec(f"watch[{index}]", watch.encoder, watch.container)
    for index, live in enumerate(config.live):
        yield from _stream(f"live[{index}]", live)
    if config.mqtt is not None:
        yield from _secrets(config.mqtt)


def broker_faults(mqtt: MqttConfig) -> Iterator[Fault]:
    """Log in to the broker once, beside a daemon that may be running.

    Raises:
        BrokerAbsent: if there is none.
    """
    from ..mqtt.broker import ConnectionLost, LoginRefused, try_login

    try:
        asyncio.run(try_login(mqtt))
    except LoginRefused as error:
        yield Fault("mqtt", str(error), "what the broker accepts")
    except ConnectionLost as error:
        raise BrokerAbsent(f"mqtt: {error}") from error


def faults_at_start(config: Config) -> Iterator[Fault]:
    """Find what cannot change by itself while the daemon runs; loads nothing.

    Live streams are not checked: their faults are in their state.
    """
    yield from _folders(config, may_come_later=True)
    if config.mqtt is not None:
        yield from _secrets(config.mqtt)


def examine_at_start(
    config: Config,
    seconds: float = _PATIENCE_SECONDS,
    look: Callable[[Config], Iterator[Fault]] = faults_at_start,
) -> list[Fault]:
    """Return what `look` finds. A share that hangs is no fault, and costs only some seconds."""
    found: list[Fault] = []
    looking = threading.Thread(
        target=lambda: found.extend(look(config)), name="examine", daemon=True
    )
    looking.start()
    looking.join(seconds)
    if looking.is_alive():
        log.warning("the folders do not answer within %g s: they are not checked", seconds)
        return []
    return found


def _folders(config: Config, *, may_come_later: bool) -> Iterator[Fault]:
    yield from _unwritable("state_dir", config.state_dir)
    for index, watch in enumerate(config.watch):
        where = f"watch[{index}]"
        try:
            os.listdir(watch.input)
        except OSError as error:
            is_gone = isinstance(error, FileNotFoundError)
            if not (is_gone and may_come_later):
                wanted = "a folder that is there" if is_gone else "a folder that can be listed"
                yield Fault(f"{where}.input", f'"{watch.input}": {error.strerror}', wanted)
        written = {"output": watch.output, "done_dir": watch.done_dir}
        for name, folder in (written | {"failed_dir": watch.failed_dir}).items():
            if folder is not None and not (may_come_later and not folder.exists()):
                yield from _unwritable(f"{where}.{name}", folder)


def _unwritable(key: str, folder: Path) -> Iterator[Fault]:
    """Write a file, in the folder or where it would be made: permissions do not prove it."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"upframe")
    except OSError as error:
        which = "" if existing == folder else f" (which would be made in {existing})"
        got = f'"{folder}"{which}: {error.strerror}'
        wanted = "a folder that the service's user may write to"
        if "INVOCATION_ID" in os.environ:  # set by systemd
            wanted += "; in a unit, see ReadWritePaths= and ProtectHome="
        yield Fault(key, got, wanted)


def _full(config: Config, free: Callable[[Path], int | None]) -> Iterator[Fault]:
    """Find folders to be written whose file system has no space for any job."""
    written = {f"watch[{index}].output": each.output for index, each in enumerate(config.watch)}
    for key, folder in ({"state_dir": config.state_dir} | written).items():
        left = free(next(path for path in (folder, *folder.parents) if path.exists()))
        if left is not None and left < MARGIN_BYTES:
            got = f'"{folder}" with {size_text(left)} free'
            yield Fault(key, got, f"at least {size_text(MARGIN_BYTES)}, or its jobs wait")


def _devices(config: Config) -> Iterator[Fault]:
    from ...filters.device import resolve_device, resolve_devices

    named = {f"jobs.devices[{index}]": name for index, name in enumerate(config.jobs.devices)}
    lives = {f"live[{index}].device": live.device for index, live in enumerate(config.live)}
    for key, name in (named | lives).items():
        try:
            resolve_devices(name) if key in named else resolve_device(name)
        except DeviceUnavailable as error:
            yield Fault(key, f'"{name}": {error}', "a device of this machine")


def _weights(config: Config) -> Iterator[Fault]:
    from ...filters.weights import REAL_ESRGAN, RIFE, resolve_weights

    asked = {f"watch[{index}].filters.": each.filters for index, each in enumerate(config.watch)}
    asked |= {f"live[{index}].filters.": each.filters for index, each in enumerate(config.live)}
    if not config.watch:  # then jobs may use either
        asked[""] = FilterOptions.model_validate(_BOTH)
    pairs = (("frame_interpolation", RIFE), ("upscaling", REAL_ESRGAN))
    for (where, filters), (filter_name, default) in itertools.product(asked.items(), pairs):
        key = f"{filter_name}_model_path"
        name: str | None = getattr(filters, key)
        if not getattr(filters, f"enable_{filter_name}"):
            continue
        if name is None and config.weights == "auto":
            continue
        try:
            resolve_weights(name, default, config.weights, offline=True)
        except WeightsUnavailable as error:
            named = "weights" if name is None else where + key
            got = f'"{config.weights if name is None else name}": {error}'
            yield Fault(named, got, "weights that are on this machine")


_TICK = Fraction(1, 25)
_USUAL_SIZES = ((1920, 1080), (352, 288))
"""Of pictures to try an encoder with; some take only small ones."""


def _codec(where: str, encoder: EncoderOptions, container: str | None) -> Iterator[Fault]:
    """Encode a picture of 8 bits with the encoder that is named, or a container's default."""
    from ...filters.frame import PixelFormat
    from ...io.encode.codecs import default_codec, encoder_of
    from ...io.encode.containers import container_of
    from ...io.encode.encoder import check_range
    from ...io.writer import try_encoder

    if encoder.codec is None and container is None:
        return
    usual = PixelFormat.parse("yuv420p")
    try:
        name = encoder.codec or default_codec(usual, container_of("", container))
        check_range(encoder_of(name), encoder)
        try_encoder(encoder, container or "nut", _USUAL_SIZES)  # which holds all codecs
    except SinkRefused as error:
        yield _fault_of(where, encoder, error)


def _live_codec(where: str, encoder: EncoderOptions, container: str) -> Iterator[Fault]:
    """Encode a picture as the live stream's encoder will."""
    from ...filters.frame import StreamInfo
    from ...io.live.live_encoder import EncoderSettings

    info = StreamInfo(*_USUAL_SIZES[0], "yuv420p", _TICK, rate=1 / _TICK)
    try:
        EncoderSettings(info, 1 / _TICK, encoder, container).try_all(None)
    except SinkRefused as error:
        yield _fault_of(where, encoder, error)


def _fault_of(where: str, encoder: EncoderOptions, error: SinkRefused) -> Fault:
    key = f"{where}.encoder{'.codec' if encoder.codec else ''}"
    return Fault(key, str(error), "an encoder that FFmpeg has here, and options that it has")


def _stream(where: str, live: LiveConfig) -> Iterator[Fault]:
    """Check one live stream, without connecting."""
    from ...io.live.address import read_credentials
    from ...io.live.target import find_live_target

    for key in ("credentials_file", "output_credentials_file"):
        path: Path | None = getattr(live, key)
        try:
            if path is not None:
                read_credentials(path)
        except SourceMissing as error:
            yield Fault(f"{where}.{key}", str(error), "a line USER:PASSWORD, closed to others")
    name, length = live.container, live.segment_seconds
    with network_rules(NetworkRules(tls_insecure=live.tls_insecure)):
        yield from _live_input(f"{where}.input", live)
        try:
            target = find_live_target(
                live.output, format=name, segment_seconds=length, numbered=True
            )
            yield from _live_codec(where, live.encoder, target.format)
        except SinkRefused as error:
            yield Fault(f"{where}.output", str(error), "an output that can be written here")


def _live_input(key: str, live: LiveConfig) -> Iterator[Fault]:
    from ...io.live.address import find_address

    try:
        address = find_address(live.input, transport=live.rtsp_transport)
    except MediaError as error:
        yield Fault(key, str(error), "an input that can be read here")
        return
    path = Path(address.url.removeprefix("file:"))
    if address.protocol in ("v4l2", "file") and not path.exists():
        yield Fault(key, f'"{path}": No such file or directory', "a device or file that is there")
    if address.needs_ffmpeg and shutil.which("ffmpeg") is None:
        text = "the program ffmpeg on this machine, which reads it for us"
        yield Fault(key, f"{address.protocol}:// and no ffmpeg", text)


def _secrets(mqtt: MqttConfig) -> Iterator[Fault]:
    files = {"tls_ca": mqtt.tls_ca, "tls_cert": mqtt.tls_cert, "tls_key": mqtt.tls_key}
    for name, path in (files | {"password_file": mqtt.password_file}).items():
        if path is None:
            continue
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        except OSError as error:
            wanted = "a file that the service's user may read"
            yield Fault(f"mqtt.{name}", f'"{path}": {error.strerror}', wanted)
        else:
            if name == "password_file" and mode & stat.S_IRWXO:
                wanted = f"one that others cannot read: chmod o= {path}"
                yield Fault(f"mqtt.{name}", f'"{path}" with mode {mode:04o}', wanted)


def cautions(config: Config) -> Iterator[str]:
    """Return warnings: what works, but should not be overlooked."""
    for live in config.live:
        if live.tls_insecure:
            yield f"live stream {live.name}: tls_insecure = true: {INSECURE}"
    if hidden := hidden_gpu(config.jobs.devices):
        yield hidden


_REASONS = {
    errno.ENOENT: "is not there (PrivateDevices= in the unit? nvidia-modprobe or nvidia_uvm "
    "missing?)",
    errno.EPERM: "is not allowed (DeviceAllow=char-nvidia and char-nvidia-frontend in the unit?)",
    errno.EACCES: "belongs to others (SupplementaryGroups=video render in the unit?)",
}


def hidden_gpu(
    devices: Iterable[str], proc: Path = Path("/proc"), dev: Path = Path("/dev")
) -> str | None:
    """Explain why CUDA does not find the GPU that the driver has; None if it does.

    CUDA itself is silent: with a wrong DeviceAllow= in the unit it finds no device, `auto` means
    the CPU, and everything takes a hundred times as long. Without `auto`, `all` or `cuda` among the
    configured devices no GPU is expected. `proc` has the state of the driver, `dev` its devices.
    """
    if not any(word in name for name in devices for word in ("auto", "all", "cuda")):
        return None
    cards = proc / "driver" / "nvidia" / "gpus"
    if not cards.is_dir() or not any(cards.iterdir()):
        return None
    trouble: list[str] = []
    for name in _NEEDED:
        try:
            os.close(os.open(dev / name, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
            trouble.append(f"{dev / name}: {reason}")
    text = f"the NVIDIA driver has a GPU, but CUDA will not see it: {'; '.join(trouble)}"
    return text if trouble else None
