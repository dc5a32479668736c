"""Taylor-approximated matching: bi-level dataset distillation in terms of first order.

K inner steps of rate eta on the synthetic set S, outer loss L_T on the real set. Expanding L_T at
each iterate,

    L_T(theta_K) = L_T(theta_0) - eta sum_k <g_T(theta_k), g_S(theta_k)>
                   + O(eta^2 sum_k ||g_S(theta_k)||^2)

and holding the iterates fixed (their dependence on S is of order eta itself) leaves a sum of
independent terms

    J(S) = -eta sum_k <g_T(sg theta_k), g_S(sg theta_k; S)>,    grad J = grad F + O(eta^2 K^2)

so that the sum may be replaced by an expectation over any cached pool of models that resembles the
theta_k, at a cost and memory that know nothing of K (Teddy: Yu, Liu, Ye, Wang, ECCV 2024;
derivation and signs checked against the unrolled objective in the tests). Never evaluate J at a
converged model: g_T vanishes there and the remainder is all that is left.

``loss(params, images)`` is the mean loss on S, a scalar; ``g_T`` a tree like ``params``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddjax.kernels.unroll import Loss, iterates, sgd
from ddjax.types import Tree


def directional(loss: Loss, params: Tree, images: Float[Array, "N ..."], v: Tree) -> Float[Array, ""]:
    """<grad_theta loss(params, images), v> = d/d(eps) loss(params + eps v, images), by ``jvp``.

    Its gradient in ``images`` is one reverse pass over the forward derivative: no Hessian in
    ``params``.
    """
    return jax.jvp(lambda theta: loss(theta, images), (params,), (v,))[1]


def first_order_loss(
    loss: Loss,
    models: Tree,
    images: Float[Array, "N ..."],
    targets: Tree,
    *,
    lr: float | jax.Array,
) -> Float[Array, ""]:
    """J(S); ``models`` and their ``targets`` g_T are stacked on a leading axis and held fixed.

    One term's graph is alive at a time, also when differentiated: memory does not grow with K.
    """

    def term(images: jax.Array, theta: Tree, target: Tree) -> jax.Array:
        return directional(loss, theta, images, target)

    def add(sum_: jax.Array, pair: tuple[Tree, Tree]) -> tuple[jax.Array, None]:
        return sum_ + jax.checkpoint(term)(images, *pair), None

    pairs = jax.lax.stop_gradient((models, targets))
    return -lr * jax.lax.scan(add, jnp.zeros((), images.dtype), pairs)[0]


def expansion(
    real_loss: Loss,
    loss: Loss,
    params: Tree,
    real: Float[Array, "B ..."],
    images: Float[Array, "N ..."],
    *,
    steps: int,
    lr: float | jax.Array,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L_T(theta_K) as predicted to first order, and as it is: their gap is the remainder.

    The gap falls as eta^2; where it does not, ``params`` is no weak model and J should not be
    trusted there.
    """
    models = iterates(loss, params, images, steps=steps, lr=lr)
    targets = jax.lax.map(lambda theta: jax.grad(real_loss)(theta, real), models)
    change = first_order_loss(loss, models, images, targets, lr=lr)
    last = sgd(loss, params, images, steps=steps, lr=lr)
    return real_loss(params, real) + change, real_loss(last, real)
