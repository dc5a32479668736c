"""Errors that a user can act on: each names the argument, its value, what is allowed and the nearest valid choice.

Exit codes (``launch``): ``DdjaxError`` is bad input or divergence (2); ``Interrupted`` is stopped and resumable (3);
anything else is a defect of ours (1).
"""

import difflib
from collections.abc import Iterable


class DdjaxError(Exception):
    """Base of every error that is the input's fault, not ours."""


class ConfigError(DdjaxError):
    """A configuration or a command-line argument cannot be used."""


class DataError(DdjaxError):
    """A file, folder or array of the user's data cannot be used."""


class CheckpointError(DdjaxError):
    """A stored state does not fit the run that wants it."""


class DivergenceError(DdjaxError):
    """Training or distillation produced a non-finite number."""


class Interrupted(Exception):
    """The run was stopped (signal, full disk) and can be resumed."""


def nearest(value: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest to ``value`` by edit similarity, or None when nothing is close."""
    names = [str(name) for name in allowed]
    lowered = {name.lower(): name for name in names}
    found = difflib.get_close_matches(str(value).lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def choice(argument: str, value: object, allowed: Iterable[object], use: object = None) -> str:
    """The one sentence for a value outside a finite set, with the nearest valid choice; ``use`` where none is close."""
    names = [str(name) for name in allowed]
    near = nearest(str(value), names)
    hint = f" Did you mean {near!r}?" if near else "" if use is None else f" Nearest valid: {use}."
    return f"{argument} = {value!r} is not known; allowed: {', '.join(names)}.{hint}"


def choices(argument: str, values: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """A sentence for each of a list's values outside a finite set; where none is close, the rest of the list is."""
    names, given = list(allowed), list(values)
    rest = ",".join(value for value in given if value in names) or names[0]
    return [choice(argument, value, names, rest) for value in given if value not in names]


def out_of_range(argument: str, value: object, allowed: str, use: object) -> str:
    """The one sentence for a number outside its range, with the nearest valid number."""
    return f"{argument} = {value!r} is out of range; allowed: {allowed}. Nearest valid: {use}."
