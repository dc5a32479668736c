"""What an import says of files that are not what the command line says: swapped, cut short, of another kind or set."""

import dataclasses
import gzip
import io
import itertools
import json
import os
import re
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddjax import schema
from ddjax.__main__ import exit_code
from ddjax.data import CARDS
from ddjax.errors import ConfigError, DataError
from ddjax.exchange import command, export
from ddjax.exchange.describe import seen
from ddjax.exchange.importing import import_set
from ddjax.exchange.own import read
from ddjax.exchange.spaces import real_images
from ddjax.files import content_hash
from ddjax.synset import DistilledSet

RNG = np.random.default_rng(0)
THREE = ["ant", "bee", "cat"]
LABELS = np.array([0, 1, 2, 0, 1, 2])
PIXELS = RNG.integers(0, 256, (6, 4, 4, 3), np.uint8)
SIGNED = RNG.normal(size=(6, 3, 4, 4)).astype(np.float32)


@pytest.fixture
def save(tmp_path, pt):
    """Write a value by name: bytes as they are, ``.npz`` by NumPy, anything else as torch would."""

    def write(name, value):
        path = tmp_path / name
        if isinstance(value, bytes):
            path.write_bytes(value)
        elif name.endswith(".npz"):
            np.savez(path, **value)
        else:
            path.write_bytes(pt.zipped(value))
        return str(path)

    return write


@pytest.fixture
def real(tmp_path):
    np.savez(tmp_path / "real.npz", images=RNG.integers(0, 256, (60, 4, 4, 3), np.uint8), labels=np.arange(60) % 10)
    return f"npz:{tmp_path / 'real.npz'}"


def notes(made):
    return made.meta["source"]["notes"]


# --------------------------------------------------------------------------------------------------------- whitening


def test_the_manifest_says_on_which_images_a_zca_was_fitted(save, real, tmp_path):
    held = {"images": np.concatenate([SIGNED, SIGNED])[:10], "labels": np.arange(10)}
    made = import_set(save("x.pt", held), preset="datm-zca", card="cifar10", train=real)
    wanted = {"images": 60, "sha256": content_hash(real_images(real))}
    place = made.save(tmp_path / "set")
    about = json.loads((place / "manifest.json").read_text())
    assert about["zca"]["fitted"] == wanted and about["dataset"]["hash"] == CARDS["cifar10"].hash
    told = [note for note in notes(made) if "60 images of --data.train; card cifar10 has 50,000 training" in note]
    assert len(told) == 1 and told[0] in about["source"]["notes"]
    again = DistilledSet.load(place)
    assert again.packed() == made.packed() and "fitted on 60 images" in seen(again)
    for to in ("npz", "torch"):
        export.export(made, tmp_path / to, to)
        assert read(tmp_path / to).packed() == made.packed()
    del about["zca"]["fitted"]  # a manifest from before
    about["hash"] = content_hash({k: v for k, v in about.items() if k != "hash"})
    (place / "manifest.json").write_text(json.dumps(about))
    assert DistilledSet.load(place).zca.fitted is None
    about["zca"]["fitted"] = {"images": "60"}
    assert len(schema.problems("manifest-1", about)) >= 1


def test_as_many_images_as_the_card_says_need_no_note(save, real, monkeypatch):
    held = {"images": np.concatenate([SIGNED, SIGNED])[:10], "labels": np.arange(10)}
    monkeypatch.setitem(CARDS, "cifar10", dataclasses.replace(CARDS["cifar10"], train=60))
    made = import_set(save("x.pt", held), preset="datm-zca", card="cifar10", train=real)
    assert made.zca.fitted["images"] == 60 and not [note for note in notes(made) if "--data.train" in note]


def test_the_hash_of_a_card_is_that_of_older_manifests():
    assert CARDS["digits"].hash == "9bad039693cba2ebf6d5675d5703eff738f0ecbab20582165debd8a57b7e82e2"
    assert all(card.train for card in CARDS.values())


@pytest.mark.parametrize(("method", "told"), [(None, 1), ("KIP", 1), ("kip", 1), ("RFAD", 0), ("FRePo", 0)])
def test_what_kip_did_is_said_only_where_kip_may_have_done_it(save, real, method, told):
    src = save("x.npz", {"images": SIGNED.transpose(0, 2, 3, 1), "labels": LABELS})
    made = import_set(src, preset="rfad-zca", class_names=THREE, train=real, method=method)
    assert len([note for note in notes(made) if "norm 1" in note]) == told
    assert ("note" in made.meta["source"]) == bool(told)


def test_a_stored_transform_that_does_not_fit_names_its_file(save):
    parts = [save("i.pt", SIGNED), save("l.pt", LABELS), save("r.pt", 0.01)]
    size, eye = 48, np.eye(48)
    for stored, match in (
        ({"whitening_transform": np.eye(12)}, r"shape \(12, 12\)"),
        ({"whitening_transform": eye, "rev_whitening_transform": 2 * eye}, "inverse does not undo"),
        ({"whitening_transform": eye, "zca_mean": np.zeros(size - 1)}, "47 means of 48"),
        ({"whitening_transform": np.full((48, 48), np.inf)}, "not finite"),
        ({"whitening_transform": eye, "rev_whitening_transform": np.eye(3)}, r"inverse has shape \(3, 3\)"),
    ):
        src = ",".join([*parts, save("z4.npz", stored)])
        with pytest.raises(DataError, match=rf"^file = '[^',]*z4\.npz': .*{match}"):
            import_set(src, preset="datm-zca", class_names=THREE)


# ------------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(
    ("name", "value", "preset", "told"),
    [
        ("x.npz", PIXELS, "pixels", r"0\.\.255 \(uint8 values up to \d+\) in .* \[N, H, W, D\] \(D = 3 lies there"),
        ("x.npz", PIXELS / 255, "pixels", r"0\.\.1 \(float64 fractions up to .*\[N, H, W, D\]"),
        ("x.pt", PIXELS.transpose(0, 3, 1, 2), "pixels", r"0\.\.255 .*\[N, D, H, W\] \(D = 3 lies there"),
        ("x.pt", PIXELS[:, :3, :, :], "pixels", r"\[N, D, H, W\] \(as torch writes them"),
        ("x.npz", PIXELS[..., 0], "pixels-255", r"0\.\.255 \(stated\) .*\(they have no axis of channels"),
    ],
)  # fmt: skip
def test_how_pixels_were_taken_is_said(save, name, value, preset, told):
    made = import_set(save(name, {"images": value, "labels": LABELS}), preset=preset, class_names=THREE)
    assert [one["name"] for one in made.meta["source"]["files"]] == [name]
    found = [note for note in notes(made) if note.startswith(f"{preset}: taken as pixels")]
    assert len(found) == 1 and re.search(told, found[0]), notes(made)


def test_bytes_of_only_0_and_1_must_be_stated(save):
    src = save("x.npz", {"images": (PIXELS > 99).astype(np.uint8), "labels": LABELS})
    with pytest.raises(
        DataError, match=r"may be 0\.\.1 or 0\.\.255; state it: --preset pixels-1 or --preset pixels-255"
    ):
        import_set(src, preset="pixels", class_names=THREE)
    assert import_set(src, preset="pixels-1", class_names=THREE).images.max() == 255
    assert import_set(src, preset="pixels-255", class_names=THREE).images.max() == 1


def test_pictures_say_themselves_what_their_pixels_are(tmp_path):
    for k, name in enumerate(THREE):
        (tmp_path / "tree" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (k > 1,) * 3).save(tmp_path / "tree" / name / "0.png")
    made = import_set(str(tmp_path / "tree"), preset="pixels", class_names=THREE)
    assert made.images.max() == 1 and not [note for note in notes(made) if "taken as" in note]


def test_constants_that_do_not_fit_are_named_by_their_flag(save):
    src = save("x.pt", {"images": SIGNED, "labels": LABELS})
    for mean, std, match in (
        ((0.5,), (0.2,) * 3, r"--mean = 0\.5; allowed: 3 values"),
        ((0.5,) * 3, (0.2, 0, 0.2), r"--std = 0\.2,0,0\.2; allowed: 3 values, a finite number > 0 for each"),
        ((0.5,) * 3, (0.2,) * 2, r"--std = 0\.2,0\.2; allowed: 3 values"),
        ((np.nan,) * 3, (0.2,) * 3, r"--mean = nan,nan,nan; allowed"),
    ):
        with pytest.raises(ConfigError, match=match):
            import_set(src, preset="mtt", class_names=THREE, constants=(mean, std))


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "card", "told"),
    [
        ("res_DC_MNIST_ConvNet_1ipc.pt", "fashion_mnist", "says mnist, --dataset says fashion_mnist"),
        ("res_DC_FashionMNIST_ConvNet_1ipc.pt", "mnist", "says fashion_mnist, --dataset says mnist"),
        ("res_DC_Fashion-MNIST_ConvNet_1ipc.pt", "mnist", "says fashion_mnist, --dataset says mnist"),
        ("res_DC_MNIST_ConvNet_1ipc.pt", "mnist", None),
        ("res_DC_Fashion_MNIST_ConvNet_1ipc.pt", "fashion_mnist", None),
        ("best.pt", "mnist", None),
    ],
)
def test_a_file_name_that_says_another_data_set_is_told(save, name, card, told):
    pair = [RNG.normal(size=(10, 1, 28, 28)).astype(np.float32), np.arange(10)]
    made = import_set(save(name, {"data": [pair], "accs_all_exps": {}}), preset="vico", card=card)
    found = [note for note in notes(made) if "--dataset says" in note]
    assert (told in found[0]) if told else not found


def test_only_a_close_name_is_suggested(save):
    save("nhwc.pt", LABELS)
    path = save("images.pt", SIGNED)
    with pytest.raises(DataError, match=r"nosuch\.pt' does not exist\.$"):
        import_set(path.replace("images.pt", "nosuch.pt"), preset="mtt", class_names=THREE)
    for near in ("image.pt", "imgaes.pt", "images.npz", "Images.pth"):
        with pytest.raises(DataError, match=r"does not exist\. Did you mean .*/images\.pt\?$"):
            import_set(path.replace("images.pt", near), preset="mtt", class_names=THREE)


# -------------------------------------------------------------------------------------------- several files, in order


def test_the_files_of_a_triple_in_another_order(save):
    held = {"i": save("i.pt", SIGNED), "l": save("l.pt", LABELS), "r": save("r.pt", np.array(0.01))}
    right = ",".join(held.values())
    assert import_set(right, preset="mtt", class_names=THREE).learned_lr == pytest.approx(0.01)
    for order in itertools.permutations("ilr"):
        if "".join(order) != "ilr":
            with pytest.raises(ConfigError, match=r"in another order: .* holds the .* Write SRC = ") as error:
                import_set(",".join(held[part] for part in order), preset="mtt", class_names=THREE)
            assert str(error.value).endswith(f"Write SRC = {right}.")
    with pytest.raises(ConfigError, match=r"l\.pt holds the labels, i\.pt holds the images\. Write"):
        import_set(f"{held['l']},{held['i']}", preset="mtt", class_names=THREE)


@pytest.fixture
def tree(tmp_path):
    for k, name in enumerate(THREE):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (4, 4), (60 * k + i + 5,) * 3).save(tmp_path / "tree" / name / f"{i}.png")
    (tmp_path / "store" / "epoch_0").mkdir(parents=True)
    return tmp_path / "tree"


def test_tree_and_store_swapped_or_missing(tree):
    store = tree.parent / "store"
    with pytest.raises(ConfigError, match=rf"holds the labels \(epoch_0\).* Write SRC = {tree},{store}\.$"):
        import_set(f"{store},{tree}", preset="pixels", class_names=THREE)
    with pytest.raises(
        DataError, match=r"labels '.*/stoer' does not exist\. Did you mean .*/store\? Allowed: TREE,STORE"
    ):
        import_set(f"{tree},{store.parent / 'stoer'}", preset="pixels", class_names=THREE)
    with pytest.raises(DataError, match=r"labels '.*0\.png' is a file\. Allowed: TREE,STORE"):
        import_set(f"{tree},{tree / 'ant' / '0.png'}", preset="pixels", class_names=THREE)
    named = shutil.copytree(tree, tree.parent / "a,b")  # a comma in the name of a tree
    assert len(import_set(str(named), preset="pixels", class_names=THREE)) == 12


# ----------------------------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("packed", ["tar", "gz"])
def test_a_tar_that_was_cut_anywhere_is_said_to_be(tree, packed):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tree, arcname=".")
    data = plain.getvalue()
    end = len(data.rstrip(b"\0"))
    end += -end % 512
    path = tree.parent / ("x.tar" if packed == "tar" else "x.tar.gz")

    def ask(content):
        path.write_bytes(content if packed == "tar" else gzip.compress(content, 1))
        return import_set(str(path), preset="pixels", class_names=THREE)

    assert len(ask(data)) == len(ask(data[: end + 1024])) == 12
    for size in {*range(700, end, 512), *range(1024, end + 1, 512), end - 300, end + 100}:
        with pytest.raises(DataError, match=r"SRC = '[^']*x\.tar.*truncated"):
            ask(data[:size])
    hurt = bytearray(data)
    at = data.index(b"./bee/")
    hurt[at + 150] ^= 1  # the checksum of a header in the middle
    with pytest.raises(DataError, match=r"is damaged at byte \d+ .truncated or damaged"):
        ask(bytes(hurt))
    if packed == "gz":
        path.write_bytes(gzip.compress(data)[:-200])
        with pytest.raises(DataError, match=r"SRC = '[^']*x\.tar\.gz.*truncated"):
            import_set(str(path), preset="pixels", class_names=THREE)


@pytest.mark.parametrize("packed", ["", "gz"])
def test_a_second_name_in_a_tar_is_a_picture_and_other_links_are_refused(tmp_path, packed):
    def tar(name, *links):
        with tarfile.open(tmp_path / name, f"w:{packed}") as archive:
            for label in range(3):
                picture = io.BytesIO()
                Image.fromarray(PIXELS[label]).save(picture, "png")
                entry = tarfile.TarInfo(f"{label}/a.png")
                entry.size = len(picture.getvalue())
                archive.addfile(entry, io.BytesIO(picture.getvalue()))
            for kind, to in links:
                entry = tarfile.TarInfo("1/z.png")
                entry.type, entry.linkname = kind, to
                archive.addfile(entry)
        return str(tmp_path / name)

    made = import_set(tar("hard.tar", (tarfile.LNKTYPE, "2/a.png")), preset="pixels", class_names=THREE)
    np.testing.assert_array_equal(made.images, PIXELS[[0, 1, 2, 2]])
    assert made.labels.tolist() == [0, 1, 1, 2]
    for kind, to in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "absent.png"), (tarfile.FIFOTYPE, "")):
        with pytest.raises(DataError, match=r"links and devices among the members were ignored: 1/z\.png"):
            import_set(tar("odd.tar", (kind, to)), preset="pixels", class_names=THREE)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.pt")
    for preset in ("vico", "mtt", "pixels"):
        with pytest.raises(DataError, match=r"x\.pt' is a pipe, a device or a socket"):
            import_set(str(tmp_path / "x.pt"), preset=preset, class_names=THREE)
    with pytest.raises(DataError, match="is a pipe"):
        read(tmp_path / "x.pt")
    for label in range(3):
        (tmp_path / "tree" / str(label)).mkdir(parents=True)
        Image.fromarray(PIXELS[label]).save(tmp_path / "tree" / str(label) / "a.png")
    os.mkfifo(tmp_path / "tree" / "2" / "b.png")
    with pytest.raises(DataError, match=r"2/b\.png \(is no regular file\)"):
        import_set(str(tmp_path / "tree"), preset="pixels", class_names=THREE)


# ------------------------------------------------------------------------------------------------------------ pickles


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"hello", "it is text, which begins 'hello'"),
        (b"text\nmore", r"it is text, which begins 'text\\nmore'"),
        (b"<html>404</html>", "it is text, which begins '<html>404"),
        (b"version 1\noid sha256:ab", "it is text, which begins 'version 1"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "it is an HDF5 file"),
        (gzip.compress(b"x", mtime=0), "it is packed by gzip"),
        (b"\x02" + bytes(7) + b"{}" + bytes(4), "it is a safetensors file"),
        (b"\x80\x02e.", "it is damaged, or a file of another kind"),
        (b"\x80\x02]q", "it is cut short"),
        (b"\x80\x04\xff.", "it is damaged, or a file of another kind"),
    ],
    ids=["text", "lines", "html", "lfs", "hdf5", "gzip", "safetensors", "memo", "cut", "opcode"],
)
def test_what_is_no_pickle_gives_one_plain_sentence(save, content, told):
    for name in ("text.pt", "h2.pkl"):
        with pytest.raises(DataError, match=rf"^file = '[^']*{name}': not a readable pickle; {told}") as error:
            import_set(save(name, content), preset="mtt", class_names=THREE)
        assert "Error" not in str(error.value)


def test_a_file_is_named_once(save, pt, tmp_path):
    whole = io.BytesIO(pt.zipped({"images": SIGNED, "labels": LABELS}))
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for name in old.namelist():
            if not name.endswith("data/1"):
                new.writestr(name, old.read(name))
    with pytest.raises(DataError, match=r"holds no 'archive/data/1'") as error:
        import_set(str(tmp_path / "x.pt"), preset="mtt", class_names=THREE)
    assert str(error.value).count("file = ") == 1


# ---------------------------------------------------------------------------------------------------- lists of classes


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ({"2": ["n03", "c"], "0": ["n01", "a"], "1": ["n02", "b"]}, ["n01", "n02", "n03"]),
        ({str(i): f"x{i}" for i in (10, *range(10))}, [f"x{i}" for i in range(11)]),
        ({"b": 1, "a": 0}, ["a", "b"]),
    ],
)
def test_a_json_object_of_classes_is_read_by_number(tmp_path, listed, names):
    (tmp_path / "c.json").write_text(json.dumps(listed))
    assert command._classes(str(tmp_path / "c.json")) == names


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ({"1": "a", "2": "b"}, "has 2 entries, none of them of number 0"),
        ({"tench": "n01440764"}, "has 1 entries, none of them of number 0"),
        ({}, "is empty"),
        ({"0": {"id": "n01"}}, "number 0 is {'id': 'n01'}; allowed: a name, or"),
        ({"0": []}, r"number 0 is []; allowed"),
        ({"a": 0, "b": 0}, "has 2 entries, none of them of number 1"),
    ],
)
def test_a_json_object_that_is_no_list_of_classes_is_refused(tmp_path, capsys, listed, told):
    (tmp_path / "c.json").write_text(json.dumps(listed))
    line = ["import", "x.pt", str(tmp_path / "o"), "--preset", "mtt", "--classes", str(tmp_path / "c.json")]
    assert exit_code(command.main, line) == 2
    said = capsys.readouterr().err
    assert "--classes = " in said and told in said
