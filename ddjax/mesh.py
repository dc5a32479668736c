"""Devices: one mesh of Auto axes ("pool", "data"), placement, and the mean over a sharded pool.

The members of a pool are dealt to the devices of the "pool" axis; within a device
`kernels.pool.pool_mean` maps over its members. Under `jax.shard_map(check_vma=False)` (the
primitives of `kernels.conv` carry no varying-axis type) the scalar result is averaged by `pmean`
inside, and the gradient must be taken OUTSIDE, where it is exact::

    mean = sharded_pool_mean(loss, "scan", mesh)          # loss(member, images) -> scalar
    gradient = jax.grad(mean, 1)(teachers, images)        # one all-reduce, no all-gather

A gradient taken inside and averaged afterwards can be wrong by the number of devices.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ddjax import errors
from ddjax.kernels.pool import pool_map, pool_mean
from ddjax.types import Tree

AXES = ("pool", "data")


def make(
    n_devices: int | None = None,
    pool: int | None = None,
    *,
    shape: tuple[int, int] | None = None,
) -> Mesh:
    """Mesh of the first `n_devices` devices (default: all), axes ("pool", "data").

    The pool axis has gcd(`pool`, devices) places, or all devices if `pool` is None: the rest of the
    devices form the data axis, on which a pool is replicated. `shape` states both sizes instead.
    """
    devices = jax.devices()
    count = n_devices if n_devices is not None else math.prod(shape) if shape else len(devices)
    if not 1 <= count <= len(devices):
        nearest = min(max(count, 1), len(devices))
        allowed = f"1 to {len(devices)} ({devices[0].platform})"
        raise errors.ConfigError(errors.out_of_range("n_devices", count, allowed, nearest))
    if shape is None:
        first = count if pool is None else math.gcd(pool, count)
        shape = (first, count // first)
    if min(shape) < 1 or math.prod(shape) != count:
        allowed = f"two positive sizes of product {count}"
        raise errors.ConfigError(errors.out_of_range("mesh", shape, allowed, (count, 1)))
    return Mesh(np.asarray(devices[:count]).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 2)


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """The tree with every leaf whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_pool(mesh: Mesh, tree: Tree) -> Tree:
    """The tree with axis 0 of every leaf dealt to the pool axis."""
    _check_members(mesh, tree)
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("pool")))


def sharded_pool_mean(
    fn: Callable[..., Tree], how: str, mesh: Mesh, n_args: int = 1, *, has_aux: bool = False
) -> Callable[..., Tree]:
    """`pool_mean(fn, how)` over a pool dealt to the devices; differentiate it from outside.

    The first `n_args` arguments are pools (leaves ``[P, ...]``, P a multiple of the pool axis), the
    others are shared and go to `fn` as they are: ``fn(*members, *shared)``. What is to be
    differentiated must be an argument. The result is whole on every device.
    """

    def local(pools: tuple, shared: tuple) -> Tree:
        mean = pool_mean(lambda *members: fn(*members, *shared), how, has_aux=has_aux)
        return jax.lax.pmean(mean(*pools), "pool")

    return _sharded(local, mesh, n_args, PartitionSpec())


def sharded_pool_map(fn: Callable[..., Tree], how: str, mesh: Mesh, n_args: int = 1) -> Callable[..., Tree]:
    """`pool_map(fn, how)` over a pool dealt to the devices; results stay dealt on their axis 0.

    Arguments as in `sharded_pool_mean`.
    """

    def local(pools: tuple, shared: tuple) -> Tree:
        return pool_map(lambda *members: fn(*members, *shared), how)(*pools)

    return _sharded(local, mesh, n_args, PartitionSpec("pool"))


class Spread(NamedTuple):
    """How a run maps over networks: `how` on a device, members dealt to at most `devices` devices.

    A pool of P uses gcd(P, devices) of them, so any P will do; with one, nothing is dealt. With
    `split`, the batch of a network that is trained alone is divided over the devices.
    """

    how: str
    devices: int = 1
    split: bool = False
    along: int = 0  # devices that a split batch is divided over; 0: all of `devices`

    def batch(self, tree: Tree, members: int) -> Tree:
        """A batch laid out along the data axis, where `split` asks for it and its size divides."""
        size = jax.tree.leaves(tree)[0].shape[0]
        places = self.along or self.devices
        if not self.split or members > 1 or places == 1 or size % places:
            return tree
        along = NamedSharding(make(places, shape=(1, places)), PartitionSpec("data"))
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, along), tree)

    def map(self, fn: Callable[..., Tree], n_args: int = 1) -> Callable[..., Tree]:
        """`fn` over axis 0 of the first `n_args` arguments; the others are shared. Stacked results."""
        return self._over(fn, n_args, pool_map, sharded_pool_map)

    def mean(self, fn: Callable[..., Tree], n_args: int = 1) -> Callable[..., Tree]:
        """The mean of `fn` over axis 0 of the first `n_args` arguments; differentiate from outside."""
        return self._over(fn, n_args, pool_mean, sharded_pool_mean)

    def _over(self, fn: Callable, n_args: int, here: Callable, dealt: Callable) -> Callable:
        def whole(*arguments: Tree) -> Tree:
            pools, shared = arguments[:n_args], arguments[n_args:]
            places = math.gcd(jax.tree.leaves(pools)[0].shape[0], self.devices)
            if places == 1:
                return here(lambda *members: fn(*members, *shared), self.how)(*pools)
            return dealt(fn, self.how, make(places, places), n_args)(*arguments)

        return whole


def is_lead() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return jax.process_index() == 0


def _sharded(local: Callable, mesh: Mesh, n_args: int, out: PartitionSpec) -> Callable[..., Tree]:
    inside = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec("pool"), PartitionSpec()),
        out_specs=out,
        check_vma=False,
    )

    def whole(*arguments: Tree) -> Tree:
        pools, shared = arguments[:n_args], arguments[n_args:]
        _check_members(mesh, pools)
        return inside(pools, shared)

    return whole


def _check_members(mesh: Mesh, tree: Tree) -> None:
    places = mesh.shape["pool"]
    for leaf in jax.tree.leaves(tree):
        if leaf.shape[0] % places:
            use = max(1, leaf.shape[0] // places) * places
            allowed = f"multiples of the mesh's pool axis, {places}"
            raise errors.ConfigError(errors.out_of_range("pool size", leaf.shape[0], allowed, use))
