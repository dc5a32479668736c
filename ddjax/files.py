"""Files that a kill cannot tear: whole or absent, never half; and hashes of their content.

A writer works under a temporary name beside the target (``.NAME.tmp-…``), flushes it to the disk,
and renames. Append-only files are JSON lines; what a kill left of the last one is cut away before
the next is added.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ddjax.errors import DataError, DdjaxError

_MARK = ".tmp-"
_LOCK = ".lock"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}{_MARK}{os.getpid()}-{secrets.token_hex(4)}")


def is_temporary(path: Path | str) -> bool:
    """Whether a name is one of ours that carries no result: a lock, or a writer's temporary."""
    name = Path(path).name
    return name == _LOCK or (name.startswith(".") and _MARK in name)


def clean_temporaries(folder: Path | str) -> None:
    """Remove what killed writers left directly in ``folder``; call it while holding its lock."""
    for entry in Path(folder).iterdir() if Path(folder).is_dir() else ():
        if is_temporary(entry) and entry.name != _LOCK:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def remove_folder(path: Path | str) -> None:
    """Remove a folder, if there is one: a kill leaves it whole or gone (and a temporary)."""
    path = Path(path)
    if path.exists():
        temporary = _temporary(path)
        os.replace(path, temporary)
        shutil.rmtree(temporary)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path | str, content: bytes | str) -> Path:
    """Write a whole file: readers see the old content or the new. Makes the parent folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)
    return path


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """``with atomic_folder(path) as folder:`` fill ``folder``; it becomes ``path`` at the end.

    An older ``path`` is replaced. A kill leaves the old folder, the new one or none; no mixture.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _temporary(path), _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for entry in sorted(temporary.rglob("*"), reverse=True):
            _flush(entry)
        _flush(temporary)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    finally:
        for leftover in (temporary, old):
            if leftover.exists():
                shutil.rmtree(leftover)
    _flush(path.parent)


def usual_rights(path: Path | str) -> Path:
    """Give a file that another library wrote for its owner alone the rights that the umask gives to ours."""
    path = Path(path)
    probe = _temporary(path)
    try:
        probe.touch()
        path.chmod(stat.S_IMODE(probe.stat().st_mode))
    finally:
        probe.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def locked(folder: Path | str, *, wait: bool = True) -> Iterator[None]:
    """Hold ``folder/.lock`` (made if missing). The kernel frees it when its holder ends or dies.

    With ``wait=False`` a folder in another's hands is a ``DataError``. Advisory; not re-entrant.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise DataError(
                f"folder = {str(folder)!r} is in use by process {holder}; wait for it to end, or name another folder."
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


# --------------------------------------------------------------------------------------------- JSON


def to_json(value: Any) -> str:
    """Readable JSON, keys sorted, a final newline; a non-finite number is a ``ValueError``."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text + "\n"


def read_json(path: Path | str) -> Any:
    """The content of a JSON file; a missing or broken one is a ``DataError`` naming it."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise DataError(f"file = {str(path)!r} does not exist.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"file = {str(path)!r} is not valid JSON: {error}.") from None


@contextlib.contextmanager
def from_cache(folder: Path) -> Iterator[None]:
    """``with from_cache(folder):`` a folder of the cache is read; what is wrong with it is a ``DataError``, the way out
    told: it can be made anew."""
    way = "Remove the folder, and it is made anew."
    try:
        yield
    except DdjaxError as error:
        raise DataError(f"compute.cache: {str(folder)!r}: {error} {way}") from error
    except (LookupError, TypeError, AttributeError, OSError, ValueError, SafetensorError) as error:
        told = f"it lacks a file or an entry, or is damaged ({error!r})"
        raise DataError(f"compute.cache: {str(folder)!r}: {told}. {way}") from error


def mend_lines(path: Path | str) -> int:
    """Cut an unfinished last line off a JSON-lines file, if any; returns how many bytes went."""
    path = Path(path)
    if not path.exists():
        return 0
    with open(path, "rb+") as handle:
        size = end = handle.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            handle.seek(start)
            found = handle.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            handle.truncate(end)
            os.fsync(handle.fileno())
    return size - end


def append_line(path: Path | str, value: Any) -> None:
    """Add one JSON line in one write; ``mend_lines`` first when a run takes the file up again."""
    line = json.dumps(value, allow_nan=False, ensure_ascii=False) + "\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        content = memoryview(line.encode())
        while content:
            content = content[os.write(handle, content) :]
    finally:
        os.close(handle)


def read_lines(path: Path | str) -> list[Any]:
    """All complete lines of a JSON-lines file ([] without one); a broken one is a ``DataError``."""
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            message = f"file = {str(path)!r}, line {number} is not valid JSON: {error}."
            raise DataError(message) from None
    return rows


# ------------------------------------------------------------------------------------------- hashes


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 of JSON values, bytes and arrays, nested at will; dict keys in any order.

    Arrays enter with dtype, shape and bytes in C order; tuples equal lists; else ``TypeError``.
    """
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, dict):
        digest.update(b"{%d" % len(value))
        for name in sorted(value):
            _feed(digest, name)
            _feed(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(b"[%d" % len(value))
        for item in value:
            _feed(digest, item)
    elif isinstance(value, bytes):
        digest.update(b"b%d:" % len(value))
        digest.update(value)
    elif value is None or isinstance(value, bool | int | float | str):
        text = json.dumps(value).encode()
        digest.update(b"j%d:" % len(text))
        digest.update(text)
    elif hasattr(value, "dtype") and hasattr(value, "shape"):
        import numpy as np

        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            raise TypeError("cannot hash an array of Python objects")
        digest.update(f"a{array.dtype.str}{tuple(value.shape)}:".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    else:
        raise TypeError(f"cannot hash a {type(value).__name__}: only JSON values, bytes and arrays")
