"""Every entry once, sorted by key."""

import pytest

from ddjax import cite
from ddjax.errors import DataError

A = "@article{a2020,\n  title = {A},\n}"
B = "@misc{b2019, title={B}}"


def test_entries_are_unique_and_sorted():
    text = cite.bibtex([B, A, "", A, f"{B}\n\n{A}", "herding"])
    assert text == f"{A}\n\n{B}\n\n{cite.SHARED['herding']}\n"


def test_what_is_no_reference_is_refused():
    with pytest.raises(DataError, match="Did you mean 'herding'"):
        cite.bibtex(["hering"])


def test_references_in_the_package_are_valid():
    from ddjax.data.cards import CARDS
    from ddjax.methods import METHODS

    used = [method.REFERENCE for method in METHODS.values()]
    used += [card.citation for card in dict(CARDS).values()] + list(cite.SHARED)
    for entry in cite.entries(used):
        assert entry.count("{") == entry.count("}")
        assert " = {" in entry or "={" in entry
