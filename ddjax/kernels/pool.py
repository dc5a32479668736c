"""Functions over a pool of networks: every leaf of an argument carries the members on its axis 0.

    pool_map(fn, how)(a)[j]  = fn(a[j])
    pool_mean(fn, how)(a)    = 1/P sum_j fn(a[j])

`how` is "vmap" (all members at once: on a CPU a grouped convolution, several times slower),
"unroll" (written out P times: long to compile) or "scan" (one member after another: program and
memory of one). `default_how(backend)` gives the measured choice. What `fn` closes over is shared
by the members and may be differentiated as well.

The mean of a scalar by "scan" takes its gradient inside the loop, at the price of one member's
activations and one partial sum: L(x) = 1/P sum_j f_j(x) has dL = <1/P sum_j grad f_j(x), dx>. This
rule serves forward, reverse and higher derivatives alike.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from ddjax.types import Tree

HOW = ("vmap", "unroll", "scan")


def default_how(backend: str) -> str:
    """ "scan" on "cpu" (measured), "vmap" on every other backend (not yet measured)."""
    return "scan" if backend == "cpu" else "vmap"


def member(tree: Tree, j: int | jax.Array) -> Tree:
    """Member `j` (may be traced) of a tree whose leaves are ``[P, ...]``."""
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, j, keepdims=False), tree)


def pool_map(fn: Callable[..., Tree], how: str) -> Callable[..., Tree]:
    """`fn` mapped over axis 0 of all positional arguments (trees); results stacked."""
    _check(how)
    if how == "vmap":
        return jax.vmap(fn)
    if how == "scan":
        return lambda *stacked: lax.map(lambda members: fn(*members), stacked)

    def unrolled(*stacked: Tree) -> Tree:
        results = [fn(*member(stacked, j)) for j in range(_size(stacked))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    return unrolled


def pool_mean(fn: Callable[..., Tree], how: str, *, has_aux: bool = False) -> Callable[..., Tree]:
    """Mean over axis 0 of `fn`'s result, a scalar or a tree of floating arrays.

    With `has_aux`, `fn` gives (scalar, tree): both are averaged, the tree carries no derivative.
    """
    _check(how)

    def mean(*stacked: Tree) -> Tree:
        size = _size(stacked)
        if how == "scan":
            return _scan_mean(fn, stacked, size, has_aux)
        if how == "vmap":
            total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), jax.vmap(fn)(*stacked))
        else:
            total = fn(*member(stacked, 0))
            for j in range(1, size):
                total = jax.tree.map(jnp.add, total, fn(*member(stacked, j)))
        result = jax.tree.map(lambda leaf: leaf / size, total)
        return (result[0], lax.stop_gradient(result[1])) if has_aux else result

    return mean


def _scan_mean(fn: Callable[..., Tree], stacked: tuple, size: int, has_aux: bool) -> Tree:
    """The mean by `scan`: `fn` as a function of flat lists, what it closes over among them."""
    leaves, structure = jax.tree.flatten(stacked)
    example = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves]
    program, shapes = jax.make_jaxpr(lambda *flat: fn(*jax.tree.unflatten(structure, flat)), return_shape=True)(
        *example
    )

    def flat_fn(members: list, shared: list) -> list:
        return jaxpr_as_fun(ClosedJaxpr(program.jaxpr, shared))(*members)

    outputs, out_structure = jax.tree.flatten(shapes)
    if has_aux or (len(outputs) == 1 and outputs[0].shape == ()):
        results = _mean_with_gradient(flat_fn, size)(leaves, list(program.consts))
    else:
        results = _accumulate(lambda members: flat_fn(members, list(program.consts)), leaves, size)
    return jax.tree.unflatten(out_structure, results)


def _accumulate(fn: Callable[[list], list], stacked: list, size: int) -> list:
    """1/P sum_j fn(member j), one partial sum alive."""

    def add(total: list, members: list) -> tuple[list, None]:
        return [t + part for t, part in zip(total, fn(members), strict=True)], None

    shapes = jax.eval_shape(lambda leaves: fn([leaf[0] for leaf in leaves]), stacked)
    start = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
    total, _ = lax.scan(add, start, stacked)
    return [t / size for t in total]


def _mean_with_gradient(fn: Callable[[list, list], list], size: int) -> Callable:
    """(stacked, shared) -> means of fn's outputs; only the first, a scalar, has a derivative."""

    @jax.custom_jvp
    def mean(stacked: list, shared: list) -> list:
        return _accumulate(lambda members: fn(members, shared), stacked, size)

    def rule(primals: tuple, tangents: tuple) -> tuple[list, list]:
        (stacked, shared), (own, common) = primals, tangents
        mine = [i for i, t in enumerate(own) if _varies(t)]
        ours = [i for i, t in enumerate(common) if _varies(t)]
        at_shared = [shared[i] for i in ours]

        def loss(at_member: list, at_shared: list, members: list) -> tuple[jax.Array, list]:
            first, *rest = fn(_put(members, mine, at_member), _put(shared, ours, at_shared))
            return first, rest

        def add(carry: tuple, members: list) -> tuple[tuple, list]:
            at_member = [members[i] for i in mine]
            (value, rest), (by_member, by_shared) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
                at_member, at_shared, members
            )
            return jax.tree.map(jnp.add, carry, ([value, *rest], by_shared)), by_member

        shapes = jax.eval_shape(lambda: fn([leaf[0] for leaf in stacked], shared))
        start = (
            [jnp.zeros(s.shape, s.dtype) for s in shapes],
            jax.tree.map(jnp.zeros_like, at_shared),
        )
        (total, by_shared), by_member = lax.scan(add, start, stacked)
        slopes = [*by_member, *by_shared]
        directions = [*(own[i] for i in mine), *(common[i] for i in ours)]
        values = [t / size for t in total]
        slope = sum(
            (jnp.sum(g * d) for g, d in zip(slopes, directions, strict=True)),
            start=jnp.zeros_like(values[0]),
        )
        return values, [slope / size, *(jnp.zeros_like(v) for v in values[1:])]

    mean.defjvp(rule, symbolic_zeros=True)
    return mean


def _varies(tangent: Any) -> bool:
    return not isinstance(tangent, SymbolicZero) and jnp.issubdtype(tangent.dtype, jnp.inexact)


def _put(items: list, places: list[int], new: list) -> list:
    """`items` with those at `places` replaced."""
    changed = list(items)
    for place, value in zip(places, new, strict=True):
        changed[place] = value
    return changed


def _size(stacked: Tree) -> int:
    """P, the one length of axis 0 of every leaf."""
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(stacked)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"the leaves of a pool must share a positive axis 0; got {sorted(sizes)}")
    return sizes.pop()


def _check(how: str) -> None:
    if how not in HOW:
        raise ValueError(f"how = {how!r} is not known; allowed: {', '.join(HOW)}.")
