"""Weights from the hub: the real client, against a hub on this machine."""

from __future__ import annotations

import hashlib
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support.servers.hub import Hub, running_hub
from support.servers.hub_client import Client, running_client

from upframe.filters.errors import WeightsUnavailable
from upframe.filters.hub import fetch_from_hub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def online(hub: Hub, folder: Path) -> Iterator[Client]:
    with running_client(folder, HF_ENDPOINT=hub.endpoint, HF_HUB_ETAG_TIMEOUT="2") as client:
        yield client
        assert client.noise == ""  # no progress bar, no warning of the hub's client


@pytest.fixture(scope="module")
def offline(hub: Hub, online: Client, folder: Path) -> Iterator[Client]:
    """The same cache, with the client's own switch."""
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "1"}
    with running_client(folder, **environment) as client:
        yield client
        assert client.noise == ""


@pytest.fixture(scope="module")
def unconnected(online: Client, folder: Path) -> Iterator[Client]:
    """The same cache, and a hub that nobody answers for; no time limit but our own."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with running_client(folder, HF_ENDPOINT=f"http://127.0.0.1:{port}") as client:
        yield client
        assert client.noise == ""


def test_downloads_a_named_file_from_the_endpoint_of_the_environment(
    hub: Hub, online: Client
) -> None:
    hub.add("someone/rife", "deep/flownet.pkl", CONTENT)
    answer = online.resolve("someone/rife:deep/flownet.pkl")
    assert answer.content == CONTENT
    assert answer.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (answer.name, answer.origin) == ("someone/rife:deep/flownet.pkl", "hub")


def test_downloads_the_default_file_of_a_repository_named_alone(hub: Hub, online: Client) -> None:
    hub.add("someone/esrgan", "RealESRGAN_x4.pth", CONTENT)
    answer = online.resolve("someone/esrgan", "REAL_ESRGAN")
    assert (answer.name, answer.content) == ("someone/esrgan:RealESRGAN_x4.pth", CONTENT)


def test_takes_the_second_default_file_where_a_repository_lacks_the_first(
    hub: Hub, online: Client
) -> None:
    hub.add("someone/safe", "flownet.safetensors", CONTENT)
    assert online.resolve("someone/safe").name == "someone/safe:flownet.safetensors"


def test_downloads_the_default_weights_without_a_warning(hub: Hub, online: Client) -> None:
    hub.add("elfgum/RIFE-4.22.lite", "flownet.pkl", CONTENT)
    answer = online.resolve(None)
    assert (answer.name, answer.origin) == ("elfgum/RIFE-4.22.lite:flownet.pkl", "hub")
    assert answer.warnings == []


def test_downloads_small_files_that_no_other_host_serves(hub: Hub, online: Client) -> None:
    hub.add("someone/small", "flownet.pkl", CONTENT, large=False)
    assert online.resolve("someone/small").content == CONTENT


def test_a_cached_file_is_not_downloaded_again(hub: Hub, online: Client) -> None:
    file = hub.add("someone/cached", "flownet.pkl", CONTENT)
    first, second = (online.resolve("someone/cached") for _ in range(2))
    assert (first.path, first.sha256) == (second.path, second.sha256)
    assert file.served == 1


def test_a_new_version_on_the_hub_is_downloaded(hub: Hub, online: Client) -> None:
    hub.add("someone/moving", "flownet.pkl", CONTENT)
    online.resolve("someone/moving")
    hub.add("someone/moving", "flownet.pkl", CONTENT + b"new")
    assert online.resolve("someone/moving").content == CONTENT + b"new"


def test_a_new_version_that_breaks_leaves_the_cached_one_in_use(hub: Hub, online: Client) -> None:
    hub.add("someone/breaking", "flownet.pkl", CONTENT)
    online.resolve("someone/breaking")
    hub.add("someone/breaking", "flownet.pkl", CONTENT + b"new", fault="corrupt")
    answer = online.resolve("someone/breaking")
    assert answer.content == CONTENT
    assert any("damaged" in line for line in answer.logged)


def test_a_missing_file_names_file_and_repository(hub: Hub, online: Client) -> None:
    hub.add("someone/other", "model.bin", CONTENT)
    answer = online.resolve("someone/other")
    assert answer.error == (
        "WeightsUnavailable: cannot get someone/other from the hub: the repository has no file "
        "flownet.pkl; the repository has no file flownet.safetensors"
    )


@pytest.mark.parametrize("policy", ["auto", "hub"])
def test_a_repository_that_a_user_named_is_never_replaced(online: Client, policy: str) -> None:
    answer = online.resolve("someone/nowhere", policy=policy)
    assert answer.error == (
        "WeightsUnavailable: cannot get someone/nowhere from the hub: "
        "the hub has no such repository, or it is private (set HF_TOKEN)"
    )


def test_a_gated_repository_says_what_to_do(hub: Hub, online: Client) -> None:
    hub.add("someone/gated", "flownet.pkl", CONTENT, fault="gated")
    assert "HF_TOKEN" in online.resolve("someone/gated").error


def test_a_failing_hub_is_reported_with_its_status(hub: Hub, online: Client) -> None:
    hub.add("someone/failing", "flownet.pkl", CONTENT, fault="broken")
    answer = online.resolve("someone/failing")
    assert "WeightsUnavailable" in answer.error
    assert "503" in answer.error
    assert answer.seconds < 10  # the client alone would go on for half a minute


def test_a_login_page_is_not_taken_for_the_hub(hub: Hub, online: Client) -> None:
    hub.add("someone/portal", "flownet.pkl", CONTENT, fault="portal")
    answer = online.resolve("someone/portal")
    assert "WeightsUnavailable" in answer.error
    assert "check your firewall and proxy settings" in answer.error


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_a_hub_that_never_finishes_its_answer_is_given_up(
    hub: Hub, online: Client, fault: str
) -> None:
    hub.add(f"someone/{fault}", "flownet.pkl", CONTENT, fault=fault)
    answer = online.resolve(f"someone/{fault}")
    assert "no answer within 2 s" in answer.error
    assert answer.seconds < 10  # the client alone would go on for half a minute


@pytest.mark.parametrize("fault", ["cut", "corrupt"])
def test_a_broken_download_is_never_taken_for_the_file(
    hub: Hub, online: Client, folder: Path, fault: str
) -> None:
    file = hub.add(f"someone/{fault}", "flownet.pkl", CONTENT + fault.encode(), fault=fault)
    answer = online.resolve(f"someone/{fault}")
    assert answer.error.startswith(f"WeightsUnavailable: cannot get someone/{fault} from the hub")
    assert file.served >= 1
    file.fault = None
    assert online.resolve(f"someone/{fault}").content == file.content


def test_two_processes_that_want_the_same_file_both_get_it(
    hub: Hub, online: Client, folder: Path
) -> None:
    file = hub.add("someone/wanted", "flownet.pkl", CONTENT + b"wanted", fault="slow")
    with (
        running_client(folder, HF_ENDPOINT=hub.endpoint) as other,
        ThreadPoolExecutor() as threads,
    ):
        other.resolve("builtin")  # awake, so that both ask at the same time
        clients = (online, other)
        answers = list(threads.map(lambda client: client.resolve("someone/wanted"), clients))
    assert [answer.content for answer in answers] == [file.content] * 2
    assert 1 <= file.served <= 2


def test_a_damaged_file_in_the_cache_is_downloaded_again(hub: Hub, online: Client) -> None:
    file = hub.add("someone/rotting", "flownet.pkl", CONTENT + b"rot")
    blob = online.resolve("someone/rotting").path
    with open(blob, "r+b") as cached:
        cached.write(b"rot")
    assert online.resolve("someone/rotting").content == file.content
    assert file.served == 2


def test_offline_a_cached_file_serves_and_nobody_is_asked(
    hub: Hub, online: Client, offline: Client
) -> None:
    hub.add("someone/kept", "flownet.pkl", CONTENT)
    online.resolve("someone/kept")
    asked = len(hub.requests)
    answer = offline.resolve("someone/kept")
    assert (answer.name, answer.content) == ("someone/kept:flownet.pkl", CONTENT)
    assert answer.warnings == []
    assert len(hub.requests) == asked


def test_offline_a_file_that_is_not_cached_says_so(hub: Hub, offline: Client) -> None:
    hub.add("someone/unseen", "flownet.pkl", CONTENT)
    asked = len(hub.requests)
    answer = offline.resolve("someone/unseen")
    assert "HF_HUB_OFFLINE is set and flownet.pkl is not in the cache" in answer.error
    assert len(hub.requests) == asked


def test_offline_a_damaged_file_in_the_cache_is_not_used(
    hub: Hub, online: Client, offline: Client
) -> None:
    hub.add("someone/damaged", "flownet.pkl", CONTENT + b"whole")
    with open(online.resolve("someone/damaged").path, "r+b") as cached:
        cached.truncate(100)
    assert "WeightsUnavailable" in offline.resolve("someone/damaged").error


def test_without_network_a_cached_file_serves(
    hub: Hub, online: Client, unconnected: Client
) -> None:
    hub.add("someone/remembered", "flownet.pkl", CONTENT)
    online.resolve("someone/remembered")
    answer = unconnected.resolve("someone/remembered")
    assert answer.content == CONTENT
    assert answer.seconds < 10  # the client alone would go on for half a minute


def test_without_network_the_default_falls_back_with_one_loud_warning(unconnected: Client) -> None:
    answer = unconnected.resolve(None, "REAL_ESRGAN")
    assert (answer.name, answer.origin) == ("builtin", "builtin")
    assert answer.seconds < 10  # the client alone would go on for half a minute
    (warning,) = answer.warnings
    assert "LOWER QUALITY" in warning
    assert "ai-forever/Real-ESRGAN" in warning  # what was tried
    assert "refused" in warning  # why it failed
    assert "upframe models pull" in warning  # how to get the real ones


def test_without_network_the_policy_hub_is_an_error(unconnected: Client) -> None:
    answer = unconnected.resolve(None, "REAL_ESRGAN", "hub")
    assert answer.error.startswith("WeightsUnavailable: cannot get ai-forever/Real-ESRGAN")


def test_without_network_a_repository_that_a_user_named_is_an_error(unconnected: Client) -> None:
    answer = unconnected.resolve("ai-forever/Real-ESRGAN", "REAL_ESRGAN")
    assert answer.error.startswith("WeightsUnavailable: cannot get ai-forever/Real-ESRGAN")


def test_the_policy_builtin_asks_nobody(hub: Hub, online: Client) -> None:
    asked = len(hub.requests)
    answer = online.resolve(None, policy="builtin")
    assert (answer.origin, answer.logged) == ("builtin", [])
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("variable", "value", "wanted"),
    [
        ("HF_ENDPOINT", "hub.example", "an http(s) address"),
        ("HF_ENDPOINT", "http://127.0.0.1:port", "an http(s) address"),
        ("HF_HUB_ETAG_TIMEOUT", "soon", "a whole number of seconds"),
    ],
)
def test_a_senseless_variable_is_reported(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, wanted: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(WeightsUnavailable, match=f"{variable} must be {re.escape(wanted)}"):
        fetch_from_hub("someone/anything", ("flownet.pkl",))


NAMES = [None, "someone/unasked", "someone/unasked:flownet.pkl", "elfgum/RIFE-4.22.lite:x.pkl"]


@pytest.mark.parametrize("name", NAMES)
def test_builtin_asks_no_hub_whatever_is_named(hub: Hub, online: Client, name: str | None) -> None:
    hub.add("someone/unasked", "flownet.pkl", CONTENT)
    before = len(hub.requests)
    answer = online.resolve(name, policy="builtin")
    assert hub.requests[before:] == []
    assert (
        (answer.origin == "builtin") if name is None else "not in the hub's cache" in answer.error
    )


@pytest.mark.parametrize("policy", ["auto", "hub", "builtin"])
@pytest.mark.parametrize("name", NAMES)
def test_offline_asks_no_hub_whatever_is_named(
    hub: Hub, offline: Client, name: str | None, policy: str
) -> None:
    before = len(hub.requests)
    offline.resolve(name, policy=policy)
    assert hub.requests[before:] == []


def test_what_a_user_has_in_the_cache_is_found_by_builtin_too(hub: Hub, online: Client) -> None:
    hub.add("someone/kept", "flownet.pkl", CONTENT)
    online.resolve("someone/kept")
    assert online.resolve("someone/kept", policy="builtin").content == CONTENT


def test_a_file_that_is_too_large_is_neither_fetched_nor_read(
    hub: Hub, online: Client, tmp_path: Path
) -> None:
    file = hub.add("someone/huge", "flownet.pkl", CONTENT)
    answer = online.resolve("someone/huge", most_bytes=len(CONTENT) - 1)
    assert f"{len(CONTENT)} bytes, wanted at most {len(CONTENT) - 1}" in answer.error
    assert file.served == 0
    assert online.resolve("someone/huge", most_bytes=len(CONTENT)).content == CONTENT
    answer = online.resolve("someone/huge", most_bytes=10)  # cached by now
    assert "wanted at most 10" in answer.error
    with (tmp_path / "sparse.pkl").open("wb") as sparse:
        sparse.truncate(1 << 40)
    answer = online.resolve(str(tmp_path / "sparse.pkl"), most_bytes=512 << 20)
    assert "wanted at most 536870912" in answer.error
