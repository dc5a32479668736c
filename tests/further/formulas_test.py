"""Formulas of the further evaluations against scikit-learn, SciPy, brute force and cases by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from ddjax import config
from ddjax.data import open_data
from ddjax.further import FURTHER, continual, coverage, nas, privacy


def test_every_name_that_may_be_asked_for_is_there():
    assert set(FURTHER) == set(config.FURTHER)


# ------------------------------------------------------------------------------------------- privacy


def test_a_set_of_training_images_has_those_as_its_members():
    real = np.random.default_rng(0).integers(0, 256, (600, 4, 4, 1)).astype(np.uint8)
    split = type("Split", (), {"__len__": lambda _: 600, "gather": lambda _, index: real[index]})()
    assert privacy.verbatim(real[[599, 3, 251]], split).tolist() == [3, 251, 599]
    made = real[[599, 3]].copy()
    made[0, 0, 0, 0] ^= 1
    assert privacy.verbatim(made, split) is None and privacy.verbatim(made[1:], split).tolist() == [3]
    assert privacy.verbatim(real[:2].astype(np.float32), split) is None


def drawn(seed, ties):
    rng = np.random.default_rng(seed)
    members, others = rng.normal(0.7, 1.0, 83), rng.normal(0.0, 1.0, 120)
    return (np.round(members), np.round(others)) if ties else (members, others)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_auc_and_true_positive_rates_are_scikit_learns(seed, ties):
    members, others = drawn(seed, ties)
    truth, score = np.r_[np.ones(83), np.zeros(120)], np.r_[members, others]
    assert privacy.auc(members, others) == pytest.approx(roc_auc_score(truth, score))
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    for rate in (0.0, 0.01, 0.1, 0.5, 1.0):
        assert privacy.true_positives(members, others, rate) == pytest.approx(true[false <= rate + 1e-12].max())


def test_members_that_are_all_alike_cannot_be_told():
    same = np.zeros(10)
    assert privacy.auc(same, same) == 0.5 and privacy.true_positives(same, same, 0.1) == 0.0
    assert privacy.auc(same + 1, same) == 1.0 and privacy.true_positives(same + 1, same, 0.0) == 1.0


def test_lira_subtracts_what_students_without_the_image_say():
    """By hand: image 0 was held by the first shadow, so its mu is 3; image 2 by both, so it has the mean mu."""
    shadows = np.array([[9.0, 1.0, 7.0], [3.0, 3.0, 7.0]])
    held = np.array([[True, False, True], [False, False, True]])
    mean = (1.0 + 3.0 + 3.0) / 3
    sigma = np.sqrt((1.0 + 1.0) / (3 - 2))  # three shadow values left out, two means
    found = privacy.likelihood_ratio(np.array([[4.0, 2.0, 5.0]]), shadows, held)
    np.testing.assert_allclose(found, [[(4 - 3) / sigma, 0.0, (5 - mean) / sigma]])


def test_hard_images_hide_members_from_the_loss_but_not_from_lira():
    """Members' phi is 1 above their own difficulty, which varies far more from image to image than that."""
    rng = np.random.default_rng(0)
    hard, shadows = rng.normal(0, 20, 400), rng.normal(0, 0.3, (8, 400))
    seen = hard + rng.normal(0, 0.3, 400) + np.r_[np.ones(200), np.zeros(200)]
    ratio = privacy.likelihood_ratio(seen, hard + shadows, np.zeros((8, 400), bool))
    assert privacy.auc(seen[:200], seen[200:]) < 0.6
    assert privacy.auc(ratio[:200], ratio[200:]) > 0.95


# ----------------------------------------------------------------------------------------------- nas


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_is_scipys(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, 15) / 6, rng.random(15)
    np.testing.assert_array_equal(nas.ranks(a), stats.rankdata(a))
    assert nas.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    low, high = nas.interval(a, b)
    assert -1 <= low <= nas.spearman(a, b) <= high <= 1


def test_rank_correlation_of_distinct_values_is_the_school_formula():
    a, b = np.array([1.0, 2, 3, 4]), np.array([10.0, 30, 20, 40])
    assert nas.spearman(a, b) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert nas.spearman(a, -a) == pytest.approx(-1) and nas.spearman(a, np.ones(4)) is None


def test_the_grid_holds_only_networks_that_the_images_admit():
    assert len(nas.grid(8, 8)) == 12 and len(nas.grid(4, 9)) == 8 and len(set(nas.grid(32, 32))) == 12


# ------------------------------------------------------------------------------------------ coverage


@pytest.mark.parametrize("seed", range(6))
def test_a_real_image_in_the_set_covers_those_at_whose_radius_it_lies(seed):
    real, chosen = np.random.default_rng(seed).normal(size=(120, 64)).astype(np.float32), [0, 7, 50]
    apart = np.linalg.norm(real[:, None].astype(float) - real[None].astype(float), axis=2)
    wanted = np.mean(apart[:, chosen].min(axis=1) <= np.sort(apart, axis=1)[:, coverage.NEAREST])  # [:, 0]: itself
    assert coverage.measure([real], [real[chosen]], [coverage.radii(real)])[0] == wanted


def test_coverage_by_hand():
    """Real 0, 1, 2, 10 on a line; second neighbours are 2, 1, 2 and 9 away. An image at 3.5 covers 2 and 10 alone."""
    real = np.array([[0.0], [1], [2], [10]])
    reach = coverage.radii(real, nearest=2)
    assert reach.tolist() == [2.0, 1.0, 2.0, 9.0]
    share, distance, spread = coverage.measure([real], [np.array([[3.5]])], [reach])
    assert share == 0.5 and spread is None
    assert distance == pytest.approx((3.5 + 2.5 + 1.5 + 6.5) / (3.25 + 2.25 + 1.25 + 6.75))
    assert coverage.measure([real], [real], [reach])[:2] == (1.0, 0.0)
    mean = real.mean(axis=0, keepdims=True)
    assert coverage.measure([real], [mean], [reach])[1] == pytest.approx(1.0)
    both = coverage.measure([real, real], [real, np.array([[3.5]])], [reach, reach])
    assert both[0] == 0.75  # class by class: what covers one class does nothing for the other


def test_distances_and_radii_equal_brute_force():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 4)), rng.normal(size=(5, 4))
    np.testing.assert_allclose(coverage.gaps(a, b), [[np.linalg.norm(x - y) for y in b] for x in a], atol=1e-9)
    want = [sorted(np.linalg.norm(x - y) for j, y in enumerate(a) if j != i)[4] for i, x in enumerate(a)]
    np.testing.assert_allclose(coverage.radii(a), want, atol=1e-9)
    assert coverage.radii(a[:1]).tolist() == [0.0] and len(coverage.radii(a[:3])) == 3


def test_diversity_is_the_mean_cosine_distance_of_pairs():
    rng = np.random.default_rng(1)
    some = rng.normal(size=(6, 3))
    pairs = [
        1 - some[i] @ some[j] / np.linalg.norm(some[i]) / np.linalg.norm(some[j]) for i in range(6) for j in range(i)
    ]
    assert coverage.diversity(some) == pytest.approx(np.mean(pairs))
    assert coverage.diversity(np.array([[1.0, 0], [0, 2]])) == pytest.approx(1.0)
    assert coverage.diversity(np.array([[1.0, 1], [3, 3]])) == pytest.approx(0.0)
    assert coverage.diversity(some[:1]) is None


# ----------------------------------------------------------------------------------------- continual


def test_every_class_comes_once_and_its_images_keep_their_class():
    parts = continual.steps_of(10, 0)
    assert [len(p) for p in parts] == [2] * 5 and sorted(np.concatenate(parts)) == list(range(10))
    assert [len(p) for p in continual.steps_of(7, 0)] == [3, 2, 2] and len(continual.steps_of(3, 0)) == 1
    assert not np.array_equal(np.concatenate(parts), np.concatenate(continual.steps_of(10, 1)))
    split = open_data(config.Data(train="digits", subset=200), 0).train
    seen = np.concatenate(parts[:2])
    part = continual.seen_part(split, seen)
    assert set(part.labels.tolist()) == {0, 1, 2, 3} and len(part) == int(np.isin(split.labels, seen).sum())
    np.testing.assert_array_equal(seen[part.labels], split.labels[part.rows])
    np.testing.assert_array_equal(part.gather(np.array([3, 0])), split.gather(part.rows[[3, 0]]))
