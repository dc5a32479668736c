"""The same pixels from every kind of source: the same arrays, and the same content hash."""

import dataclasses
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ddjax.config import Data
from ddjax.data import CARDS, Arrays, open_data, open_source
from ddjax.data.sources import KINDS, problem
from ddjax.errors import ConfigError, DataError

COLOUR = "folder zip deflated tar tar.gz nested npz npz_parts cifar_bin cifar_py cifar_py5 svhn"
COLOUR = (*COLOUR.split(), "cifar_tgz", "parquet", "arrays", "user")


@dataclasses.dataclass(frozen=True)
class Mine:
    """What a user may write in a config file."""

    part: str
    held: tuple

    def open(self):
        images, labels = self.held

        class Rows:
            def __len__(self):
                return len(images)

            def __getitem__(self, i):
                return images[i]

        rows = Rows()
        rows.labels, rows.class_names = labels, CARDS["cifar10"].class_names
        return rows


def colour_spec(kind: str, root: Path, made: SimpleNamespace, colour: dict) -> tuple:
    """``data.train`` and ``data.test`` of the same pixels as ``kind``."""
    files = made.files(colour)
    match kind:
        case "folder":
            return f"folder:{made.write_folder(root / 'set', files)}", None
        case "zip":
            return f"zip:{made.write_zip(root / 'set.zip', files)}", None
        case "deflated":
            return f"zip:{made.write_zip(root / 's.zip', files, zipfile.ZIP_DEFLATED)}", None
        case "tar" | "tar.gz" | "nested":
            path = root / f"set.{'tar.gz' if kind == 'tar.gz' else 'tar'}"
            data = made.tar_bytes(files) if kind != "nested" else made.nested_tar(files)
            path.write_bytes(made.gz(data) if kind == "tar.gz" else data)
            return f"tar:{path}", None
        case "npz":
            for part, (images, labels) in colour.items():
                np.savez_compressed(root / f"{part}.npz", images=images, labels=labels)
            return f"npz:{root / 'train.npz'}", f"npz:{root / 'test.npz'}"
        case "npz_parts":
            (x, y), (a, b) = colour["train"], colour["test"]
            np.savez(root / "set.npz", x_train=x, y_train=y[:, None], x_test=a, y_test=b)
            return f"npz:{root / 'set.npz'}", None
        case "cifar_bin":
            return f"cifar:{made.write_folder(root / 'bin', made.cifar_binary(colour))}", None
        case "cifar_py" | "cifar_py5":
            held = made.cifar_python(colour, 2 if kind == "cifar_py" else 5)
            return f"cifar:{made.write_folder(root / 'py', held)}", None
        case "cifar_tgz":
            (root / "cifar-10-python.tar.gz").write_bytes(made.gz(made.tar_bytes(made.cifar_python(colour))))
            return f"cifar:{root}", None
        case "svhn":
            return f"svhn:{made.write_mat(root / 'mat', colour)}", None
        case "parquet":
            return f"parquet:{made.write_parquet(root / 'pq', colour)}", None
        case "arrays":
            return Arrays(*colour["train"]), Arrays(*colour["test"])
        case _:
            return tuple(Mine(part, held) for part, held in colour.items())


@pytest.fixture(scope="module")
def reference(colour):
    return open_data(Data(train=Arrays(*colour["train"]), test=Arrays(*colour["test"])), 0)


@pytest.mark.parametrize("kind", COLOUR)
def test_every_kind_gives_the_same_pixels(kind, tmp_path, made, colour, reference):
    train, test = colour_spec(kind, tmp_path, made, colour)
    found = open_data(Data(train=train, test=test), 0)
    images, labels = colour["train"]
    together = np.concatenate([found.train.images, found.val.images])
    order = np.concatenate([found.train.rows, found.val.rows])
    np.testing.assert_array_equal(together, images[order])
    np.testing.assert_array_equal(np.concatenate([found.train.labels, found.val.labels]), labels[order])
    np.testing.assert_array_equal(found.test.images, colour["test"][0])
    for part in ("train", "val", "test"):
        assert getattr(found, part).hash == getattr(reference, part).hash
    assert found.train.labels.dtype == np.int32
    assert found.train.images.dtype == np.uint8
    named = kind not in ("npz", "npz_parts", "arrays", "svhn")
    assert found.class_names == (CARDS["cifar10"].class_names if named else CARDS["svhn"].class_names)
    assert found.card.id == {"svhn": "svhn"}.get(kind, "cifar10" if named else "custom")
    assert len(found.hash) == 64
    noted = [note for note in found.notes if note.startswith("test:")]
    assert noted == ([] if test is not None else ["test: the test/ part of data.train"])


@pytest.mark.parametrize("kind", ["idx", "idx_gz", "usps", "folder", "npz"])
def test_every_grey_kind_gives_the_same_pixels(kind, tmp_path, made, grey):
    test = None
    if kind.startswith("idx"):
        ending = ".gz" if kind == "idx_gz" else ""
        for part, pair in grey.items():
            for what, array in zip(("images", "labels"), pair, strict=True):
                data = made.idx_bytes(array)
                (tmp_path / f"{part}-{what}{ending}").write_bytes(made.gz(data) if ending else data)
        train, test = (
            f"idx:{tmp_path}/{part}-images{ending},{tmp_path}/{part}-labels{ending}" for part in ("train", "test")
        )
    elif kind == "usps":
        train = f"usps:{made.write_libsvm(tmp_path / 'usps', grey)}"
    elif kind == "npz":
        held = {f"{p}_{w}": a for p, pair in grey.items() for w, a in zip(("images", "labels"), pair, strict=True)}
        np.savez(tmp_path / "set.npz", **held)
        train = f"npz:{tmp_path}/set.npz"
    else:
        names = [str(d) for d in range(10)]
        train = f"folder:{made.write_folder(tmp_path / 'set', made.files(grey, names))}"
    found = open_data(Data(train=train, test=test), 0)
    np.testing.assert_array_equal(found.test.images[..., 0], grey["test"][0])
    np.testing.assert_array_equal(found.train.images[..., 0], grey["train"][0][found.train.rows])
    assert found.train.shape == (16, 16, 1)
    assert found.class_names == tuple(str(d) for d in range(10))


def test_prepared_tfds_is_read_without_tensorflow(tmp_path, made, colour, reference, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    from PIL import Image

    class TinyToy(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # tfds would look for files beside this class

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=CARDS["cifar10"].class_names),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {part: self._generate_examples(*colour[part]) for part in colour}

        def _generate_examples(self, images, labels):
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield i, {"image": Image.fromarray(image), "label": int(label)}

    config = tfds.download.DownloadConfig(try_download_gcs=False)
    TinyToy(data_dir=tmp_path, file_format="array_record").download_and_prepare(download_config=config)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    found = open_data(Data(train="tfds:tiny_toy"), 0)
    assert "tensorflow" not in sys.modules
    assert found.class_names == CARDS["cifar10"].class_names
    assert [len(s) for s in (found.train, found.val, found.test)] == [50, 10, 20]
    seen = {image.tobytes(): label for image, label in zip(*colour["test"], strict=True)}
    assert {i.tobytes(): y for i, y in zip(found.test.images, found.test.labels, strict=True)} == seen
    with pytest.raises(DataError, match=r"tiny_toi.*Did you mean 'tiny_toy'"):
        open_source("data.train", "tfds:tiny_toi")
    with pytest.raises(DataError, match=r"split.*'tran'.*Did you mean 'train'"):
        open_source("data.train", "tfds:tiny_toy/tran")
    parts = open_source("data.train", "tfds:tiny_toy/test")
    assert list(parts) == [""]
    assert len(parts[""]) == 20


def test_digits_have_the_fixed_split_of_their_card():
    found = open_data(Data(), 0)
    again = open_data(Data(), 7)
    assert len(found.train) + len(found.val) == 1297
    assert len(found.test) == 500
    assert found.train.shape == (8, 8, 1)
    assert found.hash == again.hash  # the seed draws subsets only
    assert found.train.images.max() == 255
    share = np.bincount(found.test.labels) / 500
    whole = np.bincount(np.concatenate([s.labels for s in (found.train, found.val, found.test)]))
    assert np.abs(share - whole / 1797).max() < 1 / 500
    pixels = np.concatenate([s.images for s in (found.train, found.val, found.test)]) / 255
    assert found.card.mean == (round(float(pixels.mean()), 4),)
    assert found.card.std == (round(float(pixels.std()), 4),)


def test_val_is_the_test_part_where_there_is_no_test(tmp_path, made, colour):
    files = {name.replace("test/", "top/val/"): data for name, data in made.files(colour).items()}
    files = {name.replace("train/", "top/train/"): data for name, data in files.items()}
    found = open_data(Data(train=f"zip:{made.write_zip(tmp_path / 'a.zip', files)}"), 0)
    assert "test: the val/ part of data.train" in found.notes
    np.testing.assert_array_equal(found.test.images, colour["test"][0])


def test_the_original_layout_of_tiny_imagenet(tmp_path, made):
    """train/<class>/images, boxes beside them, val/images with a list, test/images unlabelled."""
    rng = np.random.default_rng(0)
    names = [f"n{i:08d}" for i in range(3)]
    draw = lambda: made.png(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))  # noqa: E731
    files = {f"t/train/{n}/images/{n}_{i}.png": draw() for n in names for i in range(4)}
    files |= {f"t/train/{n}/{n}_boxes.txt": b"x\t0\t0\t1\t1\n" for n in names}
    files |= {f"t/val/images/val_{i}.png": draw() for i in range(6)}
    files |= {f"t/test/images/test_{i}.png": draw() for i in range(5)}
    lines = [f"val_{i}.png\t{names[(i + 1) % 3]}\t0\t0\t1\t1" for i in range(6)]
    files |= {"t/val/val_annotations.txt": "\n".join(lines).encode(), "t/wnids.txt": b"n\n"}
    found = open_data(Data(train=f"zip:{made.write_zip(tmp_path / 't.zip', files)}"), 0)
    assert found.class_names == tuple(names)
    assert len(found.test) == 6
    for label, row in zip(found.test.labels, found.test.rows, strict=True):
        number = int(found.test.source.name(int(row)).split("_")[-1].removesuffix(".png"))
        assert label == (number + 1) % 3
    assert "5 unlabelled images of test/ were not used" in found.notes


def test_hidden_and_system_files_are_passed_over(broken):
    root = broken({".DS_Store": b"x", "cat/.hidden.png": b"x", "dog/Thumbs.db": b"x"})
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "._0.png").write_bytes(b"x")
    (root / "README.md").write_text("about")
    assert open_data(Data(train=f"folder:{root}"), 0).class_names == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path, made, colour):
    names = ["bus", "car", "train", *"abcdefg"]
    members = {k.split("/", 1)[1]: v for k, v in made.files({"train": colour["train"]}, names).items()}
    parts = open_source("data.train", f"folder:{made.write_folder(tmp_path / 'v', members)}")
    assert parts[""].class_names == tuple(sorted(names))


def test_names_that_leave_the_folder_are_ignored_and_counted(tmp_path, made, colour):
    files = made.files(colour) | {"../train/cat/evil.png": b"x", "/etc/cat/evil.png": b"x"}
    for spec in (
        f"zip:{made.write_zip(tmp_path / 'a.zip', files)}",
        f"tar:{made.write_folder(tmp_path, {'a.tar': made.tar_bytes(files)}) / 'a.tar'}",
    ):
        found = open_data(Data(train=spec), 0)
        assert len(found.train) + len(found.val) == 60
        assert any("2 members whose names leave the folder were ignored" in n for n in found.notes)
    assert not (tmp_path.parent / "train").exists()


def test_specs_are_judged_by_their_words_alone(tmp_path):
    for spec in (
        "digits",
        "cifar10",
        *(kind for kind in KINDS.values() if ":" in kind),
        Mine("", ()),
    ):
        assert problem("data.train", spec) is None
    assert "Did you mean 'folder:PATH'" in problem("data.train", "foldr:x")
    assert "write zip:PATH" in problem("data.train", "zip:")
    (tmp_path / "a.zip").write_bytes(b"")
    assert f"write zip:{tmp_path}/a.zip" in problem("data.train", f"{tmp_path}/a.zip")
    assert "has no open()" in problem("data.train", 3)
    with pytest.raises(ConfigError, match=r"data.test = 'nothing' is not known"):
        open_source("data.test", "nothing")


def test_a_path_that_is_not_there_names_the_nearest(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"no such file or folder\. Did you mean .*/photos"):
        open_source("data.train", f"folder:{tmp_path}/photo")
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"is a file; write zip:"):
        open_source("data.train", f"folder:{tmp_path}/a.zip")
    with pytest.raises(DataError, match=r"is a folder; write folder:"):
        open_source("data.train", f"zip:{tmp_path}/photos")


def test_a_card_named_alone_is_looked_for_in_the_data_folder(tmp_path, made, colour, monkeypatch):
    monkeypatch.setenv("DDJAX_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"no folder .*/cifar10.*--data.train cifar:PATH"):
        open_data(Data(train="cifar10"), 0)
    made.write_folder(tmp_path / "cifar10", made.cifar_binary(colour))
    found = open_data(Data(train="cifar10"), 0)
    assert found.card.id == "cifar10"
    np.testing.assert_array_equal(found.test.images, colour["test"][0])


def test_a_card_adds_to_the_names_of_the_files(tmp_path, made, colour):
    files = made.files(colour, [f"n{i}" for i in range(10)])
    spec = f"zip:{made.write_zip(tmp_path / 'a.zip', files)}"
    found = open_data(Data(train=spec, card="tiny_imagenet"), 0)
    assert found.card.id == "tiny_imagenet"
    assert found.card.classes == 10
    assert found.card.class_names == tuple(f"n{i}" for i in range(10))
    assert found.card.mean == CARDS["tiny_imagenet"].mean
    assert "10 of the 200 classes of tiny_imagenet" in found.notes
