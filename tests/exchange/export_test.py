"""Every export is read by others' readers, comes back to the bit where it can, and says where it cannot."""

import dataclasses
import io
import json
import struct
import tarfile
import zipfile

import jsonschema
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ddjax import zca
from ddjax.data import open_source
from ddjax.data.torchfile import read_pt
from ddjax.errors import ConfigError, DataError
from ddjax.exchange import own
from ddjax.exchange.convert import convert
from ddjax.exchange.export import TARGETS, export, folder_names
from ddjax.exchange.importing import import_set
from ddjax.exchange.pixels import pixels
from ddjax.exchange.torchfile_out import to_bytes
from ddjax.files import content_hash, to_json
from ddjax.schema import schema
from ddjax.synset import DistilledSet

NAMES = ("T-shirt/top", "train", 'a "b" é: #x', ".hidden")
RNG = np.random.Generator(np.random.Philox(5))
PIXELS = RNG.integers(0, 256, (8, 6, 5, 3)).astype(np.uint8)
REAL = RNG.standard_normal((40, 6, 5, 3)).astype(np.float32)
WHITE = zca.fit(REAL, transform="eps", eps=0.1)
LOGITS = RNG.standard_normal((8, 4)).astype(np.float32)
META = {
    "dataset": {"card": "digits", "licence": "BSD-3-Clause", "notes": ["a note"]}, "method": {"class": "teddy"},
    "seeds": [3], "label_source": "pool", "source": {"preset": "mtt"},
}  # fmt: skip


def _set(images=PIXELS, **changes):
    fields = {
        "images": images, "labels": np.array([0, 0, 2, 1, 3, 3, 2, 1], np.int32), "class_names": NAMES,
        "mean": (0.5, 0.25, 0.4), "std": (0.25, 0.3, 1.0), "meta": META,
    }  # fmt: skip
    return DistilledSet(**(fields | changes))


def _float(**changes):
    wanted = RNG.uniform(-0.1, 1.1, (8, 6, 5, 3))
    return _set(((wanted - np.array((0.5, 0.25, 0.4))) / np.array((0.25, 0.3, 1.0))).astype(np.float32), **changes)


SETS = {
    "uint8": _set(),
    "soft": _set(label_logits=LOGITS, learned_lr=0.02),
    "grey": _set(PIXELS[..., :1], mean=(0.5,), std=(0.25,)),
    "float": _float(label_logits=LOGITS),
    "whitened": _set(zca.apply(WHITE, REAL[:8]), zca=WHITE, learned_lr=0.02),
}


def _content(path):
    files = sorted(path.rglob("*")) if path.is_dir() else [path, *path.parent.glob(f"{path.name}.*")]
    return {file.relative_to(path.parent): file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", SETS)
def test_a_set_comes_back_from_each_target_to_the_bit_or_as_pixels_with_a_note(tmp_path, name, to):
    made = SETS[name]
    notes = export(made, tmp_path / "out", to)
    found = own.read(tmp_path / "out")
    if made.images.dtype == np.uint8 or to in ("npz", "torch"):
        assert found.packed() == made.packed()
        assert not any("rounded" in note for note in notes)
    else:
        assert "rounded to 0..255, which is not exact" in notes[0]
        assert found.images.tobytes() == pixels(made).images.tobytes()
        assert (found.space, found.learned_lr, found.soft) == ("pixels", made.learned_lr, made.soft)
        np.testing.assert_array_equal(found.labels, made.labels)
    before = _content(tmp_path / "out")
    (tmp_path / "again").mkdir()
    export(made, tmp_path / "again" / "out", to)
    assert _content(tmp_path / "again" / "out") == before
    assert not any(str(tmp_path).encode() in content for content in before.values())


@pytest.mark.parametrize("to", TARGETS)
def test_the_manifest_goes_with_every_export_and_fits_the_schema(tmp_path, to):
    made = SETS["whitened"]
    notes = export(made, tmp_path / "out", to)
    if to == "npz":
        about = json.loads(str(np.load(tmp_path / "out")["manifest"]))
    elif to == "torch":
        about = json.loads(read_pt(tmp_path / "out")["manifest"])
    else:
        place = tmp_path / "out.manifest.json" if to == "webdataset" else tmp_path / "out" / "manifest.json"
        about = json.loads(place.read_text())
    jsonschema.Draft202012Validator(schema("manifest-1")).validate(about)
    assert (about["export"]["to"], about["export"]["notes"], about["class_names"]) == (to, notes, list(NAMES))
    original = json.loads(made.packed()["manifest.json"])
    assert {k: v for k, v in about.items() if k not in ("export", "hash")} == {
        k: v for k, v in original.items() if k != "hash"
    }


def test_pixels_are_rounded_cut_and_measured():
    wanted = np.array([-3.0, -0.4, 0.4, 0.6, 254.6, 255.4, 260.0, 128.0])
    images = (wanted / 255).astype(np.float32).reshape(8, 1, 1, 1)
    kept = pixels(_set(images, mean=(0.0,), std=(1.0,)))
    np.testing.assert_array_equal(kept.images.ravel(), [0, 0, 0, 1, 255, 255, 255, 128])
    assert (kept.cut, kept.values) == (2, 8)
    assert kept.error == pytest.approx(5, abs=1e-3)
    assert pixels(_set()).images is _set().images or pixels(_set()).error == 0


def test_a_folder_is_read_by_the_folder_source_and_by_the_importer(tmp_path):
    made = _set(labels=np.repeat(np.arange(4, dtype=np.int32), 2), class_names=("d", "train", "a", "c"))
    assert export(made, tmp_path / "out", "folder") == []
    source = open_source("x", f"folder:{tmp_path / 'out'}")[""]
    assert source.class_names == ("a", "c", "d", "train")
    assert (tmp_path / "out" / "classes.txt").read_text().split() == ["d", "train", "a", "c"]
    for i in range(8):
        image = np.asarray(Image.open(io.BytesIO(source.get(i))))
        number = int(source.name(i).rpartition("/")[2].removesuffix(".png"))
        np.testing.assert_array_equal(image, made.images[number])
        assert source.class_names[source.labels[i]] == made.class_names[made.labels[number]]
    names = (tmp_path / "out" / "classes.txt").read_text().splitlines()
    again = import_set(str(tmp_path / "out"), preset="pixels", class_names=names, constants=(made.mean, made.std))
    assert again.images.tobytes() == made.images.tobytes()
    assert again.labels.tobytes() == made.labels.tobytes()
    assert again.class_names == made.class_names


def test_folder_names_are_portable_and_distinct():
    names = ("a/b", "a%2Fb", "A%2FB", "..", " x", "x.", "CON", "con.txt", "", "manifest.json", "Thumbs.db", "ä" * 300,
             "ä" * 299, "\0", "plain name", "a\nb", "x*?")  # fmt: skip
    found = folder_names(names)
    assert found[0] == "a%2Fb"
    assert found[14] == "plain name"
    assert len({name.lower() for name in found}) == len(names)
    for name in found:
        assert name
        assert name[0] not in ". "
        assert name[-1] not in ". "
        assert not set(name) & set('\\/:*?"<>|\0\n')
        assert len(name.encode()) < 256
        assert name.partition(".")[0].lower() != "con"


def test_npz_is_read_by_numpy_and_by_the_npz_source(tmp_path):
    export(SETS["soft"], tmp_path / "set.npz", "npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as held:
        assert held["images"].dtype == np.uint8
        assert held["class_names"].tolist() == list(NAMES)
        assert (str(held["space"]), float(held["learned_lr"])) == ("pixels", np.float32(0.02))
        np.testing.assert_array_equal(held["label_logits"], LOGITS)
    source = open_source("x", f"npz:{tmp_path / 'set.npz'}")[""]
    assert source.class_names == NAMES
    assert source.pixels.tobytes() == PIXELS.tobytes()
    assert "float32, whitened" in export(SETS["whitened"], tmp_path / "white.npz", "npz")[0]
    with pytest.raises(DataError, match=r"images are float32"):
        open_source("x", f"npz:{tmp_path / 'white.npz'}")


def test_a_hub_directory_holds_features_twice_and_is_read_by_the_parquet_source(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export(SETS["soft"], tmp_path / "out", "hf")
    file = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    features = json.loads(parquet.read_schema(file).metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"names": list(NAMES), "_type": "ClassLabel"}
    table = parquet.read_table(file).to_pydict()
    np.testing.assert_array_equal(np.array(table["label_logits"], np.float32), LOGITS)
    source = open_source("x", f"parquet:{tmp_path / 'out'}")["train"]
    assert source.class_names == NAMES
    assert np.asarray(Image.open(io.BytesIO(source.get(3)))).tobytes() == PIXELS[3].tobytes()
    card = (tmp_path / "out" / "README.md").read_text()
    header = card.split("---\n")[1]
    for line in (
        "license: other", 'license_name: "BSD-3-Clause"', "path: data/train-*", "'0': \"T-shirt/top\"",
        "num_examples: 8", "sequence: float32", "- n<1K", 'pretty_name: "digits distilled by teddy, 2 images',
    ):  # fmt: skip
        assert line in header
    assert "learned learning rate" in card and "## Citation" not in card
    source = {"preset": "mtt", "citation": "@article{x,\n  title = {X},\n}"}
    meta = META | {"source": source, "method": {"class": "frepo", "name": "FRePo", "imported": True}}
    export(_set(meta=meta), tmp_path / "cited", "hf")
    card = (tmp_path / "cited" / "README.md").read_text()
    assert "distilled by FRePo" in card
    assert card.endswith("## Citation\n\n```bibtex\n@article{x,\n  title = {X},\n}\n```\n")


def test_datasets_loads_the_hub_directory(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    export(SETS["soft"], tmp_path / "out", "hf")
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert found.features["label"].names == list(NAMES)
    assert [np.asarray(row["image"]).tobytes() for row in found] == [image.tobytes() for image in PIXELS]


def test_without_pyarrow_the_extra_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'ddjax\[hf\]'"):
        export(SETS["uint8"], tmp_path / "out", "hf")
    assert not list(tmp_path.iterdir())


def test_a_webdataset_groups_the_files_of_a_sample(tmp_path):
    export(SETS["soft"], tmp_path / "set.tar", "webdataset")
    with tarfile.open(tmp_path / "set.tar") as archive:
        members = archive.getmembers()
        assert [m.name for m in members[:4]] == ["000000.png", "000000.cls", "000000.json", "000001.png"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
        held = {m.name: archive.extractfile(m).read() for m in members}
    assert held["000002.cls"] == b"2"
    about = json.loads(held["000002.json"])
    assert (about["label"], about["class"]) == (2, NAMES[2])
    assert np.array(about["label_logits"], np.float32).tobytes() == LOGITS[2].tobytes()
    assert np.asarray(Image.open(io.BytesIO(held["000007.png"]))).tobytes() == PIXELS[7].tobytes()


def test_a_torch_file_is_channels_first_with_the_whitening_in_that_order(tmp_path):
    made = SETS["whitened"]
    assert export(made, tmp_path / "set.pt", "torch") == []
    held = read_pt(tmp_path / "set.pt")
    np.testing.assert_array_equal(held["images"], made.images.transpose(0, 3, 1, 2))
    assert held["labels"].dtype == np.int64
    assert (held["class_names"], held["space"]) == (list(NAMES), "whitened")
    normal = held["images"].reshape(8, -1) @ held["zca"]["inverse"] + held["zca"]["mean"]
    np.testing.assert_allclose(normal.reshape(8, 3, 6, 5).transpose(0, 2, 3, 1), REAL[:8], atol=1e-4)


def test_torch_members_are_aligned_and_of_constant_time():
    value = {"a": np.zeros((3, 2), np.float32), "n": [1, -(2**40), 2**70, True, None, "ä", 0.5], "t": (1, 2)}
    content = to_bytes(value)
    assert content == to_bytes(value)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            size, extra = struct.unpack("<HH", content[entry.header_offset + 26 : entry.header_offset + 30])
            assert (entry.header_offset + 30 + size + extra) % 64 == 0
            assert (entry.date_time, entry.compress_type) == ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED)
    for wrong in ({1}, np.zeros(1, complex), np.array(["a"]), object()):
        with pytest.raises(TypeError, match="cannot write"):
            to_bytes([wrong])


def test_targets_and_places_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match=r"export --to = 'webdatset' is not known; .* Did you mean 'webdataset'"):
        export(SETS["uint8"], tmp_path / "x", "webdatset")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    for to in TARGETS:
        with pytest.raises(ConfigError, match=r"full' is there already"):
            export(SETS["uint8"], tmp_path / "full", to)
    (tmp_path / "empty").mkdir()
    export(SETS["uint8"], tmp_path / "empty", "npz")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["set.npz"]
    two = _set(PIXELS[..., :2], mean=(0.5,) * 2, std=(1.0,) * 2)
    for to in ("folder", "hf", "webdataset"):
        with pytest.raises(DataError, match=r"images of 2 channels; a PNG has 1 or 3. Allowed: --to npz"):
            export(two, tmp_path / "two", to)
    assert not (tmp_path / "two").exists()
    export(two, tmp_path / "two", "torch")
    assert own.read(tmp_path / "two").packed() == two.packed()


def test_converting_there_and_back_gives_the_same_pixels():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    made = _set(every, labels=np.zeros(1, np.int32))
    there, notes = convert(made, "float32")
    assert (there.space, notes) == ("normalised", [])
    back, notes = convert(there, "uint8")
    assert (back.images.tobytes(), notes) == (made.images.tobytes(), [])  # nothing is lost, so nothing is said
    off = dataclasses.replace(there, images=there.images + np.float32(0.01))
    assert "off by at most 2.55 of 255" in convert(off, "uint8")[1][0]
    assert convert(made, None) == (made, [])
    assert convert(made, "uint8") == (made, [])
    plain, notes = convert(SETS["whitened"], "uint8")
    assert (plain.zca, plain.learned_lr, plain.space) == (None, SETS["whitened"].learned_lr, "pixels")
    assert "the whitening is gone" in notes[1]
    with pytest.raises(ConfigError, match=r"convert --dtype = 'float16' is not known; allowed: uint8, float32"):
        convert(made, "float16")


def _break_folder(path):
    next(path.glob("train/*.png")).unlink()


def _break_class(path):
    (path / "train").rename(path / "tram")


def _break_manifest(path):
    file = path / "manifest.json"
    file.write_text(file.read_text().replace("teddy", "tedsy"))


def _break_schema(path):
    about = json.loads((path / "manifest.json").read_text()) | {"mean": "x"}
    about["hash"] = content_hash({k: v for k, v in about.items() if k != "hash"})
    (path / "manifest.json").write_text(to_json(about))


def _break_soft(path):
    (path / "label_logits.safetensors").write_bytes(b"junk")


def _lose_soft(path):
    (path / "label_logits.safetensors").unlink()


def _break_newer(path):
    (path / "manifest.json").write_text(to_json({"schema": 9, "export": {}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_break_folder, "its .png files are not 0, 1, 2, ... without a gap"),
        (_break_class, "1 class folders that manifest.json does not name: tram"),
        (_break_manifest, "its hash differs"),
        (_break_schema, "mean = 'x' is of the wrong kind"),
        (_break_soft, "label_logits.safetensors is no safetensors file"),
        (_lose_soft, "label_logits.safetensors"),
        (_break_newer, "has schema 9; this ddjax reads up to 1"),
    ],
)
def test_exports_that_were_damaged_are_named(tmp_path, damage, message):
    export(SETS["soft"], tmp_path / "out", "folder")
    damage(tmp_path / "out")
    with pytest.raises(DataError) as caught:
        own.read(tmp_path / "out")
    assert message in str(caught.value)


def test_what_is_no_export_of_ours_is_named(tmp_path):
    (tmp_path / "f").write_bytes(b"hello")
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=np.zeros(8))
    (tmp_path / "y.pt").write_bytes(to_bytes({"images": PIXELS}))
    (tmp_path / "d").mkdir()
    SETS["uint8"].save(tmp_path / "set")
    for name in ("f", "x.npz", "y.pt", "d", "set"):
        with pytest.raises(DataError, match=r"is no export of ddjax"):
            own.read(tmp_path / name)
    with pytest.raises(DataError, match=r"does not exist"):
        own.read(tmp_path / "absent")
    assert load_file(tmp_path / "set" / "images.safetensors")["images"].dtype == np.uint8


@pytest.mark.parametrize("to", TARGETS)
def test_damaged_bytes_are_an_error_of_ours_or_change_nothing_that_counts(tmp_path, to):
    made = SETS["soft"]
    export(made, tmp_path / "out", to)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    rng = np.random.Generator(np.random.Philox(9))
    for _ in range(30):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        at, count = (int(n) for n in rng.integers(0, (len(whole), 9)))
        junk = rng.integers(0, 256, count).astype(np.uint8).tobytes()
        file.write_bytes(whole[:at] if count < 2 else whole[:at] + junk + whole[at + len(junk) :])
        try:
            found = own.read(tmp_path / "out")
        except (DataError, ConfigError):
            found = None
        assert found is None or found.images.shape == made.images.shape
        file.write_bytes(whole)


def test_hub_metadata_that_is_no_features_is_named(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    export(SETS["uint8"], tmp_path / "out", "hf")
    file = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    for held, message in (
        (b"{", "its metadata under 'huggingface' cannot be read"),
        (b"[]", "its metadata under 'huggingface' cannot be read"),
        (b'{"info": {"features": {"label": {"names": 3}}}}', "its class names are no list of text"),
    ):
        pq.write_table(table.replace_schema_metadata({"huggingface": held}), file)
        with pytest.raises(DataError, match=message):
            own.read(tmp_path / "out")


CANVASES = {"uint8": _set(factor=2), "float": _float(factor=2, label_logits=LOGITS)}


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", CANVASES)
def test_canvases_are_decoded_for_others_who_are_told(tmp_path, name, to):
    made = CANVASES[name]
    notes = export(made, tmp_path / "out", to)
    assert notes[0].startswith("the 8 stored canvases of 2x2 tiles were decoded to the 32 images")
    found, seen = own.read(tmp_path / "out"), made.decoded()
    assert (len(found), found.factor) == (32, 1)
    np.testing.assert_array_equal(found.labels, np.repeat(made.labels, 4))
    if to in ("npz", "torch"):
        assert found.packed() == seen.packed()
    else:
        assert found.images.tobytes() == pixels(seen).images.tobytes()
    if made.soft:
        np.testing.assert_array_equal(found.label_logits, np.repeat(LOGITS, 4, axis=0))


def test_converting_keeps_the_canvases_and_decodes_only_whitened_ones():
    made = CANVASES["uint8"]
    changed, notes = convert(made, "float32")
    assert (changed.factor, changed.images.shape, notes) == (2, made.images.shape, [])
    back, notes = convert(changed, "uint8")
    assert back.packed() == made.packed() and notes == []  # every pixel was whole
    np.testing.assert_allclose(changed.decoded().images, made.decoded().images, atol=1e-6)
    white = _set(zca.apply(WHITE, REAL[:8]), zca=WHITE, factor=2)
    plain, notes = convert(white, "uint8")
    assert (len(plain), plain.factor) == (32, 1) and "each canvas was decoded to 4 images" in notes[0]


@pytest.mark.parametrize("to", ["npz", "folder"])
def test_a_file_where_a_folder_is_wanted_is_told(to, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"OUT.s folder = .* cannot be written"):
        export(CANVASES["uint8"], tmp_path / "file" / "x", to)
    assert (tmp_path / "file").read_text() == "mine"
