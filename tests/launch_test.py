"""The whole way in one command: files, exit codes, resume, and what is refused before anything is made."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from ddjax import config, distill, evaluate, launch, rundir, teachers, train
from ddjax.__main__ import exit_code
from ddjax.config.flags import split
from ddjax.errors import Interrupted
from ddjax.files import locked, read_json, read_lines
from ddjax.protocols import PROTOCOLS, Protocol
from ddjax.synset import DistilledSet

ROOT = Path(__file__).resolve().parents[1]
ARCH = "convnet1-w8-batch"
TINY = [
    "--config", str(ROOT / "configs" / "digits.py"), "--data.subset", "200", "--teacher.arch", ARCH,
    "--teacher.epochs", "2", "--teacher.pool.size", "2", "--teacher.pool.snapshots", "1", "2",
    "--method.steps", "6", "--evaluate.archs", ARCH, "--evaluate.protocol", "tiny", "--evaluate.seeds", "2",
    "--compute.mesh", "1", "1", "--evaluate.baselines", "all",
]  # fmt: skip
BASELINES = {
    "random_hard", "random_soft", "random_early_soft", "kmeans", "herding", "kcenter", "forgetting", "base_labels",
    "random_same_bytes", "full_data",
}  # fmt: skip
REGISTERED = """
import dataclasses, runpy
from ddjax.protocols import PROTOCOLS, Protocol
PROTOCOLS["tiny"] = Protocol(id="tiny", rates=(3e-3, 1e-2), step_range=(20, 20))

def get_config():
    return runpy.run_path({digits!r})["get_config"]()
"""


@pytest.fixture(scope="module", autouse=True)
def tiny_protocol():
    """A protocol of twenty steps, and the handlers and folder of compiled programs as they were."""
    kept = jax.config.jax_compilation_cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "tiny", Protocol(id="tiny", rates=(3e-3, 1e-2), step_range=(20, 20)))
        yield
    jax.config.update("jax_compilation_cache_dir", kept)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One whole run, every baseline."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(folder) == 0
    return folder


@pytest.fixture
def copy(done, tmp_path):
    """The finished run, to be harmed."""
    return shutil.copytree(done, tmp_path / "copy")


def over(*flags):
    """TINY with these flags in place of its own of the same name: no flag may be given twice."""
    named = {flag.name for flag in split(flags)[1]}
    kept = [flag for flag in split(TINY)[1] if flag.name not in named]
    return [word for flag in kept for word in (f"--{flag.name}", *flag.words)] + list(flags)


def main(folder, *flags):
    return exit_code(launch.main, over("--workdir", str(folder), *flags))


def content(folder):
    """Every file of a run that counts, by name."""
    found = (p for p in Path(folder).rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def own_lines(folder):
    """The lines of the set with its own labels."""
    lines = read_lines(folder / "results.jsonl")
    return [line for line in lines if (line["name"], line["label_source"]) == ("teddy", "pool")]


def refuse(*args, **kwargs):
    raise AssertionError("work was started")


# --------------------------------------------------------------------------------------- the files


def test_a_run_leaves_the_files_of_the_design(done):
    names = set(content(done))
    assert names == {
        "config.json", "records.jsonl", "results.jsonl", "report.json", "report.html", "cost.json", "citations.bib",
        "samples.safetensors", "synset/manifest.json", "synset/images.safetensors", "labels/manifest.json",
        "labels/labels.safetensors", "teachers/pool.json", ".state/stages.json", ".state/machine.json",
    }  # fmt: skip
    config = read_json(done / "config.json")
    assert "workdir" not in config and config["method"]["steps"] == 6 and config["method"]["lr"] is not None
    records = read_lines(done / "records.jsonl")
    assert all(set(r) == {"schema", "wall", "stage", "step", "values"} and r["schema"] == 1 for r in records)
    assert "distill" in {r["stage"] for r in records}


def test_the_set_is_complete(done):
    made, tensors = DistilledSet.load(done), load_file(done / "synset" / "images.safetensors")
    assert tensors["images"].shape == (10, 8, 8, 1) and tensors["images"].dtype == np.uint8
    assert tensors["labels"].tolist() == list(range(10))
    about = read_json(done / "synset" / "manifest.json")
    assert about["class_names"] == [str(d) for d in range(10)] and about["protocol"] == "tiny"
    assert about["method"]["class"] == "teddy" and about["teacher"]["arch"] == ARCH
    assert about["dataset"]["card"] == "digits" and any("subset" in note for note in about["dataset"]["notes"])
    assert len(made.meta["teacher"]["pool_accuracy"]) == 2
    assert about["departures"]["steps"] == [6, 1000] and "ipc" not in about["departures"]
    told = (done / "report.html").read_text().partition("Not the published setting (in brackets): ")[2]
    assert "steps 6 (1000)" in told.partition("</p>")[0]
    labels = read_json(done / "labels" / "manifest.json")
    assert (labels["label_source"], labels["images"], labels["views"]) == ("pool", 10, 200)
    assert load_file(done / "labels" / "labels.safetensors")["logits"].shape == (20, 10, 10)


def test_the_report_has_the_keys_that_others_read(done):
    report = read_json(done / "report.json")
    assert set(report) == {
        "schema", "dataset", "method", "ipc", "protocol", "results", "baselines", "scores", "cost", "bytes"
    }  # fmt: skip
    row = {"arch", "label_source", "accuracy_mean", "accuracy_std", "seeds"}
    assert [set(r) for r in report["results"]] == [row] * 2
    assert [r["label_source"] for r in report["results"]] == ["pool", "hard"]  # side by side
    assert all(set(r) == row | {"name", "budget"} for r in report["baselines"])
    assert {r["name"] for r in report["baselines"]} == BASELINES
    assert set(report["cost"]) == {"wall_s", "peak_memory_bytes", "compile_s"}
    assert set(report["cost"]["wall_s"]) == {"teachers", "distill", "label", "evaluate"}
    assert set(report["bytes"]) == {"images", "labels", "projector", "backbone_if_shipped"}
    assert (report["dataset"], report["method"], report["ipc"]) == ("digits", "teddy", 1)
    scores = report["scores"]
    assert 0 < scores["lrs"] < 1 and scores["lrs_interval"][0] <= scores["lrs"] and scores["ars"] is None
    assert scores["random"] == {"name": "random_soft", "label_source": "pool"}
    spent = next(r for r in report["baselines"] if r["name"] == "random_same_bytes")["budget"]
    assert spent["bytes_allowed"] == report["bytes"]["images"] + report["bytes"]["labels"] >= spent["bytes"]
    early = next(r for r in report["baselines"] if r["name"] == "random_early_soft")
    assert early["label_source"] == "early" and early["budget"]["stopped_epoch"] in early["budget"]["tried_epochs"]
    own = own_lines(done)
    assert [line["seed"] for line in own] == [0, 1]
    first = report["results"][0]
    assert (first["arch"], first["label_source"], first["seeds"]) == (ARCH, "pool", 2)
    assert first["accuracy_mean"] == pytest.approx(np.mean([line["accuracy"] for line in own]))
    page = (done / "report.html").read_text()
    assert "<html" in page and "Content-Security-Policy" in page and "refresh" not in page and "<script" not in page


# -------------------------------------------------------------------------------- whose folder it is


def test_a_folder_that_holds_a_run_is_refused(done, capsys):
    before = content(done)
    assert main(done) == 2
    assert "--resume" in (said := capsys.readouterr().err) and "--overwrite" in said
    assert content(done) == before


def test_resuming_a_finished_run_computes_nothing(done, capsys, monkeypatch):
    before = content(done)
    for module, name in ((train, "fit"), (distill, "distill"), (teachers, "build"), (evaluate, "evaluate_row")):
        monkeypatch.setattr(module, name, refuse)
    assert main(done, "--resume") == 0
    assert capsys.readouterr().out.count("done before, inputs unchanged; skipped.") == 3
    after = content(done)
    assert {n for n in after if before.get(n) != after[n]} <= {"cost.json", "report.json", "report.html"}
    assert main(done, "--resume", "--config", str(done / "config.json")) == 0  # its own configuration, as stored


@pytest.mark.parametrize("how", ["--resume", "--only evaluate"])
def test_a_run_of_another_configuration_is_refused_and_not_touched(how, done, capsys):
    before = content(done)
    assert main(done, *how.split(), "--method.steps", "7") == 2
    said = capsys.readouterr().err
    assert "method.steps: 6 there, 7 here" in said and "config.json" in said
    assert content(done) == before


def test_a_folder_that_is_no_run_is_never_emptied(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    for how in ((), ("--resume",), ("--overwrite",)):
        assert main(tmp_path, *how) == 2
    assert "no run of ddjax" in capsys.readouterr().err
    assert content(tmp_path) == {"thesis.tex": b"years of work"}


def test_overwriting_makes_the_same_set_anew(copy, done):
    (copy / "synset" / "images.safetensors").write_bytes(b"harmed")
    (copy / "older").mkdir()
    assert main(copy, "--overwrite", "--evaluate.baselines", "none") == 0
    assert not (copy / "older").exists()
    for name in ("synset/images.safetensors", "labels/labels.safetensors", "synset/manifest.json"):
        assert (copy / name).read_bytes() == (done / name).read_bytes()
    accuracy = [[line["accuracy"] for line in own_lines(run)] for run in (copy, done)]
    assert accuracy[0] == accuracy[1]


def test_a_run_in_another_process_is_left_alone(copy, capsys):
    before = content(copy)
    with locked(copy):
        assert main(copy, "--resume") == 2
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    assert content(copy) == before


@pytest.mark.parametrize("how", ["missing", "empty", "leftovers"])
def test_resuming_where_there_is_nothing_starts_at_the_beginning(how, done, tmp_path):
    folder = tmp_path / "run"
    if how != "missing":
        folder.mkdir()
    if how == "leftovers":
        for name in (".lock", ".synset.tmp-1-abcd", "x.lock", "y.tmp"):
            (folder / name).touch()
        (folder / "__pycache__").mkdir()
    assert main(folder, "--resume", "--only", "teachers", "distill") == 0
    assert (folder / "synset" / "images.safetensors").read_bytes() == (
        done / "synset" / "images.safetensors"
    ).read_bytes()
    assert not (folder / "results.jsonl").exists() and not list(folder.glob(".*.tmp-*"))


# --------------------------------------------------------------------------------------------- only


def test_only_evaluate_adds_to_a_run(copy, monkeypatch):
    monkeypatch.setattr(distill, "distill", refuse)
    assert main(copy, "--only", "evaluate", "report", "--evaluate.seeds", "3", "--evaluate.baselines", "none") == 0
    report = read_json(copy / "report.json")
    assert report["results"][0]["seeds"] == 3 and len(report["baselines"]) == len(BASELINES)
    assert read_json(copy / "config.json")["evaluate"]["seeds"] == 3


def test_only_label_makes_the_labels_again_and_evaluate_follows(copy):
    assert main(copy, "--only", "label", "evaluate", "--label.epochs", "4", "--evaluate.baselines", "none") == 0
    assert load_file(copy / "labels" / "labels.safetensors")["logits"].shape == (4, 10, 10)
    lines = own_lines(copy)
    assert len({line["inputs"] for line in lines}) == 2 and len(lines) == 4  # the old ones were not read back


def test_only_report_needs_no_teachers(copy, monkeypatch):
    monkeypatch.setattr(teachers, "build", refuse)
    (copy / "report.html").unlink()
    assert main(copy, "--only", "report") == 0
    assert (copy / "report.html").exists()


def test_a_stage_whose_ground_is_missing_is_refused_and_nothing_made(tmp_path, capsys):
    assert main(tmp_path / "run", "--only", "evaluate") == 2
    assert "evaluate stands on distill and label" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("method", ["teddy", "sre2l"])
def test_ipc_above_the_smallest_class_is_refused(method, tmp_path, capsys):
    assert main(tmp_path / "run", "--method", method, "--method.ipc", "50") == 2
    assert "method.ipc = 50 is out of range; allowed: <= " in (said := capsys.readouterr().err)
    assert "training images of the smallest class '" in said and "Nearest valid: " in said
    assert not (tmp_path / "run").exists()


def test_a_store_that_does_not_fit_is_refused_before_a_folder_is_made(tmp_path, capsys):
    assert main(tmp_path / "run", "--method", "mtt", "--method.store", str(tmp_path / "nowhere")) == 2
    assert "holds no experts" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_not_published_and_small_tiles_are_told():
    run, _ = config.load(over("--method", "dm", "--method.factor", "2"))
    apart, tiles = launch.cautions(run, launch.open_data(run.data, 0))
    assert "steps 6 (20000)" in apart and "factor 2 (1)" in apart
    assert tiles.startswith("method.factor = 2 leaves tiles of 4 pixels")
    run, _ = config.load(["--method", "random"])
    assert launch.cautions(run, launch.open_data(run.data, 0)) == []


def command(*flags, config):
    """A run in a process of its own, with the tests' compiled programs."""
    return [sys.executable, "-m", "ddjax.launch", *over("--config", str(config), *map(str, flags))]


@pytest.fixture
def registered(tmp_path):
    """A configuration that knows the tiny protocol by itself."""
    path = tmp_path / "tiny.py"
    path.write_text(REGISTERED.format(digits=str(ROOT / "configs" / "digits.py")))
    return path


def test_a_refusal_comes_within_ten_seconds(tmp_path, registered):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command("--method.ipc", "1000", "--workdir", tmp_path / "run", config=registered),
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2 and "method.ipc = 1000" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10  # of the processor, not the wall


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--teacher.lr", "1e30"), "teachers: the loss is not finite in steps 0..3; "),
        (("--method.alpha", "3e38"), "loss not finite in steps 0..5; "),
    ],
)
def test_a_number_that_is_not_finite_names_stage_steps_and_checkpoint(flags, said, tmp_path, capsys):
    assert main(tmp_path / "run", *flags) == 2
    err = capsys.readouterr().err
    assert said in err and "last good checkpoint: step 0" in err and "Traceback" not in err
    assert (tmp_path / "run" / "config.json").exists()  # the stage had begun: what there is stays


def test_a_defect_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "open_data", refuse)
    with pytest.raises(AssertionError, match="work was started"):
        main(tmp_path / "run")


@pytest.mark.parametrize("method", ["teddy", "sre2l"])
def test_given_weights_serve_every_method(method, done, tmp_path, monkeypatch, capsys):
    cache = Path(os.environ["DDJAX_CACHE"]) / "teachers" / read_json(done / "teachers" / "pool.json")["hash"]
    flags = ("--teacher.weights", str(cache), "--method", method, "--method.steps", "6", "--only", "distill")
    monkeypatch.setattr(teachers, "train_base", refuse)
    assert main(tmp_path / "run", *flags, "--teacher.pool.accept", "0", "1", "--teacher.pool.tune_epochs", "0") == 0
    about = read_json(tmp_path / "run" / "synset" / "manifest.json")
    assert about["teacher"]["accuracy"] == read_json(done / "teachers" / "pool.json")["accuracy"]
    assert len(about["teacher"]["pool_accuracy"]) == (2 if method == "teddy" else 1)
    assert main(tmp_path / "other", *flags, "--teacher.arch", "convnet2-w8-batch") == 2
    assert "does not fit convnet2-w8-batch" in capsys.readouterr().err and not (tmp_path / "other").exists()


# ------------------------------------------------------------------------------------------- signals


def test_a_signal_is_noted_and_obeyed_at_a_safe_point(capfd):
    """Not where it arrives: there libraries swallow exceptions, and a device may be at work."""
    kept = []

    class Saves:
        def save(self, *state):
            kept.append(state)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="SIGINT"), rundir.stoppable():
        rundir.stop_if_asked(Saves(), 1)
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before[1]  # a second one stops at once
        rundir.stop_if_asked(Saves(), 2, "state")
    assert kept == [(2, "state")] and "SIGINT: stops at the next safe point" in capfd.readouterr().err
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    rundir.stop_if_asked()  # forgotten
    with ThreadPoolExecutor(1) as pool, rundir.stoppable():
        pool.submit(lambda: rundir.stoppable().__enter__()).result()  # only the main thread may set handlers


def test_sigterm_ends_in_good_order_and_the_run_can_be_resumed(tmp_path, registered):
    """Exit code 3 from the middle of distilling; the resumed run goes on from the checkpoint to the end."""
    folder, flags = tmp_path / "run", ("--method.steps", "600", "--compute.checkpoint_every", "20")
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    argv = command(*flags, "--workdir", folder, config=registered)
    steps = folder / ".state" / "distill"

    def saved():
        return [int(p.name) for p in steps.glob("*") if p.name.isdigit()]

    with subprocess.Popen(
        argv, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        deadline = time.monotonic() + 300
        while not saved() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=120)
    assert run.returncode == 3, (out, err)
    assert "with --resume" in err and "SIGTERM" in err and "Traceback" not in err
    assert read_json(folder / "cost.json")["wall_s"]["distill"] > 0
    stopped = [r["step"] for r in read_lines(folder / "records.jsonl")]
    reached = max(saved())
    assert 20 <= reached == stopped[-1] < 600  # nothing is lost
    assert main(folder, *flags, "--resume", "--only", "distill") == 0
    went_on = [r["step"] for r in read_lines(folder / "records.jsonl")][len(stopped) :]
    assert went_on == list(range(reached + 20, 601, 20))
    assert len(DistilledSet.load(folder)) == 10 and not steps.exists()
