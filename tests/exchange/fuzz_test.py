"""Random and mutated manifests, configurations, arguments, pickles and zips: only a `DdjaxError` may come out."""

import copy
import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddjax import config
from ddjax.data.machine import _STEPS, Machine
from ddjax.data.torchfile import read_pt
from ddjax.errors import DdjaxError
from ddjax.exchange.importing import import_set
from ddjax.files import content_hash
from ddjax.synset import DistilledSet

FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
TEXT = st.text(max_size=8) | st.sampled_from(
    ["", "uint8", "teddy", "normalised", "none", "1", "../x", "digits", "\x00", "é"]
)
PLAIN = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | TEXT
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)


def places(value, at=()):
    """The way to every part of a JSON value."""
    yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in parts:
        yield from places(held, (*at, key))


def mutated(value, draw):
    """``value`` with one to three parts replaced, dropped or doubled."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        ways = [way for way in places(value) if way]
        if not ways:
            return draw(JSON)
        way = draw(st.sampled_from(ways))
        holder = value
        for key in way[:-1]:
            holder = holder[key]
        what = draw(st.sampled_from(["other", "other", "drop", "again"]))
        if what == "drop":
            del holder[way[-1]]
        elif what == "again" and isinstance(holder, list):
            holder.append(holder[way[-1]])
        else:
            holder[way[-1]] = draw(JSON)
    return value


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A sound set, as a folder, and its manifest."""
    images = np.random.default_rng(0).normal(size=(4, 3, 3, 1)).astype("f4")
    made = DistilledSet(
        images, np.array([0, 1, 0, 1], np.int32), ("a", "b"), (0.5,), (0.25,), label_logits=np.ones((4, 2), "f4"),
        learned_lr=0.1,
    )  # fmt: skip
    folder = made.save(tmp_path_factory.mktemp("fuzz") / "set")
    return folder, json.loads((folder / "manifest.json").read_text())


def load(folder, about):
    try:
        (folder / "manifest.json").write_text(json.dumps(about))
        DistilledSet.load(folder)
    except DdjaxError as error:
        assert len(str(error)) > 10


@FUZZ
@given(about=JSON)
def test_any_json_as_a_manifest(stored, about):
    load(stored[0], about)


@FUZZ
@given(data=st.data(), rehash=st.booleans())
def test_mutated_manifests(stored, data, rehash):
    about = mutated(stored[1], data.draw)
    if rehash and isinstance(about, dict) and all(isinstance(key, str) for key in about):
        about["hash"] = content_hash({k: v for k, v in about.items() if k != "hash"})
    load(stored[0], about)


@pytest.fixture(scope="module")
def run_json(tmp_path_factory):
    """The stored configuration of the defaults, and a place to write others."""
    run, _ = config.load(["--data.train", "digits"])
    return config.to_json(run), tmp_path_factory.mktemp("config") / "config.json"


@FUZZ
@given(data=st.data())
def test_mutated_configurations(run_json, data):
    stored, path = run_json
    path.write_text(json.dumps(mutated(stored, data.draw)))
    try:
        config.load(["--config", str(path)])
    except DdjaxError as error:
        assert len(str(error)) > 10


@FUZZ
@given(stored=JSON)
def test_any_json_as_a_configuration(run_json, stored):
    run_json[1].write_text(json.dumps(stored))
    try:
        config.load(["--config", str(run_json[1])])
    except DdjaxError as error:
        assert len(str(error)) > 10


FLAGS = st.sampled_from(
    ["--method.ipc", "--data.train", "--evaluate.seeds", "--seed", "--label.source", "--config", "--x", "--"]
)


@FUZZ
@given(words=st.lists(FLAGS | TEXT | st.integers(-5, 5).map(str), max_size=6))
def test_any_words_of_the_command_line(words):
    for read in (config.load, config.load_judge):
        try:
            read(words)
        except DdjaxError as error:
            assert len(str(error)) > 10


@FUZZ
@given(
    given_card=st.none() | TEXT | st.sampled_from(["mnist", "cifar10"]),
    preset=TEXT | st.sampled_from(["vico", "mtt", "pixels", "rfad-zca"]),
    names=st.none() | st.lists(TEXT, max_size=4),
    index=st.none() | st.integers(-3, 3),
    source=TEXT,
)
def test_any_words_for_an_import(tmp_path_factory, given_card, preset, names, index, source):
    try:
        import_set(source, preset=preset, card=given_card, class_names=names, index=index)
    except DdjaxError as error:
        assert len(str(error)) > 10


# ------------------------------------------------------------------------------------------------ bytes of files


@pytest.mark.parametrize("layout", ["zipped", "legacy"])
def test_flipped_and_missing_bytes(pt, tmp_path, layout):
    """One to three bytes changed anywhere, or a piece cut out: an error, or still a plain value."""
    images = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype("f4")
    whole = getattr(pt, layout)({"data": [[images, np.array([0, 1, 0, 1])]], "accs_all_exps": {"ConvNet": [0.5]}})
    chance, path, wrong = random.Random(0), tmp_path / "x.pt", 0
    for _ in range(400):
        data = bytearray(whole)
        if chance.random() < 0.3:
            start = chance.randrange(len(data))
            del data[start : start + chance.randrange(1, 40)]
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(bytes(data))
        try:
            plain(read_pt(path))
        except DdjaxError as error:
            wrong += 1
            assert str(path) in str(error)
    assert wrong > 200


def plain(value):
    """Only what the reader promises."""
    if isinstance(value, dict):
        for key, held in value.items():
            assert isinstance(key, str | bytes | int | float | None)
            plain(held)
    elif isinstance(value, list | tuple):
        for held in value:
            plain(held)
    else:
        assert isinstance(value, np.ndarray | np.generic | str | bytes | bytearray | int | float | None), type(value)


PIECES = [
    b"cnumpy\ndtype\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"U\x02f4", b"K\x04", b"]", b"}",
    b"(", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"t", b"R", b"b",
    b"q\x00h\x00",
]  # fmt: skip


@settings(FUZZ, max_examples=300)
@given(st.lists(st.sampled_from([bytes([code]) for code in _STEPS]) | st.binary(max_size=3) | st.sampled_from(PIECES)))
def test_any_program(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "program.pkl"
    path.write_bytes(b"\x80\x02" + b"".join(pieces) + b".")
    try:
        plain(read_pt(path))
    except DdjaxError as error:
        assert "program.pkl" in str(error)


def test_the_machine_knows_no_way_to_a_real_object():
    """No answer of the table is a class or function of another module than the reader's own."""
    from ddjax.data import torchfile

    table = torchfile._torch_names(torchfile._Budget(0), 0)
    for (module, name), answer in table.items():
        assert answer is None or isinstance(answer, str) or answer.__module__ in (
            "ddjax.data.torchfile", "ddjax.data.unpickle"
        ), (module, name)  # fmt: skip
    assert set(Machine.__dict__) >= {"run", "name", "call"}


def test_zips_with_flipped_bytes(tmp_path):
    """The same for the arrays of an npz, through the importer."""
    path, chance = tmp_path / "x.npz", random.Random(1)
    np.savez(path, images=np.zeros((4, 3, 3, 1), np.uint8), labels=np.array([0, 1, 0, 1]))
    whole, wrong = path.read_bytes(), 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(bytes(data))
        try:
            import_set(str(path), preset="pixels", class_names=["a", "b"])
        except DdjaxError:
            wrong += 1
    assert wrong > 100
