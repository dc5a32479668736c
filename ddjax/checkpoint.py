"""State that survives a kill: asynchronous checkpoints of any tree of arrays, by step.

A step holds the leaves of the tree under their path names, the configuration's hash and a table
{name: [dtype, shape]}. It appears under its number only when complete, so that SIGKILL at any
instant leaves the last complete step restorable. Restoring compares the table with the tree that
is wanted before a byte is read, and puts every leaf where that tree says: on any mesh.

The only file that imports Orbax (its v1 interface), and it does so when a step is first touched.
"""

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.errors import CheckpointError, Interrupted
from ddjax.files import remove_folder
from ddjax.types import Tree

SCHEMA = 1
_SCALARS = {"bool": bool, "int": int, "float": float}


class Checkpoint:
    """The checkpoints of one stage of one run, in ``folder``; the last ``keep`` steps stay.

    Use it as a context manager, or call ``close()``: only then is the last step on the disk, and
    only then does an error of a background save surface. Not for several threads.
    """

    def __init__(self, folder: Path | str, *, keep: int = 2) -> None:
        self._folder = Path(folder).absolute()
        self._keep = keep
        self._open: Any = None
        self._saving: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def latest(self) -> int | None:
        """The number of the last complete step, or None."""
        if not self._folder.is_dir() or not any(self._folder.iterdir()):
            return None
        found = self._store().latest
        return None if found is None else int(found.step)

    def restore(self, like: Tree, *, config_hash: str) -> tuple[Tree, int] | None:
        """The last complete step as ``(state, step)``, or None when there is none.

        ``like``: a tree of the same structure, of arrays or ``jax.ShapeDtypeStruct``. A leaf with a
        sharding is put there, on however many devices; one without, or an uncommitted array, on the
        default device; NumPy arrays and Python numbers come back as such. Typed keys are kept.

        ``CheckpointError``: another configuration, another tree, shape or dtype (the first ten
        differences are listed), a newer schema, unreadable files.
        """
        step = self.latest()
        if step is None:
            return None
        store = self._store()
        where = f"checkpoint = {str(self._folder / str(step))!r}"
        unreadable = (f"{where} cannot be read", self._hint(step))
        with _named(*unreadable):
            meta = store.metadata(step).custom_metadata or {}
        _check_meta(meta, where, config_hash)
        names, leaves, treedef = _flatten(like)
        _check_leaves(meta["leaves"], dict(zip(names, map(_describe, leaves), strict=True)), where)
        wanted = {n: _target(leaf) for n, leaf in zip(names, leaves, strict=True) if _size(leaf)}
        with _named(*unreadable):
            stored = store.load(step, wanted) if wanted else {}
        state = [
            _revive(stored[n] if _size(leaf) else np.zeros(np.shape(leaf), leaf.dtype), leaf)
            for n, leaf in zip(names, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, state), step

    def save(self, step: int, state: Tree, config_hash: str) -> None:
        """Copy ``state`` to the host and write it in the background as step ``step``.

        Returns when the copy is made, so that the caller may donate ``state``; waits for an earlier
        save that still runs, and raises what went wrong with it. A step that exists is left alone.
        """
        store = self._store()
        with _named(self._failed()):
            store.wait()
        if any(int(known.step) == step for known in store.checkpoints):
            return
        names, leaves, _ = _flatten(state)
        table = {n: _describe(leaf) for n, leaf in zip(names, leaves, strict=True)}
        arrays = {n: _to_host(leaf) for n, leaf in zip(names, leaves, strict=True) if _size(leaf)}
        meta = {"schema": SCHEMA, "config_hash": config_hash, "leaves": table}
        self._saving = step
        with _named(self._failed()):
            store.save_async(step, arrays, force=True, custom_metadata=meta)

    def close(self) -> None:
        """Wait until everything is written; an error of a background save is raised here."""
        if self._open is not None:
            store, self._open = self._open, None
            with _named(self._failed()):
                store.close()

    def clear(self) -> None:
        """Remove all steps; the folder goes too."""
        self.close()
        remove_folder(self._folder)

    def _store(self) -> Any:
        if self._open is None:
            import orbax.checkpoint.experimental.v1 as ocp

            context = ocp.Context()
            # In the background a folder that cannot be made is noticed after ten minutes.
            context.asynchronous.create_directories_asynchronously = False
            for name in ("asyncio", "absl"):
                logging.getLogger(name).addFilter(_is_no_dump)
            keep: Any = ocp.training.preservation_policies.LatestN(self._keep)
            with _named(f"checkpoint folder {str(self._folder)!r} cannot be opened"):
                # Orbax's own cleaning overlooks a folder that was made an instant before a kill.
                for stale in self._folder.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(stale)
                self._open = ocp.training.Checkpointer(str(self._folder), context=context, preservation_policy=keep)
        return self._open

    def _failed(self) -> str:
        return f"checkpoint of step {self._saving} in {str(self._folder)!r} was not written"

    def _hint(self, step: int) -> str:
        older = [int(known.step) for known in self._store().checkpoints if int(known.step) < step]
        after = f"continue from step {max(older)}" if older else "begin this stage again"
        return f" Remove that folder to {after}."


# ------------------------------------------------------------------------------------------ leaves


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _size(leaf: Any) -> int:
    return int(np.prod(np.shape(leaf), dtype=np.int64))


def _flatten(tree: Tree) -> tuple[list[str], list[Any], Any]:
    """Path names, leaves and structure; two leaves of one name are refused."""
    found, treedef = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") or "." for path, _ in found]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise TypeError(f"a checkpoint needs distinct path names; these occur twice: {twice}")
    return names, [leaf for _, leaf in found], treedef


def _describe(leaf: Any) -> list[Any]:
    """[dtype, shape] of a leaf, as it stands in the table of a step."""
    if type(leaf) in _SCALARS.values():
        return [type(leaf).__name__, []]
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        raise TypeError(f"a checkpoint holds arrays and numbers, not {type(leaf).__name__}")
    return [str(leaf.dtype), [int(n) for n in leaf.shape]]


def _to_host(leaf: Any) -> Any:
    """A copy of a leaf that later donation cannot touch; arrays spread over processes stay."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    return np.array(leaf)


def _target(leaf: Any) -> Any:
    """What Orbax is asked for: a sharded array, or a NumPy array to be placed by ``_revive``."""
    data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    if type(leaf) in _SCALARS.values():
        return np.zeros((), np.asarray(leaf).dtype)
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or (isinstance(leaf, jax.Array) and not leaf.committed):
        return np.zeros(data.shape, data.dtype)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)


def _revive(stored: Any, leaf: Any) -> Any:
    """The stored array as the kind of leaf that ``leaf`` is."""
    kind = _SCALARS.get(type(leaf).__name__)
    if kind is not None:
        return kind(stored.item())
    if isinstance(leaf, np.ndarray | np.generic):
        return stored if isinstance(leaf, np.ndarray) else leaf.dtype.type(stored)
    array = stored if isinstance(stored, jax.Array) else jnp.array(stored)
    if not _is_key(leaf):
        return array
    kinds: list[Any] = []  # seen from inside a trace, so that a ShapeDtypeStruct will do
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), leaf)
    return jax.random.wrap_key_data(array, impl=kinds[0])


# ------------------------------------------------------------------------------------------ checks


def _check_meta(meta: dict[str, Any], where: str, config_hash: str) -> None:
    schema = meta.get("schema")
    if schema != SCHEMA:
        raise CheckpointError(f"{where} has schema {schema!r}; this version of ddjax reads schema {SCHEMA}.")
    if meta["config_hash"] != config_hash:
        raise CheckpointError(
            f"{where} belongs to another configuration: its hash is {meta['config_hash'][:12]}, "
            f"this run's {config_hash[:12]}. Continue with the configuration it was made with, "
            "or begin anew with --overwrite."
        )


def _check_leaves(stored: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Compare two tables {name: [dtype, shape]}; the error lists the first ten differences."""
    lines = []
    for name in sorted(stored.keys() | wanted.keys()):
        if name not in stored:
            lines.append(f"{name}: not stored, wanted {_show(wanted[name])}")
        elif name not in wanted:
            lines.append(f"{name}: stored {_show(stored[name])}, not wanted")
        elif stored[name] != wanted[name]:
            lines.append(f"{name}: stored {_show(stored[name])}, wanted {_show(wanted[name])}")
    if lines:
        more = f"\n  and {len(lines) - 10} more" if len(lines) > 10 else ""
        listed = "\n  ".join(lines[:10])
        raise CheckpointError(f"{where} does not fit the state of this run:\n  {listed}{more}")


def _show(entry: list[Any]) -> str:
    return f"{entry[0]}[{','.join(map(str, entry[1]))}]"


def _is_no_dump(record: logging.LogRecord) -> bool:
    """False for the pages that Orbax and asyncio log about an error that ``_named`` raises."""
    text = record.getMessage()
    theirs = "orbax" in record.pathname and record.levelno >= logging.WARNING
    return not theirs and "tensorstore_spec" not in text and "orbax/checkpoint" not in text


@contextlib.contextmanager
def _named(message: str, hint: str = "") -> Iterator[None]:
    """Give an error from below our own name and its root cause; a full disk can be resumed from."""
    try:
        yield
    except (CheckpointError, Interrupted):
        raise
    except Exception as error:
        root: BaseException = error
        while root.__cause__ or root.__context__:
            root = root.__cause__ or root.__context__ or root
        first = (str(root).strip().splitlines() or [type(root).__name__])[0][:300]
        full = getattr(root, "errno", None) == errno.ENOSPC or "No space left" in str(root)
        raise (Interrupted if full else CheckpointError)(f"{message}: {first}.{hint}") from error
