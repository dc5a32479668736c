"""The teacher stage: cached by content, snapshots of the base's own training, pruned members within the band."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import config, models, survey, teachers, train
from ddjax.checkpoint import Checkpoint
from ddjax.data import open_data
from ddjax.errors import CheckpointError, ConfigError, DataError
from ddjax.files import read_json
from ddjax.keys import numpy_rng
from ddjax.log import Log
from ddjax.mesh import Spread
from ddjax.methods import SRe2L, Teddy
from ddjax.types import Needs

pytestmark = pytest.mark.usefixtures("quick_compiles")
SEED, ONE = 3, Spread("scan")
RECIPE = config.Teacher(
    arch="convnet1-w8-batch", epochs=4, batch=16, lr=0.05, weight_decay=5e-4, pool=config.Pool(size=2, snapshots=(1, 3))
)
PRUNED = dataclasses.replace(
    RECIPE, pool=config.Pool(mode="posterior", size=2, prune=(0.4, 0.6), tune_epochs=1, accept=(0.0, 1.0))
)


class Quiet:
    """A log that keeps what was said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def progress(self, stage, total):
        import contextlib

        return contextlib.nullcontext(self)

    def advance(self, n, **shown):
        self.said.append(n)


@functools.cache
def data():
    """54 real digits to train on, 6 to choose by."""
    return open_data(config.Data(train="digits", subset=60), 0)


@functools.cache
def net(name=RECIPE.arch):
    return models.build(name, image_shape=(8, 8, 1), classes=10)


def build(recipe, cache, log=None, seed=SEED):
    return teachers.build(recipe, data(), net(), seed=seed, over=ONE, every=100, cache=cache, log=log or Quiet())


def refuse(*args, **kwargs):
    raise AssertionError("training started")


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def prior(cache):
    return build(RECIPE, cache)


@pytest.fixture(scope="module")
def given(prior):
    """The pruning recipe on the base model of `prior`, given as a file."""
    return dataclasses.replace(PRUNED, weights=str(prior.folder / "base.safetensors"))


@pytest.fixture(scope="module")
def posterior(cache, given):
    return build(given, cache)


def trainer(every=100):
    recipe = train.Recipe(weight_decay=RECIPE.weight_decay)
    return teachers.Trainer(net(), recipe, data(), RECIPE.batch, SEED, ONE, every)


def base_of(store):
    return jax.tree.map(lambda a: a[0], (store.base.params, store.base.state))


# ------------------------------------------------------------------------------------------ cache


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"accuracy": 0.5, "pool_accuracy": [0.1]}'])
def test_a_damaged_store_is_named_with_the_way_out(prior, tmp_path, content):
    shutil.copytree(prior.folder, tmp_path / "teachers" / prior.hash)
    (tmp_path / "teachers" / prior.hash / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=rf"(?s)compute.cache: '.*{prior.hash}': .*Remove the folder"):
        build(RECIPE, tmp_path)


def test_the_same_recipe_is_taken_from_the_cache(prior, cache, monkeypatch):
    monkeypatch.setattr(train, "fit", refuse)
    again = build(RECIPE, cache)
    assert again.hash == prior.hash and again.folder == prior.folder
    assert same((again.base, again.pool), (prior.base, prior.pool))
    assert (again.base_accuracy, again.pool_accuracy) == (prior.base_accuracy, prior.pool_accuracy)


def test_whatever_decides_the_teachers_changes_the_hash(prior):
    images, network = data(), net()

    def tag(recipe=RECIPE, data=images, net=network, seed=SEED, precision="float32"):
        return teachers.recipe_hash(recipe, data, net, seed, precision)

    card = dataclasses.replace(images.card, mean=(0.5,))
    others = [
        tag(dataclasses.replace(RECIPE, lr=0.06)), tag(dataclasses.replace(RECIPE, epochs=5)), tag(PRUNED),
        tag(dataclasses.replace(RECIPE, weights=str(prior.folder))), tag(seed=4),
        tag(net=models.build("convnet1-w16-batch", image_shape=(8, 8, 1), classes=10)),
        tag(precision="bfloat16"), tag(data=dataclasses.replace(images, hash="0")),
        tag(data=dataclasses.replace(images, card=card)),
    ]  # fmt: skip
    assert tag() == prior.hash
    assert len({prior.hash, *others}) == len(others) + 1


def test_artefacts_say_what_they_are(prior):
    manifest = read_json(prior.folder / "manifest.json")
    assert manifest["arch"] == RECIPE.arch and manifest["recipe"]["lr"] == 0.05 and manifest["seed"] == SEED
    found = survey.accuracy(
        net(), prior.pool.params, prior.pool.state, data().val, data().card.mean, data().card.std, over=ONE
    )
    np.testing.assert_allclose(manifest["pool_accuracy"], found)
    assert not list(prior.folder.parent.glob(f".{prior.folder.name}/steps/*"))  # no checkpoint is left


# ------------------------------------------------------------------------------------------ prior


def test_a_snapshot_is_training_stopped_at_its_epoch(prior, tmp_path):
    class Killed(Exception):
        pass

    def stop(n, **shown):
        raise Killed

    per_epoch, params, state = trainer().per_epoch, *net().init(jax.random.key(0))
    assert per_epoch == 3
    fresh = train.member_of(trainer().recipe, params, state, RECIPE.lr)
    with pytest.raises(Killed), Checkpoint(tmp_path / "c") as checkpoint:
        teachers.train_base(trainer(3), RECIPE, (), checkpoint, stop, "t")  # after the first epoch of four
    with Checkpoint(tmp_path / "c") as checkpoint:
        stopped, step = checkpoint.restore(jax.tree.map(lambda a: a[None], fresh), config_hash="t")
    assert step == 3
    first = jax.tree.map(lambda a: a[:1], (prior.pool.params, prior.pool.state))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves((stopped.params, stopped.state)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_base_that_is_killed_and_resumed_is_the_same(prior, tmp_path):
    taken = RECIPE.pool.snapshots

    class Killed(Exception):
        pass

    def stop(n, **shown):
        raise Killed

    with pytest.raises(Killed), Checkpoint(tmp_path / "c") as checkpoint:
        teachers.train_base(trainer(5), RECIPE, taken, checkpoint, stop, "t")
    with Checkpoint(tmp_path / "c") as checkpoint:
        assert checkpoint.latest() == 5
        base, kept = teachers.train_base(trainer(5), RECIPE, taken, checkpoint, lambda n, **shown: None, "t")
    assert same(base, base_of(prior)) and same(kept, (prior.pool.params, prior.pool.state))


# -------------------------------------------------------------------------------------- posterior


def densities(pool):
    """Share of non-zero entries of each weight of two or more axes, by member: [P, weights]."""
    return np.array([[np.mean(np.asarray(leaf[j]) != 0) for leaf in jax.tree.leaves(pool.params) if leaf.ndim > 2]
                     for j in range(len(jax.tree.leaves(pool.params)[0]))])  # fmt: skip


def test_pruned_members_keep_their_density_through_tuning(prior, posterior):
    rho = numpy_rng(SEED, "prune", 0).uniform(0.4, 0.6, 2)
    sizes = np.array([leaf[0].size for leaf in jax.tree.leaves(posterior.pool.params) if leaf.ndim > 2])
    kept = np.round(np.float32(1.0 - rho)[:, None] * sizes)
    assert np.array_equal(np.round(densities(posterior.pool) * sizes), kept)
    one, base = (np.asarray(p["head"]["kernel"]) for p in (posterior.pool.params, prior.base.params))
    assert not np.allclose(one[0], one[1])  # two of a kind differ
    assert not np.allclose(one[0], np.where(one[0] != 0, base[0], 0.0), atol=1e-4)  # tuned after pruning
    assert same(posterior.base, prior.base)


def weakened(verdicts, recipe, base):
    """`weaken` under a judge who says ``verdicts``, one list an attempt; what he was shown."""
    shown = []

    def judge(stacked):
        shown.append(stacked)
        return np.array([0.8]) if len(shown) == 1 else np.array(verdicts[len(shown) - 2])

    pool = teachers.weaken(trainer(), recipe, base, 2, judge, Log(None))
    return pool, shown


def test_members_outside_the_band_are_drawn_again(prior):
    recipe = dataclasses.replace(PRUNED, pool=dataclasses.replace(PRUNED.pool, accept=(0.5, 0.9)))
    (params, _), shown = weakened([[0.79, 0.6], [0.3, 0.41]], recipe, base_of(prior))
    assert len(shown) == 3  # the base, and two attempts
    taken = [shown[1][0], shown[2][0]]
    for got, first, second in zip(*map(jax.tree.leaves, (params, *taken)), strict=True):
        assert np.array_equal(got[0], first[1]) and np.array_equal(got[1], second[1])


def test_an_error_tells_what_was_tried_when_none_fits(prior, monkeypatch):
    monkeypatch.setattr(teachers, "ROUNDS", 2)
    recipe = dataclasses.replace(PRUNED, pool=dataclasses.replace(PRUNED.pool, accept=(0.5, 0.9)))
    with pytest.raises(DataError, match=r"only 1 of 2 .* after 2 draws.*0\.800.*\[0\.1, 0\.2, 0\.6, 1\.0\].*Widen"):
        weakened([[0.08, 0.48], [0.16, 0.8]], recipe, base_of(prior))


def test_redrawing_compiles_nothing_again(prior, monkeypatch):
    traces, make_step = [], train.make_step

    def counted(*args):
        step = make_step(*args)
        return lambda *inputs: (traces.append(1), step(*inputs))[1]

    monkeypatch.setattr(train, "make_step", counted)
    monkeypatch.setattr(teachers, "ROUNDS", 3)
    teachers.program.cache_clear()
    recipe = dataclasses.replace(PRUNED, pool=dataclasses.replace(PRUNED.pool, accept=(0.5, 0.9)))
    with pytest.raises(DataError):
        weakened([[0.0, 0.0]] * 3, recipe, base_of(prior))
    assert len(traces) == 1


def test_a_base_that_is_never_right_is_named(prior):
    recipe = dataclasses.replace(PRUNED, pool=dataclasses.replace(PRUNED.pool, accept=(0.5, 0.9)))
    with pytest.raises(DataError, match="accuracy of the base model is 0"):
        teachers.weaken(trainer(), recipe, base_of(prior), 2, lambda s: np.zeros(len(jax.tree.leaves(s)[0])), Log(None))


@pytest.mark.parametrize("members", [[0.1, 0.9], [0.1, 0.1]])
def test_members_that_know_next_to_nothing_are_dropped(members, given, tmp_path, monkeypatch):
    def judged(net, params, state, *args, **kwargs):
        return np.array([1.0] if len(jax.tree.leaves(params)[0]) == 1 else members)

    monkeypatch.setattr(survey, "accuracy", judged)
    log = Quiet()
    if max(members) < 0.2:
        with pytest.raises(DataError, match=r"all 2 members are below 20 %.*1\.000"):
            build(given, tmp_path, log)
    else:
        found = build(given, tmp_path, log)
        assert found.pool_accuracy == [0.9] and jax.tree.leaves(found.pool.params)[0].shape[0] == 1
        assert any("dropped 1 of 2" in str(line) for line in log.said)


# ------------------------------------------------------------------------------- weights, mixed


def test_given_weights_are_taken_back_from_a_file_or_its_folder(prior, posterior, given, cache, monkeypatch):
    assert same(posterior.base, prior.base) and posterior.base_accuracy == prior.base_accuracy
    monkeypatch.setattr(train, "fit", refuse)
    folder = dataclasses.replace(given, weights=str(prior.folder))
    assert build(folder, cache).hash == posterior.hash  # the same weights: the same teachers


def test_prior_with_given_weights_becomes_posterior_and_says_so(given, posterior, cache, monkeypatch):
    log, pool = Quiet(), dataclasses.replace(given.pool, mode="prior")
    found = build(dataclasses.replace(given, pool=pool), cache, log)
    assert any("no snapshots" in str(line) for line in log.said)
    assert same(found.pool, posterior.pool)


@pytest.mark.parametrize("method", [Teddy(), SRe2L()])
def test_each_method_is_fed_the_given_model(method, posterior):
    chosen = posterior.of(method.needs.pool)
    assert same(chosen, posterior.pool if type(method) is Teddy else posterior.base)


def test_weights_that_do_not_fit_are_refused(prior, tmp_path, cache):
    wrong = dataclasses.replace(RECIPE, weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(ConfigError, match=r"teacher\.weights = .*none\.safetensors"):
        build(wrong, cache)
    other = models.build("convnet2-w8-batch", image_shape=(8, 8, 1), classes=10)
    with pytest.raises(CheckpointError, match="does not fit convnet2-w8-batch"):
        teachers.given_weights(str(prior.folder), other)


def test_mixed_is_half_snapshots_half_pruned(prior, tmp_path):
    pool = dataclasses.replace(PRUNED.pool, mode="mixed", size=3, snapshots=(1, 3))
    found = build(dataclasses.replace(PRUNED, pool=pool), tmp_path)
    assert len(found.pool_accuracy) == 3
    two = jax.tree.map(lambda a: a[:2], (found.pool.params, found.pool.state))
    assert same(two, (prior.pool.params, prior.pool.state))
    share = densities(found.pool)
    assert (share[:2] > 0.99).all() and (share[2] < 0.61).all()


def test_where_nobody_asks_for_a_pool_it_costs_nothing(prior, given, cache, tmp_path, monkeypatch):
    def lean(recipe, folder):
        return teachers.build(
            recipe, data(), net(), seed=SEED, over=ONE, every=100, cache=folder, log=Quiet(), pooled=False
        )

    monkeypatch.setattr(train, "fit", refuse)  # given weights: no tuning; a free pool: the cache that others share
    found = lean(given, tmp_path)
    assert same(found.pool, prior.base) and found.pool_accuracy == [prior.base_accuracy]
    assert lean(RECIPE, cache).hash == prior.hash
    short = dataclasses.replace(RECIPE, pool=config.Pool(size=9))
    assert teachers.taken_epochs(teachers.lean(short, False)) == ()
    with pytest.raises(ConfigError, match=r"teacher\.pool\.size = 9 .* teacher\.epochs = 4"):
        teachers.taken_epochs(teachers.lean(short, True))


# ---------------------------------------------------------------------------------------- equip


@pytest.mark.parametrize(
    ("needs", "fed"),
    [
        (Needs(teachers=True), (False, False, False)),
        (Needs(teachers=True, statistics="class", class_probs=True), (True, False, True)),
        (Needs(teachers=True, gradients=True, pool="base"), (False, True, False)),
    ],
)
def test_a_method_is_fed_what_it_needs_and_nothing_else(prior, needs, fed):
    found = teachers.equip(prior, needs, data(), over=ONE)
    assert tuple(x is not None for x in (found.statistics, found.gradients, found.class_probs)) == fed
    assert jnp.shape(jax.tree.leaves(found.params)[0])[0] == (1 if needs.pool == "base" else 2)
