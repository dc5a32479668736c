"""``ddjax evaluate SET``: a run judged again, a set from elsewhere, and what does not fit together."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from ddjax import __main__ as cli
from ddjax import api, baselines, config, estimate, evaluate, fitting, judge, launch, rundir, train
from ddjax.data import open_data
from ddjax.errors import ConfigError, DataError
from ddjax.files import read_json, read_lines
from ddjax.protocols import PROTOCOLS, Protocol
from ddjax.synset import DistilledSet

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("quick_compiles")
ARCH = "convnet1-w8-batch"
COMMON = ["--evaluate.protocol", "tiny", "--evaluate.seeds", "2", "--compute.mesh", "1", "1"]
DATA = ["--data.train", "digits", "--data.subset", "200"]


@pytest.fixture(scope="module", autouse=True)
def tiny_protocol():
    kept = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir",)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "tiny", Protocol(id="tiny", rates=(3e-3, 1e-2), step_range=(20, 20)))
        yield
    for name, value in kept.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run without baselines."""
    folder = tmp_path_factory.mktemp("run") / "run"
    argv = ["--config", str(ROOT / "configs" / "digits.py"), *DATA, "--teacher.arch", ARCH, "--teacher.epochs", "2",
            "--teacher.pool.size", "2", "--teacher.pool.snapshots", "1", "2", "--method.steps", "6", *COMMON,
            "--evaluate.archs", ARCH, "--evaluate.baselines", "none", "--workdir", str(folder)]  # fmt: skip
    assert cli.exit_code(launch.main, argv) == 0
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.fixture
def alone(run, tmp_path):
    """The set of the run, without its run."""
    return Path(shutil.copytree(run / "synset", tmp_path / "set"))


def judged(path, *flags):
    return cli.main(["evaluate", str(path), *flags])


def lone(path, *flags):
    return judged(path, *DATA, *COMMON, "--evaluate.archs", ARCH, *flags)


def lines(folder, **fields):
    return [line for line in read_lines(folder / "results.jsonl") if all(line[k] == v for k, v in fields.items())]


# --------------------------------------------------------------------------------------------- runs


def test_a_run_is_judged_again_beside_cheap_baselines(copy, capsys, monkeypatch):
    """Its data, seed and stored labels are taken from it; its own rows are read back, not made again.

    One image a class: the three coresets choose the same, which is trained once.
    """
    before, asked, evaluate_row = read_lines(copy / "results.jsonl"), [], evaluate.evaluate_row
    monkeypatch.setattr(evaluate, "evaluate_row", lambda *a, **k: (asked.append(a[1].name), evaluate_row(*a, **k))[1])
    assert judged(copy, "--compute.mesh", "1", "1") == 0
    assert asked == ["teddy", "teddy", "random_hard", "kmeans"]
    alike = [[line["accuracy"] for line in lines(copy, name=name)] for name in ("kmeans", "herding", "kcenter")]
    assert alike[0] == alike[1] == alike[2] and len(alike[0]) == 2
    spent = {name: [line["wall_s"] for line in lines(copy, name=name)] for name in config.CHEAP_BASELINES}
    assert min(spent["kmeans"]) > 0 and spent["herding"] == spent["kcenter"] == [0.0, 0.0]  # what is shared cost once
    shared = [line["name"] for line in lines(copy) if line.get("trained_as") == "kmeans"]
    assert shared == ["herding", "herding", "kcenter", "kcenter"]
    assert read_lines(copy / "results.jsonl")[: len(before)] == before
    assert [(line["label_source"], line["seed"]) for line in lines(copy, name="teddy")] == [
        ("pool", 0), ("pool", 1), ("hard", 0), ("hard", 1)
    ]  # fmt: skip
    assert {line["name"] for line in lines(copy)} == {"teddy", *config.CHEAP_BASELINES}
    report = read_json(copy / "report.json")
    assert (report["results"][0]["label_source"], report["results"][0]["seeds"]) == ("pool", 2)
    assert [row["name"] for row in report["baselines"]] == list(config.CHEAP_BASELINES)
    assert [row["label_source"] for row in report["results"]] == ["pool", "hard"]  # side by side
    assert all(row["budget"] == {"features": "pixels"} for row in report["baselines"][1:])
    said = capsys.readouterr().out
    assert "random_hard" in said and "herding, convnet1-w8-batch: the images of kmeans" in said
    assert "teacher" in read_json(copy / "config.json")  # still the run's own
    assert judged(copy / "synset", "--compute.mesh", "1", "1") == 0  # the set's folder stands for its run
    assert len(lines(copy)) == 12


def test_hard_labels_instead_of_the_stored_ones_are_a_row_of_their_own(copy):
    assert judged(copy, "--label.source", "hard", "--evaluate.baselines", "none", "--compute.mesh", "1", "1") == 0
    assert [row["label_source"] for row in read_json(copy / "report.json")["results"]] == ["pool", "hard"]
    assert len(lines(copy, name="teddy", label_source="hard")) == 2


def test_another_architecture_comes_after_the_runs_own(copy):
    assert judged(copy, "--evaluate.archs", "mlp", "--evaluate.baselines", "none", "--compute.mesh", "1", "1") == 0
    assert [row["arch"] for row in read_json(copy / "report.json")["results"]] == [ARCH, "mlp"]


def test_stored_labels_serve_only_the_views_they_were_made_for(copy, capsys):
    assert judged(copy, "--seed", "5", "--workdir", str(copy.with_name("other"))) == 2
    said = capsys.readouterr().err
    assert "label.source" in said and "seed 0" in said and "seed 5" in said and "--label.source hard" in said


# ------------------------------------------------------------------------------------ sets elsewhere


def test_a_set_from_elsewhere_is_judged_in_a_folder_of_its_own(alone, monkeypatch):
    stored = {p.name: p.read_bytes() for p in alone.iterdir()}
    assert lone(alone) == 0
    assert {p.name: p.read_bytes() for p in alone.iterdir()} == stored
    out = Path(f"{alone}-evaluated")
    report = read_json(out / "report.json")
    assert report["results"][0]["label_source"] == "hard" and report["results"][0]["seeds"] == 2
    assert (report["dataset"], report["method"], report["ipc"]) == ("digits", "teddy", 1)
    assert {row["name"] for row in report["baselines"]} == set(config.CHEAP_BASELINES)
    assert (out / "report.html").exists()
    monkeypatch.setattr(train, "fit", lambda *a, **k: pytest.fail("judged again"))
    monkeypatch.setattr(evaluate, "announce", lambda *a, **k: None)
    assert lone(alone) == 0  # nothing is left to do


def test_the_folder_of_an_evaluation_stands_for_its_set(alone, monkeypatch):
    """The set has no method: it came from elsewhere."""
    made = DistilledSet.load(alone)
    DistilledSet(made.images, made.labels, made.class_names, made.mean, made.std).save(alone)
    assert lone(alone, "--evaluate.baselines", "none") == 0
    monkeypatch.setattr(train, "fit", lambda *a, **k: pytest.fail("judged again"))
    for path in ("set-evaluated", "set-evaluated/synset"):
        assert lone(alone.parent / path, "--evaluate.baselines", "none") == 0
    assert sorted(p.name for p in alone.parent.iterdir()) == ["set", "set-evaluated"]
    assert read_json(alone.parent / "set-evaluated" / "report.json")["method"] == "set"


@pytest.mark.parametrize("part", ["images", "labels", "augment", "logits"])
def test_a_folder_that_holds_another_set_is_refused(part, run, alone, tmp_path, capsys):
    made = DistilledSet.load(alone)
    changed = {
        "images": dict(images=255 - made.images), "labels": dict(labels=made.labels[::-1].copy()),
        "augment": dict(meta={**made.meta, "augment": "dsa"}),
        "logits": dict(label_logits=np.zeros((len(made.labels), len(made.class_names)), np.float32)),
    }[part]  # fmt: skip
    dataclasses.replace(made, **changed).save(tmp_path / "other")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    assert lone(tmp_path / "other", "--workdir", str(run)) == 2
    assert "holds another set" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert lone(alone, "--workdir", str(tmp_path / "mine")) == 2
    assert "files that are no evaluation" in capsys.readouterr().err


def test_a_set_in_memory_is_judged_from_python(alone, tmp_path):
    asked = config.Judge(
        data=config.Data(train="digits", subset=200), workdir=str(tmp_path / "judged"),
        evaluate=config.Evaluate(protocol="tiny", archs=(ARCH,), seeds=2, baselines="none"),
        compute=config.Compute(mesh=(1, 1)),
    )  # fmt: skip
    made = DistilledSet.load(alone)
    first, again = api.evaluate(made, asked), api.evaluate(made, asked)
    assert first["results"] == again["results"] and first["results"][0]["seeds"] == 2


# ------------------------------------------------------------------------------------------ misfits


def changed(folder, **fields):
    made = DistilledSet.load(folder)
    parts = {name: getattr(made, name) for name in ("images", "labels", "class_names", "mean", "std", "meta")} | fields
    return DistilledSet(**parts).save(folder.with_name("changed"))


def test_epochs_that_would_be_overruled_are_refused_before_anything_is_made(alone, capsys):
    assert judged(alone, *DATA, "--archs", ARCH, "--modify", "epochs=10", "momentum=0.5", "epoch=3") == 2
    said = capsys.readouterr().err
    assert "3 problems" not in said and "momentum = 0.5 has no effect under ddjax-1" in said and "'epochs'" in said
    assert judged(alone, *DATA, "--archs", ARCH, "--modify", "epochs=10") == 2
    assert "epochs = 10 comes to 10 updates on 10 images, but step_range" in capsys.readouterr().err
    assert not Path(f"{alone}-evaluated").exists()


def test_a_launch_is_refused_for_what_its_method_does_not_learn(tmp_path, capsys):
    """Before any device is touched, and all at once."""
    argv = ["--config", str(ROOT / "configs" / "digits.py"), *DATA, "--workdir", str(tmp_path / "run")]
    flags = ("--evaluate.protocol", "P-MTT", "--label.source", "learned")
    assert cli.exit_code(launch.main, [*argv, *flags]) == 2
    said = capsys.readouterr().err
    assert "the method learns none. Nearest: --evaluate.protocol P-DC" in said and "the method learns no labels" in said
    assert cli.exit_code(launch.main, [*argv, "--evaluate.modify", "epochs=10"]) == 2
    assert "comes to 10 updates on 10 images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    grid = config.Evaluate(protocol="P-MTT", modify=("rate=grid", "rates=0.1"))
    assert not config.Run(evaluate=grid).check() and config.Run(evaluate=config.Evaluate(protocol="P-MTT")).check()


def test_classes_are_matched_by_name_and_others_are_refused(alone, capsys):
    data = open_data(config.Data(subset=200), 0)
    names = ("0", "1", "3", "2", *map(str, range(4, 10)))
    made = DistilledSet.load(changed(alone, class_names=names))
    counted = fitting.fitted(made, data, "set")
    assert counted.class_names == counted.card.class_names == names and counted.hash != data.hash
    for split, plain in ((counted.train, data.train), (counted.val, data.val), (counted.test, data.test)):
        assert [names[i] for i in split.labels] == [data.class_names[i] for i in plain.labels]
        np.testing.assert_array_equal(split.images, plain.images)
        assert split.hash != plain.hash
    few = DistilledSet.load(alone)
    part = DistilledSet(few.images[:9], few.labels[:9], few.class_names[:9], few.mean, few.std, few.meta)
    with pytest.raises(DataError, match=r"9 classes, data.train 10; 1 only in data.train: 9"):
        fitting.fitted(part, data, "set")
    assert fitting.fitted(few, data, "set") is data


def test_a_set_is_not_judged_on_another_data_set(alone, capsys):
    meta = DistilledSet.load(alone).meta
    folder = changed(alone, meta={**meta, "dataset": {**meta["dataset"], "card": "mnist"}})
    assert lone(folder) == 2
    assert "was made of mnist, data.train is digits; allowed: the same" in capsys.readouterr().err
    assert not Path(f"{folder}-evaluated").exists()


def test_results_of_other_data_never_share_a_folder(copy, capsys):
    lines = (copy / "results.jsonl").read_text()
    assert judged(copy, "--data.subset", "300") == 2
    assert "holds results on other data" in capsys.readouterr().err
    assert (copy / "results.jsonl").read_text() == lines


def test_images_must_have_the_shape_of_the_data(alone, capsys):
    images = np.zeros((10, 16, 16, 1), np.uint8)
    assert lone(changed(alone, images=images)) == 2
    assert "(16, 16, 1), data.train (8, 8, 1)" in (said := capsys.readouterr().err) and "--data.size 16" in said


def test_baselines_need_equal_classes_and_as_many_images_as_there_are(alone, capsys):
    odd = np.array([0, 0, 0, 3, 4, 5, 6, 7, 8, 9], np.int32)
    folder = changed(alone, labels=odd)
    assert lone(folder) == 2
    assert "0 to 3 images per class" in (said := capsys.readouterr().err) and "--evaluate.baselines none" in said
    assert lone(folder, "--evaluate.baselines", "none") == 0
    images, labels = np.zeros((400, 8, 8, 1), np.uint8), np.repeat(np.arange(10, dtype=np.int32), 40)
    assert lone(changed(alone, images=images, labels=labels)) == 2
    assert "images of the smallest class" in capsys.readouterr().err


def test_learned_labels_belong_to_no_class_so_that_baselines_hold_as_many_of_each(alone, capsys):
    """``N / C`` images of each class, whatever the largest of the learned labels is; hard labels ask for equal ones."""
    odd = np.array([0, 0, 0, 3, 4, 5, 6, 7, 8, 9], np.int32)
    logits = (9 * np.eye(10, dtype=np.float32))[odd]
    folder = changed(alone, labels=odd, label_logits=logits)
    assert lone(folder, "--evaluate.baselines", "random_hard,kmeans") == 0
    out = Path(f"{folder}-evaluated")
    assert {(line["name"], line["label_source"]) for line in lines(out)} == {
        ("teddy", "learned"), ("teddy", "hard"), ("random_hard", "hard"), ("kmeans", "hard")
    }  # fmt: skip
    assert read_json(out / "report.json")["ipc"] == 1
    capsys.readouterr()
    assert cli.main(["set", "show", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "1 image per class with learned labels" in said and "images by their largest learned label" in said
    assert lone(folder, "--label.source", "hard") == 2
    assert "0 to 3 images per class; the baselines need equal numbers" in capsys.readouterr().err
    assert lone(folder, "--evaluate.further", "coverage", "optimisers", "continual") == 2
    assert "coverage and continual of --evaluate.further take images class by class" in capsys.readouterr().err
    more = [*range(10), 0]
    images = DistilledSet.load(alone).images[more]
    assert lone(changed(alone, images=images, labels=odd[more], label_logits=logits[more])) == 2
    said = capsys.readouterr().err
    assert "11 images with learned labels in all for 10 classes; the baselines need equal numbers" in said


def test_check_tells_what_would_run_and_writes_nothing(copy, alone, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise AssertionError("something was started")

    for module, name in ((judge, "prepare"), (train, "fit"), (baselines, "full_data"), (DistilledSet, "save")):
        monkeypatch.setattr(module, name, refuse)
    before = {path: path.read_bytes() for path in sorted(alone.parent.rglob("*")) if path.is_file()}
    assert lone(alone, "--check", "--baselines", "random_hard,full_data", "--workdir", str(alone.parent / "out")) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["rows"] == ["teddy (hard)", "random_hard", "full_data"] and found["protocol"] == "tiny"
    assert found["archs"] == {ARCH: {"batch": 10, "updates": 20, "students": 2 * (2 + 2)}}
    assert found["images"] == found["classes"] == 10 and found["image_shape"] == [8, 8, 1]
    assert found["needed_bytes"] == max(found["stages_bytes"].values()) > 0 and found["fits"]
    assert set(found["stages_bytes"]) == {"evaluate", "full_data"} and found["workdir"] == str(alone.parent / "out")
    assert "--check: fits." in said.err and "160 updates of students at most" in said.err
    assert judged(copy, "--check", "--compute.mesh", "1", "1") == 0  # a run's own labels
    assert json.loads(capsys.readouterr().out)["rows"][:2] == ["teddy (pool)", "teddy (hard)"]
    monkeypatch.setattr(estimate, "device_bytes", lambda: found["needed_bytes"] - 1)
    assert lone(alone, "--check", "--baselines", "random_hard,full_data") == 2
    assert "does not fit" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in sorted(alone.parent.rglob("*")) if path.is_file()} == before


def test_check_refuses_what_the_evaluation_would_refuse(copy, alone, capsys):
    images, labels = np.zeros((400, 8, 8, 1), np.uint8), np.repeat(np.arange(10, dtype=np.int32), 40)
    assert lone(changed(alone, images=images, labels=labels), "--check") == 2
    assert "images of the smallest class" in capsys.readouterr().err
    assert judged(copy, "--seed", "5", "--check", "--workdir", str(copy.with_name("other"))) == 2
    assert "the labels stored in" in capsys.readouterr().err
    assert judged(alone, "--data.train", "folder:/nowhere", "--check") == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_a_set_that_is_not_there_is_named(tmp_path, capsys):
    assert lone(tmp_path / "nothing") == 2
    assert "does not exist." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_without_its_labels_says_what_is_missing_and_how_to_make_it(copy, capsys):
    (copy / "labels" / "manifest.json").unlink()
    assert judged(copy) == 2
    assert "labels/manifest.json' does not exist" in capsys.readouterr().err
    shutil.rmtree(copy / "labels")
    assert judged(copy) == 2
    assert "its run holds no labels. Allowed: --label.source hard or base, or first" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- the machine


def test_a_batch_is_split_only_where_one_device_cannot_hold_it(tmp_path, monkeypatch):
    def split(name: str, **given) -> bool:
        asked = config.Judge(data=config.Data(subset=200), compute=config.Compute(**given))
        return judge.prepare(asked, rundir.RunDir(tmp_path / name), open_data(asked.data, 0)).over.split

    assert jax.device_count() > 1
    assert not split("a") and split("b", split_batch=True)
    monkeypatch.setattr(estimate, "device_bytes", lambda: 1 << 20)
    assert split("c") and not split("d", split_batch=False)
    assert not split("e", mesh=(1, 1)) and split("f", mesh=(1, 2))
    with pytest.raises(ConfigError, match=r"compute\.mesh = \(64, 2\) .* at most \d+, the devices here \(cpu\)"):
        split("g", mesh=(64, 2))


def test_the_machine_is_noted_and_another_one_is_told(run, tmp_path, capsys):
    machine = read_json(run / ".state" / "machine.json")
    assert set(machine) == {"device", "devices", "cores", "jax", "how", "conv"}
    folder = rundir.RunDir(tmp_path / "run")
    folder.machine.parent.mkdir(parents=True)
    folder.machine.write_text((run / ".state" / "machine.json").read_text().replace(machine["jax"], "0.1"))
    asked = config.Judge(data=config.Data(subset=200))
    judge.prepare(asked, folder, open_data(asked.data, 0))
    said = capsys.readouterr().out
    assert "another machine shape" in said and "not to the bit" in said
    assert read_json(folder.machine)["jax"] == machine["jax"]
    assert jax.config.jax_persistent_cache_enable_xla_caches == "none"  # or the cache's path enters every key


@pytest.mark.parametrize(
    ("line", "asked", "refused"),
    [
        ("P-DC+modified", config.Evaluate(protocol="P-DC", modify=("epochs=2",)), None),  # the same again
        ("P-DC+modified", config.Evaluate(protocol="P-DC", modify=("epochs=9",)), "--protocol P-DC --modify epochs=2"),
        ("P-DC+modified", config.Evaluate(protocol="P-HL"), "rows of a modified protocol"),
        ("P-DC", config.Evaluate(protocol="P-HL"), None),  # an id that tells everything
    ],
)
def test_rows_of_a_modified_protocol_keep_the_configuration_that_tells_it(line, asked, refused, tmp_path):
    out = rundir.RunDir(tmp_path)
    judge.check_modified(out, asked)  # an empty folder
    out.config.write_text('{"evaluate": {"protocol": "P-DC", "modify": ["epochs=2"]}}')
    out.results.write_text(f'{{"schema": 1, "protocol": "{line}"}}\n')
    if refused is None:
        return judge.check_modified(out, asked)
    with pytest.raises(ConfigError, match=refused):
        judge.check_modified(out, asked)
