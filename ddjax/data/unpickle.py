"""A pickle reader that can only build numbers, text, bytes, lists, tuples, dicts and plain arrays.

A pickle is a program; ``pickle.load`` runs it. Here no global of the file is ever looked up: the
six names that NumPy (1 and 2, Python 2 and 3) writes into a pickled array or scalar are answered by
inert stand-ins of this file, every other one is refused by name, and the arrays are made afterwards
by ``np.frombuffer`` from the bytes, under checks of type and length.
"""

import io
import math
import pickle
from typing import Any

import numpy as np

from ddjax.data.base import ARRAY_BYTES
from ddjax.errors import DataError

_KINDS = "buif"


class _Type:
    """Stands for ``numpy.dtype``: the code, and the byte order that the state carries."""

    def __init__(self, code: Any, *_: Any):
        self.code = code.decode("latin-1") if isinstance(code, bytes) else str(code)
        self.order = "|"

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        self.order = order.decode("latin-1") if isinstance(order, bytes) else str(order)

    def numpy(self) -> np.dtype:
        found = np.dtype(self.code)
        if found.kind not in _KINDS or found.names is not None:
            raise DataError(f"holds an array of type {self.code!r}; allowed: numbers.")
        return np.dtype(self.order + found.str[1:]) if self.order in ("<", ">") else found


class _Array:
    """Stands for ``numpy.ndarray`` until the whole pickle is read."""

    shape: tuple[int, ...] = ()
    dtype: _Type | None = None
    fortran = False
    data: bytes = b""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def numpy(self) -> np.ndarray:
        if not isinstance(self.dtype, _Type) or not isinstance(self.data, bytes | bytearray | str):
            raise DataError("holds an array that is not made of numbers.")
        kind = self.dtype.numpy()
        data = self.data.encode("latin-1") if isinstance(self.data, str) else bytes(self.data)
        if any(not isinstance(n, int) or n < 0 for n in self.shape):
            raise DataError(f"holds an array of shape {self.shape}.")
        declared = math.prod(self.shape) * kind.itemsize
        if declared != len(data) or declared > ARRAY_BYTES:
            raise DataError(f"holds an array of {declared} bytes by its shape, {len(data)} by its data.")
        order = "F" if self.fortran else "C"
        return np.frombuffer(data, kind).reshape(self.shape, order=order)


def _reconstruct(_subtype: Any, _shape: Any, _code: Any) -> _Array:
    return _Array()


def _scalar(kind: _Type, data: Any = b"") -> _Array:
    found = _Array()
    found.dtype, found.data = kind, data
    return found


def _frombuffer(data: Any, kind: _Type, shape: Any, order: str) -> _Array:
    found = _Array()
    found.dtype, found.data, found.shape = kind, bytes(data), tuple(shape)
    found.fortran = order == "F"
    return found


def _encode(text: str, codec: str = "latin1") -> bytes:
    """Python 3 writes bytes into protocol 2 pickles as ``_codecs.encode(text, 'latin1')``."""
    if codec not in ("latin1", "latin-1"):
        raise DataError(f"asks for the codec {codec!r}; allowed: latin1.")
    return text.encode("latin-1")


_ALLOWED: dict[tuple[str, str], Any] = {("numpy", "dtype"): _Type, ("numpy", "ndarray"): _Array}
_ALLOWED[("_codecs", "encode")] = _encode
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    _ALLOWED[(f"{_core}.multiarray", "scalar")] = _scalar
    _ALLOWED[(f"{_core}.numeric", "_frombuffer")] = _frombuffer


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        found = _ALLOWED.get((module_name, global_name))
        if found is None:
            raise DataError(
                f"asks for {module_name}.{global_name}; allowed: numpy arrays, lists, dicts, "
                "bytes, text and numbers. It was not run."
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise DataError(f"asks for the outside object {pid!r}; allowed: data in the file.")


def restricted_loads(data: bytes, *, where: str) -> Any:
    """The value in ``data``; text of Python 2 comes back as bytes. `DataError` names ``where``."""
    try:
        return _finished(_Reader(io.BytesIO(data), encoding="bytes").load(), {}, depth=0)
    except DataError as error:
        raise DataError(f"{where}: the pickle {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # a malformed pickle raises almost any type
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{where}: not a readable pickle ({reason}).") from error


def _finished(value: Any, known: dict[int, Any], *, depth: int) -> Any:
    """``value`` with every stand-in replaced by its array; ``known`` keeps shared parts shared."""
    if depth > 20:
        raise DataError("nests more than 20 levels deep.")
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, _Array):
        made = value.numpy()
        result = made if made.ndim else made[()]
    elif isinstance(value, dict):
        pairs = [(_finished(k, known, depth=depth + 1), _finished(v, known, depth=depth + 1)) for k, v in value.items()]
        result = dict(pairs)
    elif isinstance(value, list | tuple):
        items = [_finished(v, known, depth=depth + 1) for v in value]
        result = items if isinstance(value, list) else tuple(items)
    elif isinstance(value, bytes | bytearray | str | int | float | complex | None):
        return value
    else:
        kind = type(value).__name__
        raise DataError(f"holds a {kind}; allowed: arrays, lists, dicts, text, numbers.")
    known[id(value)] = result
    return result
