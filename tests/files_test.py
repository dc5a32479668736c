"""Whole or absent, never half."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from safetensors import SafetensorError

from ddjax import files
from ddjax.errors import DataError


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "a.json"
    files.atomic_write(path, "one")
    files.atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_folder_is_all_or_nothing(tmp_path):
    target = tmp_path / "set"
    with files.atomic_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
        assert files.is_temporary(folder)
    with pytest.raises(RuntimeError), files.atomic_folder(target) as folder:
        (folder / "b").write_text("2")
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["a"]
    with files.atomic_folder(target) as folder:
        (folder / "c").write_text("3")
    assert [p.name for p in target.iterdir()] == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_of_another_library_gets_the_rights_of_ours(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "a").write_text("1")
        (tmp_path / "a").chmod(0o600)
        assert files.usual_rights(tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_clean_temporaries_spares_results_and_the_lock(tmp_path):
    (tmp_path / ".x.tmp-1-ab").mkdir()
    (tmp_path / ".x.tmp-1-ab" / "f").touch()
    (tmp_path / ".y.tmp-1-cd").touch()
    (tmp_path / ".hidden").touch()
    with files.locked(tmp_path):
        files.clean_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", ".lock"]
    files.remove_folder(tmp_path)
    files.remove_folder(tmp_path)
    assert not tmp_path.exists()


def _hold(folder, ready):
    with files.locked(folder):
        ready.set()
        time.sleep(60)


def test_a_kill_frees_the_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    try:
        assert ready.wait(60)
        with (
            pytest.raises(DataError, match=f"in use by process {holder.pid}"),
            files.locked(tmp_path, wait=False),
        ):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    with files.locked(tmp_path, wait=False):
        pass


def test_json_lines_mend_a_torn_end(tmp_path):
    path = tmp_path / "r.jsonl"
    assert files.read_lines(path) == []
    assert files.mend_lines(path) == 0
    files.append_line(path, {"a": "é"})
    whole = path.read_bytes()
    files.append_line(path, {"b": "x" * 100_000})
    for keep in (len(whole), len(whole) + 1, len(whole) + 90_000):
        path.write_bytes((whole + b'{"b": "' + b"x" * 100_000)[:keep])
        assert files.mend_lines(path) == keep - len(whole)
        assert path.read_bytes() == whole
    files.append_line(path, 2)
    assert files.read_lines(path) == [{"a": "é"}, 2]
    path.write_bytes(b'{"a"')
    assert files.mend_lines(path) == 4
    path.write_bytes(b"1\n{\n")
    with pytest.raises(DataError, match="line 2"):
        files.read_lines(path)


def test_read_json_names_the_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json.*not valid JSON"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        files.to_json(float("nan"))


@pytest.mark.parametrize(
    "error", [KeyError("accuracy"), TypeError("list"), FileNotFoundError("x"), SafetensorError("cut"), DataError("x.")]
)
def test_what_is_wrong_with_a_folder_of_the_cache_comes_with_the_way_out(tmp_path, error):
    told = r"compute.cache: '.*/tag': .*Remove the folder, and it is made anew\."
    with pytest.raises(DataError, match=told), files.from_cache(tmp_path / "tag"):
        raise error


def test_content_hash_tells_values_apart_and_nothing_else():
    array = np.arange(6, dtype=np.float32)
    values = [
        None, True, 1, 1.0, "1", b"1", [], {}, [1, [2]], [[1], 2], [1, 2], {"a": 1}, {"a": 2},
        array, array.reshape(2, 3), array.astype(np.float64), array + 1, array[:0],
    ]  # fmt: skip
    hashes = [files.content_hash(value) for value in values]
    assert len(set(hashes)) == len(values)
    assert files.content_hash({"a": 1, "b": (2,)}) == files.content_hash({"b": [2], "a": 1})
    assert files.content_hash(array.reshape(2, 3).T.copy(order="F")) == files.content_hash(
        np.ascontiguousarray(array.reshape(2, 3).T)
    )
    for wrong in (object(), np.array([object()])):
        with pytest.raises(TypeError):
            files.content_hash(wrong)
