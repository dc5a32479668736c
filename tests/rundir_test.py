"""Who may write where: folders that cannot be made are refused by name, and nothing is left behind."""

import pytest

from ddjax import rundir
from ddjax.errors import ConfigError


def test_a_folder_that_can_be_made_is_found_out_without_a_trace(tmp_path):
    rundir.check_writable(tmp_path / "a" / "b", "--workdir")
    assert not (tmp_path / "a").exists()
    (tmp_path / "there").mkdir()
    rundir.check_writable(tmp_path / "there", "--workdir")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_folder_below_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"compute\.cache = .*file/x/y.* cannot be written: .*name another"):
        rundir.check_writable(tmp_path / "file" / "x" / "y", "compute.cache")


@pytest.mark.parametrize("name", ["config.json", "notes.txt", ".hidden"])
def test_a_folder_with_anything_of_worth_is_not_empty(name, tmp_path):
    assert rundir.is_empty(tmp_path / "missing") and rundir.is_empty(tmp_path)
    (tmp_path / ".lock").write_text("1")
    (tmp_path / ".cache").mkdir()
    assert rundir.is_empty(tmp_path)
    (tmp_path / name).write_text("x")
    assert not rundir.is_empty(tmp_path)


def test_differences_are_named_with_both_values():
    a, b = {"x": {"y": 1, "z": [1]}}, {"x": {"y": 2, "z": [1]}}
    assert rundir.different(a, b) == ["x.y: 1 there, 2 here"]


def test_a_stage_whose_result_was_removed_is_not_done(tmp_path):
    run = rundir.RunDir(tmp_path)
    for folder in (run.synset, run.labels):
        folder.mkdir()
    for stage in ("distill", "label", "evaluate"):
        run.stamp(stage, "tag")
    run.labels.rmdir()
    assert [run.done(stage, "tag") for stage in ("distill", "label", "evaluate")] == [True, False, True]
