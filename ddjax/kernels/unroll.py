"""The inner loop of bi-level distillation: K steps of gradient descent on the synthetic images.

    theta_{k+1} = theta_k - lr * grad_theta loss(theta_k, S),    k = 0 .. K-1

``jax.grad`` through ``sgd`` is the exact meta-gradient, whose graph and memory grow with K; it is
the reference against which the first-order objective of ``taylor`` is tested and timed (Wang et
al., "Dataset Distillation", 2018). ``loss(params, images)`` is a scalar; ``images [N, H, W, D]``
hold whatever the loss closes over (labels) in their order.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from ddjax.types import Tree

Loss = Callable[[Tree, jax.Array], jax.Array]


def _step(loss: Loss, params: Tree, images: jax.Array, lr: float | jax.Array) -> Tree:
    gradient = jax.grad(loss)(params, images)
    return jax.tree.map(lambda p, g: p - lr * g, params, gradient)


def sgd(
    loss: Loss,
    params: Tree,
    images: Float[Array, "N ..."],
    *,
    steps: int,
    lr: float | jax.Array,
    remat: bool = False,
) -> Tree:
    """Parameters after ``steps`` steps; ``remat`` keeps only the iterates for the backward pass."""

    def step(theta: Tree, _: None) -> tuple[Tree, None]:
        return _step(loss, theta, images, lr), None

    return jax.lax.scan(jax.checkpoint(step) if remat else step, params, None, length=steps)[0]


def iterates(
    loss: Loss,
    params: Tree,
    images: Float[Array, "N ..."],
    *,
    steps: int,
    lr: float | jax.Array,
) -> Tree:
    """The parameters *before* each step, theta_0 .. theta_{K-1}, stacked on a leading axis."""

    def step(theta: Tree, _: None) -> tuple[Tree, Tree]:
        return _step(loss, theta, images, lr), theta

    return jax.lax.scan(step, params, None, length=steps)[1]
