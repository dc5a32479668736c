"""Folders, zips and tars as random access to their members, read in place: nothing is extracted.

An archive is indexed once; a member is then one ``pread`` at its offset, safe from many threads.
Members of an inner tar (ImageNet's tar of class tars) count as ``<inner tar's name>/<member>``.
A compressed tar has no offsets: it is read once into memory where it is small, else refused.
Names that would leave the folder (absolute, with ``..``) are passed over and counted in ``notes``;
since nothing is ever written under a member's name they could do no harm.
"""

import contextlib
import io
import os
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ddjax.data.base import MEMBER_BYTES, Undecodable, listing
from ddjax.errors import DataError

TAR_MEMORY = 2 << 30  # unpacked bytes of a compressed tar that may be held in memory


@dataclass
class Members:
    """What a container holds: files in order with a reader each, and the directories it names."""

    where: str
    paths: list[str] = field(default_factory=list)
    directories: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    read: Callable[[int], bytes] = lambda i: b""

    def find(self, path: str) -> bytes | None:
        """The bytes of the member called ``path``, or None."""
        try:
            return self.read(self.paths.index(path)) if path in self.paths else None
        except Undecodable as error:
            raise DataError(f"{self.where}: {path}: {error}.") from error


class File:
    """An open file that many threads read at once, each at its own offset."""

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.descriptor).st_size
        weakref.finalize(self, os.close, self.descriptor)

    def pread(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset``; `Undecodable` where the file ends before."""
        data = os.pread(self.descriptor, size, offset)
        while len(data) < size:
            more = os.pread(self.descriptor, size - len(data), offset + len(data))
            if not more:
                raise Undecodable(f"the archive ends {size - len(data)} bytes early")
            data += more
        return data


def open_folder(path: Path, where: str) -> Members:
    """Every file below ``path``, links followed (a loop of links is entered once)."""
    found, seen = Members(where), set()
    for folder, names, files in os.walk(path, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            names.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        names.sort()
        inside = Path(folder).relative_to(path).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        found.directories.add(prefix.rstrip("/"))
        found.paths += [prefix + name for name in sorted(files)]

    def read(i: int) -> bytes:
        try:
            member = path / found.paths[i]
            if not member.is_file():
                raise Undecodable("is no regular file")
            if member.stat().st_size > MEMBER_BYTES:
                raise Undecodable(f"{member.stat().st_size} bytes; limit {MEMBER_BYTES}")
            return member.read_bytes()
        except OSError as error:
            raise Undecodable(f"cannot be read ({error.strerror})") from error

    found.read = read
    return found


def open_zip(path: Path, where: str) -> Members:
    """The members of a zip, stored or deflated; the checksum of each is verified as it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        near = f" Nearest: tar:{path}." if path.is_file() and tarfile.is_tarfile(path) else ""
        raise DataError(f"{where}: not a zip archive, or a truncated one ({error}).{near}") from error
    found, kept, unsafe = Members(where), [], []
    for info in infos:
        name = _safe(info.filename)
        if name is None:
            unsafe.append(info.filename)
        elif info.is_dir():
            found.directories.add(name.rstrip("/"))
        else:
            kept.append(info)
            found.paths.append(name)
    _note_unsafe(found, unsafe)
    _refuse_members(where, kept)
    file = File(path)
    found.read = lambda i: _read_zipped(file, kept[i])
    return found


def _refuse_members(where: str, infos: list[zipfile.ZipInfo]) -> None:
    """`DataError` for members that are encrypted, packed another way, or declare a huge size."""
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    for members, reason in (
        ([i.filename for i in infos if i.flag_bits & 1], "encrypted; allowed: plain"),
        (
            [i.filename for i in infos if i.compress_type not in known],
            "compressed by another method; allowed: stored, deflated",
        ),
        (
            [f"{i.filename} ({i.file_size} bytes)" for i in infos if i.file_size > MEMBER_BYTES],
            f"larger than {MEMBER_BYTES} bytes unpacked",
        ),
    ):
        if members:
            raise DataError(f"{where}: {len(members)} members are {reason}: {listing(members)}.")


def _read_zipped(file: File, info: zipfile.ZipInfo) -> bytes:
    head = file.pread(info.header_offset, 30)
    if head[:4] != b"PK\x03\x04":
        raise Undecodable("damaged zip member (no local header)")
    name_size, extra_size = struct.unpack("<HH", head[26:30])
    data = file.pread(info.header_offset + 30 + name_size + extra_size, info.compress_size)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        try:
            data = zlib.decompressobj(-15).decompress(data, info.file_size + 1)
        except zlib.error as error:
            raise Undecodable(f"damaged zip member ({error})") from error
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise Undecodable("damaged zip member (size or checksum differs)")
    return data


def open_tar(path: Path, where: str) -> Members:
    """The members of a tar, or of the tars in it; ``.tar.gz|bz2|xz`` through memory if small."""
    file = File(path)
    start = os.pread(file.descriptor, 6, 0)
    packed = start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start == b"\xfd7zXZ\x00"
    found, unsafe, odd = Members(where), [], []
    try:
        if packed:
            _read_packed(path, found, unsafe, odd)
        else:
            _index_tar(file, found, unsafe, odd)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        near = f" Nearest: zip:{path}." if path.is_file() and zipfile.is_zipfile(path) else ""
        raise DataError(f"{where}: not a tar archive, or a truncated one ({error}).{near}") from error
    _note_unsafe(found, unsafe)
    if odd:
        found.notes.append(f"links and devices among the members were ignored: {listing(odd)}")
    return found


def _check_end(archive: tarfile.TarFile, stream, where: str, inner: str = "") -> None:
    """`DataError` where the list of members ends at anything but an empty block: tarfile then stops without a word."""
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        what = "is cut short" if len(block) < tarfile.BLOCKSIZE else f"is damaged at byte {archive.offset}"
        members = archive.getnames()
        last = f", the last of them {members[-1]}" if members else ""
        raise DataError(
            f"{where}: {inner or 'the tar archive'} {what} (truncated or damaged): it has no end mark after its "
            f"{len(members)} members{last}. Copy it again; if it is whole, pack it again."
        )


def _index_tar(file: File, found: Members, unsafe: list[str], odd: list[str]) -> None:
    spans: list[tuple[int, int]] = []

    def walk(stream, base: int, prefix: str, depth: int) -> None:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for info in archive:
                name = _safe(prefix + info.name)
                if name is None:
                    unsafe.append(info.name)
                elif info.isdir():
                    found.directories.add(name)
                elif info.isreg() and info.name.endswith(".tar") and depth == 0:
                    inner = io.BufferedReader(_Window(file, info.offset_data, info.size))
                    walk(inner, info.offset_data, name.removesuffix(".tar") + "/", depth + 1)
                    found.directories.add(name.removesuffix(".tar"))
                elif info.isreg():
                    found.paths.append(name)
                    spans.append((base + info.offset_data, info.size))
                elif info.islnk() and (same := _safe(prefix + info.linkname)) in found.paths:  # a file's second name
                    spans.append(spans[found.paths.index(same)])
                    found.paths.append(name)
                else:
                    odd.append(name)
            _check_end(archive, stream, found.where, prefix and f"{prefix.rstrip('/')}.tar in it")

    walk(io.BufferedReader(_Window(file, 0, file.size)), 0, "", 0)
    large = [p for p, (_, size) in zip(found.paths, spans, strict=True) if size > MEMBER_BYTES]
    if large:
        raise DataError(f"{found.where}: {len(large)} members are larger than {MEMBER_BYTES} bytes: {listing(large)}.")
    found.read = lambda i: file.pread(*spans[i])


class _Window(io.RawIOBase):
    """``size`` bytes of a file from ``start``, as a seekable stream."""

    def __init__(self, file: File, start: int, size: int):
        self.file, self.start, self.size, self.at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer) -> int:
        left = max(0, min(len(buffer), self.size - self.at))
        data = os.pread(self.file.descriptor, left, self.start + self.at)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def _read_packed(path: Path, found: Members, unsafe: list[str], odd: list[str]) -> None:
    kept: list[bytes] = []
    total = 0
    with contextlib.closing(tarfile.open(path, mode="r:*")) as archive:
        for info in archive:
            name = _safe(info.name)
            if name is None:
                unsafe.append(info.name)
            elif info.isdir():
                found.directories.add(name)
            elif info.isreg():
                total += info.size
                if total > TAR_MEMORY:
                    raise DataError(
                        f"{found.where}: a compressed tar of more than {TAR_MEMORY} bytes has no "
                        "random access. Unpack it to a plain .tar (gunzip, bunzip2, unxz) first."
                    )
                stream = archive.extractfile(info)
                kept.append(stream.read() if stream else b"")
                found.paths.append(name)
            elif info.islnk() and (same := _safe(info.linkname)) in found.paths:
                kept.append(kept[found.paths.index(same)])
                found.paths.append(name)
            else:
                odd.append(name)
        _check_end(archive, archive.fileobj, found.where)
    found.read = kept.__getitem__


def _safe(name: str) -> str | None:
    """``name`` with ``/`` between its parts, or None where it would leave the folder."""
    name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    parts = name.rstrip("/").split("/")
    outside = name.startswith("/") or ".." in parts or (len(name) > 1 and name[1] == ":")
    return None if outside or "\0" in name else "/".join(parts)


def _note_unsafe(found: Members, unsafe: list[str]) -> None:
    if unsafe:
        found.notes.append(f"{len(unsafe)} members whose names leave the folder were ignored: {listing(unsafe)}")
