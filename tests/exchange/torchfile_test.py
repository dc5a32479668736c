"""Files of torch are read without torch: both layouts written by hand here, and by torch where it is installed."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddjax.data.torchfile import read_pt
from ddjax.errors import DataError

GRID = np.arange(24, dtype=np.float32).reshape(4, 6)


@pytest.fixture(params=["zipped", "legacy"])
def read(request, pt, tmp_path):
    """Write a value in one of the layouts and read it back."""

    def there_and_back(value, **options):
        path = tmp_path / "x.pt"
        path.write_bytes(getattr(pt, request.param)(value, **options))
        return read_pt(path)

    return there_and_back


def test_plain_values_and_tensors(read):
    value = {"data": [[GRID, np.arange(4)]], "name": "é", "rate": 0.02, "none": None, "flags": (True, False, 300, -7)}
    found = read(value)
    np.testing.assert_array_equal(found["data"][0][0], GRID)
    assert found["data"][0][1].dtype == np.int64
    assert (found["name"], found["rate"], found["none"], found["flags"]) == ("é", 0.02, None, (True, False, 300, -7))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "u1", "i4", "i8"])
def test_every_type_of_number(read, kind):
    found = read(GRID.astype(kind))
    assert found.dtype == np.dtype(kind)
    np.testing.assert_array_equal(found, GRID.astype(kind))


def test_bfloat16_becomes_float32_exactly_and_bool_bool(read, pt):
    raw = np.array([0x3F80, 0xC040, 0x7F80], np.uint16)  # 1, -3, infinity
    np.testing.assert_array_equal(read(pt.Tensor(raw, kind="bf")), np.array([1, -3, np.inf], np.float32))
    np.testing.assert_array_equal(read(pt.Tensor(np.array([1, 0, 2], np.uint8), kind="b1")), [True, False, True])


def test_strides_offsets_and_shared_storages(read, pt):
    whole = pt.Tensor(GRID, key="9")
    turned = pt.Tensor(GRID, size=(6, 4), stride=(1, 6), key="9")
    part = pt.Tensor(GRID, size=(3, 3), stride=(6, 2), offset=6, key="9")
    spread = pt.Tensor(GRID, size=(5, 2), stride=(0, 1), key="9")
    a, b, c, d = read([whole, turned, part, spread])
    np.testing.assert_array_equal(b, GRID.T)
    np.testing.assert_array_equal(c, GRID[1:, ::2])
    np.testing.assert_array_equal(d, np.broadcast_to(GRID[0, :2], (5, 2)))
    assert np.shares_memory(a, c)
    assert not a.flags.writeable


def test_a_number_and_nothing(read):
    assert read(np.asarray(0.5, np.float32)) == np.float32(0.5)
    assert read(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_parameters_arrays_and_ordered_dicts(read, pt, tmp_path):
    (tmp_path / "y.pt").write_bytes(pt.zipped(GRID))
    ordered = pt.name("collections", "OrderedDict") + b")R(" + pt.text("a") + pt.number(1) + b"u"
    scalar = pickle.dumps(np.float64(0.75), protocol=2)[2:-1]  # VICO stores accuracies as NumPy numbers
    array = pickle.dumps(np.arange(3.0), protocol=2)[2:-1]
    found = read([ordered, scalar, array])
    assert found[0] == {"a": 1}
    assert found[1] == 0.75
    np.testing.assert_array_equal(found[2], np.arange(3.0))


def test_plain_pickles_of_arrays(tmp_path):
    path = tmp_path / "set.pkl"
    path.write_bytes(pickle.dumps({"images": GRID, "labels": [1, 2]}))
    np.testing.assert_array_equal(read_pt(path)["images"], GRID)


def refused(pt, tmp_path, value, match, layout="zipped"):
    path = tmp_path / "bad.pt"
    path.write_bytes(value if isinstance(value, bytes) and layout is None else getattr(pt, layout)(value))
    with pytest.raises(DataError, match=match):
        read_pt(path)


@pytest.mark.parametrize("layout", ["zipped", "legacy"])
@pytest.mark.parametrize(
    ("module", "what"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch", "ComplexFloatStorage"),
    ],
)
def test_any_other_name_is_refused_by_name(pt, tmp_path, layout, module, what):
    refused(
        pt,
        tmp_path,
        {"x": pt.call(module, what, [pt.text("touch pwned")])},
        rf"asks for {module}\.{what}; allowed",
        layout,
    )


@pytest.mark.parametrize("layout", ["zipped", "legacy"])
def test_tensors_that_leave_their_storage_or_flood_memory(pt, tmp_path, layout):
    for value, match in (
        (pt.Tensor(GRID, size=(4, 7), stride=(6, 1)), "reaches number 24 of a storage of 24"),
        (pt.Tensor(GRID, size=(4, 6), stride=(6, 1), offset=1), "reaches number 24"),
        (pt.Tensor(GRID, size=(1 << 20, 1 << 20), stride=(0, 0)), "lays tensors of more than"),
        (pt.Tensor(GRID, size=(2, -1), stride=(1, 1)), "holds a tensor of size"),
        (pt.Tensor(GRID, size=(2, 2), stride=(1,)), "size \\(2, 2\\), stride \\(1,\\)"),
        (pt.Tensor(GRID, count=25), "storage"),
        (pt.Tensor(GRID, count=1 << 40), "storage"),
    ):
        refused(pt, tmp_path, value, match, layout)


def test_damaged_layouts(pt, tmp_path):
    whole, old = pt.zipped([GRID]), pt.legacy([GRID])
    for value, match in (
        (whole[:-30], "truncated"),
        (old[:-10], "ends within a storage"),
        (old[:200], "not a readable pickle"),
        (b"", "is empty"),
        (b"PK\x03\x04junk", "truncated"),
        (pt.legacy([GRID], version=9), "legacy layout"),
        (whole.replace(b"archive/data/0", b"archive/data/1"), "holds no 'archive/data/0'"),
        (pt.zipped([GRID], extra=[("archive/constants.pkl", b"")]), "TorchScript"),
        (pt.zipped([GRID], extra=[("other/data.pkl", b"N.")]), "2 members data.pkl"),
    ):
        refused(pt, tmp_path, value, match, None)


def test_a_flipped_byte_is_seen(pt, tmp_path):
    data = bytearray(pt.zipped([GRID]))
    data[data.index(GRID.tobytes()) + 5] ^= 1
    refused(pt, tmp_path, bytes(data), "damaged", None)


SCRIPT = """
import collections, pickle, sys, numpy as np, torch
base = torch.arange(24.0).reshape(4, 6)
value = {"f": base, "turned": base.T, "part": base[1:, ::2], "spread": torch.ones(1).expand(5), "half": base.half(),
         "brain": base.bfloat16(), "long": torch.arange(3), "byte": torch.arange(3, dtype=torch.uint8),
         "bool": torch.tensor([True, False]), "number": torch.tensor(0.5), "none": torch.zeros(0, 3),
         "parameter": torch.nn.Parameter(base), "ordered": collections.OrderedDict(a=1), "array": np.arange(3.0),
         "accuracies": {"ConvNet": [np.float64(0.5), 0.25]}, "size": torch.Size([2, 3])}
torch.save(value, sys.argv[1] + "/zip.pt")
torch.save(value, sys.argv[1] + "/legacy.pt", _use_new_zipfile_serialization=False)
with open(sys.argv[1] + "/plain.pkl", "wb") as stream:
    pickle.dump(value, stream)
"""


@pytest.mark.torch
def test_files_that_torch_itself_wrote(tmp_path):
    python = os.environ.get("DDJAX_TORCH_PYTHON") or shutil.which("python-torch") or sys.executable
    ran = subprocess.run([python, "-W", "ignore", "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    if "No module named 'torch'" in ran.stderr:
        pytest.skip("torch is not installed; $DDJAX_TORCH_PYTHON may name a Python that has it")
    assert ran.returncode == 0, ran.stderr
    for path in (tmp_path / "zip.pt", tmp_path / "legacy.pt", Path(tmp_path / "plain.pkl")):
        found = read_pt(path)
        for name, wanted in {
            "f": GRID, "turned": GRID.T, "part": GRID[1:, ::2], "spread": np.ones(5, "f4"), "half": GRID.astype("f2"),
            "brain": GRID, "long": np.arange(3), "byte": np.arange(3, dtype="u1"), "bool": np.array([True, False]),
            "number": np.float32(0.5), "none": np.zeros((0, 3), "f4"), "parameter": GRID, "array": np.arange(3.0),
        }.items():  # fmt: skip
            np.testing.assert_array_equal(found[name], wanted, err_msg=f"{path.name} {name}")
            assert found[name].dtype == wanted.dtype
        assert found["ordered"] == {"a": 1} and found["size"] == (2, 3)
        assert found["accuracies"] == {"ConvNet": [0.5, 0.25]}
