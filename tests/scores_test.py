"""Scores on fractions, intervals and paired tests: closed forms, enumeration, SciPy, and the numbers of the formula."""

import itertools

import numpy as np
import pytest
from scipy import stats

from ddjax import scores
from ddjax.errors import DataError

OWN = ("dm", "convnet3", "pool", "ddjax-1")


def line(name, source, accuracy, seed=0, protocol="ddjax-1", arch="convnet3", **more):
    return {"name": name, "arch": arch, "label_source": source, "protocol": protocol, "seed": seed,
            "accuracy": accuracy, **more}  # fmt: skip


def lines(name, source, *accuracies, **more):
    return [line(name, source, a, seed, **more) for seed, a in enumerate(accuracies)]


# ------------------------------------------------------------------------------------------ formulas


def test_five_points_over_random_and_thirty_below_full_data_give_0_219():
    """alpha = 0.5 * 0.05 - 0.5 * 0.30 = -0.125; percentages would give the floor."""
    assert scores.lrs(0.80, 0.50, 0.55, 0.50) == pytest.approx(0.219, abs=5e-4)
    assert scores.scale(-0.125) == pytest.approx((np.exp(-0.125) - np.exp(-1)) / (np.e - np.exp(-1)))


def test_scores_run_from_0_to_1_and_are_clipped():
    assert (scores.scale(-1.0), scores.scale(1.0)) == (pytest.approx(0), pytest.approx(1))
    assert scores.scale(-12.5) == 0 and scores.scale(3.0) == 1
    assert scores.scale(0.0) == pytest.approx(0.2689, abs=1e-4)
    assert scores.lrs(1.0, 0.0, 0.0, 1.0) == 0 and scores.lrs(0.0, 1.0, 1.0, 0.0) == 1


def test_the_augmentation_score_weighs_both_gains():
    assert scores.ars(0.6, 0.5, 0.4, 0.4) == pytest.approx(scores.scale(0.05))
    assert scores.ars(0.6, 0.5, 0.4, 0.4, weight=1.0) == pytest.approx(scores.scale(0.1))
    assert scores.lrs(0.9, 0.8, 0.6, 0.5, weight=1.0) == pytest.approx(scores.scale(0.1))


@pytest.mark.parametrize("bad", [56.5, -0.1, float("nan")])
def test_percentages_are_refused(bad):
    with pytest.raises(DataError, match="is no fraction; allowed: 0 to 1"):
        scores.lrs(0.9, bad, 0.5, 0.5)
    with pytest.raises(DataError, match="no fraction"):
        scores.ars(0.9, 0.5, bad, 0.5)


# ----------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("n", [2, 5, 20])
def test_the_t_interval_is_the_textbooks(n):
    values = np.random.default_rng(n).normal(0.5, 0.1, n)
    want = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert scores.t_interval(values) == pytest.approx(want)
    assert scores.t_interval([0.5]) is None


def test_sign_flips_are_counted():
    assert scores.sign_flip([0.1] * 5) == 2 / 32
    assert scores.sign_flip([0.1, -0.1]) == 1.0
    d = np.random.default_rng(0).normal(0.3, 1.0, 7)
    flipped = [abs(np.dot(s, d)) >= abs(d.sum()) - 1e-12 for s in itertools.product((1, -1), repeat=7)]
    assert scores.sign_flip(d) == pytest.approx(np.mean(flipped))


def test_many_seeds_are_flipped_at_random_near_the_exact_p(monkeypatch):
    d = np.random.default_rng(1).normal(0.4, 1.0, 12)
    exact = scores.sign_flip(d)
    monkeypatch.setattr(scores, "EXACT", 3)
    assert scores.sign_flip(d) == pytest.approx(exact, abs=0.02)
    assert scores.sign_flip([1.0] * 30) == pytest.approx(1 / 20_001, abs=2e-4)


def test_differences_are_taken_seed_by_seed():
    a, b = {0: 0.5, 1: 0.7, 2: 0.6}, {2: 0.5, 0: 0.45, 1: 0.55}
    found = scores.paired(a, b)
    want = stats.ttest_rel([0.5, 0.7, 0.6], [0.45, 0.55, 0.5]).confidence_interval()
    assert found is not None and found.mean == pytest.approx(0.1) and found.interval == pytest.approx(tuple(want))
    assert (found.p, found.seeds) == (0.25, 3)
    assert scores.paired(a, {0: 0.5, 1: 0.5, 3: 0.5}) is None and scores.paired({0: 0.5}, {0: 0.4}) is None


def test_the_bootstrap_interval_of_a_mean_nears_the_normal_one_and_pairs_equal_seeds():
    values = np.random.default_rng(2).normal(0.5, 0.1, 200)
    row = dict(enumerate(values.tolist()))
    low, high = scores.bootstrap(lambda m: m, [row])
    half = 1.96 * values.std() / np.sqrt(200)
    assert (values.mean() - low, high - values.mean()) == (pytest.approx(half, rel=0.1), pytest.approx(half, rel=0.1))
    shifted = {seed: value - 0.2 for seed, value in row.items()}
    assert scores.bootstrap(lambda a, b: a - b, [row, shifted]) == pytest.approx((0.2, 0.2))  # resampled together
    other = {seed + 1000: value for seed, value in shifted.items()}
    assert np.ptp(scores.bootstrap(lambda a, b: a - b, [row, other])) > 0.02
    assert scores.bootstrap(lambda a: a, [{0: 0.5}]) is None
    assert scores.bootstrap(lambda m: m, [row]) == (low, high)


# ------------------------------------------------------------------------------- lines of results.jsonl


def run(soft="pool"):
    return [
        *lines("dm", soft, 0.54, 0.56), *lines("dm", "hard", 0.50, 0.50), *lines("random_soft", soft, 0.49, 0.51),
        *lines("random_hard", "hard", 0.3, 0.3), *lines("full_data", "hard", 0.80),
    ]  # fmt: skip


def test_scores_are_made_from_the_rows_they_name():
    found = scores.of(run(), OWN)
    assert found["lrs"] == pytest.approx(0.219, abs=5e-4) and found["ars"] is None and found["ars_interval"] is None
    assert (found["hlr"], found["ior"]) == (pytest.approx(0.30), pytest.approx(0.05))
    assert found["random"] == {"name": "random_soft", "label_source": "pool"} and found["full_data_seeds"] == 1
    low, high = found["lrs_interval"]
    assert low <= found["lrs"] <= high and high - low < 0.02
    plain = "ddjax-1" + scores.PLAIN
    more = run() + lines("dm", "pool", 0.4, 0.4, protocol=plain)
    more += lines("random_soft", "pool", 0.3, 0.3, protocol=plain)
    assert scores.of(more, OWN)["ars"] == pytest.approx(scores.scale(0.5 * 0.05 + 0.5 * 0.1))


def test_the_augmentation_score_falls_back_on_hard_labels():
    """Labels stored for augmented views cannot be made for plain ones; the score says whose it is."""
    plain = "ddjax-1" + scores.PLAIN
    more = (
        run() + lines("dm", "hard", 0.5, 0.5, protocol=plain) + lines("random_hard", "hard", 0.4, 0.4, protocol=plain)
    )
    found = scores.of(more, OWN)
    assert found["ars"] == pytest.approx(scores.scale(0.5 * 0.2 + 0.5 * 0.1)) and found["ars_labels"] == "hard"
    only = scores.of([x for x in more if x["name"] != "full_data"], OWN)
    assert only["lrs"] is None and only["ars"] == found["ars"]


def test_seeds_that_were_added_to_some_rows_do_not_count():
    """Three seeds with augmentation and two without: the score of the two that every row has."""
    plain = "ddjax-1" + scores.PLAIN
    two = run() + lines("dm", "pool", 0.4, 0.4, protocol=plain) + lines("random_soft", "pool", 0.3, 0.3, protocol=plain)
    more = [*two, line("dm", "pool", 0.99, seed=2), line("random_soft", "pool", 0.01, seed=2)]
    assert scores.of(more, OWN)["ars"] == scores.of(two, OWN)["ars"]
    assert scores.of(more, OWN)["ars_interval"] == scores.of(two, OWN)["ars_interval"]
    assert scores.of(more, OWN)["lrs"] == scores.of(two, OWN)["lrs"]  # the hard rows have two seeds
    other = lines("dm", "pool", 0.4, 0.4, protocol=plain), lines("random_soft", "pool", 0.3, protocol=plain)
    assert scores.of(run() + other[0] + other[1], OWN)["ars"] == pytest.approx(  # of seed 0 alone
        scores.scale(0.5 * (0.54 - 0.49) + 0.5 * 0.1)
    )


def test_a_set_with_hard_labels_stands_against_random_hard():
    found = scores.of(run(), ("dm", "convnet3", "hard", "ddjax-1"))
    assert (found["ior"], found["hlr"]) == (pytest.approx(0.2), pytest.approx(0.3))


def test_without_its_rows_there_is_no_score():
    assert scores.of([], OWN) is None
    assert scores.of([x for x in run() if x["name"] != "full_data"], OWN) is None
    assert scores.of([x for x in run() if not x["name"].startswith("random")], OWN) is None
    assert scores.of([x | {"arch": "mlp"} if x["name"].startswith("random") else x for x in run()], OWN) is None


def test_a_set_whose_labels_nobody_can_give_stands_against_the_best_random_images():
    other = [x | {"label_source": "full_data"} if x["name"] == "random_soft" else x for x in run()]
    assert scores.of(other, OWN)["random"] == {"name": "random_soft", "label_source": "full_data"}
    other += lines("random_hard", "hard", 0.52, 0.52)
    assert scores.of(other, OWN)["random"] == {"name": "random_hard", "label_source": "hard"}


def test_lines_of_other_inputs_no_longer_count():
    old = line("dm", "pool", 0.9, 0, inputs="a"), line("dm", "pool", 0.9, 1, inputs="a")
    new = line("dm", "pool", 0.5, 0, inputs="b")
    assert scores.cells([*old, new]) == {OWN: {0: 0.5}}
    assert scores.cells([*old, new, line("dm", "pool", 0.6, 0, inputs="b")]) == {OWN: {0: 0.6}}


def test_differences_of_a_run_are_those_of_its_architecture_and_protocol():
    more = [*run(), *lines("kmeans", "hard", 0.6, 0.6), *lines("herding", "hard", 0.1, 0.1, arch="mlp")]
    found = scores.differences(more, OWN)
    assert {(row["name"], row["label_source"]) for row in found[1:-1]} == {("random_soft", "pool"), ("dm", "hard")}
    assert (found[0]["name"], found[-1]["name"]) == ("random_hard", "kmeans")
    assert found[0]["difference"] == pytest.approx(0.25) and found[-1]["difference"] == pytest.approx(-0.05)
    assert all(row["seeds"] == 2 and row["p_sign_flip"] >= 0.5 for row in found)
    assert scores.differences(more, ("dm", "vgg11", "pool", "ddjax-1")) == []
