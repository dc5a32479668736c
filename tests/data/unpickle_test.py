"""The pickle reader admits what CIFAR's python version holds, and names what else it meets."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from ddjax.data.unpickle import restricted_loads
from ddjax.errors import DataError

# What Python 2 and its NumPy wrote: text as bytes, the old module name, bytes inside a string.
PYTHON2 = (
    b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\n"
    b"q\x03K\x00\x85U\x01b\x87R(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U"
    b"\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\xfd\xfe\xfftb"
    b"U\x06labelsq\x04]q\x05(K\x07K\x09eu."
)


def test_a_python_2_pickle():
    found = restricted_loads(PYTHON2, where="x")
    np.testing.assert_array_equal(found[b"data"], np.array([[0, 1, 2], [253, 254, 255]], np.uint8))
    assert found[b"labels"] == [7, 9]


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_every_protocol_round_trips(protocol):
    value = {
        "image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "turned": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "numbers": [1, 2.5, True, None, np.int64(7), (b"bytes", "text")],
    }
    found = restricted_loads(pickle.dumps(value, protocol=protocol), where="x")
    np.testing.assert_array_equal(found["image"], value["image"])
    np.testing.assert_array_equal(found["turned"], value["turned"])
    assert found["numbers"][:5] == value["numbers"][:5]
    assert found["numbers"][5][1] in ("text", b"text")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_program_is_named_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        with pytest.raises(DataError, match=r"batch: the pickle asks for posix\.mkdir; allowed"):
            restricted_loads(pickle.dumps(Evil(), protocol=protocol), where="batch")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (pickle.dumps(OrderedDict(a=1)), r"asks for collections\.OrderedDict"),
        (pickle.dumps({1, 2}), r"holds a set"),
        (pickle.dumps(np.array([{}, None], object), protocol=2), r"not made of numbers"),
        (pickle.dumps(np.zeros(3, "i4,f4"), protocol=2), r"array of type"),
        (pickle.dumps(np.array(["a"]), protocol=2), r"array of type 'U1'"),
        (pickle.dumps([1, 2, 3])[:-2], r"not a readable pickle"),
        (b"hello", r"not a readable pickle"),
        (b"", r"not a readable pickle"),
        (
            b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.",
            r"codec 'zlib'",
        ),
        (b"\x80\x02U\x01aQ.", r"outside object"),
        (PYTHON2.replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86"), r"18 bytes by its shape, 6 by its"),
    ],
)
def test_everything_else_is_refused(data, match):
    with pytest.raises(DataError, match=match):
        restricted_loads(data, where="x")


def test_shared_parts_are_built_once_and_depth_is_bounded():
    value: list = [0]
    for _ in range(18):
        value = [value] * 10  # 10^18 leaves if every reference were followed
    assert len(restricted_loads(pickle.dumps(value), where="x")) == 10
    deep: list = []
    for _ in range(40):
        deep = [deep]
    with pytest.raises(DataError, match="20 levels"):
        restricted_loads(pickle.dumps(deep), where="x")
