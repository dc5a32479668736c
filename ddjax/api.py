"""The stages from Python: ``ddjax.distill(run) -> DistilledSet`` and ``ddjax.evaluate(set, judge) -> report``.

    run = ddjax.Run(data=ddjax.Data(train="folder:photos", size=64, resize="crop"), method=ddjax.Teddy(ipc=10))
    made = ddjax.distill(run)
    found = ddjax.evaluate(made, ddjax.Judge(data=run.data, workdir="judged"))

``ddjax.distill`` and ``ddjax.evaluate`` are also the modules of that name, which are callable for this reason.
"""

import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from ddjax import config
from ddjax.synset import DistilledSet


def distill(run: config.Run) -> DistilledSet:
    """The distilled set of a run; resumes or reuses what lies in its workdir. ConfigError tells all that is wrong."""
    from ddjax import launch, rundir

    folder = run.workdir or str(rundir.default_folder(run.name))
    run = config.settled(run, workdir=folder)
    launch.start(run, config.Launch(only=("teachers", "distill")))
    return DistilledSet.load(folder)


def evaluate(made: DistilledSet | str | Path, judge: config.Judge) -> dict[str, Any]:
    """Judge a set, in memory or in a folder; returns the content of report.json.

    One in memory is kept as ``given`` in the folder (``judge.workdir``, else ``judged``) once nothing is wrong with it.
    """
    from ddjax import judge as judging
    from ddjax.files import read_json

    if not isinstance(made, DistilledSet):
        return read_json(judging.start(config.settled(judge, set=str(made))) / "report.json")
    folder = Path(judge.workdir or "judged")
    with tempfile.TemporaryDirectory() as scratch:
        asked = config.settled(judge, set=str(made.save(Path(scratch) / "given")), workdir=str(folder))
        admitted = judging.admit(asked)
    asked = config.settled(asked, set=str(made.save(folder / "given")))
    return read_json(judging.run(asked, admitted) / "report.json")


STAGES = {"ddjax.distill": distill, "ddjax.evaluate": evaluate}


class Stage(ModuleType):
    """A module that can be called as the stage it holds."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return STAGES[self.__name__](*args, **kwargs)


def make_callable(name: str) -> None:
    """Let the module ``name`` be called as its stage."""
    sys.modules[name].__class__ = Stage
