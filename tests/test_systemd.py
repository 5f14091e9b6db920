"""The units: clean to systemd's own checks, hardened, and still able to use CUDA."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "systemd"
SERVICE = (UNITS / "upframe.service").read_text()
TEMPLATE = (UNITS / "upframe@.service").read_text()
PROGRAM = "/opt/upframe/bin/upframe"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here"
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they would be installed, with a program that exists."""
    for unit in UNITS.glob("upframe*.s*"):
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM, sys.executable))
    return tmp_path


def settings(text: str) -> list[tuple[str, str]]:
    """Every setting in order; sections do not share names."""
    lines = (line for line in text.splitlines() if line and line[0] not in "#[")
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def values(text: str, name: str) -> list[str]:
    return [value for each, value in settings(text) if each == name]


@needs_systemd
@pytest.mark.parametrize("unit", ["upframe.service", "upframe@films.service", "upframe.slice"])
def test_verify_is_clean(unit: str, installed: Path) -> None:
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(installed / unit)],
        capture_output=True,
        text=True,
        env={"SYSTEMD_UNIT_PATH": f"{installed}:", "PATH": "/usr/bin:/bin"},
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("unit", ["upframe.service", "upframe@films.service"])
def test_exposure_is_2_or_better(unit: str, installed: Path) -> None:
    result = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--threshold=20",
            "--no-pager",
            str(installed / unit),
        ],
        capture_output=True,
        text=True,
    )
    (exposure,) = re.findall(r"Overall exposure level for .*: ([\d.]+)", result.stdout)
    assert float(exposure) <= 2.0
    assert result.returncode == 0


@pytest.mark.parametrize("text", [SERVICE, TEMPLATE])
class TestBothUnits:
    def test_both_spellings_of_the_nvidia_devices_are_allowed(self, text: str) -> None:
        allowed = {value.split()[0] for value in values(text, "DeviceAllow")}
        assert {"char-nvidia", "char-nvidia-frontend", "char-nvidiactl"} <= allowed
        assert {"char-nvidia-uvm", "char-nvidia-caps"} <= allowed

    def test_nothing_that_breaks_cuda_or_torch_is_set(self, text: str) -> None:
        names = {name for name, _ in settings(text)}
        assert not {"PrivateDevices", "MemoryDenyWriteExecute", "ProcSubset"} & names

    def test_wrong_usage_and_configuration_are_not_tried_again(self, text: str) -> None:
        assert values(text, "RestartPreventExitStatus") == ["64 78"]
        assert values(text, "Restart") == ["on-failure"]

    def test_the_daemon_alone_gets_the_signal_and_has_time_to_drain(self, text: str) -> None:
        assert values(text, "KillMode") == ["mixed"]
        (stop,) = values(text, "TimeoutStopSec")
        assert int(stop) > 60 + 5

    def test_it_is_told_and_watched(self, text: str) -> None:
        assert values(text, "Type") == ["notify"]
        assert values(text, "NotifyAccess") == ["main"]
        assert values(text, "WatchdogSec") == ["60"]

    def test_caches_are_in_the_cache_directory(self, text: str) -> None:
        (cache,) = values(text, "CacheDirectory")
        for value in values(text, "Environment"):
            assert value.partition("=")[2].startswith(f"/var/cache/{cache}"), value

    def test_memory_of_a_worker_costs_not_the_service(self, text: str) -> None:
        assert values(text, "OOMPolicy") == ["continue"]

    def test_it_is_in_the_slice(self, text: str) -> None:
        assert values(text, "Slice") == ["upframe.slice"]


def test_the_template_differs_in_names_only() -> None:
    changes = {
        "Description": ("upframe, makes", "upframe (%i), makes"),
        "ExecStart": ("/upframe.toml", "/%i.toml"),
        "Environment": ("/var/cache/upframe", "/var/cache/upframe/%i"),
    }
    changes |= {f"{kind}Directory": ("upframe", "upframe/%i") for kind in ("State", "Cache")}
    changes |= {"RuntimeDirectory": ("upframe", "upframe/%i")}
    wanted = [
        (name, value.replace(*changes.get(name, ("", "")))) for name, value in settings(SERVICE)
    ]
    assert settings(TEMPLATE) == wanted
