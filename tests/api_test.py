"""The stages from Python: the same values and files as the command line's."""

import dataclasses
import json

import numpy as np
import pytest

import ddjax


def small(tmp_path, **fields):
    return ddjax.Run(
        name="small", workdir=str(tmp_path / "run"), method=ddjax.Teddy(ipc=1, steps=3),
        teacher=ddjax.Teacher(arch="convnet1-w8-batch", epochs=2, pool=ddjax.Pool(size=2)),
        compute=ddjax.Compute(cache=str(tmp_path / "cache")), **fields,
    )  # fmt: skip


def test_distill_gives_the_set_that_it_stores_and_reuses_it(tmp_path):
    run = small(tmp_path)
    made = ddjax.distill(run)
    images, labels = made.arrays()
    assert images.shape == (10, 8, 8, 1) and labels.tolist() == list(range(10))
    stored = (tmp_path / "run" / "synset" / "images.safetensors").read_bytes()
    again = ddjax.distill(run)
    assert np.array_equal(again.images, made.images)
    assert (tmp_path / "run" / "synset" / "images.safetensors").read_bytes() == stored
    assert json.loads((tmp_path / "run" / "config.json").read_text())["method"]["steps"] == 3


def test_all_complaints_come_at_once_and_no_folder_is_made(tmp_path):
    run = small(tmp_path, seed=-1, evaluate=ddjax.Evaluate(seeds=0))
    with pytest.raises(ddjax.ConfigError, match=r"(?s)seed = -1.*evaluate.seeds = 0|evaluate.seeds = 0.*seed = -1"):
        ddjax.distill(run)
    assert not (tmp_path / "run").exists()


def test_a_run_without_labels_is_refused_with_the_way_out(tmp_path):
    run = small(tmp_path)
    ddjax.distill(run)
    judge = ddjax.Judge(data=run.data, workdir=str(tmp_path / "judged"))
    with pytest.raises(ddjax.ConfigError, match=r"its run holds no labels.*--label.source hard or base.*--resume"):
        ddjax.evaluate(tmp_path / "run", judge)
    assert not (tmp_path / "judged").exists()


def test_a_set_in_memory_is_judged_and_another_is_refused_before_anything_is_written(tmp_path):
    rng = np.random.default_rng(0)

    def some(high):
        images = rng.integers(0, high, (10, 8, 8, 1)).astype(np.uint8)
        return ddjax.DistilledSet(images, np.arange(10, dtype=np.int32), [str(i) for i in range(10)], (0.3,), (0.4,))

    asked = ddjax.Evaluate(protocol="P-DC", modify=("epochs=2",), archs=("mlp",), seeds=2, baselines="none")
    judge = ddjax.Judge(
        data=ddjax.Data(train="digits"), evaluate=asked, workdir=tmp_path / "judged",
        compute=ddjax.Compute(cache=str(tmp_path / "cache")),
    )  # fmt: skip
    found = ddjax.evaluate(some(256), judge)
    assert [row["seeds"] for row in found["results"]] == [2]
    before = {p: p.read_bytes() for p in (tmp_path / "judged").rglob("*") if p.is_file()}
    with pytest.raises(ddjax.ConfigError, match="holds another set"):
        ddjax.evaluate(some(99), judge)
    assert {p: p.read_bytes() for p in (tmp_path / "judged").rglob("*") if p.is_file()} == before
    wrong = dataclasses.replace(some(256), class_names=[f"x{i}" for i in range(10)])
    with pytest.raises(ddjax.DdjaxError, match="class"):
        ddjax.evaluate(wrong, dataclasses.replace(judge, workdir=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()
