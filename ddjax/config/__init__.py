"""Configuration: what a run is (``groups``), how it is written (``flags``, ``document``), ``load``.

    run, launch = load(["--config", "configs/digits.py", "--method.steps", "10"])

``load`` reads --config and --method first, puts in the flags, fills what depends on the data set,
checks everything, and raises ONE ConfigError that tells every unknown name, every value of a wrong
type and every failed check. No device is touched: importing this imports no jax.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddjax.config import together
from ddjax.config.document import (
    blame,
    fields,
    find_class,
    from_json,
    hash,
    listed,
    load_file,
    read_bytes,
    to_json,
    unreadable,
)
from ddjax.config.flags import apply, misfits, repeated, show_help, split
from ddjax.config.groups import (
    BASELINES,
    CHEAP_BASELINES,
    FURTHER,
    STAGES,
    Compute,
    Data,
    Evaluate,
    Label,
    Pool,
    Report,
    Run,
    Teacher,
)
from ddjax.errors import ConfigError, choices
from ddjax.files import read_json

__all__ = [
    "BASELINES",
    "CHEAP_BASELINES",
    "FURTHER",
    "STAGES",
    "Compute",
    "Data",
    "Evaluate",
    "Judge",
    "Judging",
    "Label",
    "Launch",
    "Pool",
    "Report",
    "Run",
    "Teacher",
    "blame",
    "from_json",
    "hash",
    "home_of",
    "load",
    "load_judge",
    "read_config",
    "settled",
    "to_json",
]


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a run is started; none of it changes what the run computes."""

    config: str | None = None
    """A Python file with get_config() -> Run, or a run's config.json. None: the defaults below."""
    method: str | None = None
    """Replace the method: its name, or FILE.py:Class of your own. The ipc is kept."""
    resume: bool = False
    """Go on with the run in --workdir; from the start where there is none."""
    overwrite: bool = False
    """Empty --workdir first."""
    only: tuple[str, ...] = ()
    """Run only these stages: teachers distill label evaluate report. Implies --resume."""
    check: bool = False
    """Only check: resolve, compare with the data where they can be read, estimate memory. Touches no device."""

    def check_values(self, run: Run) -> list[str]:
        """Every complaint, as sentences."""
        problems = choices("--only", self.only, STAGES)
        if self.resume and self.overwrite:
            problems.append("--resume and --overwrite exclude each other; give one of them.")
        if (self.resume or self.overwrite or self.only) and run.workdir is None:
            problems.append("--resume, --overwrite and --only need --workdir RUN, the run they mean.")
        return problems


@dataclasses.dataclass(frozen=True)
class Judge:
    """`ddjax evaluate SET`: judge a distilled set that is there already."""

    set: str = ""
    """Folder of the set: a run, its synset folder, or an exported set with a manifest."""
    workdir: str | None = None
    """Folder for results.jsonl and the report. None: the run that the set lies in; of a lone set SET-evaluated."""
    seed: int = 0
    """All randomness is a function of this, a name and a step."""
    data: Data = dataclasses.field(default_factory=Data)
    label: Label = dataclasses.field(default_factory=Label)
    evaluate: Evaluate = dataclasses.field(default_factory=lambda: Evaluate(baselines="cheap"))
    compute: Compute = dataclasses.field(default_factory=Compute)

    def check(self, prefix: str = "") -> list[str]:
        """Complaints about the top-level values; each group checks its own."""
        return [*together.seed(self.seed, prefix), *together.workdir(self.workdir, prefix)]


@dataclasses.dataclass(frozen=True)
class Judging:
    """How an evaluation is started; none of it changes what it finds."""

    check: bool = False
    """Only check: refuse all that can be refused, tell what would run and its memory. Touches no device."""


LAUNCH_HELP = """Distil a data set into a few images per class, label them, judge them, report.

  python -m ddjax.launch --config configs/digits.py
  python -m ddjax.launch --config configs/digits.py --method.steps 100 --evaluate.seeds 2
  python -m ddjax.launch --data.train folder:photos --method teddy --method.ipc 10
  python -m ddjax.launch --config RUN/config.json --workdir RUN --resume

A flag is given once and takes every word up to the next one; lists are '3 4 5' or 3,4,5; None is None. Defaults are
those of --config and of the data set's table, shown as they are with the other flags given.
Exit codes: 0 done, 2 bad input, 3 stopped and resumable, 1 a defect of ours."""

JUDGED = ("schema", "seed", "data", "label", "evaluate")  # of an evaluation's config.json: what the next begins with
JUDGE_HELP = """Judge a distilled set: train students on it from scratch, beside baselines.

  ddjax evaluate RUN
  ddjax evaluate RUN/synset --archs convnet3 resnet18 --seeds 3
  ddjax evaluate SET --data.train folder:photos --protocol P-DC --archs convnet3,vgg11 --seeds 5 --workdir judged
  ddjax evaluate SET --data.train digits --protocol P-DC --modify epochs=100 --baselines random_hard,kmeans
  ddjax evaluate SET --data.train digits --modify step_range=100,100          ddjax-1 for 100 updates
  ddjax evaluate SET --data.train digits --modify step_range=None epochs=3    ddjax-1 for three whole epochs
  ddjax evaluate SET --data.train digits --baselines none --further nas privacy
  ddjax evaluate SET --data.train digits --check

SET is the folder of a run, of a distilled set, or of an evaluation. Data, labels, seed and protocol are those of the
run that it lies in or of the evaluation that it was judged in, where there is one: they are the defaults below.
--protocol, --modify, --archs, --seeds, --baselines, --further stand for --evaluate.protocol and so on. A flag takes
every word up to the next flag and is given once; lists are 'a b' or a,b; None is None. Accuracies in files are
fractions.

--modify epochs=N is for protocols that count epochs (P-DC, P-MTT, P-IDC, P-FKD, P-RDED, P-EDC, P-HL); the
default ddjax-1 keeps to 500 to 20,000 updates and P-FRePo to a table of updates, docs/protocols.md says how to change
these.

Two evaluations of a set in one --workdir share its results.jsonl: cells that are done are read back, others are
added, and the report tells the protocol that was asked for last.

Exit codes: 0 done, 2 bad input, 3 stopped and resumable, 1 a defect of ours."""


SHORT = {
    name: f"evaluate.{name}" for name in ("protocol", "modify", "archs", "seeds", "baselines", "further")
}  # flags of `ddjax evaluate` that need no group


def read_config(path: str) -> Run:
    """The run that a file describes: ``get_config()`` of a .py file, or a stored config.json."""
    file = Path(path)
    if file.suffix == ".json":
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(unreadable(file, error)) from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file}: is not JSON: {error}.") from error
        refuse_shipped_code(stored, file.parent)
        try:
            return from_json(stored)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
    if file.suffix != ".py":
        raise ConfigError(f"--config {path}: allowed: a .py file or a run's config.json.")
    get_config = vars(load_file(file, read_bytes(file))).get("get_config")
    if not callable(get_config):
        raise ConfigError(f"{file}: needs a function get_config() -> Run; see configs/digits.py.")
    try:
        run = get_config()
    except Exception as error:
        raise ConfigError(f"{file}: {blame(error, file)}") from error
    if not isinstance(run, Run):
        raise ConfigError(f"{file}: get_config() returned {run!r:.60}; allowed: a ddjax Run.")
    return run if run.name != Run.name else dataclasses.replace(run, name=file.stem)


def refuse_shipped_code(stored: Any, folder: Path) -> None:
    """ConfigError where a stored configuration names a class in a file of its own folder: a run that came from
    elsewhere would have its code run."""
    if isinstance(stored, dict | list):
        for inner in stored.values() if isinstance(stored, dict) else stored:
            refuse_shipped_code(inner, folder)
    name = stored.get("class") if isinstance(stored, dict) else None
    path = Path(name.rpartition(":")[0]) if isinstance(name, str) and ".py:" in name else None
    if path is not None and path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{folder / 'config.json'}: class = {name!r} lies in the run's own folder and would be run; allowed: code "
            "outside of it. Move the file out if you trust it, and start with --config FILE.py."
        )


def load(argv: Sequence[str], *, prog: str = "python -m ddjax.launch") -> tuple[Run, Launch]:
    """The run and how to start it, from the words after the command's name.

    Raises one ConfigError with every complaint. ``--help`` prints the page and exits with 0.
    """
    first, flags = split(argv)
    problems = [f"{word!r} is not a flag; allowed: --name value." for word in first] + repeated(flags)
    own = {f.name for f in dataclasses.fields(Launch)}
    launch = apply(Launch(), [f for f in flags if f.name in own], problems)
    flags = [f for f in flags if f.name not in own]
    run = Run()
    try:
        run = read_config(launch.config) if launch.config else run
        if launch.method:
            run = dataclasses.replace(run, method=_method(launch.method, run))
    except ConfigError as error:  # told with the rest; flags of a class that is not there are left
        problems.append(str(error))
        theirs = ("method.", "data.train.", "data.test.")
        flags = [flag for flag in flags if not flag.name.startswith(theirs)]
    wanted = [flag for flag in flags if flag.name != "help"]
    if any(flag.name == "method.budget" for flag in wanted):  # asks for a table's values: a file's own are dropped
        run = dataclasses.replace(run, method=run.method.unfilled())
    run = apply(run, wanted, problems, sorted(own))
    run = _settled(run, Run.filled, problems)
    if any(flag.name == "help" for flag in flags):
        show_help(prog, LAUNCH_HELP, launch, run)
    problems += launch.check_values(run)
    if problems:
        raise ConfigError(listed(problems))
    return run, launch


def load_judge(argv: Sequence[str], *, prog: str = "ddjax evaluate") -> tuple[Judge, Judging]:
    """What `ddjax evaluate SET …` asks for and how to start it; raises one ConfigError with every complaint.

    A set inside a run, or one that was judged, takes that run's seed, data, label and evaluation; flags change them.
    """
    first, flags = split(argv)
    judge = Judge(set=first[0] if first else "")
    named = [flag for flag in flags if flag.name == "set" and flag.words]
    if named:
        judge = dataclasses.replace(judge, set=named[-1].words[0])
    problems = [f"{word!r} is one word too many; allowed: one SET." for word in first[1:]]
    problems += repeated(flags, SHORT)
    own = {f.name for f in dataclasses.fields(Judging)}
    judging = apply(Judging(), [f for f in flags if f.name in own], problems)
    flags = [f for f in flags if f.name not in own]
    if not judge.set:
        problems.append("SET is missing; allowed: the folder of a run or of a distilled set.")
    run = settings_beside(Path(judge.set)) if judge.set else None
    if run:
        evaluate = dataclasses.replace(run.evaluate, baselines=judge.evaluate.baselines)
        judge = dataclasses.replace(judge, seed=run.seed, data=run.data, label=run.label, evaluate=evaluate)
    if any(flag.name == "help" for flag in flags):
        show_help(f"{prog} SET", JUDGE_HELP, judging, judge)
    wanted = [flag._replace(name=SHORT.get(flag.name, flag.name)) for flag in flags if flag.name != "help"]
    judge = apply(judge, wanted, problems, (*SHORT, *own))
    judge = _settled(judge, lambda value: value, problems)
    if problems:
        raise ConfigError(listed(problems))
    return judge, judging


def home_of(given: Path) -> Path | None:
    """The run that a set lies in: its folder, or the one above; None for a set that was only judged there."""
    for folder in (given, given.parent):
        if (folder / "config.json").is_file():
            stored = read_json(folder / "config.json")
            return folder if isinstance(stored, dict) and "set" not in stored else None
    return None


def settings_beside(given: Path) -> Run | None:
    """What the run that a set lies in was asked for, or the evaluation that it was judged in; None for a lone set."""
    home = home_of(given)
    if home:
        return read_config(str(home / "config.json"))
    for file in (given / "config.json", given.parent / "config.json"):
        stored = read_json(file) if file.is_file() else None
        if isinstance(stored, dict) and "set" in stored:
            refuse_shipped_code(stored, file.parent)
            return from_json({name: stored[name] for name in JUDGED if name in stored})
    return None


def settled(value: Any, **fields: Any) -> Any:
    """A Run or Judge made in Python: fields replaced, defaults filled in, one ConfigError with every complaint."""
    problems: list[str] = []
    if isinstance(value.workdir, Path):
        value = dataclasses.replace(value, workdir=str(value.workdir))
    fill = Run.filled if isinstance(value, Run) else lambda judge: judge
    value = _settled(dataclasses.replace(value, **fields), fill, problems)
    if problems:
        raise ConfigError(listed(problems))
    return value


def _method(name: str, run: Run) -> Any:
    """A method by name, with the ipc of the one that it replaces."""
    cls = find_class(name, where="--method")
    try:
        return cls(ipc=getattr(run.method, "ipc", 1))
    except TypeError as error:
        raise ConfigError(f"--method {name}: {error}.") from error


def _settled(value: Any, fill: Callable[[Any], Any], problems: list[str]) -> Any:
    """``value`` filled and checked; a group with a value of a wrong type is not looked into."""
    slips = {name: misfits(getattr(value, name), hint, name) for name, hint in fields(value).items()}
    if not any(slips.values()):
        value = fill(value)
        problems += value.check()
    for name in slips:
        check = getattr(getattr(value, name), "check", None)
        problems += slips[name] or (check(name) if check else [])
    return value
