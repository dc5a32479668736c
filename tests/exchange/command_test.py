"""``ddjax set``: what it prints, what it refuses, with which exit code, and that nothing half-written remains."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from ddjax import __main__ as cli
from ddjax import relabel, report, runfiles, storage, tally
from ddjax.data.torchfile import read_pt
from ddjax.exchange import command, softlabels
from ddjax.exchange.recipe import recipe
from ddjax.synset import DistilledSet
from ddjax.types import Augment

RNG = np.random.Generator(np.random.Philox(6))
MADE = DistilledSet(
    RNG.integers(0, 256, (6, 8, 8, 1)).astype(np.uint8), np.repeat(np.arange(3, dtype=np.int32), 2),
    ("zero", "one", "two"), (0.5,), (0.25,),
    {"dataset": {"card": "digits", "licence": "BSD-3-Clause"}, "method": {"class": "teddy", "ipc": 2}, "seeds": [0]},
)  # fmt: skip


def run(*argv):
    return cli.main(["set", *map(str, argv)])


@pytest.fixture
def folder(tmp_path):
    return MADE.save(tmp_path / "run" / "synset").parent


def test_show_tells_what_the_set_is_and_how_to_train_on_it(folder, capsys):
    assert run("show", folder) == 0
    said = capsys.readouterr().out
    for part in (
        "digits distilled by teddy, 2 images per class", "6 of 8x8x1, uint8 pixels in [0, 255]", "BSD-3-Clause",
        "(pixel / 255 - [0.5]) / [0.25]", "images 384 bytes, labels 24 bytes: 408 bytes in all", "2  two (2)",
        "torch.load(FILE, weights_only=True)",
    ):  # fmt: skip
        assert part in said
    assert run("show", folder, "--recipe") == 0
    program = capsys.readouterr().out
    assert program == recipe(MADE)
    compile(program, "recipe", "exec")


def test_check_vouches_for_a_sound_set_and_names_every_problem_of_another(folder, capsys):
    assert run("check", folder) == 0
    assert "sound. 6 images 8x8x1 uint8 (pixels), 3 classes; images 384 bytes" in capsys.readouterr().out
    file = folder / "synset" / "images.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    about = folder / "synset" / "manifest.json"
    about.write_text(about.read_text().replace('"two"', '"tow"'))
    assert run("check", folder) == 2
    said = capsys.readouterr().err
    assert "has 2 problems:\n  - manifest.json is not as it was written" in said
    assert "\n  - file = " in said


def test_there_and_back_through_every_target(folder, tmp_path, capsys):
    for to in ("folder", "npz", "hf", "webdataset", "torch"):
        assert run("export", folder, tmp_path / to, "--to", to) == 0
        assert capsys.readouterr().out == f"{tmp_path / to}\n"
        assert run("import", tmp_path / to, tmp_path / f"{to}-back", f"--preset={command.OWN}") == 0
        assert "6 images 8x8x1, pixels; 3 classes" in capsys.readouterr().out
        back = tmp_path / f"{to}-back" / "manifest.json"
        assert back.read_bytes() == (folder / "synset" / "manifest.json").read_bytes()


def test_what_ddjax_wrote_is_pointed_to_the_preset_that_reads_it(folder, tmp_path, capsys):
    for to, name in (("folder", "tree"), ("npz", "set.npz"), ("torch", "set.foo")):
        assert run("export", folder, tmp_path / name, "--to", to) == 0
        assert ("note: set.foo is a .pt file" in capsys.readouterr().out) == (to == "torch")
        assert run("import", tmp_path / name, tmp_path / "out", "--preset", "vico", "--dataset", "digits") == 2
        assert capsys.readouterr().err.endswith(" It is an export of ddjax: --preset ddjax.\n")
    for own in (folder / "synset", folder / "synset" / "images.safetensors"):
        assert run("import", own, tmp_path / "out", "--preset", "mtt", "--dataset", "digits") == 2
        assert "synset' is a set of ddjax: every command reads it as it is." in capsys.readouterr().err
    (tmp_path / "labels").mkdir()
    for name in ("manifest.json", "labels.safetensors"):
        (tmp_path / "labels" / name).write_bytes(b"{}")
    assert run("show", tmp_path / "labels") == 2
    assert "labels' holds labels of views, no images; allowed are" in capsys.readouterr().err


def test_convert_writes_another_set_and_says_what_it_loses(folder, tmp_path, capsys):
    assert run("convert", folder, tmp_path / "float", "--dtype", "float32") == 0
    made = DistilledSet.load(tmp_path / "float")
    assert made.space == "normalised"
    capsys.readouterr()
    assert run("convert", tmp_path / "float", tmp_path / "back", "--dtype", "uint8") == 0
    assert run("export", tmp_path / "float", tmp_path / "tree", "--to", "folder") == 0
    assert "note" not in capsys.readouterr().out  # every pixel is whole: nothing was lost
    assert DistilledSet.load(tmp_path / "back").packed() == MADE.packed()
    dataclasses.replace(made, images=made.images + np.float32(0.01)).save(tmp_path / "learned")
    assert run("convert", tmp_path / "learned", tmp_path / "rounded", "--dtype", "uint8") == 0
    assert "note: the float images were un-normalised and rounded to 0..255" in capsys.readouterr().out


def test_import_hands_over_what_was_asked(tmp_path, monkeypatch, capsys):
    seen = {}

    def fake(src, **asked):
        seen.update(asked, src=src)
        return MADE

    monkeypatch.setattr("ddjax.exchange.importing.import_set", fake)
    (tmp_path / "classes.txt").write_text("zero\n one \n\ntwo\n")
    assert run("import", "a.pt,b.pt", tmp_path / "o", "--preset", "mtt", "--dataset", "digits", "--index=3",
               "--classes", tmp_path / "classes.txt", "--data.train", "digits", "--mean", "0.5,1",
               "--std", "1,2", "--method", "a b", "--seed", "7") == 0  # fmt: skip
    assert seen == {
        "src": "a.pt,b.pt", "preset": "mtt", "card": "digits", "index": 3, "class_names": ["zero", "one", "two"],
        "train": "digits", "constants": ((0.5, 1.0), (1.0, 2.0)), "method": "a b", "seed": 7,
    }  # fmt: skip
    (tmp_path / "classes.json").write_text('["a b", "c"]')
    run("import", "a.pt", tmp_path / "p", "--preset", "vico", "--classes", tmp_path / "classes.json")
    assert seen["class_names"] == ["a b", "c"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["shwo"], "set: command = 'shwo' is not known; allowed: show, check, convert, import, export. Did you mean"),
        (["show"], "set show lacks SET; allowed: ddjax set show SET"),
        (["show", "a", "b"], "has 'b' too much"),
        (["check", "SET", "--fast"], "set check: flag = '--fast' is not known"),
        (["check", "nowhere"], "set = 'nowhere' does not exist."),
        (["import", "a.pt", "b.pt", "OUT", "--preset", "mtt"], "Several files are one word: a.pt,b.pt. allowed: ddjax"),
        (["import", "SET", " ", "--preset", "pixels"], "OUT = ' ' has no name"),
        (["export", "SET", "OUT"], "set export lacks --to; allowed: folder, npz, hf, webdataset, torch."),
        (["export", "SET", "OUT", "--to"], "--to lacks its value"),
        (["export", "SET", "OUT", "--to", "a", "--to", "b"], "--to is given twice"),
        (["export", "SET", "OUT", "--to", "nzp"], "export --to = 'nzp' is not known; allowed: folder"),
        (["convert", "SET", "OUT", "--dtype", "unit8"], "convert --dtype = 'unit8' is not known"),
        (["convert", "SET", "FULL"], "is there already; allowed: a new folder"),
        (["import", "x", "OUT"], "set import lacks --preset"),
        (["import", "x", "OUT", "--preset", "vicco"], "--preset = 'vicco' is not known; allowed: vico"),
        (["import", "x", "OUT", "--preset", "vico", "--index", "-1"], "--index = '-1' is no whole number"),
        (["import", "x", "OUT", "--preset", "vico", "--seed", "x"], "--seed = 'x' is no whole number"),
        (["import", "x", "OUT", "--preset", "vico", "--mean", "1"], "--std is missing"),
        (["import", "x", "OUT", "--preset", "vico", "--mean", "1", "--std", "x"], "a number for each channel"),
        (["import", "x", "OUT", "--preset", "vico", "--classes", "none"], "--classes = 'none' is no file"),
        (["import", "x", "OUT", "--preset", "ddjax", "--index", "1"], "--index does not go with --preset ddjax"),
        (["import", "x", "FULL", "--preset", "vico"], "is there already"),
        (["import", "nowhere", "OUT", "--preset", "vico", "--dataset", "digits"], "does not exist"),
    ],
)  # fmt: skip
def test_bad_words_are_named_with_exit_code_2_and_leave_nothing(folder, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    places = {"SET": str(folder), "OUT": str(tmp_path / "out"), "FULL": str(folder)}
    assert run(*(places.get(word, word) for word in argv)) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_classes_that_are_no_list_are_named(tmp_path, capsys):
    for content in (b"\xff\xfe\x00", b"[1, 2]", b"[", b"[" * 100_000):
        (tmp_path / "c").write_bytes(content)
        assert run("import", "x", tmp_path / "o", "--preset", "vico", "--classes", tmp_path / "c") == 2
        assert "--classes = " in capsys.readouterr().err


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_of_each_command(name, capsys):
    assert run(name, "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: ddjax set {name}")
    assert max(map(len, said.splitlines())) <= 120


def test_help_of_all(capsys):
    assert run("--help") == 0
    assert run() == 2
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in command.COMMANDS)


def _with_labels(folder, cutmix=0.0):
    plan = relabel.Plan(3, 6, 4, 9, Augment(cutmix=cutmix))
    index = plan.index()
    logits = (index[..., None] + np.arange(3)).astype(np.float16)
    logits[0] += 8  # the views of the first batch differ from the others
    relabel.save(folder / "labels", "pool", plan, logits, 6)
    return index, logits.astype(np.float64)


def test_the_soft_labels_of_a_run_go_with_its_images_as_their_mean_over_views(folder, tmp_path, capsys):
    index, logits = _with_labels(folder, cutmix=1.0)
    assert run("export", folder, tmp_path / "x.npz", "--to", "npz") == 0
    said = capsys.readouterr().out
    assert re.search(r"note: label_logits are the mean over \d+ or more stored views of each image, mixed", said)
    found = np.load(tmp_path / "x.npz")["label_logits"]
    for i in range(6):
        np.testing.assert_allclose(found[i], logits[index == i].mean(0), rtol=1e-6)
    alone = shutil.copytree(folder / "synset", tmp_path / "alone")
    assert run("export", alone, tmp_path / "y.npz", "--to", "npz") == 0
    assert "label_logits" not in np.load(tmp_path / "y.npz")


def test_recorded_views_go_with_a_converted_set_and_as_their_mean_with_an_export(tmp_path, capsys):
    held = softlabels.tensors(4, 4, 3)  # two epochs of 4 and 2 of the 6 images; short batches filled up
    held["index"][:] = [[0, 1, 2, 3], [4, 5, 4, 4], [5, 4, 3, 2], [1, 0, 1, 1]]
    held["logits"][:] = held["index"][..., None] * 10 + np.arange(4)[:, None, None] + np.arange(3)
    held["logits"][[1, 3], 2:] = 99
    views = softlabels.Recorded(6, 4, 2, softlabels.FKD, held)
    softlabels.Relabelled.of(MADE, views).save(tmp_path / "a")
    assert run("check", tmp_path / "a") == 0
    assert run("convert", tmp_path / "a", tmp_path / "b", "--dtype", "float32") == 0
    assert softlabels.load(tmp_path / "b" / "labels").logits.tobytes() == held["logits"].tobytes()
    assert run("export", tmp_path / "b", tmp_path / "x.pt", "--to", "torch") == 0
    assert "the mean over 2 or more stored views of each image (fkd labels)" in capsys.readouterr().out
    batches = [(0, 3), (0, 3), (0, 2), (0, 2), (1, 2), (1, 2)]
    wanted = np.arange(6)[:, None] * 10 + np.mean(batches, axis=1)[:, None] + np.arange(3)
    np.testing.assert_allclose(read_pt(tmp_path / "x.pt")["label_logits"], wanted, rtol=1e-6)


def test_bytes_are_told_alike_by_show_check_import_and_reports(folder, tmp_path, capsys):
    """A run's labels, and recorded ones beside an imported set: one count, in one sentence."""
    _, logits = _with_labels(folder)
    assert len({file.stat().st_mode for file in (folder / "labels").iterdir()}) == 1  # the umask's, for all files
    wanted = storage.told({"images": 384, "labels": 24, "stored_labels": 2 * logits.size})
    assert wanted == "images 384 bytes, labels 24 bytes, stored labels 216 bytes: 624 bytes in all"
    for words in (["show", folder], ["check", folder], ["show", folder / "synset"]):
        assert run(*words) == 0
        said = capsys.readouterr().out
        assert said.count(wanted) == 1
        assert f"pool labels of 36 views in 9 epochs, 216 bytes, in {folder / 'labels'}" in said.replace("  ", " ")
        assert "label_logits [6, 3]" not in said  # the mean over views is made for the program, not stored
    (folder / "config.json").write_text(json.dumps({
        "schema": 1, "seed": 0, "data": {"train": "digits"}, "method": {"class": "teddy", "ipc": 2},
        "evaluate": {"protocol": "ddjax-1", "archs": ["mlp"]},
    }))  # fmt: skip
    assert storage.told(tally.components(runfiles.read(folder))) == wanted
    assert "stored labels 216 bytes" in report.page(runfiles.read(folder))
    held = softlabels.tensors(4, 4, 3)
    held["index"][:] = [[0, 1, 2, 3], [4, 5, 4, 4], [5, 4, 3, 2], [1, 0, 1, 1]]
    softlabels.Relabelled.of(MADE, softlabels.Recorded(6, 4, 2, softlabels.FKD, held)).save(tmp_path / "a")
    assert run("check", tmp_path / "a") == 0
    said = capsys.readouterr().out
    assert "stored labels: fkd labels of 12 views in 2 epochs, 576 bytes" in said
    assert f"stored labels {576} bytes: {384 + 24 + 576} bytes in all" in said
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("labels"))
    capsys.readouterr()
    assert run("check", tmp_path / "b") == 2
    said = capsys.readouterr()
    assert said.out == "" and f"names are missing: no {str(tmp_path / 'b' / 'labels')!r}" in said.err
    assert run("show", tmp_path / "b") == 0
    assert "576 bytes, not beside this copy of the set" in capsys.readouterr().out
    assert run("export", tmp_path / "a", tmp_path / "x.npz", "--to", "npz") == 0
    assert run("import", tmp_path / "x.npz", tmp_path / "c", "--preset", "ddjax") == 0
    assert "label logits 72 bytes: 480 bytes in all" in capsys.readouterr().out  # the views stayed behind


def test_labels_of_another_set_beside_this_one_are_named(tmp_path, capsys):
    for name, fill in (("a", 0), ("b", 1)):
        held = softlabels.tensors(4, 4, 3)
        held["logits"][:] = fill
        softlabels.Relabelled.of(MADE, softlabels.Recorded(6, 4, 2, softlabels.FKD, held)).save(tmp_path / name)
    shutil.rmtree(tmp_path / "a" / "labels")
    shutil.copytree(tmp_path / "b" / "labels", tmp_path / "a" / "labels")
    assert run("check", tmp_path / "a") == 2
    assert "are not those that manifest.json names (sha256 differs): of another set" in capsys.readouterr().err
    about = json.loads((tmp_path / "b" / "labels" / "manifest.json").read_text())
    (tmp_path / "b" / "labels" / "manifest.json").write_text(json.dumps(about | {"bytes": "x", "views": None}))
    assert run("check", tmp_path / "b") == 2
    assert "manifest.json lacks views, bytes, or holds another kind there" in capsys.readouterr().err


def test_show_has_no_raw_dicts(tmp_path, capsys):
    source = {
        "preset": "vico", "space": "normalised", "notes": ["vico: a note."], "paper": "Zhao et al., ICLR 2021",
        "citation": "@article{x,\n title = {X},\n}", "order_verified": True, "more": {"deep": [1, 2]},
        "files": [{"name": "res.pt", "sha256": "ab" * 32}, {"name": "tree/", "count": 1200, "sha256": "cd" * 32}],
        "accuracy": {"ConvNet": {"mean": 0.916, "std": 0.005, "count": 20, "of_this_set": [0.91, 0.92]}, "X": {"a": 1}},
    }  # fmt: skip
    method = {"class": "dc", "name": "DC", "imported": True}
    teacher = {"arch": "convnet3", "accuracy": 0.9, "pool": {"size": 5}}
    meta = {**MADE.meta, "source": source, "method": method, "teacher": teacher}
    dataclasses.replace(MADE, meta=meta).save(tmp_path / "s")
    assert run("show", tmp_path / "s") == 0
    said = capsys.readouterr().out.partition("# PyTorch")[0]
    assert not set("{}'") & set(said)
    for line in (
        "method        DC, imported", "  file        res.pt, sha256 abababababab…",
        "  file        tree/, 1,200 files, sha256 cdcdcdcdcdcd…", "  paper       Zhao et al., ICLR 2021",
        "  accuracy    ConvNet: 91.6 ± 0.5 % over 20 (of this set 91.0, 92.0)", "  accuracy    X: a: 1",
        "  note        vico: a note.", "pool.size: 5", "order verified: yes", "more.deep: 1, 2",
    ):  # fmt: skip
        assert line in said, line
    assert f"{MADE.meta['dataset']['card']} distilled by DC, 2 images per class" in said
    for odd in ({"files": 3, "notes": "x", "accuracy": []}, {"files": [1], "accuracy": {"a": 5}}, "a text", None):
        dataclasses.replace(MADE, meta={**MADE.meta, "source": odd, "method": None}).save(tmp_path / "s")
        assert run("show", tmp_path / "s") == 0


def test_stored_labels_that_do_not_fit_are_named_by_check_and_export(folder, tmp_path, capsys):
    _with_labels(folder)
    assert run("check", folder) == 0
    file = folder / "labels" / "labels.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert run("check", folder) == 2
    assert "labels.safetensors" in capsys.readouterr().err
    assert run("export", folder, tmp_path / "x.pt", "--to", "torch") == 2
    relabel.save(folder / "labels", "pool", relabel.Plan(3, 5, 4, 9, Augment()), np.zeros((9, 4, 3), np.float16), 5)
    assert run("export", folder, tmp_path / "x.pt", "--to", "torch") == 2
    assert "are of 5 images, the set has 6" in capsys.readouterr().err
    assert not (tmp_path / "x.pt").exists()


def test_canvases_are_shown_checked_converted_and_exported_decoded(tmp_path, capsys):
    run_folder = dataclasses.replace(MADE, factor=2).save(tmp_path / "run" / "synset").parent
    views = relabel.Plan(0, 24, 8, 2, Augment())
    relabel.save(run_folder / "labels", "pool", views, RNG.standard_normal((6, 8, 3)).astype(np.float16), 24)
    assert run("show", run_folder) == 0
    said = capsys.readouterr().out
    assert "factor 2: each of the 6 is a canvas of 2x2 tiles, each upsampled: networks see 24 images" in said
    assert "6 of 8x8x1, uint8 pixels" in said and "images 384 bytes" in said
    assert run("check", run_folder) == 0
    assert "canvases of 2x2 tiles: 24 for networks" in capsys.readouterr().out
    assert run("convert", run_folder, tmp_path / "floats", "--dtype", "float32") == 0
    assert DistilledSet.load(tmp_path / "floats").factor == 2
    assert run("export", run_folder, tmp_path / "set.pt", "--to", "torch") == 0
    assert "canvases of 2x2 tiles were decoded to the 24 images" in capsys.readouterr().out
    held = read_pt(tmp_path / "set.pt")
    assert held["images"].shape == (24, 1, 8, 8) and held["label_logits"].shape == (24, 3)
    assert run("import", tmp_path / "set.pt", tmp_path / "back", "--preset", "ddjax") == 0
    assert len(DistilledSet.load(tmp_path / "back")) == 24
