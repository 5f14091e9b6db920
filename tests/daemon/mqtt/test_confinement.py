"""Requests reach files below the roots and URLs of the allowed schemes, and nothing else."""

import os
from pathlib import Path

import pytest
from av.video.codeccontext import VideoCodecContext
from support.jobs.mqtt_node import FILTERS

from upframe.daemon.config import JobsConfig
from upframe.daemon.mqtt import requests
from upframe.daemon.mqtt.requests import Refused, confined, confined_work, confinement
from upframe.daemon.specification import ConversionSpec
from upframe.io.decode.demuxer import find_target, open_container
from upframe.io.errors import SourceMissing
from upframe.io.root import ConfinedFile, Identity, Root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file, beside a secret."""
    root = tmp_path / "video"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a.mkv").touch()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "frame_0001.png").touch()
    return root


@pytest.fixture
def jobs(root: Path) -> JobsConfig:
    return JobsConfig(roots=(root,))


@pytest.mark.parametrize(
    "name",
    [
        "in/a.mkv",
        "in/../in/a.mkv",
        "in/new.mkv",
        "new/folder/of/the/sink.mkv",
        "in/frame_%05d.png",
        "in/*.png",
        "in/what?.mkv",
    ],
)
def test_lets_through_what_lies_below_a_root(root: Path, jobs: JobsConfig, name: str) -> None:
    assert confined(f"{root}/{name}", jobs) == str((root / name).resolve())


@pytest.mark.parametrize(
    "name",
    [
        "../secret/frame_0001.png",
        "in/../../secret/frame_0001.png",
        "missing/../../secret/x.mkv",
        "..",
        "../videos/a.mkv",  # begins like the root
        "../video2/frame_%05d.png",
    ],
)
def test_refuses_what_leads_out_by_dots(root: Path, jobs: JobsConfig, name: str) -> None:
    with pytest.raises(Refused, match="leads outside of the folders that requests may name"):
        confined(f"{root}/{name}", jobs)


def test_refuses_what_leads_out_by_links(root: Path, jobs: JobsConfig) -> None:
    (root / "folder").symlink_to(root.parent / "secret")
    (root / "file.png").symlink_to(root.parent / "secret" / "frame_0001.png")
    (root / "sink.mkv").symlink_to(root.parent / "secret" / "not-there-yet.mkv")
    (root / "twice").symlink_to(root / "folder")
    for name in ("folder/frame_0001.png", "file.png", "sink.mkv", "twice/new.mkv", "folder/*.png"):
        with pytest.raises(Refused, match="leads outside"):
            confined(str(root / name), jobs)


@pytest.mark.parametrize(
    ("link", "pattern"),
    [
        ("frame_0001.png", "frame_%04d.png"),
        ("frame_0001.png", "frame_*.png"),
        ("frame_0001.png", "frame_000?.png"),
        ("b1.png", "[!a]1.png"),
        ("^1.png", "[^a]1.png"),  # to FFmpeg's glob any but a, and so it was to none of our checks
        ("{a,b}1.png", "{a,b}*.png"),
        ("\\b1.png", "\\b?.png"),
    ],
)
def test_a_pattern_does_not_follow_the_links_it_matches(
    root: Path, jobs: JobsConfig, link: str, pattern: str
) -> None:
    """It is accepted, as links may come later, and refused when they are opened."""
    (root / "in" / link).symlink_to(root.parent / "secret" / "frame_0001.png")
    name = confined(str(root / "in" / pattern), jobs)
    found = find_target(ConfinedFile(name, Root(root)))
    assert [path.name for path in found.images] == [link]
    with pytest.raises(SourceMissing, match="leads outside"):
        open_container(found)


@pytest.mark.parametrize(
    ("link", "pattern"), [("b1.png", "[^a]1.png"), ("b1.png", "{a,b}*.png"), ("b1.png", r"\b?.png")]
)
def test_a_pattern_matches_by_our_dialect_alone(
    root: Path, jobs: JobsConfig, link: str, pattern: str
) -> None:
    """FFmpeg's own glob took these for the link, which our check did not see."""
    (root / "in" / link).symlink_to(root.parent / "secret" / "frame_0001.png")
    name = confined(str(root / "in" / pattern), jobs)
    with pytest.raises(SourceMissing, match=r"no file matches|no such file"):
        find_target(ConfinedFile(name, Root(root)))


@pytest.mark.parametrize("name", ["*/a.mkv", "i?/a.png", "[i]n/%04d.png", "%d/a.png"])
def test_a_pattern_chooses_no_folders(root: Path, jobs: JobsConfig, name: str) -> None:
    (root / "link").symlink_to(root.parent / "secret")
    with pytest.raises(Refused, match="in the file's name only"):
        confined(f"{root}/{name}", jobs)


def test_gives_the_name_behind_links_so_that_bending_them_changes_nothing(
    root: Path, jobs: JobsConfig
) -> None:
    (root / "link").symlink_to(root / "in")
    name = confined(str(root / "link" / "a.mkv"), jobs)
    (root / "link").unlink()
    (root / "link").symlink_to(root.parent / "secret")
    assert name == str(root / "in" / "a.mkv")


def test_a_root_may_itself_be_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert confined(str(link / "in/a.mkv"), JobsConfig(roots=(link,))) == str(root / "in/a.mkv")


def test_a_loop_of_links_is_refused_or_stays_inside(root: Path, jobs: JobsConfig) -> None:
    (root / "loop").symlink_to(root / "loop")
    try:
        name = confined(str(root / "loop" / "a.mkv"), jobs)
    except Refused:
        return
    assert Path(name).is_relative_to(root)


def test_without_roots_no_file_is_touched() -> None:
    with pytest.raises(Refused, match=r"\[jobs\] roots is empty"):
        confined("/srv/a.mkv", JobsConfig())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mkv", "must be an absolute path"),
        ("-", "must be an absolute path"),
        ("pipe:0", "must be an absolute path"),
        ("file:/etc/passwd", "must be an absolute path"),
        ("concat:/etc/passwd|/etc/shadow", "must be an absolute path"),
        ("subfile,,start,0,end,9,,:/etc/passwd", "must be an absolute path"),
        ("/srv/http://a", "must be an absolute path"),
        ("", "must be a path or URL"),
        ("/srv/a\nb", "without control characters"),
        ("/srv/a\0b", "without control characters"),
        ("http://a/\r\nHost: b", "without control characters"),
        ("ftp://a/b", "ftp is not among the allowed schemes file"),
        ("concat://a", "concat is not among"),
        ("crypto+file:///etc/passwd", "is not among"),
        ("file://elsewhere/srv/a.mkv", "must be file:///PATH"),
        ("file:///etc/passwd", "leads outside"),
        ("file:///srv/%00", "without control characters"),
        ("file:///srv/%ff", "must be UTF-8"),
        ("/" + "a" * 5000, "at most 4096 bytes"),
        ("/etc/passwd", "leads outside"),
    ],
)
def test_refuses_other_names(jobs: JobsConfig, name: str, text: str) -> None:
    with pytest.raises(Refused, match=text):
        confined(name, jobs)


def test_takes_urls_of_the_allowed_schemes(root: Path, jobs: JobsConfig) -> None:
    jobs = JobsConfig(roots=(root,), allowed_schemes=("file", "rtsp", "HTTP"))
    assert confined("rtsp://a:b@cam.invalid/1", jobs) == "rtsp://a:b@cam.invalid/1"
    assert confined("HTTP://a.invalid/b", jobs) == "http://a.invalid/b"
    assert confined(f"file://{root}/in/a.mkv", jobs) == str(root / "in" / "a.mkv")
    assert confined(f"file://localhost{root}/in/%61.mkv", jobs) == str(root / "in" / "a.mkv")


def test_a_list_of_schemes_without_file_takes_no_paths(root: Path) -> None:
    jobs = JobsConfig(roots=(root,), allowed_schemes=("rtsp",))
    with pytest.raises(Refused, match="file is not among the allowed schemes rtsp"):
        confined(str(root / "in/a.mkv"), jobs)


def test_a_refusal_tells_no_password() -> None:
    with pytest.raises(Refused) as refused:
        confined("ftp://user:s3cret@host/a", JobsConfig())
    assert "s3cret" not in str(refused.value)


def work_of(root: Path, **fields: object) -> ConversionSpec:
    given = {"source": f"{root}/in/a.mkv", "sink": f"{root}/b.mkv", "filters": FILTERS}
    return ConversionSpec.model_validate(given | fields)


@pytest.mark.parametrize(
    "options",
    [
        {"x264-params": "pass=1:stats=/etc/cron.d/x"},
        {"x264-params": "keyint=10:qpfile=list"},
        {"x264-params": "pass=1"},
        {"x264-params": "keyint=10:pass=3"},
        {"x264-params": "'pass'=1"},
        {"x264-params": "p'as's=1"},
        {"x264-params": r"\pass=1"},
        {"x264-params": " pass=1"},
        {"x264-params": "deblock=1,1\\:pass=1"},
        {"x264-params": "dump_yuv=x.yuv"},
        {"x264-params": "dump-yuv=x.yuv"},
        {"x264-params": "opencl-clbin=x"},
        {"x264-params": "tcfile_in=x"},
        {"x264-params": "keyint=10=pass=1"},
        {"x264-params": "keyint='10:pass=1'"},
        {"x264opts": "pass=1"},
        {"stats": "file"},
        {"passlogfile": "x"},
        {"passlogfile ": "x"},
        {"flags": "+pass1"},
        {"flags": "pass2"},
        {"x265-params": "csv=report"},
        {"x265-params": "analysis_save=x.dat"},
        {"x265-params": "analysis-save=x.dat"},
        {"x265-params": "film-grain=x.bin"},
        {"x265-params": "zonefile=x"},
        {"x265-params": "nalu-file=x"},
        {"x265-params": "pass=1"},
        {"x265-params": "log-level=full"},
        {"svtav1-params": "stat-file=s"},
        {"svtav1-params": "pass=1"},
        {"svtav1-params": "fgs-table=x"},
        {"svtav1_params": "stats=s"},
        {"aom-params": "film-grain-table=x"},
        {"tune": "/etc/passwd"},
        {"tune": "film\nstats"},
        {"threads": "100000"},
        {"": "1"},
    ],
)
def test_requests_set_no_encoder_option_but_those_that_are_known_to_be_harmless(
    root: Path, jobs: JobsConfig, options: dict[str, str]
) -> None:
    with pytest.raises(Refused, match=r"^encoder option.*(requests may set|wanted letters)"):
        confined_work(work_of(root, encoder={"options": options}), jobs)


@pytest.mark.parametrize(
    "options",
    [
        {"x264-params": "keyint=48:deblock=-1,-1", "tune": "film", "aq-mode": "3"},
        {"x265-params": "no-sao:psy-rd=1.5:max-cll=1000,400", "profile": "main10", "refs": "4"},
        {"svtav1-params": "film-grain=8:tune=0", "g": "240"},
        {"deblock": "-1:-1", "keyint_min": "12", "b": "5M", "psy-rd": "1.0:0.15"},
        {"cpu-used": "2", "row-mt": "1", "tile-columns": "2", "deadline": "good"},
        {"level": "3", "coder": "1", "context": "1", "slicecrc": "1", "slices": "24"},
    ],
)
def test_usual_encoder_options_pass(root: Path, jobs: JobsConfig, options: dict[str, str]) -> None:
    work = work_of(root, encoder={"options": options})
    assert confined_work(work, jobs) == work


def test_what_requests_may_set_names_no_file_to_any_encoder_here() -> None:
    """FFmpeg's options of type string are looked at one by one: these take words or numbers."""
    words = {"deblock", "psy-rd", "wpredp", "level", "partitions", "preset", "profile", "tune"}
    for name in ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1", "png", "mjpeg"):
        codec = VideoCodecContext.create(name, "w")
        of_strings = {
            option.name.replace("_", "-")
            for option in codec.supported_options.private
            if option.type.name == "STRING"
        }
        assert of_strings & set(requests._ENCODER_OPTIONS.split()) <= words, name


@pytest.mark.parametrize("container", ["tee", "segment", "hls", "dash", "fifo", "image2", "mp4x"])
def test_a_container_that_writes_elsewhere_is_refused(
    root: Path, jobs: JobsConfig, container: str
) -> None:
    with pytest.raises(Refused, match="requests may ask for"):
        confined_work(work_of(root, container=container), jobs)
    assert confined_work(work_of(root, container="mkv"), jobs)


@pytest.mark.parametrize(
    ("models", "name", "passes"),
    [
        ([], "builtin", True),
        ([], "ai-forever/Real-ESRGAN", True),
        ([], "ai-forever/Real-ESRGAN:RealESRGAN_x2.pth", True),
        ([], "owner/name", False),
        ([], "{root}/in/x.pth", False),
        ([], "/etc/passwd", False),
        ([], "~/x.pth", False),
        ([], "../x.pth", False),
        ([], "x.pth", False),
        ([], "in/a.mkv", False),
        (["owner/name"], "builtin", True),
        (["owner/name"], "owner/name", True),
        (["owner/name"], "owner/name:file.pth", True),
        (["owner/name"], "owner/name2", False),
        (["owner/name"], "ai-forever/Real-ESRGAN", False),
        (["owner/name:a.pth"], "owner/name", False),
        (["owner/name:a.pth"], "owner/name:a.pth", True),
        (["{root}/in"], "{root}/in/x.pth", True),
        (["{root}/in"], "{root}/in", True),
        (["{root}/in"], "{root}/in/../../secret/x.pth", False),
        (["{root}/in"], "{root}/in/link.pth", False),
        (["{root}/in/x.pth"], "{root}/in/x.pth", True),
        (["{root}/in/x.pth"], "{root}/in/y.pth", False),
        (["{root}/in/x.pth"], "{root}/in/x.pth:/../../../secret/x.pth", False),
    ],
)
def test_requests_name_models_that_are_listed_and_no_others(
    root: Path, models: list[str], name: str, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # where weights would find a relative name
    (root / "in" / "link.pth").symlink_to(root.parent / "secret" / "frame_0001.png")
    jobs = JobsConfig(roots=(root,), models=tuple(one.format(root=root) for one in models))
    name = name.format(root=root)
    work = work_of(root, filters=FILTERS | {"upscaling_model_path": name})
    if passes:
        assert confined_work(work, jobs).filters.upscaling_model_path == name
    else:
        with pytest.raises(Refused, match="wanted builtin or one of"):
            confined_work(work, jobs)


@pytest.mark.parametrize(
    "sink", ["rtmp://cdn/app/key", "http://h/a.m3u8", "HTTPS://h/whip", "srt://h:1", "tcp://h:1"]
)
def test_a_request_publishes_nowhere(root: Path, sink: str) -> None:
    schemes = ("file", "rtmp", "http", "https", "srt", "tcp")
    jobs = JobsConfig(roots=(root,), allowed_schemes=schemes, allowed_hosts=("0.0.0.0/0",))
    with pytest.raises(Refused, match="requests write files below") as refused:
        confined_work(work_of(root, sink=sink), jobs)
    assert "key" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://93.184.216.34/a.mp4", "rtsp://93.184.216.34/a"])
def test_by_default_a_request_names_no_url(root: Path, url: str) -> None:
    with pytest.raises(Refused, match=r"not among the allowed schemes file$"):
        confined(url, JobsConfig(roots=(root,)))


@pytest.mark.parametrize(
    ("url", "hosts", "passes"),
    [
        ("http://93.184.216.34/a.mp4", (), True),
        ("http://127.0.0.1/a.mp4", (), False),
        ("http://user:s3cret@2130706433/a.mp4", (), False),
        ("http://[::ffff:10.0.0.1]/a.mp4", (), False),
        ("http://10.0.0.1/a.mp4", ("10.0.0.0/8",), True),
        ("http://localhost/a.mp4", ("LOCALHOST",), True),
        ("rtsp://93.184.216.34/a", (), False),
        ("rtsp://93.184.216.34/a", ("93.184.216.34",), True),
    ],
)
def test_a_host_that_is_not_public_must_be_named(
    root: Path, url: str, hosts: tuple[str, ...], passes: bool
) -> None:
    schemes = ("file", "http", "rtsp")
    jobs = JobsConfig(roots=(root,), allowed_schemes=schemes, allowed_hosts=hosts)
    if passes:
        assert confined(url, jobs) == url
    else:
        with pytest.raises(Refused, match="allowed_hosts") as refused:
            confined(url, jobs)
        assert "s3cret" not in str(refused.value)


def test_a_job_notes_beneath_which_root_it_works_and_what_its_source_is(
    root: Path, tmp_path: Path
) -> None:
    jobs = JobsConfig(roots=(root / "in", root, tmp_path / "secret"))
    noted = confinement(work_of(root), jobs, tmp_path / "state")
    # the outermost: who may write there could bend the inner one
    assert noted.source == noted.sink == Root(root, tmp_path / "state")
    assert noted.accepted == Identity.of((root / "in" / "a.mkv").stat())
    for name in ("in/later.mkv", "in/frame_%04d.png"):
        noted = confinement(work_of(root, source=f"{root}/{name}"), jobs, tmp_path / "state")
        assert (noted.source, noted.accepted) == (Root(root, tmp_path / "state"), None)
    noted = confinement(work_of(root, source="rtsp://cam/1"), jobs, tmp_path / "state")
    assert (noted.source, noted.accepted) == (None, None)


@pytest.mark.parametrize("key", ["source", "sink"])
@pytest.mark.parametrize("name", ["jobs.sqlite", "results/a.json", "../state/jobs.sqlite"])
def test_the_daemons_own_folder_is_no_place_for_files(
    tmp_path: Path, root: Path, key: str, name: str
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "jobs.sqlite").touch()
    (root / "link").symlink_to(state)
    jobs = JobsConfig(roots=(tmp_path,))
    for path in (state / name, root / "link" / name):
        work = confined_work(work_of(root, **{key: str(path)}), jobs)
        with pytest.raises(Refused, match="lies in the daemon's own folder"):
            confinement(work, jobs, state)


def test_what_is_no_file_is_refused_and_not_opened(root: Path, jobs: JobsConfig) -> None:
    os.mkfifo(root / "fifo")
    for name, kind in (("fifo", "a FIFO"), ("in", "a directory")):
        with pytest.raises(Refused, match=f"is {kind}, wanted a regular file"):
            confinement(work_of(root, source=f"{root}/{name}"), jobs, root.parent / "state")
