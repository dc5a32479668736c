"""Downloads against a stand-in for the network, and where fetched files are looked for."""

import dataclasses
import hashlib
import io
import urllib.error

import numpy as np
import pytest

from ddjax.config import Data
from ddjax.data import CARDS, card, fetch, locate, open_data
from ddjax.data.cards import Archive
from ddjax.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 20
URL = "https://example.org/sets/tiny.zip"
SHA = hashlib.sha256(CONTENT).hexdigest()


def tiny(sha: str | None = SHA):
    return dataclasses.replace(CARDS["cifar10"], id="tiny", archives=(Archive(URL, sha),))


class Server:
    """Answers as a web server does, with ranges, and breaks off after ``cut`` bytes."""

    def __init__(self, cut: int | None = None, ranges: bool = True):
        self.cut, self.ranges, self.asked = cut, ranges, []

    def __call__(self, request, timeout):
        self.asked.append(request.get_header("Range"))
        start = int(self.asked[-1][6:-1]) if self.asked[-1] and self.ranges else 0
        body = CONTENT[start:]
        response = io.BytesIO(body if self.cut is None else body[: self.cut])
        response.status = 206 if start else 200
        response.headers = {"Content-Length": str(len(body))}
        return response


def test_a_download_is_whole_checked_and_kept(tmp_path):
    said, server = [], Server()
    paths = fetch(tiny(), tmp_path / "new", say=said.append, opener=server)
    assert paths == [tmp_path / "new" / "tiny.zip"]
    assert paths[0].read_bytes() == CONTENT
    assert "sha256 as expected" in said[-1]
    fetch(tiny(), tmp_path / "new", say=said.append, opener=server)
    assert len(server.asked) == 1  # what is there is not fetched again
    assert list((tmp_path / "new").iterdir()) == paths


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_continued(tmp_path, ranges):
    with pytest.raises(DataError, match=r"1000 of 5120 bytes came\. Run the same command again"):
        fetch(tiny(), tmp_path, say=str, opener=Server(cut=1000))
    assert not (tmp_path / "tiny.zip").exists()
    server = Server(ranges=ranges)
    assert fetch(tiny(), tmp_path, say=str, opener=server)[0].read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_without_a_network(tmp_path):
    def offline(request, timeout):
        raise urllib.error.URLError("no route to host")

    with pytest.raises(DataError, match=r"no connection \(no route to host\).*by hand to .*tiny\.zip"):
        fetch(tiny(), tmp_path / "data" / "tiny", say=str, opener=offline)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"no connection"):
        fetch(tiny(), tmp_path, say=str, opener=offline)
    assert tmp_path.is_dir()

    def missing(request, timeout):
        raise urllib.error.HTTPError(URL, 404, "Not Found", {}, None)

    with pytest.raises(DataError, match=r"the server answered 404 Not Found"):
        fetch(tiny(), tmp_path, say=str, opener=missing)


def test_a_part_that_was_whole_takes_its_name(tmp_path):
    (tmp_path / "tiny.zip.part").write_bytes(CONTENT)

    def nothing_left(request, timeout):
        raise urllib.error.HTTPError(URL, 416, "Range Not Satisfiable", {}, None)

    assert fetch(tiny(), tmp_path, say=str, opener=nothing_left)[0].read_bytes() == CONTENT


def test_a_wrong_sum_is_never_kept_under_the_name(tmp_path):
    with pytest.raises(DataError, match=rf"sha256 is {SHA}, expected 000.*removed"):
        fetch(tiny("0" * 64), tmp_path, say=str, opener=Server())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "tiny.zip").write_bytes(b"other")
    with pytest.raises(DataError, match=r"Move it away"):
        fetch(tiny(), tmp_path, say=str, opener=Server())
    assert (tmp_path / "tiny.zip").read_bytes() == b"other"


def test_without_a_sum_in_the_card_the_computed_one_is_said(tmp_path):
    said = []
    fetch(tiny(None), tmp_path, say=said.append, opener=Server())
    assert f"sha256 {SHA} (computed; the card knows none to compare with)" in said[-1]


def test_what_nobody_may_download():
    with pytest.raises(DataError, match=r"imagenet has no archive that anybody may download: see"):
        fetch("imagenet", "nowhere")
    with pytest.raises(DataError, match=r"digits has no archive .*ships with the package"):
        fetch("digits", "nowhere")
    with pytest.raises(ConfigError, match=r"'cifar11' is not known.*Did you mean 'cifar10'"):
        fetch("cifar11", "nowhere")


def test_cards_are_consistent():
    for name, held in CARDS.items():
        assert held.id == name
        assert len(held.mean) == len(held.std) == held.channels
        assert held.class_names is None or len(set(held.class_names)) == held.classes
        assert held.citation.startswith("@")
        assert held.licence
        assert held.url.startswith("http")
        assert all(a.sha256 is None or len(a.sha256) == 64 for a in held.archives)
        assert 2 * held.augment.pad < min(held.size)
        assert card(name.replace("_", "-")) is held
        assert len(held.hash) == 64
    assert len({held.hash for held in CARDS.values()}) == len(CARDS)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DDJAX_DATA", str(tmp_path))
    return tmp_path


def test_locate_finds_what_fetch_brings(home, made, grey):
    (home / "fashion-mnist").mkdir()
    for part, lead in (("train", "train"), ("test", "t10k")):
        for what, array in zip(("images-idx3", "labels-idx1"), grey[part], strict=True):
            path = home / "fashion-mnist" / f"{lead}-{what}-ubyte.gz"
            path.write_bytes(made.gz(made.idx_bytes(array)))
    train, test = locate("fashion_mnist")
    assert train.endswith("train-labels-idx1-ubyte.gz")
    assert test.startswith("idx:")
    found = open_data(Data(train="fashion_mnist"), 0)
    assert found.class_names == CARDS["fashion_mnist"].class_names
    np.testing.assert_array_equal(found.test.images[..., 0], grey["test"][0])


@pytest.mark.parametrize(
    ("name", "files", "train", "test"),
    [
        ("cifar10", ["cifar-10-binary.tar.gz"], "cifar:{}", None),
        ("cifar100", ["cifar-100-binary.tar.gz"], "cifar:{}", None),
        ("svhn", ["train_32x32.mat"], "svhn:{}", None),
        ("usps", ["usps.bz2", "usps.t.bz2"], "usps:{}", None),
        ("cifar10", ["train.zip", "test.zip"], "zip:{}/train.zip", "zip:{}/test.zip"),
        ("imagenette", ["train/a/1.png", "val/a/1.png"], "folder:{}/train", "folder:{}/val"),
        ("imagenette", ["imagenette2-160.tgz"], "tar:{}/imagenette2-160.tgz", None),
        ("tiny_imagenet", ["tiny-imagenet-200.zip"], "zip:{}/tiny-imagenet-200.zip", None),
        ("mnist", ["mnist-train.parquet"], "parquet:{}", None),
        (
            "imagenet",
            ["ILSVRC2012_img_train.tar", "val/a/1.png"],
            "tar:{}/ILSVRC2012_img_train.tar",
            "folder:{}/val",
        ),
    ],
)
def test_locate_knows_the_published_layouts(home, made, name, files, train, test):
    folder = made.write_folder(home / name, dict.fromkeys(files, b"x"))
    expected = train.format(folder), test.format(folder) if test else None
    assert locate(name) == expected


def test_locate_says_which_flag_to_give(home, monkeypatch):
    with pytest.raises(DataError, match=r"no folder .*/mnist\. `ddjax data fetch mnist`, or put"):
        locate("mnist")
    (home / "svhn").mkdir()
    with pytest.raises(DataError, match=r"holds no layout.*--data\.train svhn:PATH --data\.card svhn"):
        locate("svhn")
    monkeypatch.delenv("DDJAX_DATA")
    with pytest.raises(DataError, match=r"\$DDJAX_DATA is not set\. Put the files in .*imagenet"):
        locate("imagenet")
    assert locate("digits") == ("digits", None)
