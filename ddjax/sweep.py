"""``ddjax sweep --config C --method dm,dsa --method.ipc 1,10,50 --workdir DIR``: a table of runs and its leaderboard.

    cells = product of the flags whose value is a list with commas where the field itself is none

Each cell is an ordinary run in DIR/<cell>, one after the other, each in a process of its own: what one cell compiled
and allocated is gone before the next begins, its peak of memory is its own and not that of the cell before, and a cell
that the system kills takes nobody with it. What cells can share lies on the disk ($DDJAX_CACHE: compiled programs,
teachers, the network on all data), so a process costs the seconds of importing jax. This process opens the data to
check every cell first, and touches no device: the device is the cell's.
"""

import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddjax import config, leaderboard, rundir
from ddjax.__main__ import exit_code
from ddjax.board import collect
from ddjax.config.document import fields, find_class, listed
from ddjax.config.flags import Flag, repeated, split
from ddjax.config.values import arms
from ddjax.errors import ConfigError, DataError, Interrupted
from ddjax.files import content_hash, locked, to_json

WHOLE = ("data.train", "data.test", "workdir", "name", "compute.cache", "teacher.weights")  # commas belong to the value
OWN = tuple(f.name for f in dataclasses.fields(config.Launch))
POLL = 0.1  # seconds between two looks at a cell
USAGE = """usage: ddjax sweep --workdir DIR [--config C] [--method M1,M2] [--method.ipc 1,10,50] [--seed 0,1,2] …

Runs every combination of the flags that are given several values with commas, each as an ordinary run in a folder of
DIR, then compares them: DIR/leaderboard.html and DIR/leaderboard.md.

  ddjax sweep --config configs/digits.py --method teddy,sre2l --method.ipc 1,10 --workdir table
  ddjax sweep --config configs/digits.py,configs/fashion_mnist.py --seed 0,1,2 --workdir table

Every flag of `ddjax launch` may stand here (see its --help). A field that is a list itself (--evaluate.archs a,b) goes
to every cell whole, and so do --data.train, --data.test and paths; for several data sets give several --config.
All cells are checked before the first begins. The same command again goes on where it was stopped: finished cells are
skipped. A cell that fails is told, the others go on.
--only STAGE … goes to every cell; --check tells what each cell would need, and starts nothing.
Exit codes: 0 all done; 2 a cell failed or was refused; 3 stopped and resumable; 1 a defect of ours in a cell."""


class Cell(NamedTuple):
    """One run of the table: its name, the words that start it, whether there is nothing left to do."""

    name: str
    words: list[str]
    run: config.Run
    launch: config.Launch
    done: bool = False


# ------------------------------------------------------------------------------------------ the table


def pieces(flag: Flag, bases: Sequence[Any]) -> list[str] | None:
    """The values of a flag that is swept; None for one that goes to every cell as it is."""
    word = flag.words[0] if len(flag.words) == 1 else ""
    if "," not in word or flag.name in WHOLE or (flag.name == "config" and Path(word).exists()):
        return None
    hints = [declared(base, flag.name) for base in bases]
    plural = any(typing.get_origin(arm) is tuple or arm is tuple for hint in hints for arm in arms(hint))
    if flag.name not in ("config", "method") and (plural or all(hint is None for hint in hints)):
        return None
    return list(dict.fromkeys(piece for piece in word.split(",") if piece))


def declared(base: tuple[config.Run, type | None], name: str) -> Any:
    """The declared type of a field by its dotted name; None where there is no such field."""
    run, method = base
    here: Any = run
    *groups, last = name.split(".")
    for depth, group in enumerate(groups):
        if not dataclasses.is_dataclass(here):
            return None
        here = method if method and (depth, group) == (0, "method") else getattr(here, group, fields(here).get(group))
    return fields(here).get(last) if dataclasses.is_dataclass(here) else None


def axes(flags: Sequence[Flag]) -> tuple[list[Flag], list[tuple[str, list[str]]]]:
    """The flags that go to every cell, and the swept ones with their values."""
    swept = {flag.name: pieces(flag, []) or list(flag.words) for flag in flags if flag.name in ("config", "method")}
    paths, names = (swept.get(name) or [None] for name in ("config", "method"))
    bases = [base for pair in itertools.product(paths, names) if (base := base_of(*pair))]
    found = [(flag, pieces(flag, bases)) for flag in flags]
    return [flag for flag, values in found if values is None], [(flag.name, v) for flag, v in found if v is not None]


def base_of(path: str | None, name: str | None) -> tuple[config.Run, type | None] | None:
    """The run that a cell starts from and the method put into it; None where ``config.load`` will say what is wrong."""
    try:
        run = config.read_config(path) if path else config.Run()
        return run, find_class(name, where="--method") if name else None
    except ConfigError:
        return None


def cells(flags: Sequence[Flag], folder: Path) -> list[Cell]:
    """Every cell, its configuration checked; one ConfigError with the complaints of all cells."""
    common, table = axes(flags)
    shared = [word for flag in common for word in (f"--{flag.name}", *flag.words)]
    found, complaints = {}, {}
    combinations = list(itertools.product(*(values for _, values in table)))
    for values in combinations:
        chosen = dict(zip((name for name, _ in table), values, strict=True))
        words = [*shared, *(word for name, value in chosen.items() for word in (f"--{name}", value))]
        try:
            run, launch = config.load([*words, "--workdir", str(folder / "cell"), "--resume"])
        except ConfigError as error:
            told(complaints, str(error), label(chosen) or "every cell")
            continue
        name = cell_name(run, chosen)
        name = name if name not in found else f"{name}-{content_hash(words)[:6]}"
        place = str(folder / name)
        run = dataclasses.replace(run, workdir=place)
        found[name] = Cell(name, [*words, "--workdir", place, "--resume"], run, launch)
    refuse(complaints, len(combinations))
    return list(found.values())


def cell_name(run: config.Run, chosen: dict[str, str]) -> str:
    """``teddy-ipc10-seed1``: method, images per class, then what else is swept."""
    from ddjax.methods import name_of

    parts = [Path(chosen["config"]).stem] if "config" in chosen else []
    parts += [name_of(run.method), f"ipc{run.method.ipc}"]
    for name, value in chosen.items():
        if name not in ("config", "method", "method.ipc"):
            alone = value[:1].isalpha() and value not in ("True", "False", "None")
            parts.append(value if alone else name.rpartition(".")[2] + value)
    return re.sub(r"[^\w.+-]+", "-", "-".join(parts)).strip("-.")


def label(chosen: dict[str, str]) -> str:
    """The flags of a cell as one would type them."""
    return " ".join(f"--{name} {value}" for name, value in chosen.items())


def told(complaints: dict[str, list[str]], message: str, who: str) -> None:
    """Note each sentence of an error, and which cell said it."""
    first, *rest = message.splitlines()
    several = re.fullmatch(r"\d+ problems:", first)
    for sentence in [re.sub(r"^  \d+\. ", "", line) for line in rest] if several else [message]:
        complaints.setdefault(sentence, []).append(who)


def refuse(complaints: dict[str, list[str]], total: int) -> None:
    """One ConfigError with every sentence once; those of some cells only name the first of them."""
    if complaints:
        several = {s: who if len(who) < total else [] for s, who in complaints.items()}
        raise ConfigError(listed([f"{who[0]}{f' and {len(who) - 1} more' if len(who) > 1 else ''}: {s}" if who else s
                                  for s, who in several.items()]))  # fmt: skip


def admitted(table: Sequence[Cell]) -> list[Cell]:
    """The cells, each known to be done or not; one ConfigError with all that data and folders forbid."""
    from ddjax import launch

    complaints: dict[str, list[str]] = {}
    found, opened = [], ("", None)
    for cell in table:
        key = config.hash(cell.run.data, cell.run.seed)
        try:
            data = opened[1] if opened[0] == key else None
            _, _, data, left = launch.admit(cell.run, cell.launch, Path(cell.run.workdir or ""), data)
            opened = key, data
        except (ConfigError, DataError) as error:
            told(complaints, str(error), cell.name)
            continue
        page = Path(cell.run.workdir or "") / "report.html"
        found.append(cell._replace(done=not cell.launch.only and not left and page.is_file()))
    refuse(complaints, len(table))
    return found


# -------------------------------------------------------------------------------------- carrying out


def command(pipe: int, words: Sequence[str]) -> list[str]:
    """What starts a cell that listens to the end of ``pipe``."""
    return [sys.executable, "-m", "ddjax.sweep", str(pipe), *words]


def carry_out(cell: Cell) -> int:
    """Run one cell in a process of its own; its exit code, negative for the signal that ended it."""
    wait_for(Path(cell.run.workdir or ""))
    ours, theirs = os.pipe()  # when this process dies, the cell reads the end of it and stops at its next safe point
    try:
        process = subprocess.Popen(command(ours, cell.words), pass_fds=(ours,), start_new_session=True)
        os.close(ours)
        asked = False
        while process.poll() is None:
            if rundir.asked_to_stop() and not asked:
                process.terminate()
                asked = True
            time.sleep(POLL)
        return process.returncode
    finally:
        os.close(theirs)


def wait_for(folder: Path) -> None:
    """Until nobody works in a cell's folder: the cell of a sweep that was killed stops at its next safe point."""
    said = False
    while folder.exists():
        rundir.stop_if_asked()
        try:
            with locked(folder, wait=False):
                return
        except DataError as error:
            if not said:
                print(f"sweep: waits: {error}", flush=True)
            said = True
        time.sleep(POLL)


def attended(number: str) -> None:
    """In a cell: SIGTERM once the other end of pipe ``number`` is closed, so that no cell outlives its sweep."""

    def watch() -> None:
        while os.read(int(number), 1):
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def outcome(code: int) -> str:
    """What an exit code means, in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return {0: "done", 1: "a defect of ours", 2: "failed", 3: "stopped"}.get(code, f"exit code {code}")


def run_all(table: Sequence[Cell], folder: Path) -> int:
    """Every cell that is not done, then the leaderboard; the exit code."""
    codes: dict[str, int] = {}
    for number, cell in enumerate(table, start=1):
        rundir.stop_if_asked()
        print(f"sweep: cell {number} of {len(table)}, {cell.name}{': done before' if cell.done else ''}", flush=True)
        codes[cell.name] = 0 if cell.done else carry_out(cell)
        rundir.stop_if_asked()
        if codes[cell.name] == 3:
            raise Interrupted(f"cell {cell.name} was stopped; the same command goes on.")
        if codes[cell.name]:
            print(f"sweep: {cell.name}: {outcome(codes[cell.name])}; the others go on.", file=sys.stderr, flush=True)
    failed = {name: code for name, code in codes.items() if code}
    runs, problems, begun = collect([folder]) if any(code == 0 for code in codes.values()) else ([], [], [])
    left_out = [*problems, *(f"{name}: no results yet" for name in begun if name not in failed)]
    left_out += [f"{name}: {outcome(code)}" for name, code in failed.items()]
    if runs:
        print(f"leaderboard: {leaderboard.write(runs, folder, left_out)}")
    print(f"sweep: {len(codes) - len(failed)} of {len(codes)} cells done in {folder}.", flush=True)
    for sentence in left_out:
        print(f"sweep: {sentence}", file=sys.stderr)
    return next((code for code in (1, 2) if code in failed.values()), 3 if failed else 0)


def check(table: Sequence[Cell]) -> int:
    """What each cell would need: JSON by cell, a sentence each; 2 where one does not fit.

    One ConfigError with all that the data forbid, where they can be read.
    """
    from ddjax import estimate, launch

    found, complaints, opened = {}, {}, ("", None)
    for cell in table:
        key = config.hash(cell.run.data, cell.run.seed)
        opened = opened if opened[0] == key else (key, launch.readable(cell.run))
        try:
            found[cell.name] = launch.look(cell.run, opened[1])
        except (ConfigError, DataError) as error:
            told(complaints, str(error), cell.name)
    refuse(complaints, len(table))
    print(to_json(found), end="")
    for name, needs in found.items():
        print(f"{name}: {estimate.sentence(needs)}", file=sys.stderr)
    return 0 if all(needs["fits"] for needs in found.values()) else 2


def main(argv: Sequence[str]) -> int:
    """``ddjax sweep``: from the words after the command's name to the exit code."""
    first, flags = split(argv)
    given = {flag.name: flag.words for flag in flags}
    if "help" in given or not argv:
        print(USAGE)
        return 0 if "help" in given else 2
    problems = [f"{word!r} is not a flag; allowed: --name value." for word in first]
    problems += repeated(flags)
    if len(given.get("workdir", ())) != 1 or not given["workdir"][0].strip():
        problems.append("--workdir DIR is missing: the folder of the table, by which the same command goes on.")
    if "overwrite" in given:
        problems.append("--overwrite is not known to a sweep: finished cells are kept. Remove the folders of cells.")
    if problems:
        raise ConfigError(listed(problems))
    folder = Path(given["workdir"][0])
    table = cells([flag for flag in flags if flag.name not in ("workdir", "resume", "check")], folder)
    if "check" in given:
        return check(table)
    if any((folder / name).is_file() for name in ("manifest.json", "config.json")):
        raise ConfigError(
            f"--workdir = {str(folder)!r} is the folder of a set or of a run; allowed: one for the table."
        )
    rundir.check_writable(folder, "--workdir")
    table = admitted(table)
    with rundir.stoppable(), locked(folder, wait=False):
        return run_all(table, folder)


def _cell(argv: Sequence[str]) -> int:
    from ddjax.launch import main as launch

    attended(argv[0])
    return launch(argv[1:])


if __name__ == "__main__":
    sys.exit(exit_code(_cell, sys.argv[1:]))
