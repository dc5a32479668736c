"""A run that SIGKILL ends at random instants, in every stage, and that is resumed each time, ends with the same bits.

The seed of the instants is printed; ``DDJAX_KILL_SEED`` repeats one. The default suite kills in two stages drawn by
chance, the slow one five times, in every stage at least once.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddjax.files import is_temporary, read_json, read_lines

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("teachers", "distill", "label", "evaluate")
EVERY, TRIES, PATIENCE = 20, 6, 400  # steps between checkpoints; tries to hit a stage; seconds for a run
CONFIG = """
import dataclasses, runpy
from ddjax.config import Compute, Data, Evaluate, Pool, Teacher
from ddjax.methods.teddy import Teddy
from ddjax.protocols import PROTOCOLS, Protocol

PROTOCOLS["tiny"] = Protocol(id="tiny", rates=(3e-3, 1e-2), step_range=(100, 100))
ARCH = "convnet1-w8-batch"

def get_config():
    run = runpy.run_path({digits!r})["get_config"]()
    return dataclasses.replace(
        run, data=Data(train="digits", subset=200), method=Teddy(ipc=1, steps=300),
        teacher=Teacher(arch=ARCH, epochs=60, pool=Pool(size=2, snapshots=(1, 40))),
        evaluate=Evaluate(protocol="tiny", archs=(ARCH,), seeds=2, baselines=("base_labels",)),
        compute=Compute(mesh=(1, 1), checkpoint_every={every}),
    )
"""


class Place:
    """A run's folder, its cache, and how it is started; compiled programs are kept apart, for a kill may tear one."""

    def __init__(self, home: Path, kept: Path):
        self.home, self.run, self.cache = home, home / "run", home / "cache"
        home.mkdir()
        self.config = home / "tiny.py"
        self.config.write_text(CONFIG.format(digits=str(ROOT / "configs" / "digits.py"), every=EVERY))
        self.cache.mkdir()
        (self.cache / "xla").symlink_to(kept, target_is_directory=True)
        self.log = home / "log.txt"

    def start(self) -> subprocess.Popen:
        argv = [
            sys.executable,
            "-m",
            "ddjax.launch",
            "--config",
            str(self.config),
            "--workdir",
            str(self.run),
            "--resume",
        ]
        env = os.environ | {"PYTHONPATH": str(ROOT), "DDJAX_CACHE": str(self.cache), "PYTHONUNBUFFERED": "1"}
        with open(self.log, "a") as log:
            return subprocess.Popen(argv, env=env, cwd=self.home, stdout=log, stderr=log, start_new_session=True)

    def finish(self) -> None:
        process = self.start()
        assert process.wait(PATIENCE) == 0, self.log.read_text()

    def stage(self) -> str:
        """The stage that is under way, by what lies there."""
        made = {
            "teachers": self.run / "teachers" / "pool.json", "distill": self.run / "synset",
            "label": self.run / "labels", "evaluate": self.run / "report.json",
        }  # fmt: skip
        return next((stage for stage in STAGES if not made[stage].exists()), "done")

    def begun(self, stage: str, since: float) -> bool:
        """Whether a run that was started at ``since`` is awake and in ``stage`` or past it."""
        awake, now = self.run / ".state" / "machine.json", self.stage()
        if not awake.exists() or awake.stat().st_mtime < since:
            return False
        locks = (self.cache / "teachers").glob(".*/.lock")
        return any(locks) if stage == "teachers" else now == "done" or STAGES.index(stage) <= STAGES.index(now)


def killed(place: Place, stage: str, length: float, chance: random.Random) -> str:
    """Start the run and kill it at a random instant of ``stage``; where it was missed, put all back and try again."""
    backup = place.home / "backup"
    for attempt in range(TRIES):
        shutil.rmtree(backup, ignore_errors=True)
        for name in ("run", "cache"):
            if (place.home / name).exists():
                shutil.copytree(place.home / name, backup / name, symlinks=True)
        since, process = time.time(), place.start()
        while not place.begun(stage, since):
            assert process.poll() is None and time.time() < since + PATIENCE, place.log.read_text()
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, length * 0.5**attempt))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if process.wait() == -signal.SIGKILL and place.stage() == stage:
            return stage
        for name in ("run", "cache"):
            shutil.rmtree(place.home / name, ignore_errors=True)
            if (backup / name).exists():
                shutil.copytree(backup / name, place.home / name, symlinks=True)
    raise AssertionError(f"{stage} could not be hit in {TRIES} tries")


def numbers(run: Path) -> list[dict]:
    """The lines of results.jsonl without times and memory."""
    lines = read_lines(run / "results.jsonl")
    return [{k: v for k, v in line.items() if k not in ("wall_s", "peak_memory_bytes")} for line in lines]


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def kept(scratch_cache):
    folder = scratch_cache / "xla" / "killed"
    folder.mkdir(exist_ok=True)
    return folder.resolve()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, kept):
    """The run that nobody stops."""
    place = Place(tmp_path_factory.mktemp("whole") / "home", kept)
    place.finish()
    return place


def survives(stages, whole, home, kept, chance):
    place, lengths = Place(home, kept), read_json(whole.run / "cost.json")["wall_s"]
    hit = [killed(place, stage, lengths[stage], chance) for stage in stages]
    place.finish()
    said = place.log.read_text()
    print(f"killed in {hit}")
    for part in ("synset", "labels"):
        assert content(place.run / part) == content(whole.run / part), part
    assert numbers(place.run) == numbers(whole.run)
    one, other = (read_json(p.run / "report.json") for p in (place, whole))
    assert one["results"] == other["results"] and one["baselines"] == other["baselines"]
    left = [p for p in place.run.rglob("*") if is_temporary(p) and p.name != ".lock"]
    assert not left and {p.name for p in (place.run / ".state").iterdir()} == {"stages.json", "machine.json"}
    steps = [r["step"] for r in read_lines(place.run / "records.jsonl") if r["stage"] == "distill"]
    assert sorted(set(steps)) == list(range(EVERY, 301, EVERY))
    assert "Traceback" not in said


@pytest.fixture
def chance():
    seed = int(os.environ.get("DDJAX_KILL_SEED") or time.time_ns() % 2**31)
    print(f"DDJAX_KILL_SEED={seed}")
    return random.Random(seed)


def test_a_run_killed_in_two_stages_ends_with_the_same_bits(whole, kept, tmp_path, chance):
    stages = [STAGES[i] for i in sorted(chance.sample(range(4), 2))]
    survives(stages, whole, tmp_path / "home", kept, chance)


@pytest.mark.slow
def test_a_run_killed_five_times_in_every_stage_ends_with_the_same_bits(whole, kept, tmp_path, chance):
    stages = sorted([*STAGES, chance.choice(STAGES)], key=STAGES.index)
    survives(stages, whole, tmp_path / "home", kept, chance)
