"""A configuration is read strictly; what is wrong is said with file, key, got and wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from upframe.daemon.config import Config, load_config
from upframe.daemon.errors import ConfigError

WATCH = '[[watch]]\ninput = "/in"\noutput = "/out"\nfilters = { enable_upscaling = true }\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "upframe.toml"
    path.write_text(text)
    return path


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == Config()


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    config = load_config(
        written(
            tmp_path,
            """
            state_dir = "/var/lib/upframe"
            weights = "hub"
            [jobs]
            slots = 1
            roots = ["/srv/video"]
            allowed_schemes = ["file", "rtsp", "http", "https"]
            attempts = 3
            retry_delays = [5, 30]
            drain_seconds = 60
            [[watch]]
            input = "/srv/video/in"
            output = "/srv/video/out"
            stable_seconds = 10
            filters = { enable_frame_interpolation = true, frame_interpolation_exp = 1 }
            encoder = { codec = "libx264", crf = 18 }
            [mqtt]
            host = "localhost"
            port = 1883
            prefix = "upframe"
            node_id = "node1"
            [http]
            listen = "127.0.0.1:9310"
            """,
        )
    )
    assert config.watch[0].encoder.crf == 18
    assert config.mqtt is not None
    assert config.jobs.roots == (Path("/srv/video"),)


@pytest.mark.parametrize("key", ['container = "mkv"', 'on_existing = "suffix"'])
def test_outputs_may_lie_beside_inputs_where_their_names_differ(tmp_path: Path, key: str) -> None:
    text = WATCH.replace('"/out"', '"/in"') + key
    assert len(load_config(written(tmp_path, text)).watch) == 1


def test_one_stage_can_be_given_and_the_others_keep_their_time(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "[jobs]\nstage_seconds = { loading = 1800 }"))
    assert config.jobs.stage_seconds == {
        "loading": 1800.0,
        "streaming": 300.0,
        "publishing": 600.0,
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("slots = 1", "slots: got an unknown key, wanted one of executor, http, jobs, "),
        ('weigths = "hub"', "weigths: got an unknown key, wanted weights, perhaps"),
        ('weights = "web"', "weights: got \"web\", wanted 'auto', 'hub' or 'builtin'"),
        ('state_dir = "var"', 'state_dir: got "var", wanted an absolute path'),
        ("[jobs]\nslots = 0", "jobs.slots: got 0, wanted greater than or equal to 1"),
        ('[jobs]\nslots = "1"', 'jobs.slots: got "1", wanted a valid integer'),
        ("[jobs]\nretry_delays = [5, -1]", "jobs.retry_delays[1]: got -1, wanted greater than "),
        (
            '[jobs]\nallowed_hosts = ["10.0.0.0/8", "http://nas.lan"]',
            'jobs.allowed_hosts[1]: got "http://nas.lan", wanted a name, an address or a network',
        ),
        ('[jobs]\nallowed_hosts = ["192.168.1.0/33"]', "wanted a name, an address or a network"),
        ('[jobs]\nallowed_schemes = ["https://"]', 'got "https://", wanted a scheme such as https'),
        (
            '[http]\nlisten = "127.0.0.1:1"\nhosts = ["nas.lan:9310"]',
            'http.hosts[0]: got "nas.lan:9310", wanted a name, an address or a network',
        ),
        (
            "[jobs]\nstage_seconds = { loding = 1 }",
            "jobs.stage_seconds.loding: got \"loding\", wanted 'loading', 's",
        ),
        (WATCH + "on_done = 3", "watch[0].on_done: got 3, wanted 'keep', 'move' or 'delete'"),
        (WATCH + 'on_done = "move"', 'wanted on_done = "move" needs done_dir'),
        (WATCH + "inclde = []", "watch[0].inclde: got an unknown key, wanted include, perhaps"),
        (WATCH.replace("true", "false"), "wanted filters: none is enabled"),
        (WATCH.replace("true", "1"), "watch[0].filters.enable_upscaling: got 1, wanted a valid bo"),
        (WATCH.replace('"/out"', '"/in"'), 'watch[0].output: got "/in", wanted another folder '),
        (
            'state_dir = "/in"\n' + WATCH,
            'watch[0].input: got "/in", wanted a folder outside of state_dir',
        ),
        (
            'state_dir = "/s"\n[jobs]\nroots = ["/s/films"]',
            'jobs.roots[0]: got "/s/films", wanted a folder outside of state_dir',
        ),
        (WATCH + WATCH, 'watch[1].input: got "/in", wanted another folder than that of watch[0]'),
        ('[[watch]]\ninput = "/in"', "watch[0].output: got nothing, wanted a value: it has no "),
        ("[mqtt]\nport = 99999\nhost = 'a'", "mqtt.port: got 99999, wanted less than or equal to "),
        ("[mqtt]\nhost = 'a'\ntls_cert = '/c'", "mqtt.tls_key: got nothing, wanted a file, since "),
        ("[mqtt]\nhost = 'a'\nprefix = 'a/#'", 'mqtt.prefix: got "a/#", wanted '),
        ("[http]\nlisten = '9310'", 'http.listen: got "9310", wanted ADDRESS:PORT'),
        ("[http]\nlisten = 'host.example:1'", "wanted ADDRESS:PORT with an IP address or localho"),
        ("[http]\nlisten = '0.0.0.0:9310'", "wanted a loopback address such as 127.0.0.1, or allo"),
        ("[jobs", "got a file that is not TOML, wanted TOML: "),
        ("a = 2026-11-23", "a: got an unknown key"),
    ],
)
def test_what_is_wrong_is_said_with_file_key_got_and_wanted(
    text: str, wanted: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert wanted in str(caught.value)
    assert "got " in str(caught.value)


def test_every_fault_is_said_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, 'weights = "web"\n[jobs]\nattempts = 0\n[log]\nlevel = "loud"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 3


def test_a_long_value_is_shown_in_part(tmp_path: Path) -> None:
    path = written(tmp_path, f'weights = "{"x" * 1000}"')
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: got No such file"):
        load_config(tmp_path / "none.toml")
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="wanted UTF-8"):
        load_config(path)


@pytest.mark.parametrize("listen", ["127.0.0.1:9310", "[::1]:9310", "localhost:0", "127.9.9.9:1"])
def test_loopback_needs_no_leave(listen: str, tmp_path: Path) -> None:
    assert load_config(written(tmp_path, f'[http]\nlisten = "{listen}"')).http is not None


def test_other_addresses_are_given_leave(tmp_path: Path) -> None:
    text = '[http]\nlisten = "0.0.0.0:9310"\nallow_remote = true'
    assert load_config(written(tmp_path, text)).http is not None


def test_weights_named_by_a_relative_path_are_found_from_where_the_configuration_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.pkl").touch()
    monkeypatch.chdir(tmp_path)
    filters = 'enable_upscaling = true, upscaling_model_path = "{}"'
    text = f'input = "{tmp_path}/in"\noutput = "{tmp_path}/out"\nfilters = {{ {filters} }}\n'
    for name, expected in (("mine.pkl", str(tmp_path / "mine.pkl")), ("a/hub", "a/hub")):
        path = written(tmp_path, f"[[watch]]\n{text.replace('{}', name)}")
        assert load_config(path).watch[0].filters.upscaling_model_path == expected
