"""The folder of a run: who may write into it, which stages are done, where their files lie.

A folder that holds more than locks, caches and temporaries belongs to the run whose config.json lies in it: it is
refused without --resume or --overwrite, and refused whatever is said when it belongs to another configuration.
"""

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddjax.errors import ConfigError, Interrupted
from ddjax.files import atomic_write, content_hash, is_temporary, read_json, remove_folder, to_json

STATE = ".state"  # checkpoints and stage stamps: what only ddjax reads
EMPTY = (".cache", "__pycache__", ".ipynb_checkpoints", ".DS_Store")


def is_empty(folder: Path, but: tuple[str, ...] = ()) -> bool:
    """Whether nothing would be lost by starting here: no folder, or only locks, caches, temporaries and ``but``."""
    if not folder.exists():
        return True
    return all(is_temporary(entry) or entry.name in (*EMPTY, *but) or entry.name.endswith((".lock", ".tmp", "~"))
               for entry in folder.iterdir())  # fmt: skip


def default_folder(name: str) -> Path:
    """``runs/<name>/<time>``, time to the second in UTC."""
    return Path("runs") / name / time.strftime("%Y%m%d-%H%M%S", time.gmtime())


def check_writable(folder: Path, argument: str) -> None:
    """ConfigError where ``folder`` cannot be made or written into; what was made to find out is removed again."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{argument} = {str(folder)!r} cannot be written: {error.strerror}. Allowed: a folder that this user can "
            "make and write into; name another."
        ) from error
    finally:
        for place in missing:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


class RunDir:
    """The paths of a run and the stamps of its stages: a stage is done when its stamp names its inputs' hash."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = folder / "config.json"
        self.synset = folder / "synset"
        self.labels = folder / "labels"
        self.teachers = folder / "teachers"
        self.results = folder / "results.jsonl"
        self.cost = folder / "cost.json"
        self.machine = folder / STATE / "machine.json"
        self._stamps = folder / STATE / "stages.json"

    def scratch(self, stage: str) -> Path:
        """Where a stage keeps its checkpoints until it is done."""
        return self.folder / STATE / stage

    def done(self, stage: str, tag: str) -> bool:
        """Whether the stage was finished with these inputs, and what it made is there."""
        made = {"distill": self.synset, "label": self.labels}.get(stage, self.folder)
        return made.exists() and self._stamps.exists() and read_json(self._stamps).get(stage) == tag

    def stamp(self, stage: str, tag: str) -> None:
        """Note that a stage is finished, and drop its checkpoints."""
        stamps = read_json(self._stamps) if self._stamps.exists() else {}
        atomic_write(self._stamps, to_json(stamps | {stage: tag}))
        remove_folder(self.scratch(stage))


def claim(folder: Path, config: dict[str, Any], *, resume: bool, overwrite: bool, only: tuple[str, ...]) -> RunDir:
    """Check that this run may write into ``folder``; nothing is touched before everything is checked."""
    run = RunDir(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--workdir = {str(folder)!r} is a file; allowed: a folder. Name another.")
    if is_empty(folder) or (overwrite and run.config.exists()):
        return run
    if overwrite:
        raise ConfigError(
            f"--workdir = {str(folder)!r} holds files but no config.json, so it is no run of ddjax; --overwrite "
            "refuses to empty it. Name another folder."
        )
    if not run.config.exists():
        raise ConfigError(f"--workdir = {str(folder)!r} holds files that are no run of ddjax. Name another folder.")
    if not (resume or only):
        raise ConfigError(
            f"--workdir = {str(folder)!r} holds a run already; allowed: --resume (go on with it), --overwrite (start "
            "again), or another folder."
        )
    free = {"evaluate": {"evaluate"}, "report": {"report"}, "label": {"label"}}
    skip = set().union(*(free.get(stage, set()) for stage in only)) | {"report"}
    differs = different(deciding(read_json(run.config), skip), deciding(config, skip))
    if differs:
        raise ConfigError(
            f"--workdir = {str(folder)!r} is a run of another configuration (it differs in {', '.join(differs[:8])}); "
            f"resume it with --config {run.config}, or name another folder."
        )
    return run


def deciding(config: dict[str, Any], skip: set[str]) -> dict[str, Any]:
    """What decides a run's results: the groups but for ``skip``, and no cache folder or checkpoint interval."""
    compute = {k: v for k, v in config.get("compute", {}).items() if k not in ("cache", "checkpoint_every")}
    return {k: v for k, v in config.items() if k not in skip} | {"compute": compute}


_asked: list[str] = []  # the signals that asked for the end of the run


def asked_to_stop() -> bool:
    """Whether a signal has asked for the end."""
    return bool(_asked)


def stop_if_asked(checkpoint: Any = None, *state: Any) -> None:
    """A safe point: where a signal has asked for the end, ``checkpoint.save(*state)`` and Interrupted."""
    if _asked:
        if checkpoint is not None:
            checkpoint.save(*state)
        raise Interrupted(f"signal {_asked[0]}")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within: SIGTERM and SIGINT end the run at the next safe point, exit code 3, to be resumed; a second one at once.

    An exception out of the handler would come in the middle of anything: libraries swallow it, and a device that is at
    work while Python ends brings the process down. So the handler only takes note; see :func:`stop_if_asked`.
    """

    def note(number: int, frame: Any) -> None:
        _asked.append(signal.Signals(number).name)
        signal.signal(number, before[signal.Signals(number)])
        os.write(2, f"ddjax: {_asked[-1]}: stops at the next safe point; a second one stops at once.\n".encode())

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def empty(folder: Path) -> None:
    """Remove all that a run has written into ``folder``; its lock stays."""
    for entry in sorted(folder.iterdir(), key=lambda e: e.name == "config.json"):  # config.json last: still a run
        if entry.is_dir():
            remove_folder(entry)
        elif not is_temporary(entry):
            entry.unlink()


def different(a: Any, b: Any, name: str = "") -> list[str]:
    """Dotted names at which two JSON values differ, with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in sorted({*a, *b}) for d in different(a.get(k), b.get(k), f"{name}.{k}".lstrip("."))]
    return [] if content_hash(a) == content_hash(b) else [f"{name}: {a!r} there, {b!r} here"]
