"""Published layouts, written by hand, come in as sets: axes, constants, labels, rates, whitening, class order."""

import itertools

import numpy as np
import pytest
from PIL import Image

from ddjax import zca
from ddjax.errors import ConfigError, DataError
from ddjax.exchange.importing import import_set
from ddjax.exchange.spaces import real_images
from ddjax.synset import DistilledSet

RNG = np.random.default_rng(0)
THREE = ["ant", "bee", "cat"]
PIXELS = RNG.integers(0, 256, (6, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # what the releases use for CIFAR-10


def normalised(pixels, mean=MEAN, std=STD):
    return ((pixels / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)).astype(np.float32)


def first(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


@pytest.fixture
def save(tmp_path, pt):
    """Write values by name; ``.npz`` by NumPy, anything else as torch would."""

    def write(name, value, layout="zipped"):
        path = tmp_path / name
        if name.endswith(".npz"):
            np.savez(path, **value)
        else:
            path.write_bytes(getattr(pt, layout)(value))
        return str(path)

    return write


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Real images of three classes, as a SPEC."""
    path = tmp_path_factory.mktemp("real") / "real.npz"
    smooth = np.random.default_rng(1).normal(128, 40, (400, 4, 4, 3)).repeat(2, 1).repeat(2, 2)
    images = (smooth + np.random.default_rng(2).normal(0, 8, (400, 8, 8, 3))).clip(0, 255).astype(np.uint8)
    np.savez(path, images=images, labels=np.arange(400) % 3)
    return f"npz:{path}"


# ------------------------------------------------------------------------------------------------------------ VICO


@pytest.mark.parametrize("layout", ["zipped", "legacy"])
def test_vico_one_of_five_sets_with_its_accuracies(save, layout):
    digits = np.tile(np.arange(10), 2)
    sets = [
        [first(normalised(RNG.integers(0, 256, (20, 28, 28, 1), np.uint8), 0.1307, 0.3081)), digits] for _ in range(5)
    ]
    scores = {"ConvNet": [0.91 + 0.001 * i for i in range(20)]}
    src = save("res_DSA_MNIST_ConvNet_2ipc.pt", {"data": sets, "accs_all_exps": scores}, layout)
    made = import_set(src, preset="vico", card="mnist", index=3)
    np.testing.assert_array_equal(made.images[..., 0], sets[3][0][:, 0])
    np.testing.assert_array_equal(made.labels, digits)
    assert (made.mean, made.std, made.space) == ((0.1307,), (0.3081,), "normalised")
    about = made.meta["source"]
    assert about["accuracy"]["ConvNet"]["of_this_set"] == scores["ConvNet"][12:16]
    assert about["accuracy"]["ConvNet"]["mean"] == pytest.approx(np.mean(scores["ConvNet"]))
    assert made.meta["protocol"] == "P-DC" and made.meta["augment"] == "dsa" and made.meta["method"]["class"] == "dsa"
    assert "set 3 of 5" in about["notes"][0]
    assert import_set(src, preset="vico", card="mnist").meta["source"]["index"] == 0


def vico_file(save, name, **accuracies):
    pair = [first(normalised(PIXELS)), LABELS]
    return save(name, {"data": [pair, pair], "accs_all_exps": accuracies})


@pytest.mark.parametrize(
    ("name", "given", "method", "augment", "paper"),
    [
        ("res_DC_MNIST_ConvNet_1ipc.pt", None, ("dc", "DC"), None, "Gradient Matching"),
        ("res_DM_CIFAR10_ConvNet_1ipc.pt", None, ("dm", "DM"), "dsa", "Distribution Matching"),
        ("res_DC_MNIST_ConvNet_1ipc.pt", "dsa", ("dsa", "DSA"), "dsa", "Siamese"),
        ("best.pt", "DSA", ("dsa", "DSA"), "dsa", "Siamese"),
        ("best.pt", " g_vbsm ", ("g-vbsm", "G-VBSM"), None, "Generalized Large-Scale"),
        ("best.pt", "My own  method", ("my-own-method", "My own method"), None, None),
        ("best.pt", "herding", ("herding-set", "Herding"), None, "Dynamical"),  # never a baseline's name
        ("best.pt", None, ("vico-layout", None), None, None),
        ("res_XX_MNIST_ConvNet_1ipc.pt", None, ("vico-layout", None), None, None),
    ],
)
def test_the_method_is_what_the_user_or_a_vico_file_name_says(save, name, given, method, augment, paper):
    made = import_set(vico_file(save, name), preset="vico", class_names=THREE, method=given)
    about, source = made.meta["method"], made.meta["source"]
    assert (about["class"], about.get("name")) == method and about["imported"] is True
    assert made.meta.get("augment") == augment
    assert (paper in source["citation"]) if paper else ("citation" not in source and "paper" not in source)
    assert "layout" not in about if method[1] else about["layout"] == "VICO layout"
    told = [note for note in source["notes"] if "paper" in note]
    assert len(told) == (paper is None)


def test_a_layout_asserts_no_method_and_a_strange_name_is_told(save, real):
    triple = f"{save('images.pt', first(normalised(PIXELS)))},{save('labels.pt', LABELS)}"
    made = import_set(triple, preset="mtt", class_names=THREE)
    assert made.meta["method"] == {"class": "mtt-layout", "layout": "MTT layout", "imported": True}
    assert "--method NAME says it" in made.meta["source"]["notes"][-1]
    made = import_set(triple, preset="mtt", class_names=THREE, method="DATMM")
    assert "did you mean DATM?" in made.meta["source"]["notes"][-1]
    white = RNG.normal(size=(6, 8, 8, 3)).astype("f4")
    for names, layout in ((("image", "label"), "FRePo layout"), (("images", "labels"), "RFAD layout")):
        src = save("k.npz", dict(zip(names, (white, LABELS), strict=True)))
        found = import_set(src, preset="rfad-zca", class_names=THREE, train=real).meta["method"]
        assert found == {"class": layout.lower().replace(" ", "-"), "layout": layout, "imported": True}
    for wrong in ("", " ", "---", "x" * 81, "a\x07b"):
        with pytest.raises(ConfigError, match=r"--method = .*allowed: a name of 1 to 80"):
            import_set(triple, preset="mtt", class_names=THREE, method=wrong)


def test_accuracies_in_percent_are_kept_as_fractions_and_the_note_says_so(save):
    src = vico_file(save, "a.pt", ConvNet=[91.5, 92.5, 90.0, 92.0], MLP=[0.5, 0.7], None_=[], Odd=[-1.0], Text=["x"])
    source = import_set(src, preset="vico", class_names=THREE, index=1).meta["source"]
    assert source["accuracy"].keys() == {"ConvNet", "MLP"}
    assert source["accuracy"]["ConvNet"]["of_this_set"] == pytest.approx([0.9, 0.92])
    assert source["accuracy"]["ConvNet"]["mean"] == pytest.approx(0.915)
    assert source["accuracy"]["MLP"]["mean"] == pytest.approx(0.006)  # percent too: the file has one unit
    assert "the accuracies in the file are percent; they are kept as fractions" in source["notes"][0]
    assert "left out: Odd, Text" in source["notes"][0]
    source = import_set(vico_file(save, "b.pt", ConvNet=[0.9, 1.0]), preset="vico", class_names=THREE).meta["source"]
    assert source["accuracy"]["ConvNet"]["mean"] == pytest.approx(0.95) and "percent" not in " ".join(source["notes"])


def test_the_constants_are_the_release_s_and_not_the_card_s(save):
    pixels = RNG.integers(0, 256, (10, 32, 32, 3), np.uint8)
    src = save("x.pt", {"data": [[first(normalised(pixels)), np.arange(10)]], "accs_all_exps": {}})
    made = import_set(src, preset="vico", card="cifar10")
    assert made.std == STD  # the card's are 0.2470, 0.2435, 0.2616
    np.testing.assert_allclose(made.arrays()[0] * 255, pixels, atol=1e-3)


def test_round_trip_through_the_stored_set(save, tmp_path):
    src = save("x.pt", {"data": [[first(normalised(PIXELS)), LABELS]], "accs_all_exps": {"ConvNet": [0.5]}})
    made = import_set(src, preset="vico", class_names=THREE, constants=(MEAN, STD))
    back = DistilledSet.load(made.save(tmp_path / "set"))
    np.testing.assert_array_equal(back.images, made.images)
    assert back.meta["source"] == made.meta["source"]


def test_without_a_card_names_are_required_and_unknown_constants_are_said(save):
    src = save("x.pt", {"data": [[first(normalised(PIXELS)), LABELS]], "accs_all_exps": {}})
    with pytest.raises(ConfigError, match="--dataset CARD, or --classes FILE"):
        import_set(src, preset="vico")
    made = import_set(src, preset="vico", class_names=THREE)
    assert (made.mean, made.std) == ((0.0,) * 3, (1.0,) * 3)
    assert "mean and std of the images are not known" in made.meta["source"]["notes"][0]


# -------------------------------------------------------------------------------------------------- MTT and relatives


def test_a_triple_with_a_learned_rate(save, tmp_path):
    parts = [
        save("images.pt", first(normalised(PIXELS))),
        save("labels.pt", LABELS),
        save("lr.pt", np.asarray(0.0173, np.float32)),
    ]
    made = import_set(",".join(parts), preset="mtt", class_names=THREE, constants=(MEAN, STD))
    assert made.learned_lr == pytest.approx(0.0173) and made.label_logits is None
    np.testing.assert_allclose(made.arrays()[0] * 255, PIXELS, atol=1e-3)
    assert made.meta["protocol"] == "P-MTT" and made.meta["augment"] == "dsa"
    whole = import_set(str(tmp_path), preset="mtt", class_names=THREE, constants=(MEAN, STD))
    np.testing.assert_array_equal(whole.images, made.images)
    assert [f["name"] for f in whole.meta["source"]["files"]] == ["images.pt", "labels.pt", "lr.pt"]


def test_a_rate_that_is_a_plain_number_and_none_at_all(save):
    images, labels = save("images_best.pt", first(normalised(PIXELS))), save("labels_best.pt", LABELS)
    assert import_set(f"{images},{labels},{save('lr_best.pt', 0.02)}", preset="mtt", class_names=THREE).learned_lr == (
        pytest.approx(0.02)
    )
    assert import_set(f"{images},{labels}", preset="mtt", class_names=THREE).learned_lr is None
    with pytest.raises(DataError, match="the learning rate is -1"):
        import_set(f"{images},{labels},{save('lr.pt', -1.0)}", preset="mtt", class_names=THREE)


def test_logits_probabilities_and_one_hot_rows_are_told_apart(save):
    images = save("images.pt", first(normalised(PIXELS)))
    logits = RNG.normal(0, 3, (6, 3)).astype(np.float32)
    soft = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def made(labels):
        return import_set(f"{images},{save('labels.pt', labels)}", preset="mtt", class_names=THREE)

    np.testing.assert_array_equal(made(logits).label_logits, logits)
    np.testing.assert_array_equal(made(logits).labels, logits.argmax(1))
    np.testing.assert_allclose(np.exp(made(soft).label_logits), soft, rtol=1e-5)
    assert made(soft).meta["source"]["labels"].startswith("probabilities")
    assert made(np.eye(3, dtype=np.float32)[LABELS]).label_logits is None
    assert made(LABELS[:, None]).labels.tolist() == LABELS.tolist()


def test_mtt_s_cifar100_has_cifar10_s_constants(save):
    pixels = RNG.integers(0, 256, (100, 4, 4, 3), np.uint8)
    src = f"{save('images.pt', first(normalised(pixels)))},{save('labels.pt', np.arange(100))}"
    assert import_set(src, preset="mtt", card="cifar100").std == STD
    vico = save("v.pt", {"data": [[first(normalised(pixels)), np.arange(100)]], "accs_all_exps": {}})
    assert import_set(vico, preset="vico", card="cifar100").std == (0.2673, 0.2564, 0.2762)


# ----------------------------------------------------------------------------------------------------------- whitened


def test_datm_whitening_is_fitted_on_pixels_with_eps(save, real):
    images = real_images(real) / np.float32(255)
    rows = images.reshape(400, -1).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(rows.T))  # over n - 1
    matrix = (vectors / np.sqrt(values + 0.1)) @ vectors.T
    white = ((rows[:6] - rows.mean(0)) @ matrix).reshape(6, 8, 8, 3).astype(np.float32)
    src = f"{save('images.pt', first(white))},{save('labels.pt', LABELS)},{save('lr.pt', 0.01)}"
    made = import_set(src, preset="datm-zca", class_names=THREE, train=real)
    assert (made.zca.transform, made.zca.eps, made.space) == ("eps", 0.1, "whitened")
    assert (made.mean, made.std) == ((0.0,) * 3, (1.0,) * 3)
    np.testing.assert_allclose(made.arrays()[0], images[:6], atol=2e-4)
    with pytest.raises(ConfigError, match=r"real training images are needed.*as a fourth file, .*lr\.pt,zca\.npz"):
        import_set(src, preset="datm-zca", class_names=THREE)
    alone = save("x.npz", {"image": white, "label": LABELS})
    with pytest.raises(ConfigError, match=r"as further arrays of the file .zca_mean, whitening_transform, rev_"):
        import_set(alone, preset="rfad-zca", class_names=THREE)
    mean, stored = rows.mean(0), {"whitening_transform": matrix, "rev_whitening_transform": np.linalg.inv(matrix)}
    hinted = save("y.npz", {"image": white, "label": LABELS, "zca_mean": mean} | stored)
    found = import_set(hinted, preset="rfad-zca", class_names=THREE)
    np.testing.assert_allclose(found.arrays()[0], images[:6], atol=2e-3)  # what the hint says, works


def test_a_stored_transform_needs_no_real_images(save, tmp_path):
    rows = RNG.normal(size=(300, 3 * 4 * 4))
    mean, matrix = rows.mean(0), np.linalg.inv(np.linalg.cholesky(np.cov(rows.T) + np.eye(48)))
    matrix = matrix @ matrix.T  # symmetric, over values in torch's order: channels, rows, columns
    pixels = RNG.uniform(0, 1, (6, 4, 4, 3))
    white = ((first(pixels).reshape(6, -1) - mean) @ matrix).reshape(6, 3, 4, 4).astype(np.float32)
    stored = {"zca_mean": mean, "whitening_transform": matrix, "rev_whitening_transform": np.linalg.inv(matrix)}
    parts = [save("i.pt", white), save("l.pt", LABELS), save("r.pt", 0.01), save("zca.npz", stored)]
    made = import_set(",".join(parts), preset="datm-zca", class_names=THREE)
    np.testing.assert_allclose(made.arrays()[0], pixels, atol=1e-3)
    parts[3] = save("zca.npz", {"zca_mean": mean, "whitening_transform": matrix})
    made = import_set(",".join(parts), preset="datm-zca", class_names=THREE)
    np.testing.assert_allclose(made.arrays()[0], pixels, atol=1e-3)
    parts[0], parts[1] = save("i.pt", np.concatenate([white, white])[:10]), save("l.pt", np.arange(10))
    carded = import_set(",".join(parts), preset="datm-zca", card="cifar10")  # whose constants are not used
    assert (carded.mean, carded.std) == ((0.0,) * 3, (1.0,) * 3)
    parts[3] = save("zca.npz", {"whitening_transform": np.eye(12)})
    with pytest.raises(DataError, match=r"shape \(12, 12\); allowed: \(48, 48\)"):
        import_set(",".join(parts), preset="datm-zca", card="cifar10")


def kernel_whitening(images, *, centred):
    """The kernel methods' transform, from its formula: normalised images -> matrix."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    rows = rows - rows.mean(0) if centred else rows
    second = rows.T @ rows / len(rows)
    values, vectors = np.linalg.eigh(second + 0.1 * np.trace(second) / len(second) * np.eye(len(second)))
    return (vectors / np.sqrt(values)) @ vectors.T


@pytest.mark.parametrize("kind", ["rfad", "frepo"])
def test_kernel_sets_whitened_by_their_own_recipe(save, real, kind):
    pixels = real_images(real)
    mean, std = pixels.mean((0, 1, 2)) / 255, pixels.std((0, 1, 2)) / 255
    fed = normalised(pixels, mean, std)
    matrix = kernel_whitening(fed, centred=kind == "frepo")
    shift = fed.reshape(400, -1).mean(0) if kind == "frepo" else 0
    white = ((fed[:6].reshape(6, -1) - shift) @ matrix).reshape(6, 8, 8, 3).astype(np.float32)
    targets = (np.eye(3)[LABELS] - 1 / 3 + RNG.normal(0, 0.1, (6, 3))).astype(np.float32)
    held = (
        {"image": white, "label": targets}
        if kind == "frepo"
        else {"images": first(white), "labels": targets, "k": np.zeros(())}
    )
    made = import_set(save("best.npz", held), preset="rfad-zca", class_names=THREE, train=real)
    assert made.zca.transform == "trace"
    np.testing.assert_allclose(made.zca.matrix, matrix, atol=2e-3)
    np.testing.assert_allclose(made.arrays()[0] * 255, pixels[:6], atol=0.2)
    np.testing.assert_array_equal(made.label_logits, targets)
    assert made.meta["source"]["labels"] == "targets of a regression" and made.meta["protocol"] == "P-FRePo"


def test_the_recipes_of_frepo_and_rfad_differ(real):
    fed = normalised(real_images(real))
    assert np.abs(kernel_whitening(fed, centred=True) - kernel_whitening(fed, centred=False)).max() > 0.01


def test_centred_one_hot_labels_are_hard_labels(save, real):
    held = {"images": RNG.normal(size=(6, 8, 8, 3)).astype("f4"), "labels": np.eye(3)[LABELS] - 1 / 3}
    made = import_set(save("kip.npz", held), preset="rfad-zca", class_names=THREE, train=real)
    assert made.label_logits is None and made.labels.tolist() == LABELS.tolist()
    assert "norm 1" in made.meta["source"]["notes"][0]  # channels last: KIP's layout


def test_the_test_side_goes_through_the_same_transform(save, real):
    held = {"images": RNG.normal(size=(6, 3, 8, 8)).astype("f4"), "labels": LABELS}
    made = import_set(save("x.npz", held), preset="rfad-zca", class_names=THREE, train=real)
    seen = zca.apply(made.zca, normalised(real_images(real), made.mean, made.std))
    scale = np.linalg.eigvalsh(np.cov(seen.reshape(400, -1).T))
    assert 0.5 < scale[-1] < 1.1  # whitened: no direction left of more than variance 1


# ------------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(
    ("preset", "images"),
    [
        ("pixels", PIXELS),
        ("pixels", PIXELS / 255),
        ("pixels-1", PIXELS / np.float32(255)),
        ("pixels-255", PIXELS * 1.0),
    ],
)
def test_arrays_of_pixels_come_back_bit_for_bit(save, preset, images):
    made = import_set(save("x.npz", {"images": images, "labels": LABELS}), preset=preset, class_names=THREE)
    assert made.space == "pixels"
    np.testing.assert_array_equal(made.images, PIXELS)
    made = import_set(save("x.pt", {"images": first(images), "labels": LABELS}), preset=preset, class_names=THREE)
    np.testing.assert_array_equal(made.images, PIXELS)


def test_fractions_of_pixels_stay_floats(save):
    images = RNG.uniform(0, 1, (6, 8, 8, 1)).astype("f4")
    made = import_set(save("x.npz", {"x": images, "y": LABELS}), preset="pixels", class_names=THREE)
    assert made.space == "normalised" and made.mean[0] == pytest.approx(images.mean(), abs=1e-6)
    np.testing.assert_allclose(made.arrays()[0], images, atol=1e-6)


def test_a_range_that_contradicts_the_preset_says_what_it_looks_like(save):
    for preset, images, match in (
        ("mtt", first(PIXELS), "look like pixels 0..255"),
        ("mtt", first(PIXELS / np.float32(255)), "look like pixels 0..1; .* pixels-1"),
        ("pixels", first(normalised(PIXELS)), "look normalised"),
        ("pixels-1", first(PIXELS), r"look like pixels 0\.\.255"),
        ("pixels-255", first(PIXELS / np.float32(255)), r"look like pixels 0\.\.1"),
        ("pixels", first(PIXELS) * np.float32(4), "allowed: 0 to 255"),
        ("pixels", (first(PIXELS) > 9).astype("f4"), "may be 0..1 or 0..255; state it"),
        ("mtt", first(normalised(PIXELS)) * np.float32(100), "within"),
    ):
        src = f"{save('images.pt', images)},{save('labels.pt', LABELS)}"
        with pytest.raises(DataError, match=match):
            import_set(src, preset=preset, class_names=THREE)


def test_what_does_not_fit_is_named(save):
    good, hole = first(normalised(PIXELS)), first(normalised(PIXELS))
    hole[4, 0, 0, 0] = np.nan
    for images, labels, names, match in (
        (good, LABELS[:5], THREE, r"labels have shape \(5,\) for 6 images"),
        (good, LABELS, THREE[:2], r"labels run from 0 to 2; allowed: 0 to 1"),
        (good, LABELS, [*THREE, "dog"], "1 of 4 class names have no image"),
        (good, LABELS - 1, THREE, "labels run from -1"),
        (good, LABELS + 0.5, THREE, "not whole"),
        (good, np.zeros((6, 4), "f4"), THREE, "4 columns for 3 class names"),
        (good, np.full((6, 3), np.inf, "f4"), THREE, "labels hold NaN or infinity"),
        (hole, LABELS, THREE, r"1 of 6 images hold NaN or infinity: 4; the first is of class 'bee'"),
        (good[:, :2], LABELS, THREE, r"shape \(6, 2, 8, 8\); allowed: \[N, D, H, W\] with D of 1 or 3"),
        (good[0, 0], LABELS, THREE, "four axes"),
        (good, LABELS, ["ant", "bee", "bee"], "twice: bee"),
        (good, LABELS, ["ant", "", "bee"], "one of them empty"),
        (good, LABELS, [], "0 names"),
    ):
        src = f"{save('images.pt', images)},{save('labels.pt', labels)}"
        with pytest.raises(DataError, match=match):
            import_set(src, preset="mtt", class_names=names)


def test_channels_classes_and_names_against_the_card(save):
    ten = normalised(RNG.integers(0, 256, (10, 8, 8, 3), np.uint8))
    src = f"{save('images.pt', first(ten))},{save('labels.pt', np.arange(10))}"
    with pytest.raises(DataError, match="D = 1 of card mnist"):
        import_set(src, preset="mtt", card="mnist")
    with pytest.raises(DataError, match=r"99 of 100|90 of 100"):
        import_set(src, preset="mtt", card="cifar100")
    with pytest.raises(DataError, match="Did you mean 'airplane'"):
        import_set(src, preset="mtt", card="cifar10", class_names=["airplain", *"bcdefghij"])
    with pytest.raises(ConfigError, match="card imagenet lists no class names"):
        import_set(src, preset="mtt", card="imagenet")
    made = import_set(src, preset="mtt", card="imagenet", class_names=[f"n0{i}" for i in range(10)])  # a subset
    assert made.meta["dataset"]["card"] == "imagenet" and made.mean == (0.485, 0.456, 0.406)


def test_words_of_the_command_line(save):
    src = save("x.pt", {"data": [[first(normalised(PIXELS)), LABELS]], "accs_all_exps": {}})
    with pytest.raises(ConfigError, match="Did you mean 'datm-zca'"):
        import_set(src, preset="datm_zca", class_names=THREE)
    with pytest.raises(ConfigError, match="--index = 1 is out of range; allowed: 0 to 0"):
        import_set(src, preset="vico", class_names=THREE, index=1)
    with pytest.raises(ConfigError, match="only --preset vico"):
        import_set(src, preset="mtt", class_names=THREE, index=1)
    with pytest.raises(DataError, match=r"Did you mean .*x\.pt"):
        import_set(src.replace("x.pt", "xx.pt"), preset="vico", class_names=THREE)
    told = "holds a dict of 'data', 'accs_all_exps'; allowed: images and labels.*looks like a VICO-style.*--preset vico"
    for preset in ("mtt", "datm-zca", "rfad-zca", "pixels"):
        with pytest.raises(DataError, match=told):
            import_set(src, preset=preset, class_names=THREE)
    with pytest.raises(ConfigError, match="--seed = 3: only the soft labels of TREE,STORE"):
        import_set(src, preset="vico", class_names=THREE, seed=3)


# -------------------------------------------------------------------------------------------------------------- trees


@pytest.fixture
def tree(tmp_path):
    """Write a folder tree: each folder holds two flat images of its own shade."""

    def write(folders, size=8, mode="RGB"):
        root = tmp_path / "tree"
        for shade, folder in enumerate(folders):
            (root / folder).mkdir(parents=True)
            for k in range(2):
                colour = 20 * shade + k
                Image.new(mode, (size, size), (colour,) * 3 if mode == "RGB" else colour).save(
                    root / folder / f"{k}.png"
                )
        return str(root)

    return write


def shades(made):
    return dict(zip(made.labels[::2].tolist(), (made.images[::2, 0, 0, 0] // 20).tolist(), strict=True))


@pytest.mark.parametrize("folders", [["00000", "00001", "00002"], ["new000", "new001", "new002"], ["2", "0", "1"]])
def test_numbered_folders_follow_the_authors_list(tree, folders):
    made = import_set(tree(folders), preset="pixels", class_names=["woof", "arf", "bark"])
    assert made.class_names == ("woof", "arf", "bark") and made.images.dtype == np.uint8
    numbers = [int(f.removeprefix("new")) for f in folders]
    assert shades(made) == {number: shade for shade, number in enumerate(numbers)}


def test_named_folders_follow_the_given_list_and_not_the_alphabet(tree):
    made = import_set(tree(["n01", "n02", "n03"]), preset="pixels", class_names=["n03", "n01", "n02"])
    assert made.class_names == ("n03", "n01", "n02")
    assert shades(made) == {0: 2, 1: 0, 2: 1}
    assert made.meta["source"]["folders"] == "names" and made.space == "pixels"


def test_folders_of_a_card_follow_its_order(tree):
    folders = [str(d) for d in range(10)]
    assert shades(import_set(tree(folders, mode="L"), preset="pixels", card="mnist")) == {i: i for i in range(10)}


def test_grey_pictures_of_a_colour_card(tree):
    from ddjax.data import CARDS

    made = import_set(tree(sorted(CARDS["cifar10"].class_names), mode="L"), preset="pixels", card="cifar10")
    assert made.images.shape == (20, 8, 8, 3) and made.class_names == CARDS["cifar10"].class_names


def test_orders_that_nobody_gave_are_refused(tree, tmp_path):
    root = tree(["00000", "00001", "00002"])
    with pytest.raises(DataError, match="card imagenette does not number its classes"):
        import_set(root, preset="pixels", card="imagenette")
    with pytest.raises(ConfigError, match="class names are not known"):
        import_set(root, preset="pixels")
    with pytest.raises(DataError, match="3 folders numbered 0 to 2 for 2 class names"):
        import_set(root, preset="pixels", class_names=["a", "b"])
    with pytest.raises(DataError, match="10 class names; allowed: 10 folders"):
        import_set(root, preset="pixels", card="cifar10")


def test_folders_and_names_that_differ(tree):
    root = tree(["ant", "bea", "cat"])
    with pytest.raises(
        DataError, match=r"folders that are no class of --classes: bea\. Did you mean 'bee'\? Without a folder: bee"
    ):
        import_set(root, preset="pixels", class_names=THREE)
    with pytest.raises(DataError, match="1 classes of --classes have no folder: dog"):
        import_set(root, preset="pixels", class_names=["ant", "bea", "cat", "dog"])


def test_unequal_sizes_name_the_images(tree, tmp_path):
    root = tree(["ant", "bee", "cat"])
    Image.new("RGB", (9, 8)).save(f"{root}/bee/0.png")
    with pytest.raises(DataError, match=r"1 of 6 images are not 8x8: bee/0\.png \(8x9\)"):
        import_set(root, preset="pixels", class_names=THREE)


def test_trees_in_archives(tree, tmp_path):
    import shutil

    root = tree(["00000", "00001", "00002"])
    for kind, form in itertools.product(("zip", "tar"), (None,)):
        packed = shutil.make_archive(str(tmp_path / "packed"), kind, root, form)
        assert shades(import_set(packed, preset="pixels", class_names=THREE)) == {0: 0, 1: 1, 2: 2}
