"""A run as JSON and back, user-defined classes included, and the hash that stages are cached under.

    {"schema": 1, "seed": 0, "name": …, "data": {…}, …, "method": {"class": "teddy", "ipc": 1, …}}

A class of ours is stored by its name in METHODS; a user's class as ``"path.py:Name"`` with the
file's sha256, so that a changed file is noticed when the JSON is read back. The folder of the run
is left out: it does not change a result.
"""

import dataclasses
import hashlib
import importlib.abc
import inspect
import json
import os
import sys
import traceback
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ddjax.config.groups import Run
from ddjax.config.values import Misfit, fit, sentence
from ddjax.errors import ConfigError, choice, nearest

SCHEMA = 1
POLYMORPHIC = (("method",), ("data", "train"), ("data", "test"))  # places of a user's own class
IN_MEMORY = "(arrays in memory)"

_loaded: dict[tuple[str, str], ModuleType] = {}  # (path, sha256) -> the user's file, run once


class _Source(importlib.abc.SourceLoader):
    """Runs exactly the bytes that were hashed, and leaves no compiled copy beside the file."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: Any) -> bytes:
        return self.content


def read_bytes(path: Path) -> bytes:
    """The content of a user's file; ConfigError, with the nearest name, where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(unreadable(path, error)) from error


def load_file(path: Path, content: bytes) -> ModuleType:
    """Run a user's Python file as a module of its own, once per content.

    Raises ConfigError with the line at fault when the file cannot be run.
    """
    at = (str(path.resolve()), hashlib.sha256(content).hexdigest())
    if at in _loaded:
        return _loaded[at]
    name = f"ddjax_user_{path.stem}_{hashlib.sha256('|'.join(at).encode()).hexdigest()[:12]}"
    loader = _Source(path, content)
    module = ModuleType(name)
    module.__file__, module.__loader__ = str(path), loader
    sys.modules[name] = module  # dataclasses resolve their annotations there
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"{path}: {blame(error, path)}") from error
    _loaded[at] = module
    return module


def unreadable(path: Path, error: OSError) -> str:
    """Why a file cannot be read, and the nearest file that is there."""
    near = nearest(path.name, [p.name for p in path.parent.glob(f"*{path.suffix}")])
    hint = f" Did you mean '{path.parent / near}'?" if near and not path.exists() else ""
    return f"{path}: cannot be read: {error.strerror or error}.{hint}"


def blame(error: BaseException, path: Path) -> str:
    """Which line of the user's file raised what."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}."
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}."


def class_name(cls: type) -> dict[str, str]:
    """``{"class": name}`` of a method of ours, else ``{"class": "path.py:Name", "sha256": …}``."""
    from ddjax.methods import METHODS

    for name, known in METHODS.items():
        if cls is known:
            return {"class": name}
    if cls.__module__.startswith("ddjax."):
        return {"class": IN_MEMORY}
    for (path, sha), module in _loaded.items():
        if vars(module).get(cls.__name__) is cls:
            return {"class": f"{_relative(path)}:{cls.__name__}", "sha256": sha}
    source = None if cls.__module__ == "builtins" else inspect.getsourcefile(cls)
    if source is None or not Path(source).is_file():
        raise ConfigError(
            f"class {cls.__name__!r} has no file, so the run could not be read back; allowed: a "
            f"class at the top of a .py file. Move it into the config file."
        )
    sha = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    return {"class": f"{_relative(source)}:{cls.__name__}", "sha256": sha}


def _relative(path: str) -> str:
    """Relative to the working directory where it lies below it, else absolute."""
    full, here = Path(path).resolve(), Path(os.getcwd()).resolve()
    return (full.relative_to(here) if full.is_relative_to(here) else full).as_posix()


def find_class(name: str, sha: str | None = None, where: str = "method") -> type:
    """The class that ``name`` stands for: an entry of METHODS, or ``path.py:Name``."""
    from ddjax.methods import METHODS, Method

    if name in METHODS and "method" in where:
        return METHODS[name]
    if name == IN_MEMORY:
        raise ConfigError(f"{where}: arrays in memory are not stored with a run; give --data.train.")
    path, colon, attribute = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise ConfigError(choice(where, name, [*METHODS, "path.py:Name"]))
    if not Path(path).is_file():
        raise ConfigError(
            f"{where} = {name!r}: there is no file {path!r} below {os.getcwd()!r}; start from the "
            f"folder that the run was started from, or correct the path."
        )
    content = read_bytes(Path(path))
    found = hashlib.sha256(content).hexdigest()
    if sha is not None and found != sha:
        raise ConfigError(
            f"{where} = {name!r}: the file has changed since the run was stored (sha256 "
            f"{found[:12]}… now, {sha[:12]}… then); restore it, or give --config {path} instead."
        )
    kind, ours = (Method if "method" in where else object), {Method, *METHODS.values()}
    classes = {
        n: v
        for n, v in vars(load_file(Path(path), content)).items()
        if isinstance(v, type) and dataclasses.is_dataclass(v) and issubclass(v, kind)
    }
    if attribute not in classes:
        shown = [n for n, v in classes.items() if v not in ours]
        raise ConfigError(choice(f"{where}: class in {path}", attribute, shown or ["(none)"]))
    return classes[attribute]


def fields(cls: Any) -> dict[str, Any]:
    """Names and declared types of the fields of a dataclass (or of an instance's class)."""
    from ddjax.methods.base import Method

    cls = cls if isinstance(cls, type) else type(cls)
    hints = typing.get_type_hints(cls, localns={"Method": Method})
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def encode(value: Any, at: tuple[str, ...] = ()) -> Any:
    """``value`` as JSON: tuples become lists, a dataclass the object of its fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        head = class_name(type(value)) if at in POLYMORPHIC else {}
        return head | {name: encode(getattr(value, name), (*at, name)) for name in fields(value)}
    if isinstance(value, list | tuple):
        return [encode(item, at) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "shape"):
        return _array(value)
    raise ConfigError(
        f"{'.'.join(at)} = {value!r} cannot be stored; allowed: numbers, texts, None, tuples and "
        f"dataclasses of them. Give what the object is made from instead of the object."
    )


def _array(value: Any) -> dict[str, Any]:
    """An array in memory is known again by its hash; it is not restored."""
    sha = hashlib.sha256(value.tobytes()).hexdigest()
    return {"dtype": str(value.dtype), "shape": list(value.shape), "sha256": sha}


def to_json(run: Any) -> dict[str, Any]:
    """The run as a JSON object, every default filled in, its folder left out."""
    stored = {"schema": SCHEMA} | encode(run)
    del stored["workdir"]
    return stored


def hash(*parts: Any) -> str:
    """sha256 (hex) of the canonical JSON of groups, methods or plain values: the key of a stage.

    A user's class counts with its name and its file's content, not with the file's place.
    """

    def identity(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): identity(item) for key, item in value.items()}
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            return [identity(v) for v in value] if isinstance(value, list | tuple) else encode(value)
        cls = type(value)
        name = {"class": cls.__qualname__}
        if not cls.__module__.startswith("ddjax."):
            name["sha256"] = class_name(cls)["sha256"]
        return name | {key: identity(getattr(value, key)) for key in fields(cls)}

    text = json.dumps([identity(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def from_json(stored: Any) -> Run:
    """The run that ``to_json`` wrote; what is missing takes its default.

    Raises one ConfigError that lists every unknown name, value of a wrong type and changed class.
    """
    if not isinstance(stored, Mapping):
        raise ConfigError(f"a stored configuration is an object of groups, not {stored!r:.60}.")
    body = dict(stored)
    schema = body.pop("schema", SCHEMA)
    problems: list[str] = []
    if schema != SCHEMA:
        problems.append(choice("schema", schema, [SCHEMA]))
    run = _decode(body, Run, (), problems)
    if problems:
        raise ConfigError(listed(problems))
    return run


def _decode(stored: Any, cls: type, at: tuple[str, ...], problems: list[str]) -> Any:
    """A ``cls`` of the stored values; complaints are appended to ``problems``."""
    name = ".".join(at)
    if not isinstance(stored, Mapping):
        problems.append(f"{name} = {stored!r:.60} must be an object of named values.")
        return None
    body = dict(stored)
    if at in POLYMORPHIC:
        try:
            wanted, sha = body.pop("class", None), body.pop("sha256", None)
            if not isinstance(wanted, str) or not isinstance(sha, str | None):
                raise ConfigError(choice(f"{name}.class", wanted, ["teddy", "path.py:Name"]))
            cls = find_class(wanted, sha, f"{name}.class")
        except ConfigError as error:
            problems.append(str(error))
            return None
    hints, defaults, values = fields(cls), _defaults(cls), {}
    for key, value in body.items():
        place = (*at, str(key))
        if key not in hints:
            problems.append(unknown(".".join(place), str(key), hints))
        elif (group := _group(place, value, hints[key], defaults.get(key))) is not None:
            values[key] = _decode(value, group, place, problems)
        else:
            try:
                values[key] = fit(value, hints[key])
            except Misfit:
                use = defaults.get(key, "none stored")
                problems.append(sentence(".".join(place), value, hints[key], use))
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        problems.append(f"{name or 'run'}: {type(error).__name__}: {error}")
        return None


def _defaults(cls: type) -> dict[str, Any]:
    """Default values of a dataclass's fields, where there are any."""
    found = {}
    for f in dataclasses.fields(cls):
        if f.default is not dataclasses.MISSING:
            found[f.name] = f.default
        elif f.default_factory is not dataclasses.MISSING:
            found[f.name] = f.default_factory()
    return found


def _group(place: tuple[str, ...], value: Any, hint: Any, default: Any) -> type | None:
    """The class of a nested group, None where the place holds a plain value."""
    if place in POLYMORPHIC:
        return type(default) if isinstance(value, Mapping) or place == ("method",) else None
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    return type(default) if dataclasses.is_dataclass(default) else None


def unknown(name: str, key: str, allowed: Iterable[str]) -> str:
    """The one sentence for a name that nothing here has."""
    names = list(allowed)
    near = nearest(key, names)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"{name} is not known; allowed: {', '.join(names)}.{hint}"


def listed(problems: list[str]) -> str:
    """One message of all complaints, numbered where there are several."""
    unique = list(dict.fromkeys(problems))
    if len(unique) == 1:
        return unique[0]
    return "\n".join([f"{len(unique)} problems:", *(f"  {i}. {p}" for i, p in enumerate(unique, 1))])
