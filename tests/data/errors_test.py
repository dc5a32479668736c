"""Everything that can be wrong with somebody's files: a named error with the file and the count."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddjax.config import Data
from ddjax.data import Arrays, archives, base, layout, open_data
from ddjax.errors import ConfigError, DataError


def refused(match: str, **data) -> str:
    with pytest.raises((DataError, ConfigError), match=match) as caught:
        open_data(Data(**data), 0)
    return str(caught.value)


def jpeg(size: int = 8) -> bytes:
    out = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def arrays(n: int = 20, **changes) -> Arrays:
    held = {"images": np.zeros((n, 4, 4, 3), np.uint8), "labels": np.arange(n) % 2}
    return Arrays(**(held | changes))


@pytest.mark.parametrize("resident", [True, False])
def test_truncated_and_non_image_files_are_listed_and_counted(broken, resident):
    bad = {f"cat/cut{i:02d}.jpg": jpeg()[:150] for i in range(9)}
    bad |= {"dog/text.png": b"no picture", "dog/void.png": b"", "dog/web.png": b"<html></html>"}
    config = Data(train=f"folder:{broken(bad)}")
    with pytest.raises(DataError, match=r"12 of 28 images cannot be decoded") as caught:
        open_data(config, 0, resident_bytes=1 << 30 if resident else 0)
    message = str(caught.value)
    assert "cat/cut00.jpg (" in message
    assert "and 2 more (12 in all)" in message
    root = broken({"dog/text.png": b"no picture", "cat/a.png": jpeg()[:150]}, "two")
    message = refused(r"2 of 18 images cannot be decoded", train=f"folder:{root}")
    assert "dog/text.png (not an image)" in message
    assert "cat/a.png (" in message


def test_a_set_without_one_good_image(broken):
    root = broken({f"{c}/{i}.png": b"x" for c in ("cat", "dog") for i in range(8)})
    refused(r"16 of 16 images cannot be decoded: cat/\d\.png \(not an image\)", train=f"folder:{root}")


def test_files_among_images_that_are_none_by_name(broken):
    refused(
        r"2 files among the images are not images: cat/a\.doc, dog/b\.txt\. Remove them",
        train=f"folder:{broken({'cat/a.doc': b'x', 'dog/b.txt': b'x'})}",
    )


def test_no_image_at_all(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").write_text("x")
    refused(r"no image in it; allowed: \.jpg", train=f"folder:{tmp_path}")


def test_empty_classes(broken, tmp_path, made):
    root = broken()
    (root / "cow").mkdir()
    (root / "train" / "emu").mkdir(parents=True)
    refused(r"2 classes are empty: cow, train/emu", train=f"folder:{root}")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("cow")
        archive.writestr("cat/1.png", jpeg())
    refused(r"1 classes are empty: cow", train=f"zip:{tmp_path}/a.zip")
    refused(
        r"1 of 4 classes are empty: 2",
        train=arrays(labels=np.arange(20) % 2 * 3 - (np.arange(20) % 4 == 1) * 2),
    )
    refused(r"only one class, 0", train=arrays(labels=np.zeros(20, int)))


def test_images_outside_any_class(broken, tmp_path, made):
    refused(
        r"1 images lie in no class folder: stray\.png",
        train=f"folder:{broken({'stray.png': jpeg()})}",
    )
    files = {"train/cat/1.png": jpeg(), "train/dog/1.png": jpeg(), "val/1.png": jpeg()}
    refused(
        r"1 images lie in no class folder: val/1\.png",
        train=f"zip:{made.write_zip(tmp_path / 'a.zip', files)}",
    )


def test_a_class_in_one_split_only(broken):
    train = broken({"ant/1.jpg": jpeg(), "bee/1.jpg": jpeg()}, "train")
    test = broken({"emu/1.jpg": jpeg()}, "test")
    refused(
        r"Classes in one split only\. 2 only in data\.train = .*: ant, bee; 1 only in data\.test = .*: emu",
        train=f"folder:{train}",
        test=f"folder:{test}",
    )
    refused(r"1 only in data\.test.*: 2", train=arrays(), test=arrays(labels=np.arange(20) % 3))


def test_mixed_sizes_without_a_rule(broken):
    root = broken({f"dog/wide{i}.jpg": jpeg(12) for i in range(9)})
    message = refused(r"9 of 25 images are not 8x8 but 12x12 \(9\): dog/wide", train=f"folder:{root}")
    assert "--data.resize squash" in message
    refused(r"not 16x16 \(data\.size\) but 8x8", train=f"folder:{root}", size=16)
    refused(r"data\.resize = 'crop' needs a size", train=f"folder:{root}", resize="crop")
    found = open_data(Data(train=f"folder:{root}", resize="squash", size=6), 0)
    assert found.train.shape == (6, 6, 3)
    assert "images resized (squash) to (6, 6) by Pillow, bicubic" in found.notes


@pytest.mark.parametrize("resident", [True, False])
def test_the_few_images_of_another_size_are_accused_not_the_many(broken, resident):
    root = broken({"cat/0.png": jpeg(12), "cat/00.jpg": jpeg(14)})  # the first ones are the odd ones
    either = r"(12x12 \(1\), 14x14 \(1\)|14x14 \(1\), 12x12 \(1\))"
    with pytest.raises(DataError, match=rf"2 of \d+ images are not 8x8 but {either}: cat/0"):
        open_data(Data(train=f"folder:{root}"), 0, resident_bytes=1 << 30 if resident else 0)


def test_a_zip_called_tar_and_a_tar_called_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cat/1.png", jpeg())
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("cat/1.png"))
    refused(r"not a zip archive.* Nearest: tar:.*a\.tar\.", train=f"zip:{tmp_path}/a.tar")
    refused(r"not a tar archive.* Nearest: zip:.*a\.zip\.", train=f"tar:{tmp_path}/a.zip")


def test_sizes_may_not_differ_between_train_and_test(broken):
    test = broken(
        {f"{c}/{i}.png": None for c in ("cat", "dog") for i in range(8)} | {"cat/a.jpg": jpeg(9), "dog/a.jpg": jpeg(9)},
        "test",
    )
    refused(
        r"data\.test = .*2 of 2 images are not 8x8",
        train=f"folder:{broken()}",
        test=f"folder:{test}",
    )


def test_label_and_image_counts(tmp_path, made):
    refused(r"20 images but 19 labels", train=arrays(labels=np.zeros(19, int)))
    (tmp_path / "x").write_bytes(made.idx_bytes(np.zeros((4, 2, 2))))
    (tmp_path / "y").write_bytes(made.idx_bytes(np.zeros(5)))
    refused(r"4 images in .*/x but 5 labels in .*/y", train=f"idx:{tmp_path}/x,{tmp_path}/y")


def test_idx_files(tmp_path, made):
    images, labels = made.idx_bytes(np.zeros((4, 2, 2))), made.idx_bytes(np.zeros(4))
    spec = f"idx:{tmp_path}/x,{tmp_path}/y"
    (tmp_path / "y").write_bytes(labels)
    for data, match in (
        (labels, r"wrong magic number 00000801; an idx file of images starts with 00000803"),
        (b"", r"wrong magic number \(empty file\)"),
        (images[:-1], r"declares 16 bytes of shape \(4, 2, 2\) but holds 15"),
        (images + b"x", r"declares 16 bytes .* but holds more"),
        (made.gz(images)[:-9], r"truncated or damaged"),
        (bytes([0, 0, 8, 3, *[255] * 12]), r"declares \d+ bytes; limit"),
    ):
        (tmp_path / "x").write_bytes(data)
        refused(match, train=spec)
    (tmp_path / "x").unlink()
    refused(r"/x: no such file", train=spec)
    refused(r"needs two files, idx:IMAGES,LABELS", train=f"idx:{tmp_path}/x")


def test_arrays_of_another_type():
    holes = np.zeros((20, 4, 4, 3), np.float32)
    holes[3, 0], holes[7, 1] = np.nan, np.inf
    refused(r"2 images hold NaN or infinity: 3, 7", train=arrays(images=holes))
    refused(r"float32 in \[0\.0, 0\.0\]; allowed: uint8", train=arrays(images=np.zeros_like(holes)))
    refused(r"shape \(20, 3, 5, 5\); allowed", train=arrays(images=np.zeros((20, 3, 5, 5), np.uint8)))
    refused(r"no images", train=arrays(images=np.zeros((0, 4, 4), np.uint8)))
    refused(r"labels are float64; allowed: whole numbers", train=arrays(labels=np.arange(20) / 2))
    refused(
        r"1 labels are out of range \(first: -1 at 4\)",
        train=arrays(labels=np.where(np.arange(20) == 4, -1, 1)),
    )
    refused(
        r"2 labels are out of range 0\.\.9 \(first: 11 of arrays\[1\]\)",
        train=arrays(labels=np.array([0, 11, 12, *[1] * 17])),
        card="cifar10",
    )


def test_npz_files(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((4, 2, 2, 3), np.uint8), labels=np.array([{}] * 4))
    refused(r"cannot be read as plain arrays", train=f"npz:{path}")
    np.savez(path, first=np.zeros(3), second=np.zeros(3))
    refused(r"arrays first, second; allowed: images and labels, or x and y", train=f"npz:{path}")
    path.write_bytes(path.read_bytes()[:60])
    refused(r"cannot be read as plain arrays", train=f"npz:{path}")


def test_a_large_declared_size_is_refused_before_it_is_read(tmp_path, made, monkeypatch, broken):
    files = {"cat/1.png": b"\0" * 5000, "dog/1.png": jpeg()}
    path = made.write_zip(tmp_path / "a.zip", files, zipfile.ZIP_DEFLATED)
    (tmp_path / "a.tar").write_bytes(made.tar_bytes(files))
    (tmp_path / "a.tgz").write_bytes(made.gz(made.tar_bytes(files)))
    monkeypatch.setattr(archives, "MEMBER_BYTES", 4999)
    refused(
        r"1 members are larger than 4999 bytes unpacked: cat/1\.png \(5000 bytes\)",
        train=f"zip:{path}",
    )
    refused(r"1 members are larger than 4999 bytes: cat/1\.png", train=f"tar:{tmp_path}/a.tar")
    monkeypatch.setattr(archives, "TAR_MEMORY", 4999)
    refused(r"has no random access\. Unpack it to a plain \.tar", train=f"tar:{tmp_path}/a.tgz")
    refused(
        r"5000 bytes; limit 4999",
        train=f"folder:{broken({f'cat/{i}.png': b'x' * 5000 for i in range(8)})}",
    )


def test_a_zip_member_that_lies_about_its_size(tmp_path, made):
    """A bomb: the directory declares few bytes, the data inflate to many."""
    path = made.write_zip(tmp_path / "a.zip", {"cat/1.png": b"\0" * 100000}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes().replace((100000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    path.write_bytes(data)
    parts = layout.labelled_parts(archives.open_zip(path, "x"))
    with pytest.raises(base.Undecodable, match="size or checksum differs"):
        parts[""].get(0)


def test_damaged_archives(tmp_path, made, colour):
    files = made.files(colour)
    whole = made.write_zip(tmp_path / "a.zip", files).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:-30])
    refused(r"not a zip archive, or a truncated one", train=f"zip:{tmp_path}/a.zip")
    hurt = bytearray(whole)
    hurt[whole.index(b"IDAT") + 20] ^= 255
    (tmp_path / "a.zip").write_bytes(bytes(hurt))
    refused(
        r"1 of \d+ images cannot be decoded: train/airplane/0000\.png \(damaged zip member",
        train=f"zip:{tmp_path}/a.zip",
    )
    tar = made.tar_bytes(files)
    for name, data in (("cut", tar[:20000]), ("text", b"hello" * 200), ("gz", made.gz(tar)[:9000])):
        (tmp_path / f"{name}.tar").write_bytes(data)
        refused(r"not a tar archive, or a truncated one", train=f"tar:{tmp_path}/{name}.tar")


def test_cifar_svhn_usps_and_parquet_files(tmp_path, made, colour):
    (tmp_path / "none").mkdir()
    for kind, match in (
        ("cifar", r"no CIFAR file in it"),
        ("svhn", r"neither train_32x32\.mat nor"),
        ("usps", r"neither usps\.bz2 nor"),
        ("parquet", r"no \.parquet file"),
    ):
        refused(match, train=f"{kind}:{tmp_path}/none")
    root = made.write_folder(tmp_path / "c", made.cifar_binary(colour))
    path = root / "cifar-10-batches-bin" / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-1])
    refused(r"data_batch_1\.bin: \d+ bytes are no multiple of 3073", train=f"cifar:{root}")
    made.write_folder(root, made.cifar_python(colour))
    refused(r"files of more than one CIFAR set or version", train=f"cifar:{root}")
    for kind, match in (
        ("svhn", r"not a MATLAB 5 file"),
        ("usps", r"not LIBSVM text"),
        ("parquet", r"no readable parquet file"),
    ):
        (tmp_path / "junk").write_bytes(b"hello, world, this is no archive" * 9)
        refused(match, train=f"{kind}:{tmp_path}/junk")


def test_what_cannot_be_divided(broken):
    refused(
        r"1 classes have fewer than 2 training images, none can be held out: emu",
        train=f"folder:{broken({'emu/1.jpg': jpeg()})}",
    )
    for total, use in ((1, 2), (99, 16)):
        refused(
            rf"data\.subset = {total} is out of range; allowed: 2 .* 16 .*Nearest valid: {use}",
            train=arrays(),
            subset=total,
        )
    root = broken()
    refused(
        r"data\.test = 'folder:.*' holds the training images",
        train=f"folder:{root}",
        test=f"folder:{root}",
    )


def test_what_a_users_open_may_return():
    class Odd:
        def __init__(self, value):
            self.value = value

        def open(self):
            return self.value

    refused(r"open\(\) must return", train=Odd(3))
    refused(r"part = 'dev' is not known", train=Odd({"dev": arrays()}))
    pair = np.zeros((20, 4, 4), np.uint8), np.arange(20) % 2
    assert open_data(Data(train=Odd(pair)), 0).train.shape == (4, 4, 1)
    assert (
        len(
            open_data(
                Data(train=Odd({"train": pair, "test": arrays(6, images=np.zeros((6, 4, 4), np.uint8))})),
                0,
            ).test
        )
        == 6
    )
