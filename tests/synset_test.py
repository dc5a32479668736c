"""The set's folder: equal bytes for equal content, and every way to be wrong has its sentence."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from ddjax import zca
from ddjax.errors import DataError
from ddjax.files import content_hash, to_json
from ddjax.synset import DistilledSet

NAMES = ("zero", "one", "été")


def _set(dtype="uint8", **changes) -> DistilledSet:
    rng = np.random.Generator(np.random.Philox(7))
    images = rng.integers(0, 256, (6, 4, 5, 3)).astype(dtype)
    fields = {
        "images": images if dtype == "uint8" else images / np.float32(64) - 2,
        "labels": np.repeat(np.arange(3, dtype=np.int32), 2),
        "class_names": NAMES,
        "mean": (0.5, 0.25, 0.125),
        "std": (0.25, 0.5, 1.0),
        "meta": {
            "dataset": {"card": "digits", "hash": "ab", "licence": "BSD-3-Clause"},
            "method": {"name": "teddy", "ipc": 2},
            "teacher": {"arch": "convnet3", "accuracy": 0.9},
            "label_source": "pool",
            "protocol": "ddjax-1",
            "seeds": [0],
        },
    }
    return DistilledSet(**(fields | changes))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_round_trip_is_bit_exact_and_bytes_are_equal(tmp_path, dtype):
    made = _set(dtype)
    made.save(tmp_path / "run" / "synset")
    _set(dtype).save(tmp_path / "b")
    for name in ("images.safetensors", "manifest.json"):
        again = (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "run" / "synset" / name).read_bytes() == again
        assert str(tmp_path).encode() not in again
    for path in (tmp_path / "run", tmp_path / "run" / "synset", str(tmp_path / "b")):
        found = DistilledSet.load(path)
        assert found.images.tobytes() == made.images.tobytes()
        assert found.images.dtype == dtype
        np.testing.assert_array_equal(found.labels, made.labels)
        assert found.class_names == NAMES
        assert (found.mean, found.std) == (made.mean, made.std)
        assert found.meta == made.meta | {"licence": "BSD-3-Clause"}
        assert len(found) == 6
    found.save(tmp_path / "c")
    assert (tmp_path / "c" / "manifest.json").read_bytes() == again


def test_manifest_has_the_fields_of_the_design(tmp_path):
    _set().save(tmp_path)
    about = json.loads((tmp_path / "manifest.json").read_text())
    expected = {
        "schema": 1, "class_names": list(NAMES), "classes": 3, "dtype": "uint8", "space": "pixels",
        "range": [0, 255], "shape": [6, 4, 5, 3], "zca": None, "decode": None, "seeds": [0],
        "licence": "BSD-3-Clause", "label_source": "pool", "protocol": "ddjax-1",
        "bytes": {"images": 360, "labels": 24},
    }  # fmt: skip
    assert {name: about[name] for name in expected} == expected
    assert set(load_file(tmp_path / "images.safetensors")) == {"images", "labels"}


def test_arrays_are_on_the_scale_of_pixels():
    made = _set()
    images, labels = made.arrays()
    np.testing.assert_allclose(images, made.images / 255, atol=1e-7)
    assert images.dtype == np.float32
    assert labels.dtype == np.int32
    normal = (images - np.float32(made.mean)) / np.float32(made.std)
    again, _ = _set("float32", images=normal.astype(np.float32)).arrays()
    np.testing.assert_allclose(again, images, atol=1e-6)


def test_files_that_were_cut_or_changed_are_refused(tmp_path):
    path = tmp_path / "images.safetensors"
    _set().save(tmp_path)
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[:100], b"", whole[:200] + b"\x00" + whole[201:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"cut short or changed"):
            DistilledSet.load(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"images.safetensors' does not exist"):
        DistilledSet.load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no manifest.json"):
        DistilledSet.load(tmp_path / "empty")


def test_a_folder_that_is_not_there_and_a_file_are_told_apart(tmp_path):
    (tmp_path / "condensed").mkdir()
    (tmp_path / "set.pt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"does not exist\. Did you mean .*/condensed\?"):
        DistilledSet.load(tmp_path / "condnsed")
    with pytest.raises(DataError, match=r"is a file; .* ddjax set import set\.pt OUT --preset NAME"):
        DistilledSet.load(tmp_path / "set.pt")


def test_any_changed_byte_of_the_manifest_is_refused(tmp_path):
    _set().save(tmp_path)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    for i in range(0, len(whole), 17):
        if whole[i : i + 1] not in b" \n":
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
            with pytest.raises(DataError):
                DistilledSet.load(tmp_path)


def _rewrite(folder, tensors=None, **changes):
    """Write a set whose hashes are right and whose content is not."""
    _set().save(folder)
    about = json.loads((folder / "manifest.json").read_text())
    content = save(tensors or load_file(folder / "images.safetensors"))
    about |= {"sha256": hashlib.sha256(content).hexdigest()} | changes
    about = {k: v for k, v in about.items() if v != "absent" and k != "hash"}
    (folder / "images.safetensors").write_bytes(content)
    (folder / "manifest.json").write_text(to_json(about | {"hash": content_hash(about)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "has schema 2; this ddjax reads up to schema 1. Upgrade"),
        ({"schema": "absent"}, "names no schema"),
        ({"schema": "1"}, "schema = '1'; allowed: a whole number up to 1"),
        ({"mean": "absent"}, "lacks mean"),
        ({"teacher": "absent"}, "lacks teacher"),
        ({"std": 1.0}, "std = 1.0 is of the wrong kind; allowed: array"),
        ({"classes": 4}, "3 class names for 4 classes"),
        ({"class_names": ["a", "b"], "classes": 2}, "labels run from 0 to 2; allowed: 0 to 1"),
        ({"class_names": ["a", "b", "a"]}, "class_names holds a value twice: 'a'"),
        ({"shape": [6, 4, 5, 1]}, "says shape"),
        ({"dtype": "float32"}, "says dtype"),
        ({"mean": [0.5]}, "mean has 1 and std 3 values; allowed: 3"),
        ({"std": [0.0, 1.0, 1.0]}, "std[0] = 0.0 is out of range; allowed: > 0"),
        ({"zca": "zca-1"}, "zca = 'zca-1' is of the wrong kind; allowed: object or null"),
        (
            {"zca": {"transform": "zap", "eps": 0.1, "hash": "0" * 64}},
            "zca.transform = 'zap' is not known; allowed: eps",
        ),
        ({"zca": {"transform": "eps", "eps": 0.1}}, "lacks zca.hash"),
        ({"decode": {"factor": 1}}, "decode.factor = 1 is out of range; allowed: >= 2"),
        ({"decode": {"factor": 3}}, "factor = 3 is out of range; allowed: 1 to 2, so that every tile of 4x5 has"),
        ({"space": "normalised"}, "says space normalised, the files have pixels"),
        ({"range": [0, 1]}, "says range [0, 1], the files have [0, 255]"),
        ({"bytes": {"images": 360, "labels": 25}}, "says bytes"),
        ({"dataset": "digits"}, "dataset = 'digits' is of the wrong kind; allowed: object or null"),
        ({"export": {}}, "is the copy of an export"),
    ],
)
def test_manifests_that_do_not_fit(tmp_path, changes, message):
    _rewrite(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        DistilledSet.load(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"labels": np.zeros(5, np.int32)}, "labels are int32[5]; allowed: int32[6]"),
        ({"labels": np.zeros(6, np.int64)}, "labels are int64[6]; allowed: int32[6]"),
        ({"labels": np.full(6, -1, np.int32)}, "labels run from -1 to -1"),
        ({"labels": np.full(6, 3, np.int32)}, "labels run from 3 to 3; allowed: 0 to 2"),
        ({"labels": None}, "holds no labels"),
        ({"images": np.zeros((6, 4, 5), np.uint8)}, "shape"),
        ({"images": np.zeros((6, 4, 5, 3), np.float16)}, "dtype = 'float16' is not known"),
        ({"images": np.full((6, 4, 5, 3), np.nan, np.float32)}, "6 of 6 images hold values that"),
        ({"label_logits": np.zeros((6, 2), np.float32)}, "label_logits are float32[6, 2]; allowed: float32[6, 3]"),
        ({"label_logits": np.full((6, 3), np.inf, np.float32)}, "label_logits hold 18 values that are not finite"),
        ({"learned_lr": np.array(0, np.float32)}, "learned_lr = 0.0 is out of range; allowed: > 0"),
        ({"learned_lr": np.zeros(2, np.float32)}, "learned_lr is float32[2]; allowed: float32[]"),
        ({"factor": np.zeros(2, np.float32)}, "holds factor; allowed: images, labels"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, tensors, message):
    whole = {"images": _set().images, "labels": _set().labels} | tensors
    images = whole["images"]
    kept = {name: value for name, value in whole.items() if value is not None}
    _rewrite(tmp_path, kept, shape=list(images.shape), dtype=str(images.dtype))
    with pytest.raises(DataError) as caught:
        DistilledSet.load(tmp_path)
    assert message in str(caught.value)


def test_what_is_no_safetensors_file_is_named(tmp_path):
    _rewrite(tmp_path, sha256=hashlib.sha256(b"junk").hexdigest())
    (tmp_path / "images.safetensors").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"no safetensors file"):
        DistilledSet.load(tmp_path)


def test_a_set_that_does_not_fit_is_not_made():
    with pytest.raises(DataError, match=r"DistilledSet: labels are int64"):
        _set(labels=np.zeros(6, np.int64))


def test_meta_that_no_manifest_can_hold_is_refused_before_anything_is_written(tmp_path):
    for meta, message in (
        ({"dataset": "digits"}, "dataset = 'digits' is of the wrong kind; allowed: object or null"),
        ({"method": ["teddy"]}, "method = [1 values] is of the wrong kind; allowed: object or null"),
        ({"teacher": {"accuracy": float("nan")}}, "meta holds what JSON cannot"),
        ({"teacher": {"accuracy": np.float32(1)}}, "meta holds what JSON cannot"),
    ):
        with pytest.raises(DataError) as caught:
            _set(meta=meta).save(tmp_path / "x")
        assert message in str(caught.value)
    assert not list(tmp_path.iterdir())
    _set(meta={"seeds": (1, 2)}).save(tmp_path / "x")
    assert DistilledSet.load(tmp_path / "x").meta["seeds"] == [1, 2]


def _learned(**changes) -> DistilledSet:
    rng = np.random.Generator(np.random.Philox(8))
    real = rng.standard_normal((20, 4, 5, 3)).astype(np.float32)
    white = zca.fit(real, transform="eps", eps=0.1)
    fields = {
        "images": zca.apply(white, real[:6]), "label_logits": rng.standard_normal((6, 3)).astype(np.float32),
        "learned_lr": 0.02, "zca": white, "meta": {"augment": "dsa", "source": {"preset": "mtt"}},
    }  # fmt: skip
    return _set("float32", **(fields | changes))


def test_learned_labels_rate_and_whitening_come_back_to_the_bit(tmp_path):
    made = _learned()
    made.save(tmp_path / "a")
    found = DistilledSet.load(tmp_path / "a")
    assert (found.space, found.soft, found.learned_lr) == ("whitened", True, float(np.float32(0.02)))
    assert found.label_logits is not None
    assert found.zca is not None
    assert found.label_logits.tobytes() == made.label_logits.tobytes()
    assert found.zca[:2] == ("eps", 0.1)
    assert all(getattr(found.zca, n).tobytes() == getattr(made.zca, n).tobytes() for n in zca.TENSORS)
    assert (found.meta["augment"], found.meta["source"]) == ("dsa", {"preset": "mtt"})
    about = json.loads((tmp_path / "a" / "manifest.json").read_text())
    white = (tmp_path / "a" / "zca.safetensors").read_bytes()
    assert about["zca"] == {"transform": "eps", "eps": 0.1, "hash": hashlib.sha256(white).hexdigest()}
    assert about["bytes"] == {
        "images": 6 * 240, "labels": 24, "label_logits": 72, "learned_lr": 4, "zca": 4 * (60 + 2 * 3600),
    }  # fmt: skip
    found.save(tmp_path / "b")
    for name in ("images.safetensors", "manifest.json", "zca.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    normal = zca.unapply(made.zca, made.images)
    np.testing.assert_allclose(found.arrays()[0], normal * np.float32(made.std) + np.float32(made.mean), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_logits": np.zeros((6, 4), np.float32)}, "label_logits are float32[6, 4]; allowed: float32[6, 3]"),
        ({"learned_lr": -1.0}, "learned_lr = -1.0 is out of range; allowed: > 0"),
        ({"learned_lr": float("nan")}, "learned_lr = nan is out of range"),
        ({"images": np.zeros((6, 4, 5, 3), np.uint8)}, "uint8 images with a zca; allowed: float32"),
        ({"images": np.zeros((6, 4, 4, 3), np.float32)}, "zca mean is float32[60]; allowed: float32[48]"),
    ],
)
def test_learned_parts_that_do_not_fit(changes, message):
    with pytest.raises(DataError) as caught:
        _learned(**changes)
    assert message in str(caught.value)


def test_a_whitening_that_was_changed_lost_or_smuggled_in_is_refused(tmp_path):
    _learned().save(tmp_path)
    path = tmp_path / "zca.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(4))
    with pytest.raises(DataError, match=r"zca.safetensors'.*cut short or changed"):
        DistilledSet.load(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"zca.safetensors' does not exist"):
        DistilledSet.load(tmp_path)
    _set().save(tmp_path)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"zca.safetensors lies in the folder, but zca is null"):
        DistilledSet.load(tmp_path)


def test_every_problem_is_told_at_once(tmp_path):
    _rewrite(
        tmp_path, {"images": np.full((6, 4, 5, 3), np.nan, np.float32), "labels": np.full(6, 9, np.int32)},
        classes=4, mean=[0.5],
    )  # fmt: skip
    with pytest.raises(DataError) as caught:
        DistilledSet.load(tmp_path)
    text = str(caught.value)
    assert f"set = {str(tmp_path)!r} has 7 problems:" in text
    for part in ("labels run from 9 to 9", "6 of 6 images", "mean has 1", "3 class names for 4", "says dtype uint8"):
        assert part in text


def test_manifests_that_are_no_plain_json_are_refused(tmp_path):
    for content in (b"[" * 100_000, b'{"schema": 1, "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"schema": NaN}',
                    b"\xff\xfe", b"", b"[]", b"null", b'{"schema": true}', b'{"schema": 1, "ddjax": "\\ud800"}',
                    b'{"schema": 1' + b"0" * 5000 + b"}", b'{"schema": 1e400}'):  # fmt: skip
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(DataError, match=r"manifest.json|newer|schema"):
            DistilledSet.load(tmp_path)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_canvases_are_kept_as_they_are_and_decoded_where_they_are_used(tmp_path, dtype):
    made = _set(dtype, factor=2)
    about = json.loads((made.save(tmp_path) / "manifest.json").read_text())
    assert (about["decode"], about["shape"][0], about["bytes"]["labels"]) == ({"factor": 2}, 6, 24)
    assert about["bytes"] == made.manifest()["bytes"] and about["bytes"]["images"] == made.images.nbytes
    found = DistilledSet.load(tmp_path)
    assert (found.factor, found.packed()) == (2, made.packed())
    plain, seen = _set(dtype), found.decoded()
    assert (len(seen), seen.factor, seen.space) == (24, 1, "normalised")
    np.testing.assert_array_equal(seen.labels, np.repeat(plain.labels, 4))
    images, labels = found.arrays()
    assert images.shape == (24, 4, 5, 3) and labels.shape == (24,)
    np.testing.assert_allclose(images[0, 0, 0], plain.arrays()[0][0, 0, 0], atol=1e-6)  # the corner of the first tile
    np.testing.assert_allclose(images[1, 0, 0], plain.arrays()[0][0, 0, 3], atol=1e-6)  # of the second: 3 columns each
    np.testing.assert_allclose(images[2, 0, 0], plain.arrays()[0][0, 2, 0], atol=1e-6)


def test_a_factor_that_leaves_a_tile_empty_is_refused():
    with pytest.raises(DataError, match=r"factor = 5 is out of range; allowed: 1 to 2.*Nearest valid: 2"):
        _set(factor=5)
