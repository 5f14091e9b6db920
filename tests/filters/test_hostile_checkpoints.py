"""Hostile and damaged files of weights: refused by what they declare, before memory is taken."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save as save_safetensors

from upframe.filters.errors import CheckpointRejected
from upframe.filters.weights import load_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
STATE = {"conv.weight": torch.rand(4, 3, 3, 3), "conv.bias": torch.rand(4)}


def torch_file(content: object, *, as_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=as_zip)
    return buffer.getvalue()


def entries_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_pickle(data: bytes, *, as_zip: bool) -> bytes:
    """Put another pickle of the tensors into a checkpoint."""
    if as_zip:
        entries = entries_of(torch_file(STATE))
        return archive_of({n: data if n.endswith("data.pkl") else d for n, d in entries.items()})
    before = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    return b"".join(before) + data + pickle.dumps([], 2)


class Written:
    """What a pickle says, in the words of torch.save."""

    def __init__(self, module: str, name: str, *arguments: object) -> None:
        self.head = f"c{module}\n{name}\n".encode()
        self.arguments = arguments

    def dump(self) -> bytes:
        return self.head + b"(" + b"".join(map(dumped, self.arguments)) + b"tR"


class Global(Written):
    def dump(self) -> bytes:
        return self.head


class Stored(Written):
    """A storage of one of the numbered entries of `STATE`'s archive."""

    def __init__(self, key: str, num: int, dtype: str = "FloatStorage") -> None:
        self.parts = ("storage", Global("torch", dtype), key, "cpu", num)

    def dump(self) -> bytes:
        return b"(" + b"".join(map(dumped, self.parts)) + b"tQ"


def dumped(value: object) -> bytes:
    if isinstance(value, Written):
        return value.dump()
    if isinstance(value, dict):
        return b"}(" + b"".join(dumped(k) + dumped(v) for k, v in value.items()) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(dumped, value)) + b"t"
    return pickle.dumps(value, 2)[2:-1]


def tensor(
    storage: object, offset: int, shape: tuple[object, ...], strides: object, *more: object
) -> Written:
    parts = (storage, offset, shape, strides, False, {}, *more)
    return Written("torch._utils", "_rebuild_tensor_v2", *parts)


def claiming(*tensors: Written) -> bytes:
    content = dumped({f"t{index}": one for index, one in enumerate(tensors)})
    return with_pickle(b"\x80\x02" + content + b".", as_zip=True)


def safetensors_file(header: object, data: bytes = b"", claimed: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def entry(dtype: str, shape: list[Any], first: Any, end: Any) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


def bomb(how: int) -> bytes:
    return archive_of(entries_of(torch_file({"x": torch.zeros(1 << 26)})), how)


def many_entries() -> bytes:
    """A directory that is all there is of its archive."""
    one = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 9, 1, *[0] * 6) + b"x"
    count = 200_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, count * len(one), 30, 0)
    return b"PK\3\4" + bytes(26) + one * count + end


def twice(name_end: str) -> bytes:
    """An archive of which one entry is there twice."""
    buffer = io.BytesIO()
    entries = entries_of(torch_file(STATE))
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        again = next(name for name in entries if name.endswith(name_end))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(again, entries[again])
    return buffer.getvalue()


def overlapping(times: int) -> bytes:
    """An archive whose directory names the same bytes again and again."""
    content = archive_of(entries_of(torch_file({"x": torch.zeros(MIB)})))
    begin = content.index(b"PK\1\2")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        num = len(archive.namelist())
    end = content.index(b"PK\5\6")
    directory = content[begin:end]
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, num, num, times * len(directory), begin, 0)
    copies = [directory.replace(b"archive/", b"%07d/" % index) for index in range(times - 1)]
    return content[:begin] + b"".join(copies) + directory + last


def zip64_lie() -> bytes:
    """An archive whose directory has 64 bits for the size of an entry, and uses them."""
    content = bytearray(archive_of(entries_of(torch_file(STATE))))
    at = content.index(b"PK\1\2")
    end = content.rindex(b"PK\5\6")
    length = struct.unpack_from("<H", content, at + 28)[0]
    struct.pack_into("<2L", content, at + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", content, at + 30, 20)
    content[at + 46 + length : at + 46 + length] = struct.pack("<2H2Q", 1, 16, 1 << 40, 1 << 40)
    end += 20
    struct.pack_into("<L", content, end + 12, struct.unpack_from("<L", content, end + 12)[0] + 20)
    return bytes(content)


def legacy_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def legacy_lie(change: Callable[[int], int]) -> bytes:
    """A file from before the archives, with another number of values for its last storage."""
    content = torch_file({"x": torch.zeros(16)}, as_zip=False)
    at = len(content) - 16 * 4 - 8
    num = struct.unpack_from("<Q", content, at)[0]
    assert num == 16
    return content[:at] + struct.pack("<Q", change(num)) + content[at + 8 :]


def big_endian() -> bytes:
    entries = entries_of(torch_file(STATE))
    return archive_of({n: b"big" if n.endswith("byteorder") else d for n, d in entries.items()})


class Sub(torch.Tensor):
    pass


def nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.quint8)


FLOATS = "wanted plain tensors of float32, float16, bfloat16 or float64"
OTHER = "holds something else than the ("
DAMAGED = "is a damaged or foreign checkpoint"

LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "_utils._rebuild_sparse_tensor": lambda: torch.eye(2).to_sparse(),
    "_utils._rebuild_sparse_tensor ": lambda: torch.eye(2).to_sparse_csr(),
    "_utils._rebuild_nested_tensor": nested,
    "_utils._rebuild_qtensor": quantised,
    "_utils._rebuild_meta_tensor_no_storage": lambda: torch.zeros(2, device="meta"),
    "_tensor._rebuild_from_type_v2": lambda: torch.zeros(2).as_subclass(Sub),
}
DTYPES = (
    torch.complex64, torch.complex128, torch.bool, torch.int8, torch.uint8, torch.int16,
    torch.int32, torch.uint16, torch.bits8, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "deflated": (lambda: bomb(zipfile.ZIP_DEFLATED), "compressed"),
    "bzip2": (lambda: bomb(zipfile.ZIP_BZIP2), "compressed"),
    "lzma": (lambda: bomb(zipfile.ZIP_LZMA), "compressed"),
    "one entry twice": (lambda: twice("data/0"), "names two things the same"),
    "two pickles": (
        lambda: archive_of({**entries_of(torch_file(STATE)), "b/data.pkl": b"\x80\x02}."}),
        "torch.save writes one data.pkl into an archive, got 2",
    ),
    "an archive of nothing but names": (many_entries, "entries, wanted at most"),
    "entries that overlap": (lambda: overlapping(500), "its entries claim"),
    "an entry of 1 TiB": (zip64_lie, "its entries claim 1099511"),
    "bytes in another order": (big_endian, "its byte order is not little"),
    "the oldest format, tar": (legacy_tar, "is not a checkpoint"),
    "a storage longer than its entry": (
        lambda: claiming(tensor(Stored("0", 1 << 40), 0, (1 << 40,), (1,))),
        OTHER,
    ),
    "a storage shorter than its entry": (
        lambda: claiming(tensor(Stored("0", 1), 0, (1,), (1,))), OTHER,
    ),
    "a storage of less than nothing": (
        lambda: claiming(tensor(Stored("0", -4), 0, (1,), (1,))), "a storage is described in two",
    ),
    "a storage that is not there": (
        lambda: claiming(tensor(Stored("../../x", 4), 0, (1,), (1,))), DAMAGED,
    ),
    "a storage whose name fills screens": (
        lambda: claiming(tensor(Stored("\x1b[2J" * 50_000, 4), 0, (1,), (1,))), DAMAGED,
    ),
    "one storage of two lengths": (
        lambda: claiming(*(tensor(Stored("1", n), 0, (1,), (1,)) for n in (4, 2))),
        "a storage is described in two ways",
    ),
    "one storage of two types": (
        lambda: claiming(
            tensor(Stored("1", 4, "FloatStorage"), 0, (1,), (1,)),
            tensor(Stored("1", 8, "HalfStorage"), 0, (1,), (1,)),
        ),
        "a storage is described in two ways",
    ),
    "a huge shape over one value": (
        lambda: claiming(tensor(Stored("1", 4), 0, (1 << 20, 1 << 20), (0, 0))), OTHER,
    ),
    "a tensor that begins behind its storage": (
        lambda: claiming(tensor(Stored("1", 4), 4, (1,), (1,))), OTHER,
    ),
    "a tensor that ends behind its storage": (
        lambda: claiming(tensor(Stored("1", 4), 0, (2, 2), (3, 1))), OTHER,
    ),
    "a tensor that begins before its storage": (
        lambda: claiming(tensor(Stored("1", 4), -1, (1,), (1,))), "not described",
    ),
    "sizes of a thousand digits": (
        lambda: claiming(tensor(Stored("1", 4), 0, (1 << 60_000,), (1,))), "not described",
    ),
    "a storage of a thousand digits": (
        lambda: claiming(tensor(Stored("1", 1 << 60_000), 0, (1,), (1,))),
        "a storage is described in two",
    ),
    "a value of a thousand digits": (
        lambda: torch_file({"x": 1 << 60_000}), "must hold tensors only, got a int under 'x'",
    ),
    "a name of a thousand digits": (
        lambda: torch_file({1 << 60_000: torch.zeros(1)}), "tensors by name, got a int for a name",
    ),
    "strides that go back": (
        lambda: claiming(tensor(Stored("1", 4), 0, (2,), (-1,))), "not described",
    ),
    "sizes of other types": (
        lambda: claiming(tensor(Stored("1", 4), 0, (2.0, True), (1, 1))), "not described",
    ),
    "more axes than any network has": (
        lambda: claiming(tensor(Stored("1", 4), 0, (1,) * 60_000, (1,) * 60_000)), "not described",
    ),
    "a thousand tensors over the same bytes": (
        lambda: claiming(*[tensor(Stored("0", 108), 0, (108,), (1,))] * 1000),
        "declares 432000 bytes of tensors, and has",
    ),
    "a conjugated tensor": (
        lambda: claiming(tensor(Stored("1", 4), 0, (1,), (1,), {"conj": True})),
        "not described",
    ),
    "a tensor of no storage": (
        lambda: claiming(tensor("storage", 0, (1,), (1,))), "not described",
    ),
    "names with control characters": (
        lambda: torch_file({"x\x1b[2J": torch.zeros(1)}), "tensors by name, got 'x\\x1b[2J'",
    ),
    "a name that fills screens": (
        lambda: torch_file({"x" * 5000: torch.zeros(1)}), "must hold tensors by name, got 'xxx",
    ),
    "more values than a pickle says": (lambda: legacy_lie(lambda n: n + 1), "it ends within"),
    "as many values as can be": (lambda: legacy_lie(lambda _: 1 << 63), DAMAGED),
    "safetensors: a header longer than the file": (
        lambda: safetensors_file(b"{}", claimed=1 << 60), f"its header claims {1 << 60} bytes",
    ),
    "safetensors: a header that is all there is": (
        lambda: safetensors_file(b'{"a":' + b" " * 2 * MIB + b"1}"), "its header claims",
    ),
    "safetensors: deep": (lambda: safetensors_file(b'{"a":' + b"[" * 500_000), DAMAGED),
    "safetensors: a number of many digits": (
        lambda: safetensors_file(b'{"a":' + b"9" * 500_000 + b"}"), DAMAGED,
    ),
    "safetensors: no objects": (lambda: safetensors_file({"x": 3}), DAMAGED),
    "safetensors: parts missing": (lambda: safetensors_file({"x": {"dtype": "F32"}}), DAMAGED),
    "safetensors: one name twice": (
        lambda: safetensors_file(
            b'{"x":%b,"x":%b}' % ((json.dumps(entry("F32", [1], 0, 4)).encode(),) * 2), bytes(4)
        ),
        "it names two things the same",
    ),
    "safetensors: overlapping": (
        lambda: safetensors_file({n: entry("F32", [4], 0, 16) for n in "abc"}, bytes(16)),
        "its tensors overlap",
    ),
    "safetensors: gaps": (
        lambda: safetensors_file({"a": entry("F32", [1], 4, 8)}, bytes(8)), "leave gaps",
    ),
    "safetensors: more behind": (
        lambda: safetensors_file({"a": entry("F32", [1], 0, 4)}, bytes(8)), "end elsewhere",
    ),
    "safetensors: beyond the file": (
        lambda: safetensors_file({"a": entry("F32", [1 << 40], 0, 1 << 42)}, bytes(8)),
        "end elsewhere than the file",
    ),
    "safetensors: before the data": (
        lambda: safetensors_file({"a": entry("F32", [1], -4, 0)}, bytes(0)), DAMAGED,
    ),
    "safetensors: a shape that overflows": (
        lambda: safetensors_file({"a": entry("F32", [1 << 33, 1 << 33], 0, 16)}, bytes(16)),
        OTHER,
    ),
    "safetensors: a negative shape": (
        lambda: safetensors_file({"a": entry("F32", [-2, -2], 0, 16)}, bytes(16)), "not described",
    ),
    "safetensors: a hundred thousand axes": (
        lambda: safetensors_file({"a": entry("F32", [10**9] * 90_000, 0, 8)}, bytes(8)), DAMAGED,
    ),
    "safetensors: half a value": (
        lambda: safetensors_file({"a": entry("F32", [1], 0, 6)}, bytes(6)), OTHER,
    ),
    "safetensors: sizes that are no integers": (
        lambda: safetensors_file({"a": entry("F32", [2.0, True], 0, 8)}, bytes(8)), DAMAGED,
    ),
    "safetensors: offsets that are no integers": (
        lambda: safetensors_file({"a": entry("F32", [1], 0.0, 4.0)}, bytes(4)), DAMAGED,
    ),
}  # fmt: skip

PICKLES = {
    "room for two billion things": b"\x80\x02}r\xff\xff\xff\x7f.",
    "the same as a text": b"\x80\x02}p2147483647\n.",
    "a key of ten thousand tuples": b"\x80\x02}(" + b")" + b"\x85" * 500_000 + b"Nu.",
    "a key of a tuple of one tuple twice, and so on": b"\x80\x02})" + b"2\x86" * 60 + b"Ns.",
    "the same by the memo": (
        b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60)) + b"Ns."
    ),
    "the same behind nothing set": (
        b"\x80\x02})" + b"".join(b"(uq%ch%c\x86" % (n, n) for n in range(60)) + b"Ns."
    ),
    "the same as parameters": (
        b"\x80\x02})"
        + b"".join(
            b"\x85q\xfe0ctorch._utils\n_rebuild_parameter\nh\xfeRq%ch%c\x86" % (n, n)
            for n in range(60)
        )
        + b"Ns."
    ),
    "the same as results of calls": (
        b"\x80\x02}ctorch._utils\n_rebuild_parameter\nq\xff0)"
        + b"".join(b"\x85q\xfe0h\xffh\xfeRq%ch%c\x86" % (n, n) for n in range(60))
        + b"Ns."
    ),
    "a text of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of an exabyte": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "a global from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "an extension": b"\x80\x02\x82\x01.",
    "state for a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}(X\x01\0\0\0aNub.",
    "attributes for a function": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}(X\x08\0\0\0__code__Nu\x86b."
    ),
    "attributes for a type": b"\x80\x02ctorch\nFloatStorage\nN}(X\x01\0\0\0aNu\x86b.",
    "a call of a type": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "an object of a type": b"\x80\x02ctorch\nFloatStorage\n)\x81.",
    "a dictionary copied by being called": b"\x80\x02ccollections\nOrderedDict\n}\x85R.",
    "nothing": b"\x80\x02.",
    "a persistent number": b"\x80\x02K\x01Q.",
    "a dictionary by a list": b"\x80\x02}(]Nu.",
    "megabytes of dictionaries": b"\x80\x02]" + b"}" * 60 * MIB + b".",
}


def peak_bytes() -> int:
    """The most memory that this process has had since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("this system does not say")


def assert_refused(path: Path, content: bytes, text: str) -> None:
    """Refuse it with a text of one short line, and with memory of a few times the file's size."""
    path.write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    with pytest.raises(CheckpointRejected) as caught:
        load_state_dict(path)
    assert peak_bytes() - before <= 3 * len(content) + 150 * MIB
    message = str(caught.value).removeprefix(str(path))
    assert text in message
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_declares_more_than_it_has_is_refused(tmp_path: Path, kind: str) -> None:
    make, text = HOSTILE[kind]
    assert_refused(tmp_path / "x.pth", make(), text)


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_makes_dictionaries_and_tensors_only(
    tmp_path: Path, kind: str, as_zip: bool
) -> None:
    assert_refused(tmp_path / "x.pth", with_pickle(PICKLES[kind], as_zip=as_zip), "")


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore")
def test_only_strided_tensors_are_weights(tmp_path: Path, layout: str, as_zip: bool) -> None:
    content = torch_file({"x": LAYOUTS[layout]()}, as_zip=as_zip)
    wanted = f"it wants to load torch.{layout.strip()}, {FLOATS}"
    assert_refused(tmp_path / "x.pth", content, wanted)


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_floats_are_weights(tmp_path: Path, dtype: torch.dtype, as_zip: bool) -> None:
    content = torch_file({"x": torch.empty(4, dtype=dtype)}, as_zip=as_zip)
    assert_refused(tmp_path / "x.pth", content, FLOATS)


@pytest.mark.parametrize(
    "name", ["F4", "F6_E2M3", "F8_E4M3", "F8_E8M0", "C64", "I32", "U8", "BOOL"]
)
def test_only_floats_are_weights_in_safetensors(tmp_path: Path, name: str) -> None:
    bits = {"F4": 4, "F6_E2M3": 6, "C64": 64, "I32": 32}.get(name, 8)
    content = safetensors_file({"x": entry(name, [8], 0, bits)}, bytes(bits))
    assert_refused(tmp_path / "x.pth", content, f"a tensor is {name!r}, {FLOATS}")


@pytest.mark.parametrize("as_zip", [True, False])
def test_integers_are_what_training_counted(tmp_path: Path, as_zip: bool) -> None:
    counted = STATE | {"norm.num_batches_tracked": torch.tensor(7)}
    path = tmp_path / "x.pth"
    path.write_bytes(torch_file(counted, as_zip=as_zip))
    assert load_state_dict(path)["norm.num_batches_tracked"] == 7
    content = torch_file({"conv.weight": torch.ones(4, dtype=torch.int64)}, as_zip=as_zip)
    assert_refused(path, content, "'conv.weight' is torch.int64")


def tied() -> OrderedDict[str, torch.Tensor]:
    large = torch.rand(8, 6)
    return OrderedDict(
        whole=torch.rand(3, 4).half(), top=large[:4], turned=large[4:].T, nothing=torch.empty(0, 3)
    )


@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_that_share_a_storage_are_read(tmp_path: Path, as_zip: bool) -> None:
    wanted = tied()
    (tmp_path / "x.pth").write_bytes(torch_file(wanted, as_zip=as_zip))
    found = load_state_dict(tmp_path / "x.pth")
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], value.float()) for name, value in wanted.items())


@pytest.mark.parametrize("as_zip", [True, False])
def test_state_dicts_of_modules_are_read(tmp_path: Path, as_zip: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    (tmp_path / "x.pth").write_bytes(torch_file(module.state_dict(), as_zip=as_zip))
    found = load_state_dict(tmp_path / "x.pth")
    assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Change, cut out, repeat or end a few places, as a bad disk or a bad person does."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        match chance.randrange(6):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.choice((0, 1, 0x2E, 0x52, 0x7F, 0x80, 0xFF))
            case 2:
                data[at : at + 4] = chance.choice((b"\xff\xff\xff\x7f", b"\xff" * 4, bytes(4)))
            case 3:
                del data[at : at + chance.randint(1, 40)]
            case 4:
                data[at:at] = data[at : at + chance.randint(1, 40)]
            case _:
                del data[max(at, 16) :]
    return bytes(data)


@pytest.mark.parametrize("form", ["archive", "pickles", "safetensors"])
def test_500_damaged_files_are_read_or_refused(tmp_path: Path, form: str) -> None:
    chance, path = random.Random(form), tmp_path / "x.pth"
    content = (
        save_safetensors(STATE)
        if form == "safetensors"
        else torch_file(STATE, as_zip=form == "archive")
    )
    refused: list[str] = []
    for _ in range(500):
        path.write_bytes(mutated(content, chance))
        try:
            found = load_state_dict(path)
        except CheckpointRejected as error:
            refused.append(str(error))
        else:
            assert all(value.dtype in (torch.float32, torch.int64) for value in found.values())
    assert len(refused) > 100
    assert all(text.isprintable() for text in refused)
