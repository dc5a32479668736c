"""One outer iteration of the classical methods: ours as the loop runs it, against straightforward PyTorch.

Ten classes of 32x32x3, ten images a class, 256 real images of each class (FRePo: 1,024 in all), ConvNet-3 (width 128);
SRe2L: ResNet-18 with a small-image stem, batches of 50. Ours is `METHODS[name].build(...).step`, jitted with its state
donated; PyTorch is `methods_torch.py`, in its own layout and channels-last. Pixels are random: it is the time that is
measured, warm, the cases taken in turns; the first call (compilation) stands apart.

    python benchmarks/methods.py [--rounds 7] [--methods dm dc dsa mtt sre2l frepo]     about 30 minutes on two cores

writes benchmarks/results/methods.json; methods that are not asked for keep what stands there.
"""

import argparse
import functools
import json

import harness

GOALS = {"dm": (0.55, None), "dc": (0.75, None), "dsa": (0.65, None), "mtt": (0.63, 0.15), "sre2l": (1.0, None),
         "frepo": (None, None)}  # fmt: skip
SAME = {  # hyper-parameters under which both sides do the same work
    "dc": dict(outer=2, inner=1), "dsa": dict(outer=2, inner=1), "mtt": dict(inner_steps=20),
    "sre2l": dict(batch=50, flip=True), "frepo": dict(arch="convnet3-lecun"),
}  # fmt: skip
SHAPE, CLASSES, IPC, REAL = (32, 32, 3), 10, 10, 256


def build(name: str):
    """The step of case METHOD:WAY."""
    method, way = name.split(":")
    if way == "ours":
        return build_ours(method)
    try:
        import methods_torch
    except ModuleNotFoundError as missing:
        raise harness.Skip("torch is not installed") from missing
    return methods_torch.build(method, channels_last=way == "torch-channels-last")


def build_ours(name: str):
    import jax
    import jax.numpy as jnp

    import ddjax.cost  # noqa: F401  as in every run: the allocator returns what compiling leaves behind
    from ddjax import models
    from ddjax.data.cards import CARDS
    from ddjax.kernels import pool
    from ddjax.mesh import Spread
    from ddjax.methods import METHODS, context

    card = CARDS["cifar10"]
    method = METHODS[name](ipc=IPC, **SAME.get(name, {})).filled("cifar10", IPC)
    arch = getattr(method, "arch", None) or "resnet18"
    net = models.build(arch, image_shape=SHAPE, classes=CLASSES)
    over = Spread(pool.default_how(jax.default_backend()))
    distiller = method.build(context(method, net, card, SHAPE, CLASSES, over.mean))
    key = jax.random.key(0)
    images = jax.random.normal(key, (CLASSES * IPC, *SHAPE))
    labels = jnp.repeat(jnp.arange(CLASSES, dtype=jnp.int32), IPC)
    state = jax.jit(distiller.init)(key, images, labels)
    batch = feed(method.needs, net, images)
    run = jax.jit(distiller.step, donate_argnums=1)
    harness.note(arch=arch, platform=jax.default_backend(), device=jax.devices()[0].device_kind)
    held = {"state": state, "key": key}

    def step() -> None:
        held["key"], now = jax.random.split(held["key"])
        held["state"], info = run(now, held["state"], batch)
        jax.block_until_ready((held["state"], info))

    return step


def feed(needs, net, images):
    """Random numbers in the shapes that a step is fed."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from ddjax.types import Batch, Moments, Teachers

    key, batch = jax.random.key(1), Batch(step=jnp.int32(0))
    if needs.real != "none":
        shape = (CLASSES, needs.real_batch) if needs.real == "per_class" else (needs.real_batch,)
        labels = jax.random.randint(key, shape, 0, CLASSES, jnp.int32)
        if needs.real == "per_class":
            labels = jnp.broadcast_to(jnp.arange(CLASSES, dtype=jnp.int32)[:, None], shape)
        batch = batch._replace(images=jax.random.normal(key, (*shape, *SHAPE)), labels=labels)
    if needs.also:
        more = jax.random.randint(key, (needs.also,), 0, CLASSES, jnp.int32)
        batch = batch._replace(more=jax.random.normal(key, (needs.also, *SHAPE)), more_labels=more)
    draw = functools.partial(jax.tree.map, lambda a: a[None])
    if needs.experts:
        one, two = (ravel_pytree(net.init(jax.random.key(i))[0])[0] for i in (2, 3))
        batch = batch._replace(start=one, target=two)
    if needs.teachers:
        params, state = net.init(key)
        statistics = {tap: Moments(jnp.ones(()), *pair) for tap, pair in net.running(state).items()}
        batch = batch._replace(teachers=Teachers(*draw((params, state)), statistics=draw(statistics)))
    return batch


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--rounds", type=int, default=7)
    flags.add_argument("--methods", nargs="*", default=list(GOALS), choices=list(GOALS))
    flags.add_argument("--smoke", action="store_true", help="only see that it runs; nothing is written")
    given = flags.parse_args()
    path = harness.RESULTS / "methods.json"
    kept = json.loads(path.read_text())["methods"] if path.exists() else {}
    result: dict = {"rounds": given.rounds, "methods": kept}
    rows = []
    for method in given.methods:
        cases = harness.compare(
            __file__, [f"{method}:{way}" for way in ("ours", "torch", "torch-channels-last")], rounds=given.rounds
        )
        rows += summarise(method, cases, result)
        print(harness.table(rows[-len(cases) :], head=HEAD), flush=True)
    if not given.smoke:
        print(harness.write("methods", result))


HEAD = ["case", "s", "/ torch", "/ torch (CPU s)", "peak MB", "first call, CPU s"]


def summarise(method: str, cases: dict, result: dict) -> list[list]:
    """The method's rows; its ratios and whether the goals are met go into ``result``."""
    ours, theirs, rows = f"{method}:ours", f"{method}:torch", []
    for name, case in cases.items():
        if "skipped" in case:
            rows.append([name, case["skipped"], "", "", "", ""])
            continue
        ratios = [harness.ratio(cases, name, theirs, of=of) for of in ("wall_s", "cpu_s")]
        rows.append([name, case["wall_s"], *ratios, case["peak_mb"], case["first_call_cpu_s"]])
    found: dict = {"cases": cases, "ratio": harness.ratio(cases, ours, theirs)}
    found["ratio_cpu"] = harness.ratio(cases, ours, theirs, of="cpu_s")
    if found["ratio"] is not None:
        found["ratio_memory"] = round(cases[ours]["peak_mb"] / cases[theirs]["peak_mb"], 4)
        time, memory = GOALS[method]
        found["goal"], found["goal_memory"] = time, memory
        found["goal_met"] = None if time is None else found["ratio"] <= time
        found["goal_memory_met"] = None if memory is None else found["ratio_memory"] <= memory
    result["methods"][method] = found
    return rows


if __name__ == "__main__":
    harness.serve(build)
    main()
