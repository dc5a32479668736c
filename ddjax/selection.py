"""Which real images to begin with: the coresets of the baselines, and what a method's ``init`` is given.

random      uniformly, class by class
kmeans, herding, kcenter    by distances between features of the network on all data (``kernels.select``)
forgetting  those which that network forgot most often
patches     mosaics of the crops that the base model is surest of (``ddjax.mosaics``, RDED)
experts     random ones of those that an expert classifies right (``experts``, DATM)

With a factor f, f^2 images of a class share a canvas (``kernels.patches.mosaic``).
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddjax import baselines, judge, lineup, mosaics, survey
from ddjax.errors import ConfigError, out_of_range
from ddjax.kernels import patches, select
from ddjax.keys import numpy_rng
from ddjax.types import Start

STARTS = (*select.NAMES, "patches", "experts")


def start(job: Any, store: Any, experts: Any) -> Start:
    """What the method of a run begins with; ``check`` has passed."""
    run, data, method = job.run, job.data, job.run.method
    needs, each = method.needs, method.ipc * method.factor**2
    labels = np.repeat(np.arange(len(data.class_names), dtype=np.int32), method.ipc)
    if needs.start == "patches":
        images = mosaics.surest(store, data, method, seed=run.seed, over=job.over, count=each)
    elif needs.start == "experts":
        images = data.train.gather(experts.classified(data, each, numpy_rng(run.seed, "start-images")))
    else:
        trained = functools.cache(lambda: lineup.shared_teacher(job))
        net, rng = job.net(run.evaluate.archs[0]), "start-images" if needs.start == "random" else needs.start
        index = select.by_name(
            needs.start, numpy_rng(run.seed, rng), data.train.labels, each,
            space=lambda: baselines.feature_space(trained(), net, data), forgotten=lambda: trained().forgotten,
        )  # fmt: skip
        images = data.train.gather(index)
    if method.factor > 1:
        images = np.clip(np.round(patches.mosaic(images.astype(np.float32), method.factor)), 0, 255).astype(np.uint8)
    logits = None
    if needs.start_logits:
        logits = experts.logits(survey.normalise(jnp.asarray(images), data.card.mean, data.card.std), labels)
    return Start(images, labels, logits)


def check(method: Any, data: Any) -> None:
    """ConfigError unless every class holds the real images that a set of this size begins with: ``ipc``, times
    ``factor^2`` on a canvas, times ``tiles^2`` on a mosaic."""
    held, of = judge.smallest_class(data)
    if method.ipc > held:
        raise ConfigError(out_of_range("method.ipc", method.ipc, f"<= {held}, {of}", held))
    wanted, told = method.ipc, "method.ipc"
    for name in ("factor", "tiles"):
        side = getattr(method, name, None) or 1
        wanted, told = wanted * side**2, f"{told} x {name}^2"
        if wanted > held:
            most = max(1, int((held / (wanted / side**2)) ** 0.5))
            raise ConfigError(out_of_range(f"method.{name}", side, f"{told} = {wanted} <= {held}, {of}", most))
    if not patches.fits(method.factor, size := data.train.shape[:2]):
        most = max(f for f in range(1, method.factor) if patches.fits(f, size))
        allowed = f"1 to {most}, so that every tile of {size[0]}x{size[1]} has pixels"
        raise ConfigError(out_of_range("method.factor", method.factor, allowed, most))
