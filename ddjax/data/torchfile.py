"""Read PyTorch's ``.pt`` files, zip (torch 1.6 and later) and legacy, without PyTorch and without running them.

    zip:     NAME/data.pkl, NAME/data/KEY (one storage each), NAME/byteorder
    legacy:  four pickles (magic, version, machine, value), a pickled list of keys, then count and bytes per storage

The pickle runs on `ddjax.data.machine`, whose table holds the names that torch writes for tensors, parameters and
storages of plain numbers, and those of NumPy's arrays. A tensor is an inert record of storage, offset, size and
stride; when the whole pickle is read it becomes a read-only view of its storage's bytes, so that tensors which share
a storage share memory. Refused, each by name: every other global, strides that leave the storage, tensors that
together are larger than the file can be a view of, sparse, quantised and complex ones, storages cut short.
``bfloat16``, which NumPy lacks, becomes float32, exactly.

Format: PyTorch documentation, "Serialization semantics"; checked against files of torch 2.13, both layouts.
"""

import math
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.base import ARRAY_BYTES
from ddjax.data.machine import Machine, Name, StandIn, as_text, finished, refusing
from ddjax.data.unpickle import numpy_names
from ddjax.data.zipped import Zipped
from ddjax.errors import DataError

ALLOWED = "tensors, arrays, lists, dicts, text and numbers"
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
VIEWED = 4  # bytes of tensors for each byte of the file, repeated and overlapping ones counted each time
SMALL = 64 << 20  # below this any number will do
NESTED = 1 << 30  # a pickled tensor is a legacy file inside of a pickle

KINDS = {
    "float16": "f2", "float32": "f4", "float64": "f8", "bfloat16": "bfloat16", "uint8": "u1", "int8": "i1",
    "int16": "i2", "int32": "i4", "int64": "i8", "uint16": "u2", "uint32": "u4", "uint64": "u8", "bool": "bool",
}  # fmt: skip
STORAGES = {
    "HalfStorage": "f2", "FloatStorage": "f4", "DoubleStorage": "f8", "BFloat16Storage": "bfloat16",
    "ByteStorage": "u1", "CharStorage": "i1", "ShortStorage": "i2", "IntStorage": "i4", "LongStorage": "i8",
    "BoolStorage": "bool",
}  # fmt: skip
WIDTHS = {"bfloat16": 2, "bool": 1}


def read_pt(path: Path | str) -> Any:
    """The value in a ``.pt`` or ``.pkl``: NumPy arrays, lists, tuples, dicts, numbers, text.

    `DataError` names the file and what it asks for, or where it is damaged; nothing in it is ever run.
    """
    path, where = Path(path), f"file = {str(path)!r}"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no regular file"
        raise DataError(f"{where} does not exist." if not path.exists() else f"{where} {what}; allowed: a file.")
    with path.open("rb") as stream:
        start = stream.read(4)
    if start[:2] == b"PK":
        return _read_zip(path, where)
    size = path.stat().st_size
    if size > ARRAY_BYTES:
        raise DataError(f"{where}: {size} bytes; limit {ARRAY_BYTES}.")
    data = path.read_bytes()
    with refusing(where, data):
        if not data:
            raise DataError("is empty.")
        if _looks_like_tar(path):
            raise DataError("is a tar, as torch wrote before version 0.2; allowed: save it again with a later one.")
        budget = _Budget(size)
        return finished(_read_legacy(data, budget) if _is_legacy(data) else _machine(data, budget).run()[0])


def _looks_like_tar(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.seek(257) == 257 and stream.read(5) == b"ustar" and tarfile.is_tarfile(path)


# ------------------------------------------------------------------------------------ what the file may make


class _Budget:
    """How many bytes of tensors a file of ``size`` bytes may lay over its storages."""

    def __init__(self, size: int):
        self.left = self.all = max(SMALL, VIEWED * size)

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise DataError(f"lays tensors of more than {self.all} bytes over its storages.")


class _Storage(StandIn):
    """``count`` numbers of ``kind`` (None: untyped bytes); ``fetch`` gives the bytes once they are known."""

    def __init__(self, kind: str | None, count: int, fetch: Callable[[], memoryview], order: str = "<", start: int = 0):
        self.kind, self.count, self.fetch, self.order, self.start = kind, count, fetch, order, start

    def raw(self) -> memoryview:
        """The bytes, if they are as many as ``count`` numbers take."""
        held, width = self.fetch(), _width(self.kind) if self.kind else 1
        if len(held) < (self.start + self.count) * width:
            raise DataError(f"has a storage of {len(held)} bytes, where {self.count} numbers of {width} belong.")
        return held[self.start * width : (self.start + self.count) * width]


class _Tensor(StandIn):
    """A view of a storage: ``offset``, ``size`` and ``stride`` count numbers, not bytes."""

    def __init__(self, budget: _Budget, storage: Any, offset: Any, size: Any, stride: Any, kind: Any = None):
        self.budget, self.storage, self.offset, self.size, self.stride, self.kind = (
            budget, storage, offset, size, stride, kind,
        )  # fmt: skip

    def build(self, state: Any) -> None:
        raise DataError("gives a state to a tensor; allowed: plain tensors.")

    def value(self) -> Any:
        storage, kind = self.storage, self.kind or getattr(self.storage, "kind", None)
        if not isinstance(storage, _Storage) or not isinstance(kind, str):
            raise DataError("holds a tensor without a storage of numbers.")
        size, stride, width = _whole("size", self.size), _whole("stride", self.stride), _width(kind)
        if len(size) != len(stride) or type(self.offset) is not int or self.offset < 0:
            raise DataError(f"holds a tensor of size {size}, stride {stride}, offset {self.offset!r:.40}.")
        numbers = np.frombuffer(storage.raw(), _numpy(kind, storage.order))
        last = self.offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if math.prod(size) and last >= len(numbers):
            raise DataError(f"holds a tensor that reaches number {last} of a storage of {len(numbers)}.")
        self.budget.take(math.prod(size) * (4 if kind == "bfloat16" else width))
        if not math.prod(size):
            return _plain(np.empty(size, numbers.dtype), kind)
        strides = tuple(s * width for s in stride)
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], size, strides, writeable=False)
        made = _plain(view, kind)
        return made if made.ndim else made[()]


def _whole(what: str, value: Any) -> tuple[int, ...]:
    """A tuple of at most 16 whole numbers, none negative."""
    if (
        not isinstance(value, tuple | list)
        or len(value) > 16
        or any(type(n) is not int or not 0 <= n < 1 << 62 for n in value)
    ):
        raise DataError(f"holds a tensor of {what} {value!r:.60}; allowed: whole numbers.")
    return tuple(value)


def _width(kind: str) -> int:
    return WIDTHS.get(kind) or np.dtype(kind).itemsize


def _numpy(kind: str, order: str) -> np.dtype:
    return np.dtype({"bfloat16": f"{order}u2", "bool": "u1"}.get(kind, f"{order}{kind}"))


def _plain(view: np.ndarray, kind: str) -> np.ndarray:
    """What NumPy has for ``kind``, in the byte order of this machine."""
    if kind == "bfloat16":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view != 0 if kind == "bool" else view.astype(view.dtype.newbyteorder("="), copy=False)


# ----------------------------------------------------------------------------------------- the names of torch


def _torch_names(budget: _Budget, nested: int) -> dict[tuple[str, str], Any]:
    """What torch writes for tensors, beside what NumPy writes for arrays."""

    def tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
        return _Tensor(budget, storage, offset, size, stride)

    def typed(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, kind: Any, *_: Any):
        return _Tensor(budget, storage, offset, size, stride, kind.answer if isinstance(kind, Name) else kind)

    def parameter(data: Any, *_: Any) -> Any:
        return data

    def from_bytes(data: Any) -> Any:
        if nested or not isinstance(data, bytes) or len(data) > NESTED:
            raise DataError("holds a file inside of a file inside of it.")
        return _read_legacy(data, budget, nested=nested + 1)

    table = numpy_names()
    table |= {("torch", name): kind for name, kind in (KINDS | STORAGES).items()}
    table |= {("torch.storage", name): kind for name, kind in STORAGES.items()}
    for module in ("torch", "torch.storage"):
        table[(module, "UntypedStorage")] = table[(module, "_UntypedStorage")] = None
    return table | {
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_tensor_v3"): typed,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch.storage", "_load_from_bytes"): from_bytes,
        ("torch", "Size"): lambda sizes=(): _whole("size", sizes),
        ("collections", "OrderedDict"): lambda: {},  # its items follow one by one
    }


def _machine(data: bytes, budget: _Budget, persistent: Callable | None = None, nested: int = 0) -> Machine:
    return Machine(data, _torch_names(budget, nested), persistent=persistent, allowed=ALLOWED)


def _reference(pid: Any) -> tuple[str | None, str, int]:
    """Kind, key and count of a persistent id: ``("storage", type, key, place, count, ...)``."""
    if not isinstance(pid, tuple) or len(pid) < 5 or as_text(pid[0]) != "storage" or not isinstance(pid[1], Name):
        raise DataError(f"asks for an outside object that is no storage; allowed: {ALLOWED}.")
    kind, count = pid[1].answer, pid[4]
    if not isinstance(kind, str | None) or type(count) is not int or not 0 <= count < 1 << 62:
        raise DataError(f"has a storage of {pid[1].text} and {count!r:.40} numbers.")
    return kind, as_text(pid[2]), count


# ------------------------------------------------------------------------------------------- the two layouts


def _read_zip(path: Path, where: str) -> Any:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{where}: a zip file that is truncated (no directory at its end).")
    archive = Zipped(path, where)
    found = [name for name in archive.names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(found) != 1:
        raise DataError(f"{where}: a zip with {len(found)} members data.pkl; a file of torch has one.")
    root = found[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in archive.names or any(n.startswith(f"{root}code/") for n in archive.names):
        raise DataError(f"{where}: is a TorchScript program; allowed: {ALLOWED}. It was not run.")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in archive.names else b"little"
    if order not in (b"little", b"big"):
        raise DataError(f"{where}: byteorder = {order!r:.40}; allowed: little, big.")
    held: dict[str, memoryview] = {}

    def persistent(pid: Any) -> _Storage:
        kind, key, count = _reference(pid)

        def fetch() -> memoryview:
            if key not in held:
                held[key] = memoryview(archive.read(f"{root}data/{key}"))
            return held[key]

        return _Storage(kind, count, fetch, "<" if order == b"little" else ">")

    program = archive.read(found[0])
    with refusing(where, program):
        return finished(_machine(program, _Budget(path.stat().st_size), persistent).run()[0])


def _is_legacy(data: bytes) -> bool:
    """Whether the first pickle is the magic number, as protocol 2 writes it."""
    return data[:14] == b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little")


def _read_legacy(data: bytes, budget: _Budget, *, nested: int = 0) -> Any:
    """The stand-ins of a legacy file, their storages known."""
    plain = Machine(data, {}, allowed=ALLOWED)
    magic, at = plain.run()
    version, at = plain.run(at)
    machine, at = plain.run(at)
    if magic != MAGIC or version != VERSION:
        raise DataError(f"has the version {version!r:.40} of torch's legacy layout; allowed: {VERSION}.")
    if isinstance(machine, dict) and machine.get("little_endian", machine.get(b"little_endian")) is False:
        raise DataError("was written on a big-endian machine; allowed: little-endian, or torch's zip layout.")
    held: dict[str, memoryview] = {}
    kinds: dict[str, str | None] = {}

    def persistent(pid: Any) -> _Storage:
        kind, key, count = _reference(pid)
        view, start = pid[5] if len(pid) > 5 else None, 0
        if kinds.setdefault(key, kind) != kind:
            raise DataError(f"reads storage {key!r:.40} as two kinds of number.")
        if view is not None:
            (_, start, count) = view
            start, count = _whole("storage view", (start, count))

        def fetch() -> memoryview:
            if key not in held:
                raise DataError(f"holds no storage {key!r:.40}.")
            return held[key]

        return _Storage(kind, count, fetch, "<", start)

    value, at = _machine(data, budget, persistent, nested).run(at)
    keys, at = plain.run(at)
    if not isinstance(keys, list):
        raise DataError("has no list of its storages.")
    for key in keys:
        width = _width(kinds.get(as_text(key)) or "u1")
        count = int.from_bytes(data[at : at + 8], "little", signed=True)
        end = at + 8 + count * width
        if count < 0 or at + 8 > len(data) or end > len(data):
            raise DataError(f"ends within a storage: {count} numbers of {width} bytes, {len(data) - at} bytes left.")
        held[as_text(key)] = memoryview(data)[at + 8 : end]
        at = end
    return value
