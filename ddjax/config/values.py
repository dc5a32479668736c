"""Reading one value by its declared type: from a flag's words, from JSON, from a Python config.

``read(words, hint)`` and ``fit(value, hint)`` return the value that ``hint`` declares, or raise
``Misfit``. Known hints: bool, int, float, str, None, Path, Literal, tuple, and unions of them; a
value of any other hint (a user's class) passes as it is, and no flag can write it.
"""

import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union

from ddjax.errors import choice

SHOWN = 200  # characters of a value in an error


class Misfit(ValueError):
    """A value does not fit its declared type."""


def arms(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; the hint itself where it is none."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def describe(hint: Any) -> str:
    """The declared type in words, e.g. ``a whole number or None``."""
    simple = {
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        str: "text",
        type(None): "None",
        Path: "a path",
    }
    words = []
    for arm in arms(hint):
        args = typing.get_args(arm)
        if typing.get_origin(arm) is Literal:
            words += [str(value) for value in args]
        elif typing.get_origin(arm) is tuple and args[-1:] == (Ellipsis,):
            words.append(f"a list, each {describe(args[0])}")
        elif typing.get_origin(arm) is tuple:
            words.append(f"{len(args)} values, each {describe(args[0])}")
        else:
            words.append(simple.get(arm, getattr(arm, "__name__", str(arm))))
    return " or ".join(words)


def sentence(name: str, value: object, hint: Any, nearest: object) -> str:
    """The one sentence for a value that does not fit: what is allowed and a valid choice."""
    names = [v for arm in arms(hint) if typing.get_origin(arm) is Literal for v in typing.get_args(arm)]
    closed = names and all(typing.get_origin(arm) is Literal or arm is type(None) for arm in arms(hint))
    if closed and isinstance(value, str):
        names += ["None"] if type(None) in arms(hint) else []
        return choice(name, value, names, nearest if nearest in names else None)
    if isinstance(value, str) and float in arms(hint) and value.strip("+-").lower() in ("inf", "infinity", "nan"):
        return f"{name} = {value!r} is not finite; allowed: {describe(hint)}. For example: 0.1."
    use = f" Nearest valid: {nearest}." if nearest not in (None, "None", "") else ""
    if not use and {int, float} & set(arms(hint)):
        use = f" For example: {0.1 if float in arms(hint) else 1}."
    return f"{name} = {brief(value)} cannot be used; allowed: {describe(hint)}.{use}"


def brief(value: object) -> str:
    """A value on one line of an error, long ones cut."""
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."


def fit(value: Any, hint: Any) -> Any:
    """``value`` as ``hint`` declares it: lists become tuples, whole numbers floats; else Misfit."""
    if hint is Any:
        return value
    for arm in arms(hint):
        try:
            return _fit_arm(value, arm)
        except Misfit:
            continue
    raise Misfit(f"{value!r} is not {describe(hint)}")


def _fit_arm(value: Any, hint: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if typing.get_origin(hint) is Literal:
        if any(value == v and type(value) is type(v) for v in typing.get_args(hint)):
            return value
    elif typing.get_origin(hint) is tuple or hint is tuple:
        if isinstance(value, list | tuple):
            return _fit_tuple(value, typing.get_args(hint))
    elif hint is float:
        if number and math.isfinite(value):
            return float(value)
    elif hint is int:
        if number and isinstance(value, int):
            return value
    elif hint is Path:
        if isinstance(value, str | Path):
            return Path(value)
    elif hint in (bool, str, type(None)):
        if isinstance(value, hint):
            return value
    elif not _is_plain_class(hint) or isinstance(value, hint):
        return value
    raise Misfit(f"{value!r} is not {describe(hint)}")


def _is_plain_class(hint: Any) -> bool:
    return isinstance(hint, type) and not getattr(hint, "_is_protocol", False)


def _fit_tuple(values: Sequence[Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    if args[-1:] == (Ellipsis,):
        args = (args[0],) * len(values)
    if args and len(args) != len(values):
        raise Misfit(f"{len(args)} values are needed, {len(values)} given")
    return tuple(fit(v, a) for v, a in zip(values, args or (Any,) * len(values), strict=True))


def read(words: Sequence[str], hint: Any) -> Any:
    """The value that a flag's words stand for: ``600``, ``None``, ``0.3 0.7`` or ``0.3,0.7``.

    A bool flag without a word is True. Where a list and a text are both allowed, one word without a
    comma is the text.
    """
    if not words and bool in arms(hint):
        return True
    tuples = [arm for arm in arms(hint) if typing.get_origin(arm) is tuple]
    pieces = [p for w in words for p in w.strip("()[]").split(",") if p] if tuples else list(words)
    if len(words) == 1 and (len(pieces) == 1 or not tuples):
        for arm in sorted(arms(hint), key=lambda arm: arm in (str, Any)):
            if arm not in tuples:
                try:
                    return _read_word(words[0], arm)
                except Misfit:
                    continue
    for arm in tuples:
        args = typing.get_args(arm)
        if args[-1:] == (Ellipsis,):
            args = (args[0],) * len(pieces)
        if words and len(args) == len(pieces):
            return tuple(read([p], a) for p, a in zip(pieces, args, strict=True))
    raise Misfit(f"{' '.join(words)!r} is not {describe(hint)}")


def _read_word(word: str, hint: Any) -> Any:
    """One word as one simple type."""
    if hint is type(None) and word == "None":
        return None
    if hint is bool and word.lower() in ("true", "false"):
        return word.lower() == "true"
    if typing.get_origin(hint) is Literal:
        for value in typing.get_args(hint):
            if str(value) == word:
                return value
    if hint in (int, float):
        try:
            number = int(word) if hint is int else float(word)
        except ValueError:
            raise Misfit(f"{word!r} is not {describe(hint)}") from None
        return fit(number, hint)
    if hint in (str, Any, Path):
        return Path(word) if hint is Path else word
    raise Misfit(f"{word!r} is not {describe(hint)}")
