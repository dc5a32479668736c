"""Teddy's step at one drawn member of a pool of 9, beside the step at a single model and at all members.

ConvNet-3 of width 64 with batch normalisation, 50 images of 32x32x3, statistics class by class; `steps` steps are one
call of the program that `ddjax` runs (`ddjax.distill.make_chunk`). `one/9` draws one of 9 weak models uniformly every
step (`pool_draw=one`), `one/1` has a single model, `all/4` takes the mean over 4 by scan (`pool_draw=all`), so that the
price of a step at `one` must not depend on the pool: goal within 5 %.

    python benchmarks/draw.py [--rounds 15] [--steps 10]        about 2 minutes on two cores

writes benchmarks/results/draw.json. Weights and statistics are random: it is the time that is measured.
"""

import argparse
import os

import harness

CASES = ("one/1", "one/9", "all/4")
SHAPE, CLASSES, IPC, ARCH = (32, 32, 3), 10, 5, "convnet3-w64-batch"
GOAL = 1.05
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def weak_models(net, members: int):
    """Random networks with the real statistics of some images at each: what a pool hands to a step."""
    import jax
    import jax.numpy as jnp

    from ddjax.kernels import labels, statistics
    from ddjax.types import Teachers

    params, state = jax.vmap(net.init)(jax.random.split(jax.random.key(0), members))
    images = jax.random.normal(jax.random.key(1), (100, *SHAPE))
    onehot = labels.onehot(jnp.arange(100, dtype=jnp.int32) % CLASSES, CLASSES)

    @jax.jit
    def measured(params, state):
        taps = net.apply(params, state, images, train=False, taps=True).taps
        return {name: statistics.class_moments(tap, onehot) for name, tap in taps.items()}

    found = [measured(*jax.tree.map(lambda leaf, j=j: leaf[j], (params, state))) for j in range(members)]
    return Teachers(params, state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *found))


def build(name: str):
    """Chunks of steps of case ``DRAW/POOL``."""
    import jax
    import jax.numpy as jnp

    from ddjax import distill, models
    from ddjax.kernels import pool
    from ddjax.mesh import Spread
    from ddjax.methods import Context, Teddy
    from ddjax.types import Augment

    draw, members = name.split("/")
    steps = int(os.environ["BENCH_STEPS"])
    net = models.build(ARCH, image_shape=SHAPE, classes=CLASSES)
    over = Spread(pool.default_how(jax.default_backend()))
    low, high = ([(edge - m) / s for m, s in zip(MEAN, STD, strict=True)] for edge in (0.0, 1.0))
    method = Teddy(ipc=IPC, pool_draw=draw).filled("cifar10", IPC)
    distiller = method.build(Context(net, IPC, CLASSES, SHAPE, low, high, Augment(pad=4, flip=True), over.mean))
    run = distill.make_chunk(distiller, MEAN, STD)
    labels = jnp.repeat(jnp.arange(CLASSES, dtype=jnp.int32), IPC)
    images = jax.random.normal(jax.random.key(2), (IPC * CLASSES, *SHAPE))
    held = {"state": jax.jit(distiller.init)(jax.random.key(3), images, labels), "start": 0}
    teachers, base = weak_models(net, int(members)), jax.random.key(4)

    def step() -> None:
        start, held["start"] = held["start"], held["start"] + steps
        held["state"], _ = jax.block_until_ready(
            run(base, held["state"], teachers, None, jnp.int32(start), jnp.int32(steps))
        )

    return step


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--rounds", type=int, default=15)
    flags.add_argument("--steps", type=int, default=10, help="steps of one call")
    flags.add_argument("--cases", nargs="*", default=CASES, help="only these; nothing is written")
    given = flags.parse_args()
    cases = harness.compare(__file__, given.cases, rounds=given.rounds, env={"BENCH_STEPS": str(given.steps)})
    rows = []
    for name, case in cases.items():
        case["ms_per_step"] = 1e3 * case["wall_s"] / given.steps
        case["wall_ratio"] = harness.ratio(cases, name, given.cases[0])
        case["cpu_ratio"] = harness.ratio(cases, name, given.cases[0], of="cpu_s")
        rows.append([name, case["ms_per_step"], 1e3 * case["cpu_s"] / given.steps, case["wall_ratio"],
                     case["cpu_ratio"], case["peak_mb"], case["first_call_cpu_s"]])  # fmt: skip
    head = ["draw/pool", "ms a step", "CPU ms", f"/ {given.cases[0]}", "(CPU s)", "peak MB", "first call, CPU s"]
    print(harness.table(rows, head=head), flush=True)
    if tuple(given.cases) == CASES:
        ratio = cases["one/9"]["wall_ratio"]
        about = {"arch": ARCH, "images": IPC * CLASSES, "shape": SHAPE, "rounds": given.rounds, "steps": given.steps}
        print(harness.write("draw", {"sizes": about, "goal": GOAL, "ratio": ratio, "goal_met": ratio <= GOAL,
                                     "cases": cases}))  # fmt: skip


if __name__ == "__main__":
    harness.serve(build)
    main()
