"""All further evaluations of one small set through the command line; taken up again part by part."""

import jax
import numpy as np
import pytest

from ddjax import __main__ as cli
from ddjax import baselines, config, evaluate, further, scores, train
from ddjax.data import open_data
from ddjax.files import read_json, read_lines
from ddjax.further import continual, coverage, nas, optimisers, privacy
from ddjax.protocols import PROTOCOLS, Protocol
from ddjax.synset import DistilledSet

pytestmark = pytest.mark.usefixtures("quick_compiles")
ARCH = "convnet1-w8-batch"
SEEDS = 2


@pytest.fixture(scope="module", autouse=True)
def small():
    kept = jax.config.jax_compilation_cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "tiny", Protocol(id="tiny", rates=(3e-3, 1e-2), step_range=(10, 10)))
        patch.setattr(baselines, "EPOCHS", 2)
        patch.setattr(nas, "WIDTHS", (4,))
        patch.setattr(nas, "DEPTHS", (1,))
        patch.setattr(nas, "REAL", 20)
        patch.setattr(continual, "STEPS", 2)
        patch.setattr(privacy, "SHADOWS", 2)
        patch.setattr(coverage, "DRAWS", 2)
        patch.setitem(optimisers.OPTIMISERS, "sgd", {"optimiser": "sgd", "weight_decay": 5e-4, "rates": (1e-2, 1e-1)})
        for name in ("adam", "adamw"):
            patch.delitem(optimisers.OPTIMISERS, name)
        yield
    jax.config.update("jax_compilation_cache_dir", kept)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of two real images of each class."""
    data = open_data(config.Data(train="digits", subset=200), 0)
    rows = np.concatenate([np.flatnonzero(data.train.labels == c)[:2] for c in range(10)])
    images, card = data.train.gather(rows), data.card
    labels = np.repeat(np.arange(10, dtype=np.int32), 2)
    return DistilledSet(images, labels, data.class_names, card.mean, card.std).save(
        tmp_path_factory.mktemp("a") / "set"
    )


def judged(made, folder, *flags, seeds=SEEDS):
    return cli.main([
        "evaluate", str(made), "--data.train", "digits", "--data.subset", "200", "--evaluate.protocol", "tiny",
        "--evaluate.seeds", str(seeds), "--evaluate.archs", ARCH, "--evaluate.baselines", "none", "--compute.mesh", "1",
        "1", "--workdir", str(folder), *flags,
    ])  # fmt: skip


def asked(*names):
    return ("--evaluate.further", *names)


@pytest.fixture(scope="module")
def done(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged") / "run"
    assert judged(made, folder, *asked(*config.FURTHER)) == 0
    return folder


def test_every_evaluation_leaves_a_table_and_its_cost(done):
    found = read_json(done / "further.json")
    assert set(found) == {"schema", *config.FURTHER} and found["schema"] == 1
    for name in config.FURTHER:
        part = found[name]
        assert part["rows"] and all(len(row) == len(part["columns"]) for row in part["rows"]), name
        assert part["note"] and part["arch"] == ARCH and part["protocol"] == "tiny"
        assert part["cost"]["wall_s"] > 0 and part["cost"]["peak_memory_bytes"] > 0
    assert [row[0] for row in found["optimisers"]["rows"]] == ["sgd"]
    assert [row[0] for row in found["continual"]["rows"]] == [1, 2, "average"]
    assert [row[1] for row in found["continual"]["rows"]] == [5, 10, None]
    assert [row[0] for row in found["nas"]["rows"]] == nas.grid(8, 8)
    assert found["coverage"]["rows"][-1][1:3] == [1.0, 0.0]
    private = found["privacy"]["rows"]
    assert [row[:3] for row in private[:2]] == [["set", "hard", "loss threshold"], ["set", "hard", "LiRA-lite"]]
    assert [row[3] for row in private] == [20, 20, 20, 20, 180, 180]  # its images are real ones
    assert all(0 <= value <= 1 for row in private for value in row[4:])
    assert "LiRA-lite" in (done / "report.html").read_text()


def test_the_augmentation_score_reaches_the_report(done):
    lines = read_lines(done / "results.jsonl")
    assert {line["protocol"] for line in lines} == {"tiny", "tiny" + scores.PLAIN}
    assert {(line["name"], line["protocol"]) for line in lines if line["name"] != "set"} == {
        ("random_hard", "tiny"), ("random_hard", "tiny" + scores.PLAIN)
    }  # fmt: skip
    report = read_json(done / "report.json")
    assert report["scores"]["ars"] == pytest.approx(read_json(done / "further.json")["augmentation"]["values"]["ars"])
    assert report["scores"]["lrs"] is None and report["protocol"] == "tiny"


def test_what_is_done_is_not_done_again_and_the_rest_is(done, made, monkeypatch):
    before = read_json(done / "further.json")
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", lambda *a, **k: pytest.fail("trained again"))
        patch.setattr(evaluate, "announce", lambda *a, **k: None)
        assert judged(made, done, *asked(*config.FURTHER)) == 0
    assert read_json(done / "further.json") == before
    assert not list((done / ".state").glob("evaluate/further-*"))
    with monkeypatch.context() as patch:
        patch.setitem(further.FURTHER, "coverage", lambda case: pytest.fail("done again"))
        for name in ("continual", "nas", "privacy", "optimisers", "augmentation"):
            patch.setitem(further.FURTHER, name, lambda case: pytest.fail("not asked for"))
        assert judged(made, done, *asked("coverage")) == 0


def test_a_stopped_evaluation_leaves_the_others_and_its_own_cells(made, tmp_path, monkeypatch):
    folder, fit = tmp_path / "run", train.fit
    calls = []

    def failing(*args, **kwargs):
        calls.append(kwargs["stage"])
        if len([c for c in calls if "(seeds)" in c]) == 3:  # the set itself, then the set under sgd, then random images
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    monkeypatch.setattr(train, "fit", failing)
    assert judged(made, folder, *asked("coverage", "optimisers")) == 3
    assert set(read_json(folder / "further.json")) == {"schema", "coverage"}
    calls.clear()
    monkeypatch.setattr(train, "fit", lambda *a, **k: (calls.append(k["stage"]), fit(*a, **k))[1])
    assert judged(made, folder, *asked("coverage", "optimisers")) == 0
    assert set(read_json(folder / "further.json")) == {"schema", "coverage", "optimisers"}
    assert [c for c in calls if "timing" not in c] == ["evaluate random_hard (seeds)"]


def test_a_name_that_is_none_is_told_with_the_nearest(made, tmp_path, capsys):
    assert judged(made, tmp_path / "run", *asked("privcy")) == 2
    assert "evaluate.further = 'privcy' is not known" in (said := capsys.readouterr().err)
    assert "Did you mean 'privacy'?" in said and not (tmp_path / "run").exists()


def test_the_search_trains_few_networks_in_two_programs_each(made, tmp_path, monkeypatch, capsys):
    """One for rates and seeds of both small sets, one for the real images; three seeds are asked for, two do."""
    traces, make_step = [], train.make_step

    def counted(*args):
        step = make_step(*args)
        return lambda *inputs: (traces.append(1), step(*inputs))[1]

    monkeypatch.setattr(train, "make_step", counted)
    monkeypatch.setattr(nas, "SEEDS", 2)
    monkeypatch.setattr(nas, "EPOCHS", 1)
    monkeypatch.setattr(nas, "NORMS", ("none",))
    assert judged(made, tmp_path / "run", *asked("nas"), seeds=3) == 0
    assert len(traces) == 2 + 2 * len(nas.grid(8, 8))  # the set's own row: two rates, then three seeds
    assert ", 2 seeds each." in capsys.readouterr().out
    rules = [nas.reference(images) for images in (1167, 60_000, 10)]
    assert [rule.max_batch for rule in rules] == [23, 128, 10] and rules[0].steps(1167) == 51
    assert rules[0].rates == (3e-3,) and rules[0].labels == "own"


def test_the_attack_compiles_once_for_a_member_count():
    net_calls = []
    from ddjax import models
    from ddjax.mesh import Spread

    net = models.build(ARCH, image_shape=(8, 8, 1), classes=10)

    def counted(*args, **kwargs):
        net_calls.append(1)
        return net.apply(*args, **kwargs)

    look = privacy.program(net._replace(apply=counted), Spread("scan"))
    params, state = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 2))
    images, labels = jax.numpy.ones((4, 8, 8, 1)), jax.numpy.arange(4)
    for _ in range(2):
        loss, phi = look(params, state, images, labels)
    assert len(net_calls) == 1 and loss.shape == phi.shape == (2, 4)
    p = np.exp(np.asarray(loss, np.float64))
    np.testing.assert_allclose(phi, np.log(p / (1 - p)), atol=1e-4)
