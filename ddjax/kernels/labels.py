"""Losses and bookkeeping of hard and soft labels.

    cross_entropy = -mean_b sum_c y_bc log softmax(z_b)_c
    soft_kl       = tau^2 mean_b KL( softmax(t_b / tau) || softmax(z_b / tau) )

The factor tau^2 keeps the gradient's size when tau changes (Hinton et al., 2015); published
fast-knowledge-distillation recipes leave it out (there divide by tau^2). Shapes: logits, targets
``[B, C]``, labels ``[B]`` int.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def onehot(labels: Int[Array, "B"], classes: int) -> Float[Array, "B C"]:
    """Rows of 0 and 1, float32; a label outside ``0 .. C-1`` (padding: -1) gives a zero row."""
    return jax.nn.one_hot(labels, classes, dtype=jnp.float32)


def cross_entropy(logits: Float[Array, "B C"], targets: Float[Array, "B C"]) -> Float[Array, ""]:
    """Mean cross-entropy with target distributions (one-hot rows or mixtures)."""
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))


def soft_kl(
    logits: Float[Array, "B C"], target_logits: Float[Array, "B C"], tau: float | Float[Array, ""]
) -> Float[Array, ""]:
    """tau^2 times the mean KL from target to student, both softened; 0 iff they agree."""
    target = jax.nn.log_softmax(target_logits / tau)
    gap = target - jax.nn.log_softmax(logits / tau)
    return tau**2 * jnp.mean(jnp.sum(jnp.exp(target) * gap, axis=-1))


def by_image(
    kind: str, logits: Float[Array, "B C"], targets: Float[Array, "B C"], tau: float = 1.0
) -> Float[Array, "B"]:
    """One loss an image: ce (cross-entropy with probabilities), kl (KL(softmax(t / tau) || softmax(z / tau)), without
    tau^2), mse (half the squared distance to the targets as they are). ValueError for another kind."""
    if kind == "ce":
        return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
    if kind == "kl":
        target = jax.nn.log_softmax(targets / tau)
        return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(logits / tau)), axis=-1)
    if kind == "mse":
        return 0.5 * jnp.sum((logits - targets) ** 2, axis=-1)
    raise ValueError(f"loss = {kind!r}; allowed: ce, kl, mse.")


def as_probabilities(kind: str, target_logits: Float[Array, "B C"]) -> Float[Array, "B C"]:
    """Teacher logits as the loss ``kind`` wants them: probabilities (ce), or probabilities less 1/C (mse)."""
    found = jax.nn.softmax(target_logits)
    return found - 1.0 / target_logits.shape[-1] if kind == "mse" else found


def mean_logits(stack: Float[Array, "P B C"]) -> Float[Array, "B C"]:
    """Ensemble label: the mean of the raw logits of P networks (not of their probabilities)."""
    return jnp.mean(stack, axis=0)


def correct(logits: Float[Array, "B C"], labels: Int[Array, "B"]) -> Int[Array, ""]:
    """How many images' largest logit is their label's; rows of label -1 (padding) never count."""
    return jnp.sum(jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels)
