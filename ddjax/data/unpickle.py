"""A pickle reader that can only build numbers, text, bytes, lists, tuples, dicts and plain arrays.

No global of the file is ever looked up (`ddjax.data.machine`): the few names that NumPy (1 and 2, Python 2 and 3)
writes into a pickled array or scalar are answered by inert stand-ins of this file, every other one is refused by name,
and the arrays are made afterwards by ``np.frombuffer`` from the bytes, under checks of type and length. Arrays share
memory where the file shares it.
"""

import math
import re
import reprlib
from typing import Any

import numpy as np

from ddjax.data.base import ARRAY_BYTES
from ddjax.data.machine import Machine, StandIn, as_text, finished, refusing
from ddjax.errors import DataError

NUMBERS = re.compile(r"[<>=|]?[buif]\d{1,2}|\?")


class _Type(StandIn):
    """Stands for ``numpy.dtype``: the code, and the byte order that the state carries."""

    def __init__(self, code: Any, *_: Any):
        self.code, self.order = as_text(code), "|"

    def build(self, state: Any) -> None:
        self.order = as_text(state[1])

    def numpy(self) -> np.dtype:
        if not NUMBERS.fullmatch(self.code):
            raise DataError(f"holds an array of type {self.code!r}; allowed: numbers.")
        found = np.dtype(self.code)
        return np.dtype(self.order + found.str[1:]) if self.order in ("<", ">") else found


class _Array(StandIn):
    """Stands for ``numpy.ndarray``."""

    def __init__(self, kind: Any = None, data: Any = b"", shape: Any = (), fortran: Any = False):
        self.kind, self.data, self.shape, self.fortran = kind, data, shape, fortran

    def build(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.data = state

    def value(self) -> Any:
        if not isinstance(self.kind, _Type) or not isinstance(self.data, bytes | bytearray):
            raise DataError("holds an array that is not made of numbers.")
        kind, shape = self.kind.numpy(), checked_shape(self.shape)
        data = self.data
        declared = math.prod(shape) * kind.itemsize
        if declared != len(data) or declared > ARRAY_BYTES:
            raise DataError(f"holds an array of {declared} bytes by its shape, {len(data)} by its data.")
        made = np.frombuffer(data, kind).reshape(shape, order="F" if self.fortran else "C")
        return made if made.ndim else made[()]


def checked_shape(shape: Any) -> tuple[int, ...]:
    """A shape of whole numbers, none negative, at most 16 axes; else a `DataError`."""
    parts = shape if isinstance(shape, tuple | list) else (shape,)
    if len(parts) > 16 or any(type(n) is not int or not 0 <= n < 1 << 62 for n in parts):
        raise DataError(f"holds an array of shape {reprlib.repr(shape)}.")
    return tuple(parts)


def numpy_names() -> dict[tuple[str, str], Any]:
    """A fresh table of the names that NumPy writes, for one pickle."""
    encoded: dict[int, tuple[str, bytes]] = {}  # the text is kept, so that its id stays its own

    def encode(text: str, codec: str = "latin1") -> bytes:
        """Python 3 writes bytes into protocol 2 pickles as ``_codecs.encode(text, 'latin1')``."""
        if codec not in ("latin1", "latin-1"):
            raise DataError(f"asks for the codec {codec!r}; allowed: latin1.")
        if id(text) not in encoded:
            encoded[id(text)] = text, text.encode("latin-1")
        return encoded[id(text)][1]

    table: dict[tuple[str, str], Any] = {("numpy", "dtype"): _Type, ("numpy", "ndarray"): None}
    table[("_codecs", "encode")] = encode
    for core in ("numpy.core", "numpy._core"):
        table[(f"{core}.multiarray", "_reconstruct")] = lambda *_: _Array()
        table[(f"{core}.multiarray", "scalar")] = lambda kind, data=b"": _Array(kind, data)
        table[(f"{core}.numeric", "_frombuffer")] = lambda data, kind, shape, order: _Array(
            kind, data, shape, order == "F"
        )
    return table


def restricted_loads(data: bytes, *, where: str) -> Any:
    """The value in ``data``; text of Python 2 comes back as bytes. `DataError` names ``where``."""
    with refusing(where, data):
        return finished(Machine(data, numpy_names()).run()[0])
