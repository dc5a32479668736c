"""The battery: what every method of METHODS must keep. A new method adds one line to SMALL.

Width 8, images of 8x8, four classes (so that four devices have something to share), few steps. One compiled program per
method serves all its properties: the loop's own chunk, fed by the loop's own supply. The second half of the methods is
in battery_second_test.py, for a second worker.
"""

import dataclasses
import functools
import io
import json
import typing
from types import SimpleNamespace
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import config, distill, methods, models, teachers
from ddjax.checkpoint import Checkpoint
from ddjax.config.document import fields
from ddjax.config.flags import _doc
from ddjax.data import CARDS
from ddjax.errors import ConfigError
from ddjax.kernels import labels as losses
from ddjax.log import Log
from ddjax.mesh import Spread
from ddjax.methods import METHODS
from ddjax.selection import STARTS
from ddjax.supply import supply
from ddjax.types import Batch, Distiller, Made, Needs, Start, Teachers

CLASSES, SHAPE, IPC, EACH = 4, (8, 8, 1), 2, 8  # EACH: real images of a class
CHUNK, FALL = 3, 24  # steps of a compiled chunk; steps after which the loss has fallen
NET, TEACHER, POOL = "convnet2-w8", "convnet2-w8-batch", 4

SMALL: dict[str, dict[str, Any]] = {  # hyper-parameters that make a method tiny; arch and ipc are given to all
    "random": {},
    "herding": {},
    "kcenter": {},
    "kmeans": dict(soft=True),
    "forgetting": {},
    "dc": dict(steps=6, outer=2, inner=2, real_batch=4, net_batch=8),
    "dsa": dict(steps=6, outer=2, inner=2, real_batch=4, net_batch=8),
    "idc": dict(steps=2, inner=12, lr=0.05, real_batch=4, most=8, net_images=16, net_batch=8),
    "dm": dict(steps=24, real_batch=4, lr=1.0),
    "idm": dict(steps=24, real_batch=4, nets=3, fresh_every=3, train_nets=2, train_steps=1, train_batch=8),
    "ncfm": dict(steps=24, real_batch=4, frequencies=16, nets=2, epochs=2),
    "bptt": dict(steps=24, real_batch=16, lr=0.05),
    "rat_bptt": dict(steps=24, window=2, total=4, real_batch=16, lr=0.05),
    "ld": dict(steps=24, inner_batch=4, real_batch=16, lr=0.05),
    "mtt": dict(steps=24, inner_steps=3, batch=4, lr=10.0),
    "tesla": dict(steps=24, inner_steps=3, batch=4, lr=10.0, dsa=False),
    "datm": dict(steps=24, inner_steps=3, batch=4, lr=10.0, dsa=False),
    "frepo": dict(steps=24, nets=2, age=4, real_batch=16, online_batch=8, arch=TEACHER, lr=0.02),
    "rfad": dict(steps=24, nets=4, real_batch=16, chunk=16, lr=0.05),
    "kip": dict(steps=24, real_batch=4),
    "sre2l": dict(steps=24, batch=8, lr=0.1),
    "cda": dict(steps=24, batch=8, lr=0.1),
    "fadrm": dict(steps=24, batch=8, lr=0.1),
    "gvbsm": dict(steps=24, batch=8, lr=0.01),
    "edc": dict(steps=24, batch=8, lr=0.1),
    "rded": {},
    "teddy": dict(steps=24, batch=8, lr=0.1, pool_draw="all"),
}
JUDGED: dict[str, dict[str, Any]] = {  # what a method's loss is measured with, where it is not of the images alone
    "gvbsm": dict(momentum=0.0),  # its loss has the value of a moving average that starts at zero
}
HALVES = (tuple(METHODS)[::2], tuple(METHODS)[1::2])


# ---------------------------------------------------------------------------------------------- what a method is fed


class Real(typing.NamedTuple):
    """A training split that lies in memory."""

    images: np.ndarray
    labels: np.ndarray
    shape: tuple[int, int, int] = SHAPE

    def __len__(self) -> int:
        return EACH * CLASSES

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]

    @property
    def nbytes(self) -> int:
        return self.images.nbytes


@functools.cache
def data() -> Any:
    """A pattern for each class, and noise; the card of digits."""
    rng = np.random.Generator(np.random.Philox(0))
    labels = np.tile(np.arange(CLASSES, dtype=np.int32), EACH)
    patterns = rng.integers(40, 216, (CLASSES, *SHAPE))
    images = np.clip(patterns[labels] + rng.normal(0, 25, (len(labels), *SHAPE)), 0, 255).astype(np.uint8)
    names = tuple("abcd")
    return SimpleNamespace(train=Real(images, labels), card=CARDS["digits"], class_names=names)


def network(arch: str) -> Any:
    return models.build(arch, image_shape=SHAPE, classes=CLASSES)


@functools.cache
def path(arch: str) -> tuple[jax.Array, jax.Array]:
    """Weights of a network and what a few steps of training on the real images make of them, each in one row."""
    net, real = network(arch), data().train
    images, labels = (
        jnp.asarray(real.images / 255.0 - 0.5, jnp.float32),
        losses.onehot(jnp.asarray(real.labels), CLASSES),
    )
    params, state = jax.jit(net.init)(jax.random.key(5))
    row, back = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def train(start: jax.Array) -> jax.Array:
        loss = lambda w: losses.cross_entropy(net.apply(back(w), state, images, train=False).logits, labels)  # noqa: E731
        return jax.lax.fori_loop(0, 10, lambda _, w: w - 0.05 * jax.grad(loss)(w), start)

    return row, train(row)


class Paths(typing.NamedTuple):
    """Stands for experts.Store: the same two points of one path at every step."""

    arch: str

    @property
    def size(self) -> int:
        return path(self.arch)[0].size

    def pairs(self, experts: Any, seed: int, start: int, count: int) -> tuple[jax.Array, jax.Array]:
        first, last = path(self.arch)
        return jnp.tile(first, (count, 1)), jnp.tile(last, (count, 1))


@functools.cache
def equipped(needs: Needs) -> Teachers:
    """Random networks, and what a survey of the real images at them gives a method that needs ``needs``."""
    net, size = network(TEACHER), 1 if needs.pool == "base" else POOL
    params, state = jax.jit(jax.vmap(net.init))(jax.random.split(jax.random.key(7), size))
    store = SimpleNamespace(net=net, of=lambda which: Teachers(params, state))
    return teachers.equip(typing.cast(Any, store), needs, data(), over=Spread("scan"))


# -------------------------------------------------------------------------------------------------- one method's trial


class Trial:
    """A method at work on the small problem; the program is compiled at its first step."""

    def __init__(self, name: str, devices: int = 1, **more: Any) -> None:
        cls: Any = METHODS[name]
        own = {"arch": NET} if "arch" in fields(cls) else {}
        self.method: Any = cls(**({"ipc": IPC} | own | SMALL[name] | more)).filled("digits", IPC)
        needs, arch = self.method.needs, getattr(self.method, "arch", None) or TEACHER
        self.held = Paths(arch) if needs.experts else None
        self.supply = supply(needs, data(), 0, self.held)
        self.teachers = equipped(needs) if needs.teachers else None
        self.shared = self.traced = 0  # how often the devices were asked to share; how often the step was traced
        over = Spread("scan", devices)

        def mean(fn: Any) -> Any:
            self.shared += 1
            return over.mean(fn)

        members = 1 if needs.pool == "base" else POOL
        context = methods.context(self.method, network(arch), data().card, SHAPE, CLASSES, mean, members=members)
        self.built: Distiller = self.method.build(context)

        def step(*given: Any) -> Any:
            self.traced += 1
            return self.built.step(*given)

        self.distiller = self.built._replace(step=step)
        self.run = distill.make_chunk(self.distiller, self.supply)

    @property
    def start(self) -> Start:
        """Real images, class by class, and logits where they are asked for."""
        rows = np.concatenate([np.flatnonzero(data().train.labels == c)[:IPC] for c in range(CLASSES)])
        rng = np.random.Generator(np.random.Philox(2))
        wanted = self.method.needs.start_logits
        logits = rng.normal(size=(len(rows), CLASSES)).astype(np.float32) if wanted else None
        return Start(data().train.images[rows], np.repeat(np.arange(CLASSES, dtype=np.int32), IPC), logits)

    def begin(self) -> Any:
        """The state before the first step, as the loop makes it."""
        card, (images, *rest) = data().card, self.start
        scaled = distill.normalise(jnp.asarray(images), card.mean, card.std)
        given = [jnp.asarray(a) for a in rest if a is not None]
        return jax.jit(self.built.init)(jax.random.key(3), scaled, *given)

    first = functools.cached_property(begin)

    def go(self, state: Any, start: int, count: int) -> tuple[Any, dict[str, float]]:
        """``count`` steps of the loop, and what the last of them logs; ``state`` stays as it was."""
        info: Any = {}
        for at in range(start, start + count, CHUNK):
            fed, kept = self.supply.chunk(at, CHUNK), jax.tree.map(jnp.copy, state)
            part = jnp.int32(min(CHUNK, start + count - at))
            state, info = self.run(jax.random.key(1), kept, self.teachers, fed, jnp.int32(at), part)
        return state, {name: float(value) for name, value in info.items()}

    @functools.cached_property
    def after(self) -> tuple[Any, dict[str, float]]:
        """State and Info after a whole chunk."""
        return self.go(self.first, 0, CHUNK)

    def made(self, state: Any) -> Made:
        found = self.built.extract(state)
        return found if isinstance(found, Made) else Made(found)

    def loss(self, state: Any) -> float:
        """The loss of what ``state`` has learned, at the first step's draw and networks."""
        name = "learned" if hasattr(state, "learned") else "images"
        again = self.first._replace(**{name: getattr(state, name)})
        return self.go(again, 0, 1)[1]["loss"]


@pytest.fixture(scope="module", params=HALVES[0])
def trial(request):
    return Trial(request.param)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)), tree)


# -------------------------------------------------------------------------------------------------------- properties


def test_every_method_has_a_line_here():
    assert set(SMALL) == set(METHODS)


def test_contract(trial):
    method, needs, built = trial.method, trial.method.needs, trial.built
    assert needs.real in ("none", "iid", "per_class") and (needs.real == "none") == (needs.real_batch == 0)
    assert needs.start in STARTS and (needs.experts or not needs.start_logits)
    assert needs.statistics in ("none", "global", "class", "layers", "layers_class") and needs.pool in ("pool", "base")
    assert method.label_source in ("hard", "learned", "pool", "base") and method.STORE in ("float", "pixels")
    assert set(method.learns) <= {"logits", "lr"} and built.steps >= 0
    made = jax.eval_shape(trial.made, trial.first)
    assert made.images.shape == (CLASSES * IPC, *SHAPE) and made.images.dtype == jnp.float32
    assert ("logits" in method.learns) == (made.label_logits is not None) == (method.label_source == "learned")
    assert ("lr" in method.learns) == (made.learned_lr is not None)
    assert made.label_logits is None or made.label_logits.shape == (CLASSES * IPC, CLASSES)
    assert made.learned_lr is None or made.learned_lr.shape == ()
    if built.steps:
        state, info = trial.after
        assert shapes(state) == shapes(trial.first)
        assert info and np.isfinite(list(info.values())).all()


def test_what_the_method_says_of_itself():
    for name, cls in METHODS.items():
        assert cls.__doc__ and "@" in cls.REFERENCE and "title" in cls.REFERENCE and "year" in cls.REFERENCE, name
        owners = [base for base in cls.__mro__ if dataclasses.is_dataclass(base)]
        for field in fields(cls):
            assert any(_doc(base, field) for base in owners if field in base.__annotations__), f"{name}.{field}"


def test_a_step_is_traced_once_whatever_it_is_given(trial):
    if not trial.built.steps:
        return
    state, _ = trial.after
    before = trial.traced
    state, _ = trial.go(state, 3, 1)
    trial.go(state, 4, 2)
    assert trial.traced == before


def test_numbers_stay_32_bits_wide(trial):
    kinds = {"float32", "int32", "uint32", "bool", "key<fry>"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(trial.first)} <= kinds
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(trial.first))


def test_the_loss_falls(trial):
    if not trial.built.steps:  # chosen, not learned: nothing may have moved
        pixels = distill.to_pixels(np.asarray(trial.made(trial.first).images), data().card.mean, data().card.std)
        assert np.array_equal(pixels, trial.start.images)
        return
    state, _ = trial.go(trial.first, 0, min(FALL, trial.built.steps))
    name = methods.name_of(trial.method)
    judge = Trial(name, **JUDGED[name]) if name in JUDGED else trial
    assert judge.loss(state) < judge.loss(trial.first)


def test_two_steps_agree_on_one_and_on_four_devices(trial):
    if not trial.shared:  # no part of it is dealt to devices: one program serves any number
        return
    four = Trial(methods.name_of(trial.method), devices=4)
    one, many = trial.go(trial.first, 0, 2), four.go(four.first, 0, 2)
    assert four.shared
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        a, b = (np.asarray(jax.random.key_data(x) if is_key(x) else x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4 * max(1.0, np.abs(a).max(initial=0)))


def is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


class Killed(Exception):
    """What stands for SIGKILL."""


class Doomed(Log):
    """A log whose process dies at the record of step ``at``."""

    def __init__(self, at: int) -> None:
        super().__init__(None, stream=io.StringIO())
        self.at = at

    def record(self, stage: str, step: int, **values: Any) -> None:
        if step >= self.at:
            raise Killed


NEVER = SimpleNamespace(restore=lambda *_, **__: None, save=lambda *_: None)  # a run without checkpoints


def test_a_run_that_was_killed_ends_with_the_same_bits(trial, tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "make_chunk", lambda *_: trial.run)
    short = trial.distiller._replace(steps=min(trial.built.steps, 2 * CHUNK + 1))

    def whole(at: int, checkpoint: Any) -> Made:
        given: Any = dict(log=Doomed(at), checkpoint=checkpoint, config_hash="same", every=CHUNK)
        return distill.distill(short, trial.supply, trial.teachers, trial.start, **given)

    wanted = whole(1000, NEVER)
    if short.steps:
        with Checkpoint(tmp_path) as checkpoint, pytest.raises(Killed):
            whole(2 * CHUNK, checkpoint)
        with Checkpoint(tmp_path) as checkpoint:
            assert checkpoint.latest() == CHUNK  # what came after is lost
            again = whole(1000, checkpoint)
    else:
        again = whole(1000, NEVER)
    for a, b in zip(wanted, again, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_a_set_of_canvases_keeps_the_contract(trial):
    """Multi-formation serves every method: with factor 2 the state is handed on as it came."""
    tiled = Trial(methods.name_of(trial.method), factor=2)
    state, fed = jax.eval_shape(tiled.begin), tiled.supply.chunk(0, 1)

    def step(state: Any) -> Any:
        batch = Batch(jnp.int32(0), teachers=tiled.teachers, **tiled.supply.fields(fed, jnp.int32(0)))
        return tiled.built.step(jax.random.key(0), state, batch)

    if tiled.built.steps:
        distill.check_state(state, jax.eval_shape(step, state)[0])
    assert jax.eval_shape(tiled.made, state).images.shape == (CLASSES * IPC, *SHAPE)


CELLS = [(card, ipc) for card in ("digits", "fashion_mnist", "cifar10", "imagenet") for ipc in (1, 10, 50)]


def settled(method: Any, card: str = "digits") -> config.Run:
    return config.settled(config.Run(data=config.Data(train=card), method=method))


@pytest.mark.parametrize("name", METHODS)
def test_the_configuration_is_written_and_read_back(name):
    for budget in ("card", "published"):
        for card, ipc in CELLS:
            run = settled(METHODS[name](ipc=ipc, budget=budget), card)
            assert config.from_json(json.loads(json.dumps(config.to_json(run)))) == run, (card, ipc)
            assert run.method.filled(card, ipc) == run.method


def told(method: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        settled(method)
    return str(refused.value)


@pytest.mark.parametrize("name", METHODS)
def test_a_bad_hyper_parameter_is_named(name):
    method: Any = METHODS[name](ipc=1).filled("digits", 1)
    numbers, words = [], []
    for field, hint in fields(method).items():
        parts = set(typing.get_args(hint) or (hint,))
        if typing.get_origin(hint) is typing.Literal:
            words.append(field)
        elif parts & {int, float} and bool not in parts and typing.get_origin(hint) is not tuple:
            numbers.append((field, -1 if int in parts else -1.0))
    assert {("ipc", -1), ("factor", -1)} <= set(numbers) and "budget" in words
    silent = [(field, value) for field, value in numbers
              if not any(f"method.{field} = {value} is" in p and "Nearest valid: " in p
                         for p in dataclasses.replace(method, **{field: value}).check())]  # fmt: skip
    assert silent == []
    assert "method.ipc = -1" in told(dataclasses.replace(method, ipc=-1))
    found = told(dataclasses.replace(method, **dict.fromkeys(words, "nonsense")))
    assert [field for field in words if f"method.{field} = 'nonsense'" not in found] == []
    if "arch" in fields(method):
        assert "convnet3" in told(dataclasses.replace(method, arch="convnt3"))
        if getattr(method, "NO_BATCH_NORM", ""):
            said = told(dataclasses.replace(method, arch="convnet3-batch"))
            assert method.NO_BATCH_NORM in said and "Nearest valid: convnet3." in said
