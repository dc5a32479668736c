"""Membership inference: can one tell from a trained student which images its training set was made from?

    loss threshold  score = log p_y(x)                                                    (Yeom et al., CSF 2018)
    LiRA-lite       score = (phi(x) - mu(x)) / sigma,  phi = log p_y - log(1 - p_y)       (Carlini et al., S&P 2022)

mu(x) is the mean of phi over shadow students trained on random real images without x, sigma one number for all images
(their suggestion for few shadows). Members of the set: where all its images are training images as they are (coresets),
those very images; else training images at large (it was distilled from all of them). Of the random images: those very
images; of the network on all data: training images. Others: test images.

    AUC = P(score of a member > of another) + P(equal) / 2;  TPR at FPR f: largest share of members above a threshold
    that at most the share f of the others pass
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax import evaluate, relabel, survey, train
from ddjax.further.case import Case, Part, Table
from ddjax.kernels import select
from ddjax.keys import numpy_rng
from ddjax.mesh import Spread
from ddjax.types import Net, Tree

SHADOWS = 8
MOST = 2000  # members, and others, that are asked about
RATES = (0.001, 0.01, 0.1)  # false positive rates
BATCH = 250


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve of scores that should be higher for members (Mann and Whitney, 1947)."""
    order = np.sort(others)
    below = np.searchsorted(order, members, side="left")
    upto = np.searchsorted(order, members, side="right")
    return float((below + upto).mean() / 2 / len(others))


def true_positives(members: np.ndarray, others: np.ndarray, rate: float) -> float:
    """Largest true positive rate of any threshold with a false positive rate of at most ``rate``."""
    allowed = int(np.floor(rate * len(others) + 1e-9))
    bar = np.sort(others)[::-1][allowed] if allowed < len(others) else -np.inf
    return float(np.mean(members > bar))


def likelihood_ratio(seen: np.ndarray, shadows: np.ndarray, held: np.ndarray) -> np.ndarray:
    """LiRA-lite (offline): ``(phi - mu) / sigma``; seen ``[..., n]``, shadows ``[S, n]``, held ``[S, n]`` bool.

    ``held``: the shadow was trained on the image. What every shadow held has no mu and counts as the mean image does.
    """
    out = ~held
    count = out.sum(axis=0)
    mu = np.where(count > 0, (shadows * out).sum(axis=0) / np.maximum(count, 1), np.mean(shadows[out]))
    sigma = np.sqrt(np.sum(((shadows - mu) ** 2) * out) / max(1, int(out.sum()) - int(np.sum(count > 0))))
    return (seen - mu) / max(float(sigma), 1e-12)


class Target(NamedTuple):
    """A trained pool that is attacked, and the images whose membership is asked."""

    name: str
    labels: str
    params: Tree  # [M, ...]
    state: Tree
    members: Part


@functools.lru_cache(maxsize=8)
def program(net: Net, over: Spread) -> Callable:
    """``(params [M, ...], state, images, labels) -> log p_y, log p_y - log(1 - p_y)``, each ``[M, n]``."""

    def one(p, s, images, labels):
        logits = net.apply(p, s, images, train=False).logits
        right = jax.nn.one_hot(labels, net.classes, dtype=jnp.float32)
        own = jnp.sum(logits * right, axis=-1)
        rest = jax.nn.logsumexp(jnp.where(right > 0.0, -jnp.inf, logits), axis=-1)
        return own - jax.nn.logsumexp(logits, axis=-1), own - rest

    return jax.jit(over.map(one, 2))


def log_odds(group: evaluate.Students, params: Tree, state: Tree, split: Any) -> tuple[np.ndarray, np.ndarray]:
    """``log p_y`` and ``log p_y - log(1 - p_y)`` of every image under every member: two ``[M, n]``."""
    look, found = program(group.net, group.over), []
    for start in range(0, len(split), BATCH):
        index = np.minimum(np.arange(start, start + BATCH), len(split) - 1)
        images = survey.normalise(split.gather(index), group.mean, group.std)
        found.append([np.asarray(a) for a in look(params, state, images, jnp.asarray(split.labels[index]))])
    loss, phi = (np.concatenate([part[i] for part in found], axis=1)[:, : len(split)] for i in (0, 1))
    return loss, phi


def verbatim(images: np.ndarray, split: Any) -> np.ndarray | None:
    """Positions of the training images that a set stores as they are; None unless every image of it is one."""
    if images.dtype != np.uint8:
        return None
    wanted, found, rows = {image.tobytes() for image in images}, set(), []
    for start in range(0, len(split), BATCH):
        index = np.arange(start, min(start + BATCH, len(split)))
        for row, image in zip(index, np.asarray(split.gather(index)), strict=True):
            if (content := image.tobytes()) in wanted:
                found.add(content)
                rows.append(int(row))
    return np.array(rows) if found == wanted else None


def trained(case: Case, group: evaluate.Students, row: evaluate.Row, seeds: list[int], lr: float) -> train.Member:
    """Students of a row at one rate."""
    return evaluate.train_students(
        group, row, evaluate.targets(group, row), [lr] * len(seeds), seeds, group.rule.steps,
        stage=f"privacy: {row.name}", every=case.job.run.compute.checkpoint_every,
    )  # fmt: skip


def weights(group: evaluate.Students, members: train.Member) -> Tree:
    """What the protocol judges: the weights, or their running average where it keeps one."""
    return members.fold if group.rule.ema else members.params


def run(case: Case) -> Table:
    """Both attacks on students of the set, of random images, and on the network on all data."""
    data, seed, group = case.job.data, case.job.run.seed, case.students(len(case.own.images))
    rng = numpy_rng(seed, "privacy")

    def some(split) -> Part:
        rows = np.arange(len(split))
        return Part(split, rows if len(rows) <= MOST else np.sort(rng.choice(rows, MOST, replace=False)))

    asked, others = some(data.train), some(data.test)
    random = case.random_hard()
    index = select.random_per_class(numpy_rng(seed, "random-baseline"), data.train.labels, case.ipc)
    rate = {row.name: case.lines(group, row)[0]["lr"] for row in (case.own, random)}
    whole = case.shared_teacher().teachers()
    targets = [Target("all real images", "hard", whole.params, whole.state, asked)]
    same = verbatim(np.asarray(case.own.images), data.train)
    held = asked if same is None else Part(data.train, same)
    for row, members in ((random, Part(data.train, index)), (case.own, held)):
        done = trained(case, group, row, case.numbers, rate[row.name])
        targets.insert(0, Target(row.name, row.label_source, weights(group, done), done.state, members))
    shadows = [shadow(case, group, i, rate["random_hard"]) for i in range(SHADOWS)]
    rows: list[list[Any]] = []
    for target in targets:
        rows += attack(group, target, others, shadows)
    best = max((row for row in rows if row[0] == case.own.name), key=lambda row: row[4])
    return Table(
        ["trained on", "labels", "attack", "members", "AUC", *(f"TPR at FPR {100 * f:g} %" for f in RATES)],
        rows,
        f"Can one tell from a trained {case.arch} which images it was made from? Members: of the set "
        f"{'the real images that it holds' if same is not None else 'training images, all of which it was made from'}; "
        f"of random images those; of the network on all images some of them; {len(others)} test images are no members. "
        "Loss threshold: a low loss says member; LiRA-lite: a loss low beside that of networks trained without the "
        f"image ({SHADOWS} of them). Mean over seeds; 0.5 is a guess. The set: AUC {best[4]:.3f} at best ({best[2]}).",
        {"auc": best[4], "attack": best[2]},
        {f"TPR at FPR {100 * f:g} %": "%" for f in RATES},
    )


def shadow(case: Case, group: evaluate.Students, i: int, lr: float) -> tuple[train.Member, np.ndarray]:
    """A student of other random real images, and which training images those are."""
    data, seed = case.job.data, case.job.run.seed
    index = select.random_per_class(numpy_rng(seed, "shadow", i), data.train.labels, case.ipc)
    labels = relabel.Hard(data.train.labels[index], case.classes)
    row = evaluate.Row("shadow", "hard", jnp.asarray(data.train.gather(index)), labels)
    return trained(case, group, row, [seed + 1000 + i], lr), index


def attack(
    group: evaluate.Students, target: Target, others: Part, shadows: list[tuple[train.Member, np.ndarray]]
) -> list[list[Any]]:
    """One row for each attack: mean over the target's members of AUC and true positive rates."""
    asked = (target.members, others)
    seen = [log_odds(group, target.params, target.state, part) for part in asked]
    under = [
        np.concatenate([log_odds(group, weights(group, m), m.state, part)[1] for m, _ in shadows]) for part in asked
    ]
    held = [np.stack([np.isin(target.members.rows, index) for _, index in shadows])]
    held.append(np.zeros((len(shadows), len(others)), bool))
    joined = np.concatenate(under, axis=1), np.concatenate(held, axis=1)
    ratio = likelihood_ratio(np.concatenate([s[1] for s in seen], axis=1), *joined)
    count = len(target.members)
    attacks: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
        "loss threshold": lambda m: (seen[0][0][m], seen[1][0][m]),
        "LiRA-lite": lambda m: (ratio[m, :count], ratio[m, count:]),
    }
    rows = []
    for name, score in attacks.items():
        found = [(auc(*score(m)), *(true_positives(*score(m), f) for f in RATES)) for m in range(len(seen[0][0]))]
        rows.append([target.name, target.labels, name, count, *(float(v) for v in np.mean(found, axis=0))])
    return rows
