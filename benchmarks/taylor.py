"""Cost of one update of the images against the number of inner steps K: Taylor, and unrolled.

Both minimise the real loss after K steps of gradient descent on 10 synthetic images. `unrolled`
differentiates through the K steps (`remat` recomputes them instead of keeping them); `taylor` draws
one of 9 cached weak models, spread over the path that the K steps take, and takes the gradient of
<g_S(theta), g_T(theta)> in the images, g_T cached with the model (`kernels/taylor.directional`). An
expectation over a cached pool needs one draw an update, whatever K: time and memory must be flat.
`agree` is the cosine between the mean Taylor gradient over the pool and the exact one.

    python benchmarks/taylor.py [--rounds 9]       30 minutes on two busy cores

writes results/taylor.json and results/taylor.svg. Pixels are random: it is the cost that is
measured. `program_mb` is what the compiled update needs (arguments, results, scratch), `peak_mb`
the process.
"""

import argparse

import harness

STEPS = (1, 2, 5, 10, 20, 50)
SHAPE, CLASSES, REAL, ARCH, LR, POOL = (32, 32, 3), 10, 64, "convnet3-w32", 0.01, 9
REPEATS = {"taylor": 20, "unrolled": 1, "remat": 1}  # updates in one timed call


def problem():
    """(parameters, synthetic images, real images, loss on either): ConvNet-3, one image a class."""
    import jax
    import jax.numpy as jnp

    from ddjax.kernels import labels
    from ddjax.models import build

    net = build(ARCH, image_shape=SHAPE, classes=CLASSES)
    params, state = jax.jit(net.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (CLASSES, *SHAPE))
    real = jax.random.normal(jax.random.key(2), (REAL, *SHAPE))

    def loss(params, x):
        targets = labels.onehot(jnp.arange(len(x)) % CLASSES, CLASSES)
        return labels.cross_entropy(net.apply(params, state, x, train=True).logits, targets)

    return params, images, real, loss


def taylor_update(steps):
    """The update, and the arguments that do not change: the models and their real gradients."""
    import jax
    import numpy as np

    from ddjax.kernels import taylor, unroll
    from ddjax.kernels.pool import member

    params, images, real, loss = problem()
    spread = np.round(np.linspace(0, steps - 1, POOL)).astype(int)

    @jax.jit
    def cache(images, real):
        path = unroll.iterates(loss, params, images, steps=steps, lr=LR)
        models = jax.tree.map(lambda leaf: leaf[spread], path)
        return models, jax.lax.map(lambda theta: jax.grad(loss)(theta, real), models)

    def gradient(images, theta, target):
        return jax.grad(lambda s: -taylor.directional(loss, theta, s, target))(images)

    def update(images, key, models, targets):
        key, draw = jax.random.split(key)
        drawn = member((models, targets), jax.random.randint(draw, (), 0, POOL))
        return images - 0.1 * gradient(images, *drawn), key

    return update, gradient, images, cache(images, real)


def unrolled_update(steps, remat):
    """The update through K inner steps, and the arguments that do not change."""
    import jax

    from ddjax.kernels import unroll

    start, images, real, loss = problem()

    def gradient(images, params, real):
        def objective(s):
            return loss(unroll.sgd(loss, params, s, steps=steps, lr=LR, remat=remat), real)

        return jax.grad(objective)(images)

    def update(images, key, params, real):
        return images - 0.1 * gradient(images, params, real), key

    return update, gradient, images, (start, real)


def agreement(steps):
    """Cosine between the pool's mean Taylor gradient and the exact one."""
    import jax
    import jax.numpy as jnp

    _, exact, images, fixed = unrolled_update(steps, remat=True)
    _, term, _, (models, targets) = taylor_update(steps)
    a = jax.jit(exact)(images, *fixed)
    b = jax.jit(lambda s, *pool: jax.lax.map(lambda one: term(s, *one), pool).mean(axis=0))
    b = b(images, models, targets)
    return float(jnp.vdot(a, b) / jnp.linalg.norm(a.ravel()) / jnp.linalg.norm(b.ravel()))


def build(name):
    """A case `KIND-K`: compiles the update, notes its memory, gives the step to be timed."""
    import jax

    kind, steps = name.rsplit("-", 1)
    steps = int(steps)
    if kind == "agree":
        harness.note(cosine=round(agreement(steps), 4))
        return lambda: None
    made = taylor_update(steps) if kind == "taylor" else unrolled_update(steps, kind == "remat")
    update, _, images, fixed = made
    state = (images, jax.random.key(3))
    compiled = jax.jit(update).lower(*state, *fixed).compile()
    memory = compiled.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    harness.note(program_mb=round(needed / 1e6, 2), updates=REPEATS[kind])

    def step():
        nonlocal state
        for _ in range(REPEATS[kind]):
            state = compiled(*state, *fixed)
        jax.block_until_ready(state[0])

    return step


def plot(cases, path):
    """Time and memory against K, log-log, as an SVG whose bytes repeat."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "taylor"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    styles = {
        "unrolled": ("unrolled (brute force)", "s-", "tab:red"),
        "remat": ("unrolled, recomputed", "^--", "tab:orange"),
        "taylor": ("Taylor, cached models", "o-", "tab:blue"),
    }
    for kind, (label, line, color) in styles.items():
        rows = [cases[f"{kind}-{k}"] for k in STEPS]
        seconds = [1e3 * row["update_cpu_s"] for row in rows]
        axes[0].loglog(STEPS, seconds, line, color=color, label=label)
        axes[1].loglog(STEPS, [r["program_mb"] for r in rows], line, color=color, label=label)
    for axis, title in zip(axes, ("CPU ms per update", "MB of the compiled update"), strict=True):
        axis.set(xlabel="inner steps K", title=title, xticks=STEPS)
        axis.set_xticks(STEPS, [str(k) for k in STEPS])
        axis.minorticks_off()
        axis.grid(alpha=0.3, which="major")
    axes[0].legend()
    figure.savefig(path, format="svg", metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    cases = harness.compare(__file__, [f"taylor-{k}" for k in STEPS], rounds=4 * rounds)
    for k in STEPS:  # one K at a time: every process holds what its unrolled path needs
        names = [f"unrolled-{k}", f"remat-{k}"]
        cases |= harness.compare(__file__, names, rounds=max(3, rounds // 3))
    agree = {k: harness.compare(__file__, [f"agree-{k}"], rounds=1) for k in STEPS}
    agree = {k: case[f"agree-{k}"]["cosine"] for k, case in agree.items()}
    for case in cases.values():
        case["update_s"] = case["wall_s"] / case["updates"]
        case["update_cpu_s"] = case["cpu_s"] / case["updates"]
    kinds, keys = ("taylor", "unrolled", "remat"), ("update_s", "update_cpu_s", "program_mb", "peak_mb")
    head = ["K", *(f"{kind} {key}" for kind in kinds for key in keys), "agree"]
    rows = [[k, *(cases[f"{kind}-{k}"][key] for kind in kinds for key in keys), agree[k]] for k in STEPS]
    over_one = {
        of: {k: harness.ratio(cases, f"taylor-{k}", "taylor-1", of=of) for k in STEPS} for of in ("wall_s", "cpu_s")
    }
    shapes = {"arch": ARCH, "image": SHAPE, "synthetic": CLASSES, "real": REAL, "pool": POOL}
    result = {"shapes": shapes, "taylor_over_k1": over_one, "head": head, "rows": rows}
    path = harness.write("taylor", {**result, "cases": cases})
    plot(cases, path.with_suffix(".svg"))
    print(harness.table(rows, head=head))
    print("taylor, time over that of K = 1:", over_one)


if __name__ == "__main__":
    harness.serve(build)
    main()
