"""A table of runs: which cells, what is refused before the first, what a kill, a failure and a repeat leave."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ddjax import __main__ as cli
from ddjax import rundir, sweep
from ddjax.config.flags import Flag, split
from ddjax.errors import Interrupted
from ddjax.files import locked, read_json, read_lines
from ddjax.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parents[1]
CONFIG = """
from ddjax.config import Data, Evaluate, Pool, Run, Teacher
from ddjax.methods.sre2l import SRe2L
from ddjax.protocols import PROTOCOLS, Protocol

PROTOCOLS["tiny"] = Protocol(id="tiny", rates=(3e-3,), step_range=(10, 10))
ARCH = "convnet1-w4-batch"

def get_config():
    return Run(
        data=Data(train="digits", subset=100), method=SRe2L(ipc=1, steps=2),
        teacher=Teacher(arch=ARCH, epochs=1, pool=Pool(size=1, snapshots=(1,))),
        evaluate=Evaluate(protocol="tiny", archs=(ARCH,), seeds=2, baselines="none"),
    )
"""


@pytest.fixture(autouse=True)
def no_protocol_left():
    """The configuration above registers one, in this very process."""
    yield
    PROTOCOLS.pop("tiny", None)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


def table(folder, *words):
    """Names of the cells, and what each is started with besides its folder."""
    found = sweep.cells(split(words)[1], Path(folder))
    tail = ["--workdir", "--resume"]
    assert all(cell.words[-3::2] == tail and cell.words[-2] == str(Path(folder) / cell.name) for cell in found)
    return {cell.name: cell for cell in found}


# ------------------------------------------------------------------------------------------ the table


def test_cells_are_the_product_of_the_lists_in_the_order_of_the_flags(config):
    found = table("T", "--config", config, "--method", "teddy,sre2l", "--method.ipc", "1,10", "--seed", "0,1")
    assert list(found) == [
        f"{method}-ipc{ipc}-seed{seed}" for method in ("teddy", "sre2l") for ipc in (1, 10) for seed in (0, 1)
    ]
    cell = found["sre2l-ipc10-seed1"]
    assert (type(cell.run.method).__name__, cell.run.method.ipc, cell.run.seed) == ("SRe2L", 10, 1)
    assert cell.run.workdir == "T/sre2l-ipc10-seed1" and cell.launch.resume


def test_lists_of_list_fields_and_of_specs_go_to_every_cell_whole(config):
    found = table(
        "T", "--config", config, "--evaluate.archs", "mlp,lenet", "--teacher.pool.snapshots", "1,2", "--compute.mesh",
        "1,1", "--teacher.pool.size", "2", "--teacher.epochs", "2,3", "--evaluate.baselines", "kmeans,random_hard",
        "--data.train=idx:a,b", "--compute.cache", "a,b",
    )  # fmt: skip
    assert list(found) == ["sre2l-ipc1-epochs2", "sre2l-ipc1-epochs3"]
    run = found["sre2l-ipc1-epochs3"].run
    assert run.evaluate.archs == ("mlp", "lenet") and run.teacher.pool.snapshots == (1, 2)
    assert run.evaluate.baselines == ("kmeans", "random_hard") and run.compute.mesh == (1, 1)
    assert run.data.train == "idx:a,b" and run.compute.cache == "a,b"


def test_fields_of_a_method_that_only_one_config_has_and_names_of_cells(config, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(CONFIG.replace("def get", """
import dataclasses
@dataclasses.dataclass(frozen=True)
class Mine(SRe2L):
    weights: tuple[float, ...] = ()

def get""").replace("method=SRe2L(", "method=Mine("))  # fmt: skip
    found = table("T", "--config", str(mine), "--method.weights", "0.1,0.2", "--method.flip", "True,False")
    assert list(found) == ["mine-ipc1-flipTrue", "mine-ipc1-flipFalse"]
    assert found["mine-ipc1-flipTrue"].run.method.weights == (0.1, 0.2)
    two = table("T", "--config", f"{config},{mine}", "--evaluate.protocol", "tiny,ddjax-1")
    assert list(two) == [
        "tiny-sre2l-ipc1-tiny", "tiny-sre2l-ipc1-ddjax-1", "mine-mine-ipc1-tiny", "mine-mine-ipc1-ddjax-1"
    ]  # fmt: skip
    assert list(table("T", "--config", config, "--method.lr", "1e-1,0.1")) == ["sre2l-ipc1-lr1e-1", "sre2l-ipc1-lr0.1"]
    same = table("T", "--config", config, "--teacher.lr", "0.1", "--method.lr", "0.1,0.2", "--method.ipc", "2")
    assert list(same) == ["sre2l-ipc2-lr0.1", "sre2l-ipc2-lr0.2"]


def test_two_cells_never_share_a_folder(config, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.py").write_text(CONFIG)
    found = table("T", "--config", f"{tmp_path / 'a' / 'c.py'},{tmp_path / 'b' / 'c.py'}", "--method.ipc", "1")
    first, second = found
    assert first == "c-sre2l-ipc1" and second.startswith("c-sre2l-ipc1-")


def test_a_file_whose_name_has_a_comma_is_one_config(tmp_path):
    path = tmp_path / "a,b.py"
    path.write_text(CONFIG)
    assert sweep.pieces(Flag("config", (str(path),)), []) is None
    assert list(table("T", "--config", str(path))) == ["sre2l-ipc1"]


# ------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def nothing_starts(monkeypatch):
    def refuse(*args):
        raise AssertionError("a cell was started")

    monkeypatch.setattr(sweep, "carry_out", refuse)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "teddy,sre2ll", "--method.ipc", "1,x"], ["Did you mean 'sre2l'?", "--method.ipc = 'x'"]),
        (["--method.stepz", "1,2"], ["ddjax: --method.stepz is not known", "Did you mean --method.steps?"]),
        (["--method.ipc", "1,1000"], ["sre2l-ipc1000: method.ipc = 1000 is out of range; allowed: <= "]),
        (["--evaluate.archs", "convnet1,convnet5"], ["ddjax: evaluate.archs: depth of a ConvNet on 8x8 images = 5"]),
        (["--seed", "0,-1"], ["--seed -1", "seed = -1 is out of range"]),
        (["--seed", "0", "--seed", "1"], ["--seed: given twice; allowed: once"]),
        (["--overwrite"], ["Remove the folders of cells"]),
        (["stray"], ["'stray' is not a flag"]),
    ],
)
def test_what_is_bad_in_any_cell_is_refused_before_the_first(words, said, config, tmp_path, nothing_starts, capsys):
    assert cli.main(["sweep", *words, "--config", config, "--workdir", str(tmp_path / "T")]) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in said), err
    assert not (tmp_path / "T").exists()


def test_a_folder_is_needed_and_help_teaches(config, tmp_path, nothing_starts, capsys):
    assert cli.main(["sweep", "--config", config]) == 2
    assert "--workdir DIR is missing" in capsys.readouterr().err
    assert cli.main(["sweep", "--config", config, "--workdir", ""]) == 2  # not the current folder
    assert "--workdir DIR is missing" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("{}")
    assert cli.main(["sweep", "--config", config, "--workdir", str(tmp_path)]) == 2
    assert "is the folder of a set or of a run" in capsys.readouterr().err
    assert cli.main(["sweep"]) == 2 and cli.main(["sweep", "--help"]) == 0
    assert "--method.ipc 1,10,50" in capsys.readouterr().out


def test_a_cell_of_another_configuration_is_refused(config, tmp_path, nothing_starts, capsys):
    cell = tmp_path / "T" / "sre2l-ipc1"
    cell.mkdir(parents=True)
    (cell / "config.json").write_text('{"schema": 1, "seed": 5}')
    assert cli.main(["sweep", "--config", config, "--method.ipc", "1,2", "--workdir", str(tmp_path / "T")]) == 2
    assert "ddjax: sre2l-ipc1: --workdir" in (said := capsys.readouterr().err) and "another configuration" in said
    assert [p.name for p in (tmp_path / "T").iterdir()] == ["sre2l-ipc1"]


def test_check_tells_what_every_cell_needs_and_starts_nothing(config, tmp_path, nothing_starts, capsys):
    argv = ["sweep", "--config", config, "--method.ipc", "1,2", "--check", "--workdir", str(tmp_path / "T")]
    assert cli.main(argv) == 0
    found = capsys.readouterr()
    assert '"sre2l-ipc1": {' in found.out and found.err.count("needs the most") == 2
    argv[4] = "1,1000"
    assert cli.main(argv) == 2
    found = capsys.readouterr()
    assert "sre2l-ipc1000: method.ipc = 1000 is out of range" in found.err and found.out == ""
    assert not (tmp_path / "T").exists()


def test_checking_every_cell_leaves_the_device_to_the_cells(config, tmp_path):
    code = """import sys
from ddjax import sweep
from jax._src import xla_bridge
sweep.carry_out = lambda cell: print("begun", cell.name, bool(xla_bridge._backends)) or 2
sys.exit(sweep.main(sys.argv[1:]))"""
    argv = [sys.executable, "-c", code, "--config", config, "--method.ipc", "1,2", "--workdir", "T"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "begun sre2l-ipc1 False" in done.stdout and "begun sre2l-ipc2 False" in done.stdout


# ---------------------------------------------------------------------------------------- carrying out


def cell_of(folder, name="cell", words=()):
    return sweep.Cell(name, list(words), *sweep.config.load(["--workdir", str(folder / name), "--resume"]))


@pytest.fixture
def stand_in(monkeypatch):
    """Cells are this small program: its words are the Python to run."""
    monkeypatch.setattr(sweep, "command", lambda pipe, words: [sys.executable, "-c", *words])


FAILURES = [((0, 2, 0), 2), ((2, 1, 0), 1), ((-9, 0, 0), 3), ((0, 0, 0), 0), ((2, -9, 2), 2)]


@pytest.mark.parametrize(("codes", "code"), FAILURES)
def test_a_cell_that_fails_is_told_and_the_others_go_on(codes, code, tmp_path, monkeypatch, capsys):
    done = []
    answers = dict(zip("abc", codes, strict=True))
    monkeypatch.setattr(sweep, "carry_out", lambda cell: done.append(cell.name) or answers[cell.name])
    assert sweep.run_all([cell_of(tmp_path, name) for name in "abc"], tmp_path) == code
    assert done == ["a", "b", "c"]
    said = capsys.readouterr()
    assert f"{codes.count(0)} of 3 cells done" in said.out
    for name, found in answers.items():
        assert (f"sweep: {name}: {sweep.outcome(found)}; the others go on." in said.err) == (found != 0)
    assert "killed by SIGKILL" in said.err or -9 not in codes


def test_a_cell_that_was_stopped_stops_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "carry_out", lambda cell: 3)
    with pytest.raises(Interrupted, match="cell a was stopped; the same command goes on"):
        sweep.run_all([cell_of(tmp_path, name) for name in "ab"], tmp_path)


def test_a_signal_to_the_sweep_reaches_its_cell_once(tmp_path, stand_in):
    script = (
        "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(3)); print('up', flush=True); time.sleep(60)"
    )
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    with rundir.stoppable():
        timer.start()
        began = time.monotonic()
        with pytest.raises(Interrupted, match="SIGTERM"):
            sweep.run_all([cell_of(tmp_path, "a", [script]), cell_of(tmp_path, "b", ["raise SystemExit(9)"])], tmp_path)
        assert time.monotonic() - began < 30
    timer.join()


def test_exit_codes_and_signals_of_a_cell_come_back(tmp_path, stand_in):
    assert sweep.carry_out(cell_of(tmp_path, words=["raise SystemExit(2)"])) == 2
    assert sweep.carry_out(cell_of(tmp_path, words=["import os; os.kill(os.getpid(), 9)"])) == -9


def test_a_cell_whose_sweep_has_died_is_told_to_stop(tmp_path):
    script = """import sys, time
from ddjax import sweep
sweep.attended(sys.argv[1])
print("up", flush=True)
time.sleep(60)"""
    ours, theirs = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", script, str(ours)], pass_fds=(ours,), stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as cell:  # fmt: skip
        os.close(ours)
        assert cell.stdout is not None and cell.stdout.readline() == b"up\n" and cell.poll() is None
        os.close(theirs)
        assert cell.wait(30) == -signal.SIGTERM


def test_a_folder_in_use_is_waited_for(tmp_path, stand_in, capsys):
    (tmp_path / "cell").mkdir()
    freed = []

    def hold():
        with locked(tmp_path / "cell"):
            held.set()
            time.sleep(0.5)
            freed.append(True)

    held = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert sweep.carry_out(cell_of(tmp_path, words=["raise SystemExit(0)"])) == 0
    assert freed == [True] and capsys.readouterr().out.count("in use by process") == 1
    thread.join()


# -------------------------------------------------------------------------------------------- the whole


def test_a_sweep_that_is_killed_goes_on_and_ends_in_one_leaderboard(config, tmp_path, scratch_cache):
    argv = [sys.executable, "-m", "ddjax", "sweep", "--config", config, "--method.ipc", "1,2", "--workdir", "T"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "DDJAX_CACHE": str(scratch_cache), "PYTHONUNBUFFERED": "1"}

    def start():
        with open(tmp_path / "log.txt", "w") as log:
            return subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=log, stderr=log)

    def ended(process, patience):
        code = process.wait(patience)
        return code, (tmp_path / "log.txt").read_text()

    first, cell = start(), tmp_path / "T" / "sre2l-ipc1"
    while not (cell / "config.json").exists():
        assert first.poll() is None, (tmp_path / "log.txt").read_text()
        time.sleep(0.01)
    first.kill()
    first.wait()
    second = start()
    code, said = ended(second, 300)
    assert code == 0, said
    assert "cell 2 of 2, sre2l-ipc2" in said and "2 of 2 cells done" in said and "Traceback" not in said
    runs = [tmp_path / "T" / f"sre2l-ipc{ipc}" for ipc in (1, 2)]
    assert [len(read_lines(run / "results.jsonl")) for run in runs] == [2, 2]
    assert [read_json(run / "report.json")["ipc"] for run in runs] == [1, 2]
    text = (tmp_path / "T" / "leaderboard.md").read_text()
    assert "## digits, 100 training images, 1 image per class" in text and "2 images per class" in text
    before = {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*") if path.is_file()}
    third = start()
    code, said = ended(third, 100)
    assert code == 0 and said.count("done before") == 2, said
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
