"""Weights in and out: public safetensors files through tables of names, our own bit for bit.

A table is a tuple of rows ``(pattern, name, transform)``. The first row whose pattern matches a
tensor's whole name says which leaf it becomes (``\\1`` refers to the pattern's groups; None: the
tensor is not wanted) and how it is laid out: ``same``, ``oihw`` (torch convolution [O, I, h, w] ->
[h, w, I, O]) or ``oi`` (torch linear [O, I] -> [I, O]). Leaves are named by their path,
``params/...`` or ``state/...``; our own files use these names as they are.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ddjax.errors import CheckpointError
from ddjax.files import atomic_write
from ddjax.types import Net, Tree

Table = tuple[tuple[str, str | None, str], ...]
SHOWN = 20  # names listed per kind of failure; the rest is counted

TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda a: a,
    "oihw": lambda a: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a,
    "oi": lambda a: a.T if a.ndim == 2 else a,
}


def _norms(source: str, target: str) -> Table:
    """The rows of a torch BatchNorm."""
    return (
        (rf"{source}\.weight", rf"params/{target}/scale", "same"),
        (rf"{source}\.bias", rf"params/{target}/bias", "same"),
        (rf"{source}\.running_mean", rf"state/{target}/mean", "same"),
        (rf"{source}\.running_var", rf"state/{target}/var", "same"),
        (rf"{source}\.num_batches_tracked", None, "same"),
    )


_TRUNK: Table = (
    (r"(?:module\.)?conv1\.weight", r"params/entry/conv/kernel", "oihw"),
    *_norms(r"(?:module\.)?bn1", r"entry/norm"),
    (
        r"(?:module\.)?layer(\d)\.(\d+)\.conv(\d)\.weight",
        r"params/layer\1/block\2/conv\3/kernel",
        "oihw",
    ),
    *_norms(r"(?:module\.)?layer(\d)\.(\d+)\.bn(\d)", r"layer\1/block\2/norm\3"),
)
# torchvision.models.resnet18/34/50 -> resnet18/34/50-imagenet.
# Input: x/255 normalised by the ImageNet constants.
TORCHVISION_RESNET: Table = (
    *_TRUNK,
    (
        r"(?:module\.)?layer(\d)\.(\d+)\.downsample\.0\.weight",
        r"params/layer\1/block\2/shortcut/conv/kernel",
        "oihw",
    ),
    *_norms(
        r"(?:module\.)?layer(\d)\.(\d+)\.downsample\.1",
        r"layer\1/block\2/shortcut/norm",
    ),
    (r"(?:module\.)?fc\.weight", r"params/head/kernel", "oi"),
    (r"(?:module\.)?fc\.bias", r"params/head/bias", "same"),
)
# akamaster/pytorch_resnet_cifar10 -> resnet20/32/44/56. Input: the same constants, on CIFAR-10 too.
CIFAR_RESNET: Table = (
    *_TRUNK,
    (r"(?:module\.)?linear\.weight", r"params/head/kernel", "oi"),
    (r"(?:module\.)?linear\.bias", r"params/head/bias", "same"),
)


def load_params(path: Path | str, net: Net, table: Table) -> tuple[Tree, Tree]:
    """``(params, state)`` of ``net`` from a safetensors file of another library, float32.

    Raises one CheckpointError that lists every leaf without a tensor, every tensor without a leaf,
    every wrong shape and every tensor that is not floating point.
    """
    found: dict[str, np.ndarray] = {}
    surplus: list[str] = []
    twice: list[str] = []
    expected = _expected(net)
    for source, array in _read(Path(path)).items():
        row = next((row for row in table if re.fullmatch(row[0], source)), None)
        pattern, name, transform = row or (re.escape(source), source, "same")
        if name is None:
            continue
        target = re.sub(pattern, name, source)
        if row is None or target not in expected:
            surplus.append(f"{source} {array.shape}")
        elif target in found:
            twice.append(f"{source} -> {target}")
        else:
            found[target] = TRANSFORMS[transform](array)
    return _fit(Path(path), net, expected, found, {"surplus": surplus, "given twice": twice})


def save_net(
    path: Path | str,
    params: Tree,
    state: Tree,
    *,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Write params and state as safetensors, whole or not at all; equal input gives equal bytes.

    ``metadata``: anything JSON can hold (recipe, accuracy), read back by `read_metadata`. A pool
    stacked on a leading axis is written as it is.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in _flatten(params, state).items()}
    header = {"ddjax": json.dumps({"schema": 1, **(metadata or {})}, sort_keys=True)}
    atomic_write(path, save(arrays, metadata=header))


def load_net(path: Path | str, net: Net, *, stacked: int | None = None) -> tuple[Tree, Tree]:
    """``(params, state)`` that `save_net` wrote for ``net``, bit for bit.

    ``stacked``: how many nets the file must hold on a leading axis (None: one net, no such axis).

    Raises one CheckpointError that lists every difference in names and shapes.
    """
    expected = _expected(net, stacked)
    arrays = _read(Path(path))
    found = {name: array for name, array in arrays.items() if name in expected}
    surplus = [f"{name} {array.shape}" for name, array in arrays.items() if name not in expected]
    return _fit(Path(path), net, expected, found, {"surplus": surplus})


def read_metadata(path: Path | str) -> dict[str, object]:
    """What `save_net` was given as ``metadata``, and ``schema``."""
    with _opened(Path(path)) as file:
        header = file.metadata() or {}
    if "ddjax" not in header:
        raise CheckpointError(f"{path} was not written by ddjax: its header has no 'ddjax' entry.")
    return json.loads(header["ddjax"])


def _opened(path: Path):
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def _read(path: Path) -> dict[str, np.ndarray]:
    with _opened(path) as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (TypeError, SafetensorError) as error:
            raise CheckpointError(f"{path} holds a tensor that NumPy cannot: {error}") from error


def _expected(net: Net, stacked: int | None = None) -> dict[str, tuple[int, ...]]:
    shapes = _flatten(*jax.eval_shape(net.init, jax.random.key(0)))
    lead = () if stacked is None else (stacked,)
    return {name: (*lead, *leaf.shape) for name, leaf in shapes.items()}


def _fit(
    path: Path,
    net: Net,
    expected: dict[str, tuple[int, ...]],
    found: dict[str, np.ndarray],
    failures: dict[str, list[str]],
) -> tuple[Tree, Tree]:
    """The trees of ``found``, or one CheckpointError with all that does not fit."""
    failures["missing"] = [f"{k} {shape}" for k, shape in expected.items() if k not in found]
    failures["wrong shape"] = [
        f"{name}: the file has {array.shape}, {net.name} has {expected[name]}"
        for name, array in found.items()
        if array.shape != expected[name]
    ]
    failures["not floating point"] = [f"{name}: {array.dtype}" for name, array in found.items() if not _floating(array)]
    lines = [f"{path} does not fit {net.name} ({len(expected)} leaves):"]
    for kind, names in failures.items():
        if names:
            more = [f"    and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
            lines += [f"  {kind}, {len(names)}:", *(f"    {n}" for n in names[:SHOWN]), *more]
    if len(lines) > 1:
        raise CheckpointError("\n".join(lines))
    return _nest({name: jnp.asarray(found[name], jnp.float32) for name in expected})


def _floating(array: np.ndarray) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _flatten(params: Tree, state: Tree) -> dict[str, jax.Array]:
    """``params/...`` and ``state/...`` names of all leaves, sorted."""
    leaves = jax.tree_util.tree_leaves_with_path({"params": params, "state": state})
    return {"/".join(str(entry.key) for entry in path): leaf for path, leaf in leaves}


def _nest(leaves: Mapping[str, jax.Array]) -> tuple[Tree, Tree]:
    tree: dict[str, Tree] = {"params": {}, "state": {}}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree["params"], tree["state"]
