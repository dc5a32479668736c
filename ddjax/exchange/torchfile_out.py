"""Write PyTorch's zip layout (torch 1.6 and later) without PyTorch: ``torch.load(path, weights_only=True)`` reads it.

    NAME/data.pkl      the value as a pickle of protocol 2, a tensor as _rebuild_tensor_v2 of a storage
    NAME/byteorder     little
    NAME/data/KEY      the bytes of one storage each, in C order
    NAME/version       3

Members are stored, not packed, at multiples of 64 bytes as torch lays them, so that ``mmap=True`` works; times are
constant: equal values give equal bytes. Format: PyTorch documentation, "Serialization semantics".
"""

import io
import struct
import zipfile
from typing import Any

import numpy as np

STORAGES = {
    "float16": "HalfStorage", "float32": "FloatStorage", "float64": "DoubleStorage", "uint8": "ByteStorage",
    "int8": "CharStorage", "int16": "ShortStorage", "int32": "IntStorage", "int64": "LongStorage",
    "bool": "BoolStorage",
}  # fmt: skip
NAME, ALIGNED, EPOCH = "set", 64, (1980, 1, 1, 0, 0, 0)
MARK, TUPLE, REDUCE, PERSISTENT, FALSE, TRUE, NOTHING = b"(", b"t", b"R", b"Q", b"\x89", b"\x88", b"N"


def to_bytes(value: Any) -> bytes:
    """The ``.pt`` of dicts, lists, tuples, text, numbers, None and arrays (tensors); TypeError for anything else."""
    arrays: list[np.ndarray] = []
    data = b"\x80\x02" + _opcodes(value, arrays) + b"."
    members = {"data.pkl": data, "byteorder": b"little"}
    members |= {f"data/{i}": array.tobytes() for i, array in enumerate(arrays)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (members | {"version": b"3\n"}).items():
            entry = zipfile.ZipInfo(f"{NAME}/{name}", EPOCH)
            free = -(stream.tell() + 30 + len(entry.filename) + 4) % ALIGNED
            entry.extra = b"FB" + struct.pack("<H", free) + b"Z" * free
            archive.writestr(entry, content)
    return stream.getvalue()


def _opcodes(value: Any, arrays: list[np.ndarray]) -> bytes:
    """The pickle of a value; arrays found on the way are added to ``arrays``."""
    if value is None or isinstance(value, bool):
        return NOTHING if value is None else TRUE if value else FALSE
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, tuple):
        return MARK + b"".join(_opcodes(one, arrays) for one in value) + TUPLE
    if isinstance(value, list):
        return b"]" + MARK + b"".join(_opcodes(one, arrays) for one in value) + b"e"
    if isinstance(value, dict):
        pairs = (_opcodes(key, arrays) + _opcodes(one, arrays) for key, one in value.items())
        return b"}" + MARK + b"".join(pairs) + b"u"
    if isinstance(value, np.ndarray):
        return _tensor(value, arrays)
    raise TypeError(f"cannot write a {type(value).__name__}: only dicts, lists, tuples, text, numbers, None and arrays")


def _integer(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def _tensor(array: np.ndarray, arrays: list[np.ndarray]) -> bytes:
    if array.dtype.name not in STORAGES:
        raise TypeError(f"cannot write an array of {array.dtype}: only {', '.join(STORAGES)}")
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    strides = tuple(stride // array.itemsize for stride in array.strides)
    storage = b"ctorch\n" + STORAGES[array.dtype.name].encode() + b"\n"
    key = str(len(arrays))
    arrays.append(array)
    plain = [_opcodes(part, []) for part in ("storage", key, "cpu", array.size, 0, array.shape, strides)]
    found = MARK + plain[0] + storage + b"".join(plain[1:4]) + TUPLE + PERSISTENT
    hooks = b"ccollections\nOrderedDict\n)" + REDUCE
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + MARK + found + b"".join(plain[4:]) + FALSE + hooks + TUPLE + REDUCE
