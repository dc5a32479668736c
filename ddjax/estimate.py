"""``--check``: would this run fit? Shapes only: nothing is computed.

    bytes = 1.3 (parameters + optimiser + pool + images + batch + residuals of the step's vjp)

taken for each stage by ``jax.eval_shape``; the largest stage counts. A method's step is traced and its peak told from
the program (``ddjax.liveness``): N iterates of trajectory matching, one class's maps under scan, all of them under
vmap. Classes and image size come from the data where they can be read, else from the card and the configuration. The
factor 1.3 stands for the workspace of single operations.
"""

import math
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax import config, data, liveness, models, teachers
from ddjax.distill import CHUNK
from ddjax.errors import ConfigError
from ddjax.kernels.pool import default_how
from ddjax.mesh import Spread
from ddjax.methods import context
from ddjax.supply import CHUNK_BYTES
from ddjax.tally import size
from ddjax.types import Batch, Net, Teachers, Tree

FACTOR = 1.3


def nbytes(tree: Tree) -> int:
    """Bytes of the arrays of a tree of shapes."""
    return sum(map(liveness.size, jax.tree.leaves(tree)))


def residuals(fn: Any, *args: Any) -> int:
    """Bytes that the backward pass of ``fn`` keeps from its forward pass."""
    return nbytes(jax.eval_shape(lambda *a: jax.vjp(fn, *a)[1], *args))


def problem(run: config.Run, found: data.Dataset | None = None) -> tuple[tuple[int, int, int], int, Any]:
    """Image shape, classes and card, of the data where they are given, else from the configuration alone."""
    if found is not None:
        return found.train.shape, len(found.class_names), found.card
    card = data.CARDS.get(run.data.card_id())
    if card is None:
        raise ConfigError(
            f"--check: data.train = {run.data.train!r} cannot be read here and has no card that tells its classes and "
            "size; allowed: data that can be read, or --data.card with the name of a card."
        )
    side = (run.data.size, run.data.size) if run.data.size else card.size
    return (*side, card.channels), card.classes, card


def training(net: Net, members: int, batch: int, how: str) -> int:
    """Bytes of ``members`` networks under training: weights, gradient, optimiser and one batch's residuals."""
    params, state = jax.eval_shape(net.init, jax.random.key(0))
    shape = jax.ShapeDtypeStruct((batch, *net.image_shape), jnp.float32)

    def loss(params, state, x):
        return net.apply(params, state, x, train=True).logits.sum()

    kept = residuals(lambda p: loss(p, state_zeros(state), jnp.zeros(shape.shape)), params)
    at_once = members if how == "vmap" else 1
    return members * (4 * nbytes(params) + nbytes(state)) + at_once * (kept + 2 * nbytes(shape))


def alone(net: Net, batch: int) -> int:
    """Bytes of one network under training on a batch, workspace included: what one device must hold."""
    return int(FACTOR * training(net, 1, batch, "scan"))


def state_zeros(state: Tree) -> Tree:
    """Zeros of the shapes of a tree."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)


def distilling(run: config.Run, net: Net, teacher: Net, classes: int, card: Any, how: str) -> int:
    """Peak bytes of the method's step, traced with all that it is fed, and the weights of experts in a chunk."""
    method, needs, shape = run.method, run.method.needs, net.image_shape
    members = run.teacher.pool.size if needs.teachers and needs.pool == "pool" else 1
    mean = Spread(how).mean
    problem = context(method, net, card, shape, classes, mean, members=members)
    distiller = method.build(problem)
    images = jax.ShapeDtypeStruct((classes * method.ipc, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((classes * method.ipc,), jnp.int32)
    logits = [jax.ShapeDtypeStruct((images.shape[0], classes), jnp.float32)] if needs.start_logits else []
    state = jax.eval_shape(distiller.init, jax.random.key(0), images, labels, *logits)
    if not distiller.steps:
        return nbytes((images, labels, state))
    batch, chunk = fed(needs, net, teacher, members, classes, card), 0
    if needs.experts:
        chunk = min(CHUNK_BYTES, 2 * CHUNK * nbytes(batch.start))
    return chunk + liveness.of(distiller.step, jax.random.key(0), state, batch)


def fed(needs: Any, net: Net, teacher: Net, members: int, classes: int, card: Any) -> Batch:
    """The shapes of what one step is fed; real batches as large as asked for."""

    def real(*lead: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        return jax.ShapeDtypeStruct((*lead, *net.image_shape), jnp.float32), jax.ShapeDtypeStruct(lead, jnp.int32)

    given: dict[str, Any] = {}
    if needs.real != "none":
        lead = (classes,) if needs.real == "per_class" else ()
        given["images"], given["labels"] = real(*lead, needs.real_batch)
    if needs.also:
        given["more"], given["more_labels"] = real(needs.also)
    if needs.experts:
        count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(net.init, jax.random.key(0))[0]))
        given["start"] = given["target"] = jax.ShapeDtypeStruct((count,), jnp.float32)
    if needs.teachers:
        given["teachers"] = jax.eval_shape(lambda: equipped(needs, teacher, members, card))
    return Batch(step=jax.ShapeDtypeStruct((), jnp.int32), **given)  # type: ignore[arg-type]


def equipped(needs: Any, net: Net, members: int, card: Any) -> Any:
    """Teachers with what a survey of one blank image tells of them: for their shapes."""
    params, state = jax.vmap(net.init)(jax.random.split(jax.random.key(0), members))
    store: Any = SimpleNamespace(net=net, of=lambda which: Teachers(params, state))
    return teachers.equip(store, needs, SimpleNamespace(train=Blank(net.image_shape), card=card), over=Spread("scan"))


class Blank(NamedTuple):
    """A split of one black image."""

    shape: tuple[int, int, int]
    labels: np.ndarray = np.zeros(1, np.int32)

    def __len__(self) -> int:
        return 1

    def gather(self, index: np.ndarray) -> np.ndarray:
        """The image, as often as asked for."""
        return np.zeros((len(index), *self.shape), np.uint8)


def trained_experts(experts: Any, net: Net, how: str) -> int:
    """Bytes of one expert under training, its weights of every epoch held, donated and saved."""
    each = (experts.epochs + 1) * nbytes(jax.eval_shape(net.init, jax.random.key(0))[0])
    return 3 * each + training(net, 1, experts.batch, how)


def check(run: Any, found: data.Dataset | None = None) -> dict[str, Any]:
    """The estimate of every stage, the device's memory, and whether the largest fits; ``found``: the run's data."""
    shape, classes, card = problem(run, found)
    how = mapped(run)

    def net(arch: str, argument: str) -> Net:
        return models.build(
            arch, image_shape=shape, classes=classes, conv=run.compute.conv, dtype=run.compute.precision,
            argument=argument,
        )  # fmt: skip

    rule, total = run.evaluate.rule(), classes * run.method.ipc
    teacher, experts = net(run.teacher.arch, "teacher.arch"), run.method.needs.experts
    own = net(run.method.arch, "method.arch") if getattr(run.method, "arch", None) else teacher
    stages = {
        "teachers": training(teacher, 1, run.teacher.batch, how)
        + run.teacher.pool.size * nbytes(jax.eval_shape(teacher.init, jax.random.key(0))),
        "distill": distilling(run, own, teacher, classes, card, how),
        "evaluate": max(
            students(run, net(arch, "evaluate.archs"), len(rule.rates), rule.batch(total), how)
            for arch in run.evaluate.archs
        )
        + total * math.prod(shape),
    }
    if experts:
        stages["experts"] = trained_experts(experts, net(experts.arch, "method.arch"), how)
    return {"schema": 1, "image_shape": shape, "classes": classes, "images": total} | verdict(stages)


def mapped(asked: Any) -> str:
    """How networks are mapped over: scan | vmap | unroll."""
    return default_how(jax.default_backend()) if asked.compute.pool_how == "auto" else asked.compute.pool_how


def students(asked: Any, net: Net, rates: int, batch: int, how: str) -> int:
    """Bytes of the students of one architecture that are trained at once: every rate, then every seed."""
    return training(net, max(asked.evaluate.seeds, rates), batch, how)


def verdict(stages: Mapping[str, float]) -> dict[str, Any]:
    """The end of what is told: bytes of each stage, of the largest, of the device, and whether it fits."""
    told, limit = {name: int(FACTOR * value) for name, value in stages.items()}, device_bytes()
    needed = max(told.values())
    return {
        "stages_bytes": told, "needed_bytes": needed, "device": jax.devices()[0].device_kind, "device_bytes": limit,
        "fits": needed <= limit,
    }  # fmt: skip


def sentence(found: dict[str, Any]) -> str:
    """What ``check`` found, for people."""
    most = max(found["stages_bytes"], key=found["stages_bytes"].get)
    verdict = "fits" if found["fits"] else "does not fit"
    return (
        f"--check: {verdict}. {most} needs the most, about {size(found['needed_bytes'])}; {found['device']} has "
        f"{size(found['device_bytes'])}. Real images kept on the device come on top."
    )


def device_bytes() -> int:
    """Memory of one device: what it reports, else (a CPU) the machine's."""
    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
