"""The command line: ``--group.name value …`` over any dataclass, and a help page that teaches.

    --method.steps 600    --method.steps=600    --teacher.pool.prune 0.3 0.7    --label.epochs None

A flag takes every word up to the next flag. Nothing is raised here: ``apply`` collects a sentence
for each unknown name and each value of a wrong type, so that all are told at once.
"""

import ast
import dataclasses
import inspect
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar

from ddjax.config.document import POLYMORPHIC, fields
from ddjax.config.values import Misfit, fit, read, sentence
from ddjax.errors import nearest

T = TypeVar("T")


class Flag(NamedTuple):
    """One flag as typed: its dotted name and the words that follow it."""

    name: str
    words: tuple[str, ...]


def split(argv: Sequence[str]) -> tuple[list[str], list[Flag]]:
    """The words before the first flag, and the flags; ``-h`` stands for ``--help``."""
    first: list[str] = []
    flags: list[Flag] = []
    for word in argv:
        if word == "-h" or (word.startswith("--") and word != "--"):
            name, equals, value = word.lstrip("-").partition("=")
            name = "help" if word == "-h" else name.replace("-", "_")
            flags.append(Flag(name, (value,) if equals else ()))
        elif flags:
            flags[-1] = Flag(flags[-1].name, (*flags[-1].words, word))
        else:
            first.append(word)
    return first, flags


def repeated(flags: Sequence[Flag], short: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """A sentence for each value that is given more than once; ``short``: what other names of flags stand for."""
    typed: dict[str, list[str]] = {}
    for flag in flags:
        if flag.name != "help":
            typed.setdefault(short.get(flag.name, flag.name), []).append(f"--{flag.name}")
    return [
        f"{' and '.join(dict.fromkeys(names))}: given {'twice' if len(names) == 2 else f'{len(names)} times'}; "
        f"allowed: once, with every value of a list after it ({names[0]} A,B)."
        for names in typed.values()
        if len(names) > 1
    ]


def leaves(value: Any, prefix: str = "") -> list[str]:
    """Every dotted name that a flag may set in ``value``."""
    found = []
    for name in fields(value):
        inner = getattr(value, name)
        if dataclasses.is_dataclass(inner):
            found += leaves(inner, f"{prefix}{name}.")
            if (*prefix.split(".")[:-1], name) in POLYMORPHIC and prefix:
                found.append(prefix + name)  # a SPEC may take the place of a user's data set
        else:
            found.append(prefix + name)
    return found


def apply(value: T, flags: Sequence[Flag], problems: list[str], also: Sequence[str] = ()) -> T:
    """``value`` with the flags put in; complaints are appended to ``problems``.

    ``also`` names flags that another record takes, for the did-you-mean.
    """
    known = leaves(value)
    for flag in flags:
        if flag.name in known:
            value = _put(value, flag.name.split("."), flag, problems)
        else:
            why = _lacks(value, flag.name.split("."))
            near = None if why else nearest(flag.name, [*known, *also]) or _by_last_part(flag.name, known)
            group = flag.name.rpartition(".")[0]
            beside = [n for n in known if group and n.startswith(f"{group}.")]
            beside = beside or sorted({n.partition(".")[0] for n in (*known, *also)})
            problems.append(
                f"--{flag.name} is not known{f' ({why})' if why else ''}; allowed: {', '.join(beside)}."
                + (f" Did you mean --{near}?" if near else "")
            )
    return value


def _lacks(value: Any, path: list[str]) -> str | None:
    """Why a group has no field of that name, where its class tells (``LACKS``)."""
    for name in path[:-1]:
        value = getattr(value, name, None)
    return getattr(value, "LACKS", {}).get(path[-1])


def _by_last_part(name: str, known: Sequence[str]) -> str | None:
    """``--steps`` is likely ``--method.steps``."""
    last = name.rpartition(".")[2]
    return next((n for n in known if n.rpartition(".")[2] == last), None)


def _put(value: Any, path: list[str], flag: Flag, problems: list[str]) -> Any:
    """``value`` with the field at ``path`` read from the flag's words."""
    name, old = path[0], getattr(value, path[0])
    if len(path) > 1:
        new = _put(old, path[1:], flag, problems)
    else:
        hint = fields(value)[name]
        try:
            new = read(flag.words, hint)
        except Misfit:
            words = " ".join(flag.words)
            problems.append(sentence(f"--{flag.name}", words, hint, _typed(old)))
            return value
    try:
        return dataclasses.replace(value, **{name: new})
    except (TypeError, ValueError) as error:  # a user's own __post_init__ refuses the value
        problems.append(f"--{flag.name} {' '.join(flag.words)}: {error}")
        return value


def _typed(value: Any) -> str:
    """A value as one would type it after a flag."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def misfits(value: Any, hint: Any, name: str) -> list[str]:
    """A sentence for each value inside that is not of its declared type (slips of a config)."""
    try:
        fit(value, Any if tuple(name.split(".")) in POLYMORPHIC[1:] else hint)
    except Misfit:
        return [sentence(name, value, hint, "a value of that type")]
    if not dataclasses.is_dataclass(value):
        return []
    inner = fields(value).items()
    return [p for n, h in inner for p in misfits(getattr(value, n), h, f"{name}.{n}")]


def _doc(cls: type, name: str) -> str:
    """The docstring that follows field ``name`` in the source of its class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for node, after in zip(body.body, body.body[1:], strict=False):
        named = isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name
        if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return " ".join(str(after.value.value).split())
    return ""


def show_help(prog: str, description: str, *records: Any) -> None:
    """Print the help page of the flags of all records: type, value now, meaning; exits with 0."""
    import tyro

    shown = []
    for record in records:
        for name, hint in fields(record).items():
            value = getattr(record, name)
            kind = type(value) if dataclasses.is_dataclass(value) else hint
            described = tyro.conf.arg(name=name, help=_doc(type(record), name) or None)
            default = dataclasses.field(default_factory=lambda value=value: value)
            shown.append((f"{name}_{len(shown)}", Annotated[kind, described], default))
    page = dataclasses.make_dataclass("page", shown)
    with warnings.catch_warnings():
        # a user's class where a text is declared: tyro shows the flags of the class, and says so
        warnings.filterwarnings("ignore", "The field .* is annotated with type", UserWarning)
        tyro.cli(
            page,
            prog=prog,
            description=description,
            args=["--help"],
            config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
        )
