"""What the groups of a run mean together: sentences about values that are fine alone and do not fit each other."""

from typing import Any

from ddjax.errors import out_of_range


def seed(value: int, prefix: str = "") -> list[str]:
    """A sentence when ``value`` is no seed."""
    if 0 <= value < 2**31:
        return []
    return [out_of_range(f"{prefix}seed", value, "0 <= seed < 2**31", 0)]


def workdir(value: str | None, prefix: str = "") -> list[str]:
    """A sentence where the folder has no name: an empty word would mean the current one."""
    if value is None or value.strip():
        return []
    return [f"{prefix}workdir = {value!r} names no folder; allowed: a folder, or None. Nearest: --workdir run."]


def arch(method: Any) -> list[str]:
    """A sentence where the network that a method's images are made on is none, or one that the method cannot use."""
    from ddjax.models import check_name, norm_of

    name, reason = getattr(method, "arch", None), getattr(method, "NO_BATCH_NORM", "")
    if not isinstance(name, str):
        return []
    if wrong := check_name(name):
        return [f"method.arch: {wrong}"]
    if not reason or norm_of(name) != "batch":
        return []
    use = name.replace("-batch", "") if "-batch" in name else f"{name}-instance"
    use = use if check_name(use) is None else "convnet3"
    allowed = f"a network without batch norm ({reason}); evaluate.archs may be any"
    return [out_of_range("method.arch", name, allowed, use)]


def pool(run: Any) -> list[str]:
    """A sentence where the base model has fewer epochs than the pool wants snapshots."""
    pool, epochs, needs = run.teacher.pool, run.teacher.epochs, run.method.needs
    snapshots = {"prior": pool.size, "mixed": (pool.size + 1) // 2}.get(pool.mode, 0)
    spaced = isinstance(pool.snapshots, str) and needs.teachers and needs.pool == "pool"
    if not spaced or epochs is None or not snapshots > epochs >= 1:
        return []
    allowed = f"at most one snapshot per epoch of teacher.epochs = {epochs}"
    return [out_of_range("teacher.pool.size", pool.size, allowed, epochs if pool.mode == "prior" else 2 * epochs)]


def learned(run: Any) -> list[str]:
    """Sentences on what the protocol or the labels take of a set and the method does not learn."""
    problems = []
    if run.evaluate.rate() == "learned" and "lr" not in run.method.learns:
        problems.append(
            f"evaluate.protocol = {run.evaluate.protocol!r} trains at the rate that the set has learned; the "
            "method learns none. Nearest: --evaluate.protocol P-DC."
        )
    if run.label.source == "learned" and run.method.label_source != "learned":
        problems.append("label.source = 'learned': the method learns no labels; allowed: auto, hard, pool, base.")
    return problems
