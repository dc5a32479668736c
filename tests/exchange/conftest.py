"""PyTorch's two file layouts, written byte by byte, without PyTorch: an assembler for the pickles in them."""

import io
import pickle
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

STORAGES = {
    "f2": "HalfStorage", "f4": "FloatStorage", "f8": "DoubleStorage", "u1": "ByteStorage", "i4": "IntStorage",
    "i8": "LongStorage", "bf": "BFloat16Storage", "b1": "BoolStorage",
}  # fmt: skip


class Tensor:
    """A tensor to be written: its storage as raw bytes, and where it lies in it."""

    def __init__(self, array, *, size=None, stride=None, offset=0, key=None, kind=None, count=None):
        array = np.asarray(array)
        self.raw = np.ascontiguousarray(array).tobytes()
        self.kind = kind or array.dtype.str[1:]
        self.size = array.shape if size is None else size
        steps = np.cumprod([1, *self.size[::-1]])[:-1][::-1] if stride is None else stride
        self.stride, self.offset, self.key = tuple(int(s) for s in steps), offset, key
        width = 2 if self.kind == "bf" else np.dtype(self.kind).itemsize
        self.count = len(self.raw) // width if count is None else count


def number(n: int) -> bytes:
    if 0 <= n < 256:
        return b"K" + bytes([n])
    raw = n.to_bytes((n.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def text(s: str) -> bytes:
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def name(module: str, what: str) -> bytes:
    return b"c" + module.encode() + b"\n" + what.encode() + b"\n"


def group(items: list[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(module: str, what: str, items: list[bytes]) -> bytes:
    return name(module, what) + group(items) + b"R"


class Writer:
    """The opcodes of a value; tensors become calls of ``_rebuild_tensor_v2`` on persistent ids."""

    def __init__(self, legacy: bool):
        self.legacy, self.storages = legacy, {}

    def tensor(self, t: Tensor) -> bytes:
        key = t.key or str(len(self.storages))
        self.storages[key] = (t.raw, t.count)
        pid = [text("storage"), name("torch", STORAGES.get(t.kind, t.kind)), text(key), text("cpu"), number(t.count)]
        reference = group([*pid, b"N"] if self.legacy else pid) + b"Q"
        size, stride = (group([number(n) for n in values]) for values in (t.size, t.stride))
        hooks = name("collections", "OrderedDict") + b")R"
        return call(
            "torch._utils", "_rebuild_tensor_v2", [reference, number(t.offset), size, stride, b"\x89", hooks]
        )  # fmt: skip

    def value(self, v) -> bytes:
        if isinstance(v, bytes):
            return v  # opcodes, as they are
        if isinstance(v, np.ndarray):
            v = Tensor(v)
        if isinstance(v, Tensor):
            return self.tensor(v)
        if isinstance(v, bool) or v is None:
            return {True: b"\x88", False: b"\x89", None: b"N"}[v]
        if isinstance(v, int):
            return number(v)
        if isinstance(v, float):
            return b"G" + struct.pack(">d", v)
        if isinstance(v, str):
            return text(v)
        if isinstance(v, list):
            return b"](" + b"".join(self.value(i) for i in v) + b"e"
        if isinstance(v, tuple):
            return group([self.value(i) for i in v])
        assert isinstance(v, dict)
        return b"}(" + b"".join(self.value(k) + self.value(i) for k, i in v.items()) + b"u"


def zipped(value, *, root="archive", extra=(), deflate=False) -> bytes:
    """The layout of torch 1.6 and later."""
    writer, out = Writer(legacy=False), io.BytesIO()
    program = b"\x80\x02" + writer.value(value) + b"."
    packed = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", packed) as archive:
        archive.writestr(f"{root}/data.pkl", program)
        archive.writestr(f"{root}/byteorder", b"little")
        for key, (raw, _) in writer.storages.items():
            archive.writestr(f"{root}/data/{key}", raw)
        archive.writestr(f"{root}/version", b"3\n")
        for where, content in extra:
            archive.writestr(where, content)
    return out.getvalue()


def legacy(value, *, version=1001, magic=0x1950A86A20F9469CFC6C) -> bytes:
    """The layout before torch 1.6: five pickles and raw storages."""
    writer = Writer(legacy=True)
    machine = {"protocol_version": version, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(v, protocol=2) for v in (magic, version, machine)]
    parts += [b"\x80\x02" + writer.value(value) + b".", pickle.dumps(sorted(writer.storages), protocol=2)]
    for key in sorted(writer.storages):
        raw, count = writer.storages[key]
        parts.append(struct.pack("<q", count) + raw)
    return b"".join(parts)


@pytest.fixture(scope="session")
def pt():
    """The assembler: ``pt.zipped(value)``, ``pt.legacy(value)``, ``pt.Tensor(array, stride=...)``."""
    return SimpleNamespace(
        zipped=zipped, legacy=legacy, Tensor=Tensor, name=name, group=group, call=call, text=text, number=number
    )
