"""Expert trajectories: plain SGD on batches and views of their own, kept after every epoch, stored once."""

import contextlib
import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ddjax import config, experts, models, survey
from ddjax.data import open_data
from ddjax.data.sampler import epoch_batches
from ddjax.errors import ConfigError, DataError, DdjaxError
from ddjax.kernels import augment as views
from ddjax.kernels import labels as losses
from ddjax.keys import key
from ddjax.mesh import Spread
from ddjax.types import Augment, Experts

SEED, ARCH = 5, "convnet1-w4"
WANTED = Experts(count=3, epochs=3, span=1, low=0, high=3, rate=0.1, batch=16, ops=("color", "crop", "flip"), arch=ARCH)


class Stop(Exception):
    pass


class Log:
    """A log that counts steps, and may break off."""

    def __init__(self, last=None):
        self.steps, self.last = 0, last

    def say(self, text):
        pass

    def progress(self, stage, total):
        return contextlib.nullcontext(self)

    def advance(self, n, **shown):
        self.steps += n
        if self.last is not None and self.steps >= self.last:
            raise Stop


@functools.cache
def data():
    """50 real digits to train on, 10 to choose by."""
    return open_data(config.Data(train="digits", subset=60), 0)


def net(arch=ARCH):
    return models.build(arch, image_shape=(8, 8, 1), classes=10)


def job(cache, *, last=None, devices=1, every=100):
    run = SimpleNamespace(seed=SEED, compute=SimpleNamespace(checkpoint_every=every, precision="float32"))
    return SimpleNamespace(run=run, data=data(), log=Log(last), over=Spread("scan", devices), cache=cache, net=net)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("experts")


@pytest.fixture(scope="module")
def store(cache):
    return experts.build(WANTED, job(cache))


def test_the_weights_are_those_of_plain_sgd_on_the_same_batches(store):
    """theta <- theta - rate * gradient, by hand; no flip on digits; each has its own start, batches and views."""
    number, per_epoch, split, card = 1, 50 // 16, data().train, data().card
    ops = Augment(dsa=("color", "crop"))
    params, state = net().init(key(SEED, "expert-init", number))
    batches = epoch_batches(SEED, f"expert-{number}", 0, 3 * per_epoch, 50, 16)

    @jax.jit
    def update(params, images, labels, step):
        view = views.draw_view(
            jax.random.fold_in(key(SEED, f"expert-{number}-views"), step), ops,
            jnp.arange(16, dtype=jnp.int32), step, image_size=(8, 8),
        )  # fmt: skip
        seen = views.apply_view(survey.normalise(images, card.mean, card.std), view, augment=ops)

        def loss(params):
            logits = net().apply(params, state, seen, train=True).logits
            return losses.cross_entropy(logits, losses.onehot(labels, 10))

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    rows = [ravel_pytree(params)[0]]
    for step, index in enumerate(batches):
        params = update(params, jnp.asarray(split.gather(index)), jnp.asarray(split.labels[index]), jnp.int32(step))
        if (step + 1) % per_epoch == 0:
            rows.append(ravel_pytree(params)[0])
    np.testing.assert_allclose(store.weights[number], np.stack(rows), atol=2e-6)
    assert store.weights.shape == (3, 4, store.size)
    assert not np.array_equal(store.weights[0, 0], store.weights[1, 0])


def test_the_store_is_a_memory_map_of_floats_with_accuracies(store):
    assert isinstance(store.weights, np.memmap) and store.weights.dtype == np.float32
    assert len(store.accuracy) == 3
    rebuild, state = experts.unravel(net())
    params = jax.tree.map(lambda a: a[None], rebuild(jnp.asarray(store.weights[2, -1])))
    card = data().card
    found = survey.accuracy(net(), params, state, data().val, card.mean, card.std, over=Spread("scan"))
    assert found[0] == pytest.approx(store.accuracy[2])


def test_a_store_is_made_once_whatever_points_of_it_are_asked_for(store, cache):
    again = job(cache, last=1)  # would break off at the first step
    other = experts.build(WANTED._replace(span=2, low=1, high=2, grow=3, first=2), again)
    assert other.folder == store.folder and again.log.steps == 0
    with pytest.raises(Stop):
        experts.build(WANTED._replace(rate=0.2), job(cache, last=1))


def test_a_killed_stage_goes_on_and_ends_with_the_same_bits(store, tmp_path):
    """Broken off within the second expert: the first is not trained again, the second goes on from its checkpoint."""
    with pytest.raises(Stop):
        experts.build(WANTED, job(tmp_path, last=9 + 6, every=3))
    (folder,) = [path for path in (tmp_path / "experts").iterdir() if not path.name.startswith(".")]
    assert len(experts.accuracies(folder)) == 1
    rest = job(tmp_path, every=3)
    found = experts.build(WANTED, rest)
    assert rest.log.steps == 27  # 9 of the expert that is done, 3 of the checkpoint, 15 that are left
    np.testing.assert_array_equal(found.weights, store.weights)
    assert found.accuracy == store.accuracy


def test_side_by_side_on_two_devices_they_are_the_same_experts(store, tmp_path):
    found = experts.build(WANTED, job(tmp_path, devices=2))
    np.testing.assert_allclose(found.weights, store.weights, atol=2e-5)


def test_pairs_are_decided_by_seed_and_step_alone(store):
    first, last = store.pairs(WANTED, 1, 0, 6)
    some, later = store.pairs(WANTED, 1, 4, 2)
    np.testing.assert_array_equal(first[4:], some)
    np.testing.assert_array_equal(last[4:], later)
    drawn = experts.draws(WANTED, 3, 1, 0, 6)
    assert sorted(e for e, _ in drawn[:3]) == sorted(e for e, _ in drawn[3:]) == [0, 1, 2]
    for row, (e, t) in enumerate(drawn):
        np.testing.assert_array_equal(first[row], store.weights[e, t])
        np.testing.assert_array_equal(last[row], store.weights[e, t + 1])
    assert experts.draws(WANTED, 3, 2, 0, 6) != drawn


def test_the_range_of_start_epochs_grows():
    """top: 10, then up by whole epochs to 20 at step 100; draws stay below it and reach it."""
    grown = Experts(low=2, first=10, high=20, grow=100)
    assert [experts.top(grown, i) for i in (0, 9, 10, 55, 99, 100, 5000)] == [10, 10, 11, 15, 19, 20, 20]
    assert experts.top(grown._replace(grow=0), 0) == 20
    early = [t for _, t in experts.draws(grown, 4, 0, 0, 10)]
    late = [t for _, t in experts.draws(grown, 4, 0, 100, 400)]
    assert min(early) >= 2 and max(early) < 10
    assert min(late) == 2 and max(late) == 19


def test_logits_are_the_mean_over_the_experts_that_are_right(store):
    card, split = data().card, data().train
    x, labels = survey.normalise(split.gather(np.arange(12)), card.mean, card.std), split.labels[:12]
    forward = store.forward()
    said = np.stack([forward(jnp.asarray(row), x) for row in store.weights[:, -1]])
    found = store.logits(x, labels)
    for i in range(12):
        right = [z[i] for z in said if z[i].argmax() == labels[i]] or [z[i] for z in said]
        np.testing.assert_allclose(found[i], np.mean(right, axis=0), rtol=1e-5, atol=1e-6)


def test_classified_images_are_ones_that_the_first_expert_gets_right_as_far_as_they_go(store):
    card, split = data().card, data().train
    x = survey.normalise(split.gather(np.arange(50)), card.mean, card.std)
    right = np.asarray(store.forward()(jnp.asarray(store.weights[0, -1]), x)).argmax(axis=1) == split.labels
    taken = store.classified(data(), 2, np.random.default_rng(0))
    np.testing.assert_array_equal(split.labels[taken], np.repeat(np.arange(10), 2))
    assert len(set(taken)) == 20
    for c in range(10):
        there = int((right & (split.labels == c)).sum())
        assert right[taken[2 * c : 2 * c + 2]].sum() == min(2, there)


def test_a_given_store_is_taken_and_nothing_trained(store, tmp_path):
    found = experts.build(WANTED._replace(store=str(store.folder), span=2, high=2), job(tmp_path, last=1))
    np.testing.assert_array_equal(found.weights, store.weights)
    fewer = experts.build(WANTED._replace(store=str(store.folder), count=2), job(tmp_path, last=1))
    np.testing.assert_array_equal(fewer.weights, store.weights[:2])
    assert fewer.accuracy == store.accuracy[:2]


@pytest.mark.parametrize(
    ("asked", "flag"),
    [
        (dict(rate=9.0), "--method.expert_lr 0.1"), (dict(ops=()), "--method.dsa True"),
        (dict(batch=8), "--method.expert_batch 16"), (dict(count=4), "--method.experts 3"),
        (dict(epochs=9), "--method.expert_epochs 3"),
    ],
)  # fmt: skip
def test_a_store_of_other_experts_than_the_flags_say_is_refused(asked, flag, store, tmp_path):
    with pytest.raises(ConfigError, match=rf"trained otherwise than the flags say; allowed: {flag}, or no"):
        experts.build(WANTED._replace(store=str(store.folder), **asked), job(tmp_path))


def test_what_does_not_fit_is_refused_by_name(store, tmp_path, monkeypatch):
    given = WANTED._replace(store=str(store.folder))
    with pytest.raises(ConfigError, match=r"expert store of another arch: .*'convnet1-w4'.*--method.arch convnet1-w4"):
        experts.build(given._replace(arch="convnet1-w8"), job(tmp_path))
    other = job(tmp_path)
    other.data = open_data(config.Data(train="digits", subset=70), 0)
    with pytest.raises(
        ConfigError, match=r"of another data: it has data '\w{12}\.\.\.', .*Nearest: experts of this data"
    ):
        experts.build(given._replace(arch="convnet1-w8"), other)
    half = job(tmp_path)
    half.run.compute.precision = "bfloat16"
    with pytest.raises(ConfigError, match=r"than the flags say; allowed: --compute.precision float32, or no"):
        experts.build(given, half)
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match=r"method.store = .* holds no experts"):
            experts.build(given._replace(store=str(folder)), job(tmp_path))
    monkeypatch.setattr(experts.shutil, "disk_usage", lambda path: SimpleNamespace(free=9000))
    with pytest.raises(ConfigError, match=r"take 3\d\.\d kB, and .* 9 kB free.*Nearest: --method.experts 1"):
        experts.build(WANTED, job(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(experts.estimate, "device_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match=r"the device has 1 kB.*--method.expert_epochs"):
        experts.build(WANTED, job(tmp_path))


def test_a_torn_store_is_named(store, tmp_path):
    (tmp_path / "manifest.json").write_bytes((store.folder / "manifest.json").read_bytes())
    np.save(tmp_path / "weights.npy", np.zeros((3, 4, 7), np.float32))
    with pytest.raises(DataError, match=r"weights.npy is float32 \(3, 4, 7\), not float32 of 3 x 4 x "):
        experts.build(WANTED._replace(store=str(tmp_path)), job(tmp_path))
    whole = (store.folder / "weights.npy").read_bytes()
    for cut in (whole[:1000], whole[:20], b""):
        (tmp_path / "weights.npy").write_bytes(cut)
        with pytest.raises(DataError, match=r"weights.npy cannot be read: .* copy it again, or give no --method.store"):
            experts.build(WANTED._replace(store=str(tmp_path)), job(tmp_path))
    np.save(tmp_path / "weights.npy", np.full((3, 4, store.size), "x"))
    with pytest.raises(DataError, match=r"weights.npy is <U1 \(3, 4, \d+\), not float32 of 3 x 4 x "):
        experts.build(WANTED._replace(store=str(tmp_path)), job(tmp_path))
    for value in (np.nan, 0.0):
        weights = np.array(store.weights)
        weights[1, 2] = value
        np.save(tmp_path / "weights.npy", weights)
        torn = experts.build(WANTED._replace(store=str(tmp_path)), job(tmp_path))
        with pytest.raises(DataError, match=r"method.store = .*of expert 1 after 2 epochs are zero or no numbers"):
            torn.pairs(WANTED, 1, 0, 30)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"schema": 1, "arch": "convnet1-w4"}', r"manifest.json: it lacks data, shape, classes"),
        ("{", r"manifest.json' is not valid JSON"), ("[]", r"manifest.json: it = \[0 values\] is of the wrong kind"),
        ('{"schema": 2}', r"has schema 2; this ddjax reads 1"),
        (dict(epochs="3"), r"epochs = '3' is of the wrong kind; allowed: integer"),
        (dict(accuracy="high"), r"accuracy = 'high' is of the wrong kind"),
        (dict(accuracy=[]), r"accuracy has 0 values; allowed: 1 or more"),
        (dict(shape=[8, 8]), r"shape has 2 values; allowed: 3"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_named_with_the_way_out(content, told, store, tmp_path):
    said = json.loads((store.folder / "manifest.json").read_text())
    content = content if isinstance(content, str) else json.dumps(said | content)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DdjaxError, match=rf"method.store = .*{told}.*copy it again, or give no --method.store"):
        experts.build(WANTED._replace(store=str(tmp_path)), job(tmp_path))
    cached = tmp_path / "experts" / store.folder.name
    cached.mkdir(parents=True)
    (cached / "manifest.json").write_text(content)
    with pytest.raises(DdjaxError, match=rf"experts = .*{told}.*Remove the folder, and the experts are trained anew"):
        experts.build(WANTED, job(tmp_path))


def test_what_can_be_told_beforehand_is(store, cache, tmp_path, monkeypatch):
    def run(folder):
        compute = SimpleNamespace(precision="float32", cache_folder=lambda: folder)
        return SimpleNamespace(seed=SEED, compute=compute)

    experts.check(WANTED, net(), data(), run(tmp_path))
    experts.check(WANTED._replace(store=str(store.folder)), net(), data(), run(tmp_path))
    monkeypatch.setattr(experts.shutil, "disk_usage", lambda path: SimpleNamespace(free=9))
    experts.check(WANTED, net(), data(), run(cache))  # they are there
    begun = tmp_path / "begun" / "experts" / store.folder.name
    experts.laid_out(begun / "weights.npy", store.weights.shape)
    experts.check(WANTED, net(), data(), run(tmp_path / "begun"))  # their room is taken
    with pytest.raises(ConfigError, match="has 9 bytes free"):
        experts.check(WANTED, net(), data(), run(tmp_path))
    with pytest.raises(DataError, match=r"weights.npy cannot be read"):
        (tmp_path / "manifest.json").write_bytes((store.folder / "manifest.json").read_bytes())
        experts.check(WANTED._replace(store=str(tmp_path)), net(), data(), run(tmp_path))
