"""kernels/pool.py: all ways of mapping agree, to every order; the scan keeps one alive."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.kernels.pool import HOW, default_how, member, pool_map, pool_mean


def pool(members=3):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return {"w": normal(members, 4, 3), "steps": jnp.arange(members, dtype=jnp.int32)}


X = jnp.asarray(np.random.default_rng(1).standard_normal((5, 4)), jnp.float32)


def loss(net, x):
    """Smooth, not linear in anything, and with an integer leaf in the network."""
    scale = 1.0 + net["steps"].astype(jnp.float32)
    return jnp.mean(jnp.sin(x @ net["w"] * scale) ** 2)


def reference(nets, x):
    return sum(loss(member(nets, j), x) for j in range(3)) / 3


def with_weights(nets, w):
    return {**nets, "w": w}


def close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", HOW)
def test_map_stacks_and_mean_averages_trees(how):
    nets = pool()

    def fn(net, bias):
        return {"y": X @ net["w"] + bias[None, :], "first": net["w"][0, 0]}

    bias = jnp.arange(9.0).reshape(3, 3)
    expected = [fn(member(nets, j), bias[j]) for j in range(3)]
    stacked = jax.jit(pool_map(fn, how))(nets, bias)
    close(stacked, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))
    mean = jax.jit(pool_mean(fn, how))(nets, bias)
    close(mean, jax.tree.map(lambda leaf: jnp.mean(leaf, 0), stacked))


@pytest.mark.parametrize("how", HOW)
def test_derivatives_of_the_mean_in_shared_and_stacked_values(how):
    nets = pool()
    dx, dw = jnp.cos(X), jnp.cos(nets["w"])

    def mean(w, x):
        return pool_mean(lambda net: loss(net, x), how)(with_weights(nets, w))

    def direct(w, x):
        return reference(with_weights(nets, w), x)

    def everything(f):
        gradient = jax.grad(f, (0, 1))
        turned = lambda w, x: sum(  # noqa: E731
            jnp.sum(g * d) for g, d in zip(gradient(w, x), (dw, dx), strict=True)
        )
        at = (nets["w"], X)
        return (
            f(*at),
            gradient(*at),
            jax.jvp(f, at, (dw, dx))[1],
            jax.jvp(gradient, at, (dw, dx))[1],
            jax.grad(turned, (0, 1))(*at),
        )

    found, expected = jax.jit(lambda: (everything(mean), everything(direct)))()
    close(found, expected)


@pytest.mark.parametrize("how", HOW)
def test_has_aux_averages_but_carries_no_derivative(how):
    nets = pool()

    def fn(x):
        def one(net):
            return loss(net, x), {"norm": jnp.sum(x * x) * net["w"][0, 0]}

        value, aux = pool_mean(one, how, has_aux=True)(nets)
        return value + aux["norm"], aux

    slope, aux = jax.jit(jax.grad(fn, has_aux=True))(X)
    close(slope, jax.grad(lambda x: reference(nets, x))(X))
    close(aux["norm"], jnp.sum(X * X) * jnp.mean(nets["w"][:, 0, 0]))


def test_keys_and_outer_transformations_pass_through_the_scan():
    nets, keys = pool(), jax.random.split(jax.random.key(0), 2)

    def noisy(key, x, how):
        def one(net, own):
            noise = jax.random.normal(jax.random.fold_in(key, own), x.shape)
            return loss(net, x + 0.1 * noise)

        return pool_mean(one, how)(nets, jnp.arange(3))

    both = lambda how: jax.vmap(jax.grad(noisy, 1), (0, None, None))(keys, X, how)  # noqa: E731
    close(jax.jit(both, static_argnums=0)("scan"), jax.jit(both, static_argnums=0)("unroll"))


def test_the_scan_stores_no_member_s_activations():
    """No array holds the hidden layer [7, 11] of all three members."""
    w = jnp.ones((3, 4, 11))
    x = jnp.ones((7, 4))

    def mean(x, how):
        return pool_mean(lambda w: jnp.mean(jnp.tanh(jnp.tanh(x @ w))), how)(w)

    def text(how):
        return str(jax.make_jaxpr(jax.grad(mean), static_argnums=1)(x, how))

    stacked = r"f32\[(3,7|7,3),11\]"
    assert re.search(stacked, text("vmap"))
    assert not re.search(stacked, text("scan"))


def test_member_takes_a_traced_index():
    nets = pool()
    close(jax.jit(member)(nets, jnp.int32(2)), jax.tree.map(lambda leaf: leaf[2], nets))


def test_default_and_refusals():
    assert (default_how("cpu"), default_how("gpu"), default_how("tpu")) == ("scan", "vmap", "vmap")
    with pytest.raises(ValueError, match=r"how = 'map' .*vmap, unroll, scan"):
        pool_mean(loss, "map")
    with pytest.raises(ValueError, match=r"share a positive axis 0; got \[2, 3\]"):
        pool_mean(lambda a, b: a, "scan")(jnp.zeros(2), jnp.zeros(3))
