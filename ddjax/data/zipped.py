"""Zip files of arrays (``.npz``, ``.pt``): members by name, read whole, under checks of what they declare.

A member is refused, by name, before it is unpacked if it is encrypted, packed by another method than stored or
deflated, or declares a size that its packed bytes cannot hold; the members together may not declare more than
`RATIO` times the file (a zip bomb). A plain ``.npy`` member is cut to an array without a copy; one that would hold
objects is refused.
"""

import ast
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.base import ARRAY_BYTES, listing
from ddjax.errors import DataError

RATIO = 100  # unpacked bytes for each byte of the file; floats of trained images hardly pack at all
SMALL = 16 << 20  # below this any ratio will do
DEFLATE = 1032  # the most that one byte of deflate can stand for
HEADER = 1 << 16
NPY = b"\x93NUMPY"
# What a damaged zip raises, an offset that no file has (OSError) among it.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, OverflowError, ValueError, struct.error)


class Zipped:
    """The members of a zip file; ``read(name)`` gives one, checked against its size and checksum."""

    def __init__(self, path: Path, where: str):
        self.path, self.where = path, where
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except DAMAGE as error:
            raise DataError(f"{where}: not a zip file, or a truncated one ({error}).") from error
        self.infos = {info.filename: info for info in infos}
        if len(self.infos) < len(infos):
            raise DataError(f"{where}: holds several members of one name.")
        self._refuse(infos, path.stat().st_size)

    def _refuse(self, infos: list[zipfile.ZipInfo], size: int) -> None:
        known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        for members, reason in (
            ([i.filename for i in infos if i.flag_bits & 1], "encrypted; allowed: plain"),
            ([i.filename for i in infos if i.compress_type not in known], "packed otherwise than stored or deflated"),
            ([i.filename for i in infos if i.compress_size > size], "larger than the file itself"),
            ([f"{i.filename} ({i.file_size} bytes)" for i in infos if _impossible(i)], "declared too large"),
        ):
            if members:
                raise DataError(f"{self.where}: {len(members)} members are {reason}: {listing(members)}.")
        declared = sum(info.file_size for info in infos)
        if declared > min(ARRAY_BYTES, max(SMALL, RATIO * size)):
            raise DataError(
                f"{self.where}: {size} bytes declare {declared} bytes unpacked, a zip bomb; allowed: "
                f"{RATIO} times the file, at most {ARRAY_BYTES}."
            )

    @property
    def names(self) -> list[str]:
        """The names of the files in it."""
        return [name for name, info in self.infos.items() if not info.is_dir()]

    def read(self, name: str) -> bytes:
        """The content of one member."""
        info = self.infos.get(name)
        if info is None:
            raise DataError(f"{self.where}: holds no {name!r}; it holds {listing(self.names) or 'nothing'}.")
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(info) as stream:
                data = stream.read(info.file_size + 1)
        except DAMAGE as error:
            raise DataError(f"{self.where}: {name}: damaged ({error}).") from error
        if len(data) != info.file_size:
            raise DataError(f"{self.where}: {name}: declares {info.file_size} bytes, holds {len(data)}.")
        return data


def _impossible(info: zipfile.ZipInfo) -> bool:
    most = info.compress_size if info.compress_type == zipfile.ZIP_STORED else DEFLATE * info.compress_size + 64
    return info.file_size > most


def npz(path: Path, where: str) -> dict[str, np.ndarray]:
    """Every array of a ``.npz``, read-only; `DataError` for objects, text that lies, a file cut short."""
    archive = Zipped(path, where)
    odd = [name for name in archive.names if not name.endswith(".npy")]
    if odd or not archive.names:
        raise DataError(f"{where}: is no npz; its members are {listing(archive.names) or 'none'}, allowed: .npy.")
    return {name[:-4]: npy(archive.read(name), f"{where}: {name}") for name in archive.names}


def npy(data: bytes, where: str) -> np.ndarray:
    """The array of a ``.npy``: numbers, or text of fixed length (format 1.0 to 3.0 of NumPy)."""
    start, about = _npy_header(data, where)
    descr, shape, fortran = about.get("descr"), about.get("shape"), about.get("fortran_order")
    try:
        kind = np.dtype(descr) if isinstance(descr, str) else None
    except TypeError:
        kind = None
    if kind is None or kind.kind not in "buifUS" or kind.names is not None or kind.itemsize == 0:
        raise DataError(f"{where}: holds {descr!r:.80}; allowed: numbers or text, never objects.")
    if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape) or len(shape) > 16:
        raise DataError(f"{where}: has the shape {shape!r:.80}.")
    declared, held = math.prod(shape) * kind.itemsize, len(data) - start
    if declared != held:
        raise DataError(f"{where}: declares {declared} bytes of shape {shape}, holds {held}.")
    return np.frombuffer(data, kind, offset=start).reshape(shape, order="F" if fortran else "C")


def _npy_header(data: bytes, where: str) -> tuple[int, dict[str, Any]]:
    width = {b"\x01": "<H", b"\x02": "<I", b"\x03": "<I"}.get(data[6:7])
    if data[:6] != NPY or width is None or len(data) < 12:
        raise DataError(f"{where}: is no npy file.")
    start = 8 + struct.calcsize(width)
    length = struct.unpack(width, data[8:start])[0]
    text = data[start : start + length]
    try:
        about = ast.literal_eval(text.decode("utf-8")) if len(text) == length < HEADER else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise DataError(f"{where}: has a damaged header.")
    return start + length, about
