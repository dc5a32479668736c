"""mesh.py: a pool dealt to four devices gives what one device gives, gradients included."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import errors, mesh
from ddjax.kernels.conv import conv
from ddjax.kernels.pool import HOW, member


def network(params, x):
    x = jnp.tanh(conv(x, params["a"], how="fast"))
    x = jnp.tanh(conv(x, params["b"], strides=(2, 2), how="fast"))
    return jnp.mean(x, (1, 2)) @ params["out"]


def loss(params, x):
    return -jnp.mean(jax.nn.log_softmax(network(params, x))[:, 0])


def normal(seed, *shape):
    return jnp.asarray(0.3 * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def pool(members):
    shapes = {"a": (3, 3, 3, 4), "b": (3, 3, 4, 5), "out": (5, 3)}
    return {k: normal(i, members, *s) for i, (k, s) in enumerate(shapes.items())}


def close(found, expected, tolerance=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, atol=tolerance, rtol=1e-5), found, expected)


def values_and_gradients(devices, members, how):
    places = mesh.make(devices, members)
    nets, x = mesh.shard_pool(places, pool(members)), mesh.replicate(places, normal(9, 2, 8, 8, 3))
    mean = mesh.sharded_pool_mean(loss, how, places)
    compiled = jax.jit(jax.value_and_grad(mean, (0, 1))).lower(nets, x).compile()
    return jax.device_get(compiled(nets, x)), compiled.as_text()


@pytest.mark.parametrize("how, members", [*((how, 4) for how in HOW), ("scan", 2)])
def test_one_and_four_devices_agree_without_a_gather(how, members):
    """Two members on four devices: the pool axis has two places, and each member lies on two."""
    one, _ = values_and_gradients(1, members, how)
    four, text = values_and_gradients(4, members, how)
    close(four, one)
    nets, x = pool(members), normal(9, 2, 8, 8, 3)

    def direct(nets, x):
        return sum(loss(member(nets, j), x) for j in range(members)) / members

    close(one, jax.device_get(jax.jit(jax.value_and_grad(direct, (0, 1)))(nets, x)))
    assert "all-reduce" in text
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)


def test_map_stays_dealt_and_its_gradient_is_right():
    places = mesh.make(4, 4)
    nets, x = mesh.shard_pool(places, pool(4)), normal(9, 2, 8, 8, 3)
    mapped = mesh.sharded_pool_map(network, "scan", places)
    logits = jax.jit(mapped)(nets, x)
    assert logits.sharding.spec[0] == "pool"
    expected = jnp.stack([network(member(pool(4), j), x) for j in range(4)])
    close(logits, expected)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(mapped(nets, x)))))(x)
    direct = jax.grad(lambda x: jnp.sum(jnp.sin(jax.vmap(network, (0, None))(pool(4), x))))
    close(slope, jax.jit(direct)(x), 2e-6)


def test_aux_is_averaged_over_the_devices():
    places = mesh.make(4, 4)

    def fn(net, x):
        return loss(net, x), {"first": net["out"][0, 0]}

    value, aux = mesh.sharded_pool_mean(fn, "scan", places, has_aux=True)(pool(4), normal(9, 2, 8, 8, 3))
    assert value.shape == ()
    close(aux["first"], jnp.mean(pool(4)["out"][:, 0, 0]))


def test_shapes_of_meshes():
    assert dict(mesh.make(4).shape) == {"pool": 4, "data": 1}
    assert dict(mesh.make(4, 6).shape) == {"pool": 2, "data": 2}
    assert dict(mesh.make(4, 9).shape) == {"pool": 1, "data": 4}
    assert dict(mesh.make(shape=(2, 3)).shape) == {"pool": 2, "data": 3}
    assert set(mesh.make().axis_types) == {jax.sharding.AxisType.Auto}
    assert mesh.make().devices.size == len(jax.devices())
    assert mesh.is_lead()


def test_refusals_name_the_nearest():
    with pytest.raises(errors.ConfigError, match=r"n_devices = 99 .*1 to 8 \(cpu\).*valid: 8"):
        mesh.make(99)
    with pytest.raises(errors.ConfigError, match=r"mesh = \(3, 2\).*product 4.*\(4, 1\)"):
        mesh.make(4, shape=(3, 2))
    with pytest.raises(errors.ConfigError, match=r"pool size = 6 .*pool axis, 4.*valid: 4"):
        mesh.shard_pool(mesh.make(4), jnp.zeros((6, 2)))
