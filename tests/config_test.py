"""Configuration: what flags, Python configs and JSON mean; every error is told at once."""

import dataclasses
import hashlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ddjax import config
from ddjax.config import Data, Evaluate, Pool, Run, Teacher, document, flags, load, values
from ddjax.errors import ConfigError
from ddjax.methods import METHODS, SRe2L, Teddy

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
DIGITS = str(ROOT / "configs" / "digits.py")

USER_FILE = '''
import dataclasses
import hashlib
from typing import ClassVar, Literal

from ddjax.config import Data, Run
from ddjax.methods import Method
from ddjax.types import Needs


@dataclasses.dataclass(frozen=True)
class Mine(Method):
    """My own method."""

    strength: float = 0.5
    """How strong."""
    mode: Literal["a", "b"] = "a"
    steps: int | None = None

    DEFAULTS: ClassVar = {"": {"steps": 7}, "digits": {"steps": {1: 3, 10: 30}}}

    def check(self, prefix="method"):
        wrong = self.strength < 0
        return super().check(prefix) + ([f"{prefix}.strength is negative."] if wrong else [])


@dataclasses.dataclass(frozen=True)
class Files:
    """My own data set."""

    root: str
    """Where it lies."""
    sizes: tuple[int, ...] = (8, 8)

    def open(self):
        return None


def get_config() -> Run:
    return Run(data=Data(train=Files("here"), card="digits"), method=Mine(ipc=10))
'''


@pytest.fixture
def user_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(USER_FILE)
    return Path("mine.py")


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(argv)
    return str(caught.value)


def through_text(run: Run) -> Run:
    return config.from_json(json.loads(json.dumps(config.to_json(run))))


# ------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("hint", "words", "value"),
    [
        (int, ["600"], 600),
        (int, ["-3"], -3),
        (float, ["1e-3"], 1e-3),
        (float, ["2"], 2.0),
        (int | None, ["None"], None),
        (int | None, ["4"], 4),
        (bool, ["false"], False),
        (bool, [], True),
        (bool | None, ["True"], True),
        (str, ["idx:a,b"], "idx:a,b"),
        (str | None, ["None"], None),
        (Literal["none", "crop"], ["none"], "none"),
        (int | Literal["one", "all"], ["all"], "all"),
        (int | Literal["one", "all"], ["3"], 3),
        (tuple[int, ...], ["1", "2", "3"], (1, 2, 3)),
        (tuple[int, ...], ["1,2,3"], (1, 2, 3)),
        (tuple[int, ...], ["(1,", "2)"], (1, 2)),
        (tuple[int, ...], ["()"], ()),
        (tuple[float, float], ["0.3", "0.7"], (0.3, 0.7)),
        (tuple[float, float] | None, ["None"], None),
        (tuple[float, float] | None, ["0.1,1"], (0.1, 1.0)),
        (Literal["log", "linear"] | tuple[int, ...], ["log"], "log"),
        (Literal["log", "linear"] | tuple[int, ...], ["5"], (5,)),
        (str | tuple[str, ...], ["cheap"], "cheap"),
        (str | tuple[str, ...], ["kmeans,herding"], ("kmeans", "herding")),
        (str | tuple[str, ...], ["kmeans", "herding"], ("kmeans", "herding")),
        (Path, ["a/b"], Path("a/b")),
    ],
)
def test_words_become_the_declared_type(hint, words, value):
    found = values.read(words, hint)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, ["ten"]),
        (int, ["1.5"]),
        (int, []),
        (int, ["1", "2"]),
        (float, ["nan"]),
        (float, ["inf"]),
        (bool, ["maybe"]),
        (Literal["a"], ["b"]),
        (tuple[float, float], ["1"]),
        (tuple[int, ...], []),
        (tuple[int, ...], ["a"]),
        (int | None, ["none"]),
        (dict, ["x"]),
    ],
)
def test_words_of_another_type_are_refused(hint, words):
    with pytest.raises(values.Misfit):
        values.read(words, hint)


def test_flags_change_a_config_and_nothing_else():
    before, _ = load(["--config", DIGITS])
    after, launch = load(
        f"--config {DIGITS} --method.steps 10 --evaluate.seeds=2 --seed 7 --workdir there "
        "--teacher.pool.prune 0.1 0.2 --only distill label".split()
    )
    pool = dataclasses.replace(before.teacher.pool, prune=(0.1, 0.2))
    assert after == dataclasses.replace(
        before,
        seed=7,
        workdir="there",
        method=dataclasses.replace(before.method, steps=10),
        teacher=dataclasses.replace(before.teacher, pool=pool),
        evaluate=dataclasses.replace(before.evaluate, seeds=2),
    )
    assert launch.only == ("distill", "label")
    assert not launch.resume
    assert not launch.check


def test_a_name_may_be_typed_with_dashes_and_no_flag_counts_twice():
    run, _ = load(["--report.images-per-class", "3", "--seed", "2"])
    assert (run.report.images_per_class, run.seed) == (3, 2)
    text = refusal(
        "--seed", "1", "--seed=2", "--only", "label", "--only", "evaluate", "--only", "report", "--seeed", "1"
    )
    assert "--seeed is not known" in text
    assert "--seed: given twice; allowed: once" in text and "--only: given 3 times; allowed: once" in text
    assert "(--only A,B)" in text
    with pytest.raises(ConfigError, match=r"^--seeds and --evaluate\.seeds: given twice; allowed: once"):
        config.load_judge(["SET", "--seeds", "2", "--evaluate.seeds", "3"])


def test_a_folder_without_a_name_is_refused():
    """An empty word would be the current folder, or no word at all."""
    assert "workdir = '' names no folder" in refusal("--workdir", "")
    with pytest.raises(ConfigError, match="workdir = '' names no folder"):
        config.load_judge(["SET", "--workdir="])


def test_method_replaces_the_method_group_and_keeps_ipc():
    before, _ = load(["--config", DIGITS, "--method.ipc", "1"])
    after, _ = load(["--config", DIGITS, "--method", "sre2l"])
    assert type(after.method) is SRe2L
    assert after.method.ipc == before.method.ipc
    assert dataclasses.replace(after, method=before.method) == before


def test_every_error_is_told_at_once():
    text = refusal(
        *("--config", DIGITS, "--method.stepz", "10", "--method.lr", "ten", "--method.ipc", "0"),
        *("--label.source", "poool", "--evaluate.archs", "convnt3", "--evaluate.protocol", "x"),
        *("--only", "distil", "--data.train", "digit", "--seed", "-1", "--overwrite", "--resume"),
        *("--teacher.pool.snapshots", "3", "2", "1", "8", "5", "--workdir", "w"),
    )
    for part in (
        "--method.stepz is not known",
        "Did you mean --method.steps?",
        "--method.lr = 'ten' cannot be used; allowed: a number or None.",
        "method.ipc = 0 is out of range; allowed: >= 1. Nearest valid: 1.",
        "--label.source = 'poool' is not known; allowed: auto, hard, learned, pool, base. Did you mean",
        "Did you mean 'convnet3'?",
        "evaluate.protocol = 'x' is not known; allowed: ddjax-1, P-DC,",
        "--only = 'distil' is not known",
        "Did you mean 'digits'?",
        "seed = -1 is out of range; allowed: 0 <= seed < 2**31. Nearest valid: 0.",
        "--resume and --overwrite exclude each other",
        "teacher.pool.snapshots = (3, 2, 1, 8, 5) is out of range",
    ):
        assert part in text, part
    assert text.startswith("11 problems:")


def test_a_name_given_twice_is_refused():
    for flag, names, once in (
        ("archs", "mlp,lenet,mlp", "mlp,lenet"), ("baselines", "kmeans,kmeans", "kmeans"), ("further", "nas,nas", "nas")
    ):  # fmt: skip
        said = f"evaluate.{flag} = '{names}' is out of range; allowed: every name once. Nearest valid: {once}."
        assert said in refusal("--config", DIGITS, f"--evaluate.{flag}", names, "--workdir", "w")


def test_words_for_several_baselines_stand_alone():
    said = refusal("--config", DIGITS, "--evaluate.baselines", "cheap,full_data", "--workdir", "w")
    assert "evaluate.baselines = 'cheap,full_data': 'cheap' stands alone; allowed: none, cheap, all, or names." in said


def test_paths_are_texts_and_long_values_are_shown_briefly():
    run = config.settled(config.Run(workdir=Path("w")))
    assert run.workdir == "w"
    with pytest.raises(ConfigError, match=r"data.train = array\(.{,250} cannot be stored; .*folder:PATH or npz:PATH"):
        config.settled(config.Run(data=config.Data(train=np.zeros((60, 60)))))


def test_a_flag_without_its_group_finds_its_home():
    assert "Did you mean --method.steps?" in refusal("--steps", "10")


def test_errors_of_the_file_and_of_the_flags_come_together():
    text = refusal("--config", str(ROOT / "configs" / "digit.py"), "--evaluate.sedes", "3")
    assert "digits.py'?" in text
    assert "--evaluate.sedes is not known" in text
    text = refusal("--method", "tedy", "--method.alpha", "1", "--seed", "x")
    assert "Did you mean 'teddy'?" in text
    assert "--seed = 'x'" in text
    assert "alpha" not in text


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["stray"], "'stray' is not a flag"),
        (["--resume"], "need --workdir"),
        (["--teacher.epochs", "0"], "teacher.epochs = 0 is out of range"),
        (["--teacher.epochs", "4"], "teacher.pool.size = 9 is out of range"),
        (["--teacher.lr", "0"], "teacher.lr = 0.0 is out of range"),
        (["--teacher.pool.prune", "0.7", "0.3"], "teacher.pool.prune"),
        (["--teacher.pool.snapshots", "1,2"], "9 rising epochs"),
        (["--teacher.pool.size", "1", "--teacher.pool.snapshots", "99"], "teacher.epochs 99"),
        (["--data.validation", "1"], "data.validation = 1.0 is out of range"),
        (["--data.card", "cifar11"], "Did you mean 'cifar10'?"),
        (["--data.train", "folder"], "folder:PATH"),
        (["--evaluate.baselines", "kmean"], "Did you mean 'kmeans'?"),
        (["--evaluate.baselines", "all", "herding"], "evaluate.baselines = 'all,herding': 'all' stands alone"),
        (["--evaluate.archs", "()"], "evaluate.archs = () is out of range"),
        (["--compute.mesh", "0", "2"], "compute.mesh = (0, 2)"),
        (["--method", "sre2l", "--method.pool_draw", "7"], "one: there is one model"),
        (["--method.pool_draw", "two"], "allowed: a whole number or one or turn or all"),
        (["--config", "x.yaml"], "a .py file or a run's config.json"),
    ],
)
def test_one_error_names_argument_value_and_what_is_allowed(argv, part):
    assert part in refusal(*argv)


def test_values_that_depend_on_the_data_set_are_filled_after_the_flags():
    run, _ = load(["--data.train", "cifar:cifar-100-binary.tar.gz", "--method.lr", "0.2"])
    assert run.teacher.arch == "resnet18"
    assert run.method == Teddy(lr=0.2).filled("cifar100", 1)
    own, _ = load(["--data.train", "folder:photos"])
    assert own.teacher == Teacher().filled("custom")
    assert None not in (own.teacher.arch, own.teacher.epochs, own.teacher.lr, own.method.steps)


# --------------------------------------------------------------------------------------- documents


OWN = [(path, None) for path in CONFIGS]  # and every method on the configs of data sets, and on one of a protocol
BY_NAME = [(path, name) for path in CONFIGS if path.stem not in METHODS or path.stem == "mtt" for name in METHODS]


@pytest.mark.parametrize(("path", "method"), [*OWN, *BY_NAME], ids=lambda value: getattr(value, "name", str(value)))
def test_every_config_resolves_and_comes_back_from_json(path, method, tmp_path):
    words = ["--config", str(path), *(["--method", method] if method else [])]
    if method and load(words[:2])[0].evaluate.rate() == "learned" and "lr" not in METHODS[method]().learns:
        with pytest.raises(ConfigError, match=r"the method learns none\. Nearest: --evaluate\.protocol P-DC"):
            load(words)
        words += ["--evaluate.protocol", "P-DC"]
    run, _ = load(words)
    stored = tmp_path / "config.json"
    stored.write_text(json.dumps(config.to_json(run)))
    again, _ = load(["--config", str(stored)])
    assert again == run
    assert config.to_json(again) == config.to_json(run)
    assert path.read_text().startswith('"""')
    assert run.name == path.stem


def test_json_leaves_the_folder_out_and_keeps_every_default():
    stored = config.to_json(load(["--workdir", "there"])[0])
    assert "workdir" not in stored
    assert stored["schema"] == 1
    assert stored["method"]["class"] == "teddy"
    assert set(stored["evaluate"]) == {f.name for f in dataclasses.fields(Evaluate)}
    assert config.from_json({}) == Run()


def test_json_errors_are_told_at_once(tmp_path):
    stored = config.to_json(Run())
    stored["evaluate"]["sedes"] = 3
    stored["teacher"]["pool"]["size"] = "nine"
    stored["method"]["lr"] = True
    stored["label"] = []
    stored["schema"] = 2
    with pytest.raises(ConfigError) as caught:
        config.from_json(stored)
    text = str(caught.value)
    assert "evaluate.sedes is not known" in text
    assert "Did you mean 'seeds'?" in text
    assert "teacher.pool.size = 'nine' cannot be used; allowed: a whole number." in text
    assert "method.lr = True cannot be used" in text
    assert "label = [] must be an object" in text
    assert "schema = 2 is not known; allowed: 1." in text
    (tmp_path / "bad.json").write_text("{")
    assert "is not JSON" in refusal("--config", str(tmp_path / "bad.json"))


def test_hash_counts_values_not_places(user_file, tmp_path):
    run, _ = load(["--config", str(user_file)])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.py").write_text(USER_FILE)
    moved, _ = load(["--config", "sub/mine.py"])
    assert config.hash(run.data, run.method) == config.hash(moved.data, moved.method)
    assert config.hash(Teddy(ipc=1)) != config.hash(Teddy(ipc=2))
    assert config.hash(Teddy()) != config.hash(SRe2L())
    assert config.hash(Pool(), "a") == config.hash(Pool(), "a") != config.hash("a", Pool())
    (tmp_path / "sub" / "mine.py").write_text(USER_FILE + "\n# changed\n")
    changed, _ = load(["--config", "sub/mine.py"])
    assert config.hash(run.method) != config.hash(changed.method)


def test_hash_is_stable_over_time():
    assert config.hash(Pool(), {"b": (1, 2.5), "a": None}).startswith("b7d1cbf41c85")


# ------------------------------------------------------------------------------------ user's files


def test_a_method_and_a_data_set_of_the_user_get_flags_and_come_back(user_file):
    argv = ["--config", str(user_file), "--method.strength", "2", "--data.train.root", "there"]
    run, _ = load([*argv, "--data.train.sizes", "4,4"])
    assert type(run.method).__name__ == "Mine"
    assert (run.method.strength, run.method.mode, run.method.steps) == (2.0, "a", 30)
    assert (run.data.train.root, run.data.train.sizes) == ("there", (4, 4))
    stored = config.to_json(run)
    assert stored["method"]["class"] == "mine.py:Mine"
    assert stored["data"]["train"]["class"] == "mine.py:Files"
    assert len(stored["method"]["sha256"]) == 64
    assert through_text(run) == run
    plain, _ = load([*argv, "--data.train", "digits"])
    assert plain.data.train == "digits"


def test_code_that_came_with_a_run_is_not_run(user_file, tmp_path):
    run, _ = load(["--config", str(user_file)])
    folder = tmp_path / "downloaded"
    folder.mkdir()
    (folder / "evil.py").write_text(user_file.read_text() + "\nraise SystemExit('it was run')\n")
    sha = hashlib.sha256((folder / "evil.py").read_bytes()).hexdigest()
    stored = config.to_json(run)
    stored["method"] |= {"class": f"{folder}/evil.py:Mine", "sha256": sha}
    (folder / "config.json").write_text(json.dumps(stored))
    assert "lies in the run's own folder and would be run" in refusal("--config", str(folder / "config.json"))


def test_a_users_method_can_be_named_on_the_command_line(user_file):
    run, _ = load(["--method", "mine.py:Mine", "--method.mode", "b"])
    assert run.method.mode == "b"
    assert run.method.steps == 3
    assert "Did you mean 'Mine'?" in refusal("--method", "mine.py:Mina")
    assert "class in mine.py = 'Files' is not known; allowed: Mine." in refusal("--method", "mine.py:Files")
    assert "there is no file 'other.py'" in refusal("--method", "other.py:Mine")


def test_flags_of_a_users_class_are_checked_like_ours(user_file):
    text = refusal(
        *("--config", str(user_file), "--method.strenght", "1", "--method.mode", "c"),
        *("--method.strength", "-1", "--data.train.rot", "x"),
    )
    assert "Did you mean --method.strength?" in text
    assert "--method.mode = 'c' is not known; allowed: a, b." in text
    assert "method.strength is negative." in text
    assert "Did you mean --data.train.root?" in text


def test_a_changed_or_missing_file_of_the_user_is_a_named_error(user_file):
    stored = config.to_json(load(["--config", str(user_file)])[0])
    user_file.write_text(USER_FILE.replace("0.5", "0.6"))
    with pytest.raises(ConfigError, match=r"method.class = 'mine.py:Mine': the file has changed"):
        config.from_json(stored)
    user_file.unlink()
    with pytest.raises(ConfigError, match=r"there is no file 'mine\.py'"):
        config.from_json(stored)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("x = (", r"line 1: SyntaxError"),
        ("import nothing_of_this_name", r"line 1: ModuleNotFoundError"),
        ("x = 1", r"needs a function get_config\(\) -> Run"),
        ("def get_config():\n    return 3", r"get_config\(\) returned 3"),
        ("def get_config():\n    return {}['a']", r"line 2: KeyError"),
        ("raise SystemExit(0)", r"line 1: SystemExit"),
        ("from ddjax import Run\ndef get_config():\n    return Run(sed=1)", r"line 3: TypeError"),
    ],
)
def test_a_config_file_that_fails_names_its_line(tmp_path, body, part):
    (tmp_path / "c.py").write_text(body)
    with pytest.raises(ConfigError, match=part):
        load(["--config", str(tmp_path / "c.py")])


def test_slips_in_a_python_config_are_told_like_flags(tmp_path):
    (tmp_path / "c.py").write_text(
        textwrap.dedent("""
        from ddjax.config import Data, Evaluate, Run, Teacher

        def get_config():
            return Run(
                seed="x",
                data=Data(train=3, size="ten"),
                teacher="resnet18",
                method=7,
                evaluate=Evaluate(seeds=0, archs=["convnet3"]),
            )
        """)
    )
    text = refusal("--config", str(tmp_path / "c.py"), "--label.epochs", "0")
    for part in (
        "seed = 'x' cannot be used",
        "data.size = 'ten' cannot be used; allowed: a whole number or None.",
        "teacher = 'resnet18' cannot be used; allowed: Teacher.",
        "method = 7 cannot be used; allowed: Method.",
        "evaluate.seeds = 0 is out of range",
        "label.epochs = 0 is out of range",
    ):
        assert part in text, part


def test_data_that_cannot_be_stored_is_refused():
    class Loose:
        def open(self): ...

    problems = Data(train=Loose()).check()
    assert "cannot be stored" in problems[0]
    assert "cannot be stored" in Data(train=None).check()[0]


def test_arrays_in_memory_are_known_by_their_hash_and_not_restored():
    from ddjax.data import Arrays

    images = np.zeros((4, 8, 8, 1), np.uint8)
    run = Run(data=Data(train=Arrays(images, np.arange(4))))
    assert run.data.check() == []
    stored = json.loads(json.dumps(config.to_json(run)))
    assert stored["data"]["train"]["images"]["shape"] == [4, 8, 8, 1]
    other = dataclasses.replace(run, data=Data(train=Arrays(images + 1, np.arange(4))))
    assert config.hash(run.data) != config.hash(other.data)
    with pytest.raises(ConfigError, match="arrays in memory are not stored"):
        config.from_json(stored)


# ----------------------------------------------------------------------------------- ddjax evaluate


def test_evaluate_takes_the_settings_of_the_run_that_the_set_lies_in(tmp_path):
    run, _ = load(["--config", DIGITS, "--seed", "4", "--evaluate.seeds", "3"])
    (tmp_path / "config.json").write_text(json.dumps(config.to_json(run)))
    judge, judging = config.load_judge([str(tmp_path / "synset"), "--evaluate.archs", "mlp"])
    assert not judging.check and config.load_judge([str(tmp_path / "synset"), "--check"])[1].check
    assert (judge.seed, judge.data) == (4, run.data)
    assert judge.evaluate == dataclasses.replace(run.evaluate, archs=("mlp",), baselines="cheap")
    alone, _ = config.load_judge([str(tmp_path / "a" / "b")])
    assert alone.evaluate == Evaluate(baselines="cheap")
    stored = {"schema": 1, "set": "vico", "seed": 2, "data": {"train": "npz:a.npz"}, "method": {"class": "imported"},
              "evaluate": {"protocol": "P-DC", "modify": ["epochs=9"]}}  # fmt: skip
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "config.json").write_text(json.dumps(stored))
    again, _ = config.load_judge([str(tmp_path / "judged"), "--seeds", "3"])
    assert (again.seed, again.data.train, again.evaluate.protocol) == (2, "npz:a.npz", "P-DC")
    assert (again.evaluate.modify, again.evaluate.seeds, again.evaluate.baselines) == (("epochs=9",), 3, "cheap")
    assert config.home_of(tmp_path / "judged") is None
    with pytest.raises(ConfigError, match=r"SET is missing(.|\n)*--evaluate.sed is not known"):
        config.load_judge(["--evaluate.sed", "1"])


# -------------------------------------------------------------------------------------------- fuzz

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = [name for name in flags.leaves(Run()) if name != "workdir"]
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(JSON)
@example({"method": {"class": "teddy", "sha256": 3}})
@example({"method": {"class": "nowhere.py:"}})
@example({"method": None, "data": {"train": {"class": "(arrays in memory)"}}})
@example({"seed": 10**400, "name": "\x00", "data": {"train": {}}})
def test_any_json_is_a_run_or_one_config_error(stored):
    try:
        assert isinstance(config.from_json(stored), Run)
    except ConfigError as error:
        assert str(error)


@QUICK
@given(st.sampled_from(NAMES), JSON)
def test_a_stored_run_with_one_value_changed_is_a_run_or_names_it(name, value):
    stored = config.to_json(Run())
    *groups, last = name.split(".")
    inner: dict[str, Any] = stored
    for group in groups:
        inner = inner[group]
    inner[last] = value
    try:
        assert isinstance(config.from_json(stored), Run)
    except ConfigError as error:
        assert name in str(error)


@QUICK
@given(st.binary(max_size=60))
def test_any_file_is_a_run_or_one_config_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        config.read_config(str(path))
    except ConfigError as error:
        assert "any.json" in str(error)


@QUICK
@given(st.lists(st.sampled_from([f"--{n}" for n in NAMES]) | st.text(max_size=6), max_size=6))
def test_any_words_are_a_run_or_one_config_error(argv):
    if any(word in ("-h", "--help") or word.lstrip("-").startswith("help") for word in argv):
        return
    try:
        run, _ = load(argv)
    except ConfigError as error:
        assert str(error)
    else:
        assert through_text(run) == dataclasses.replace(run, workdir=None)


# ------------------------------------------------------------------------------------ what it costs


def test_importing_is_quick_and_loading_starts_no_backend():
    code = f"""
import sys, time
began = time.perf_counter()
import ddjax
taken = time.perf_counter() - began
assert not {{"jax", "numpy"}} & set(sys.modules), "ddjax imports jax or numpy"
ddjax.Run, ddjax.DdjaxError
assert not {{"jax", "numpy"}} & set(sys.modules), "the configuration's classes import jax or numpy"
assert taken < 0.5, taken
from ddjax import load
load(["--config", {DIGITS!r}])
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was started"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_help_shows_every_flag_with_the_values_of_the_config(capsys, user_file):
    with pytest.raises(SystemExit) as caught:
        load(["--config", str(user_file), "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name in ("--config", "--only", "--data.train.root", "--method.strength", "How strong."):
        assert name in shown
    assert "(default: 30)" in shown  # method.steps, from the method's table
    for name in flags.leaves(Run()):
        if not name.startswith(("data.train", "method.")):
            assert f"--{name.replace('_', '-')}" in shown, name


def test_help_of_evaluate_shows_the_values_of_the_run_and_every_name(capsys, tmp_path):
    """With a SET the defaults are those of its run; protocols are named one by one."""
    from ddjax.protocols import BEST, PROTOCOLS

    run = dataclasses.replace(Run(), seed=41, evaluate=config.Evaluate(seeds=23, archs=("mlp",)))
    (tmp_path / "config.json").write_text(json.dumps(config.to_json(run)))
    with pytest.raises(SystemExit) as caught:
        config.load_judge([str(tmp_path), "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert caught.value.code == 0 and "ddjax evaluate SET" in shown and "Exit codes: 0 done" in shown
    assert all(f"(default: {value})" in shown for value in ("41", "23", "mlp", "cheap"))
    for words in ("of a lone set SET-evaluated", "--check", "--modify step_range=None epochs=3", "share its results"):
        assert words in shown, words
    doc = inspect.getsource(config.Evaluate)
    for name in PROTOCOLS:
        assert re.search(rf"\b{name.removesuffix(BEST)}\b", doc), name
    best = [name.removesuffix(BEST) for name in PROTOCOLS if name.endswith(BEST)]
    assert f"{', '.join(best)} with {BEST}" in doc


def test_document_knows_the_classes_of_the_table():
    assert [document.find_class(name) for name in METHODS] == list(METHODS.values())
