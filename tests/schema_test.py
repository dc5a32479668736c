"""The reader's own judge of JSON Schema agrees with the public one, and refuses exactly what the schema refuses."""

import copy
import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddjax import schema, setcheck
from ddjax.errors import DataError
from ddjax.files import content_hash, to_json
from ddjax.synset import DistilledSet

RULES = schema.schema("manifest-1")
PUBLIC = jsonschema.Draft202012Validator(RULES)
IMAGES = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
SET = DistilledSet(IMAGES, np.arange(2, dtype=np.int32), ("a", "b"), (0.5,) * 3, (0.25,) * 3)
ABOUT = json.loads(SET.packed()["manifest.json"])
ZCA = {"transform": "eps", "eps": 0.1, "hash": "0" * 64}
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "uint8", "whitened", "normalised", "eps", "0" * 64, 1.0, 2.0, [], {}, [1, 1.0, 2, 3], ZCA]),
    st.text(max_size=3), st.lists(st.integers(-1, 3), max_size=5), st.lists(st.sampled_from("ab"), max_size=3),
    st.dictionaries(st.sampled_from(["images", "labels", "x"]), st.integers(-1, 3) | st.floats(0, 2), max_size=4),
)  # fmt: skip


def test_the_schema_is_one_and_uses_only_words_that_our_judge_knows():
    jsonschema.Draft202012Validator.check_schema(RULES)

    def words(rule):
        yield from rule
        for name in ("properties", "$defs"):
            for inner in rule.get(name, {}).values():
                yield from words(inner)
        for name in ("items", "additionalProperties"):
            if name in rule:
                yield from words(rule[name])

    assert set(words(RULES)) <= schema.WORDS | schema.SILENT
    assert set(RULES["required"]) == set(ABOUT)
    with pytest.raises(NotImplementedError, match="oneOf"):
        list(schema._judge(RULES, {"oneOf": []}, 1, ""))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(RULES["properties"])), value=VALUES, drop=st.booleans())
def test_it_agrees_with_the_public_judge(name, value, drop):
    about = copy.deepcopy(ABOUT) | {name: value}
    if drop:
        del about[name]
    assert (schema.problems("manifest-1", about) == []) == PUBLIC.is_valid(about)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set whose manifest the tests write over."""
    return SET.save(tmp_path_factory.mktemp("fuzz") / "set")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(RULES["properties"])), value=VALUES)
def test_the_reader_refuses_what_the_schema_refuses_and_never_breaks(folder, name, value):
    about = {k: v for k, v in (ABOUT | {name: value}).items() if name == "hash" or k != "hash"}
    about = about if name == "hash" else about | {"hash": content_hash(about)}
    (folder / "manifest.json").write_text(to_json(about))
    try:
        DistilledSet.load(folder)
    except DataError as error:
        assert str(folder) in str(error)
    else:
        assert PUBLIC.is_valid(about)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(at=st.integers(0, 10_000), content=st.binary(max_size=12))
def test_any_bytes_in_a_manifest_are_refused_or_change_nothing(folder, at, content):
    whole = SET.packed()["manifest.json"]
    at %= len(whole)
    (folder / "manifest.json").write_bytes(whole[:at] + content + whole[at + len(content) :])
    try:
        found = DistilledSet.load(folder)
    except DataError as error:
        assert "manifest.json" in str(error) or "set" in str(error)
    else:
        assert found.manifest() | {"ddjax": ""} == SET.manifest() | {"ddjax": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "uint16"}, "dtype = 'uint16' is not known; allowed: uint8, float32. Did you mean 'uint8'?"),
        ({"class_names": ["a", "a"]}, "class_names holds a value twice: 'a'."),
        ({"shape": [2, 2, 2]}, "shape has 3 values; allowed: 4."),
        ({"mean": []}, "mean has 0 values; allowed: 1 or more."),
        ({"classes": 0}, "classes = 0 is out of range; allowed: >= 1."),
        (
            {"range": [0, 10**400]},
            "range[1] = a number of too many digits is out of range; allowed: >= -1e+308, <= 1e+308.",
        ),
        ({"sha256": "x"}, "sha256 = 'x' is not of the form ^[0-9a-f]{64}$."),
        ({"bytes": {"images": 1.5}}, "it lacks bytes.labels."),
        ({"bytes": {"images": 1.5, "labels": 1}}, "bytes.images = 1.5 is of the wrong kind; allowed: integer."),
        ({"class_names": ["x" * 99, 1]}, "class_names[1] = 1 is of the wrong kind; allowed: string."),
    ],
)
def test_sentences_name_the_place_the_value_and_what_is_allowed(changes, message):
    assert message in schema.problems("manifest-1", ABOUT | changes)


def test_long_lists_of_problems_are_cut():
    assert len(schema.problems("manifest-1", ABOUT | {"class_names": [1] * 1000})) == schema.MOST
    assert schema.problems("manifest-1", []) == ["it = [0 values] is of the wrong kind; allowed: object."]


def test_a_newer_schema_is_named(tmp_path):
    SET.save(tmp_path)
    (tmp_path / "manifest.json").write_text(to_json({"schema": setcheck.SCHEMA + 1, "pictures": []}))
    with pytest.raises(DataError, match=r"has schema 2; this ddjax reads up to schema 1. Upgrade ddjax"):
        DistilledSet.load(tmp_path)
