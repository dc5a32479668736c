"""Memory of one update of MTT against the number N of inner steps: only the iterates may grow with it.

Forms of the derivative through the N steps (`kernels/unroll.descend`): `iterates` (in closed form, what the method
does), `remat` (automatic, every step recomputed), `all` (automatic, all activations kept). ConvNet-3 of width 128, ten
images of 32x32 a class, ten classes, differentiable augmentation.

    python benchmarks/mtt_memory.py       20 minutes on two busy cores

writes results/mtt_memory.json and results/mtt_memory.svg. Pixels and weights are random: it is memory that is measured.
`program_mb` is what the compiled update needs (arguments, results, scratch), `peak_mb` the whole process after one
update (of `iterates`: the others are compiled and not run, `all` would not fit). `step_mb` is the growth of
`program_mb` per inner step since the N before, `weights_mb` one set of weights.
"""

import itertools

import harness

STEPS = (10, 20, 40, 80)
FORMS = ("iterates", "remat", "all")
SHAPE, CLASSES, IPC, ARCH = (32, 32, 3), 10, 10, "convnet3-w128"


def update(form, steps):
    """The update of images and rate, and its arguments: images, rate, key, two points of an expert."""
    import jax
    import jax.numpy as jnp

    from ddjax import methods
    from ddjax.data import CARDS
    from ddjax.kernels import labels, unroll
    from ddjax.methods.mtt import MTT, endpoint_distance, student_loss
    from ddjax.models import build

    net = build(ARCH, image_shape=SHAPE, classes=CLASSES)
    method = MTT(ipc=IPC, inner_steps=steps).filled("cifar10", IPC)
    context = methods.context(method, net, CARDS["cifar10"], SHAPE, CLASSES, lambda fn: fn)
    inner, total = student_loss(method, context), CLASSES * IPC
    targets = labels.onehot(jnp.repeat(jnp.arange(CLASSES), IPC), CLASSES)
    rows = jnp.broadcast_to(jnp.arange(total)[None], (steps, total))

    def step(images, rate, key, start, target):
        def loss(images, rate):
            inputs, fixed = (jax.random.split(key, steps), rows), {"state": {}, "targets": targets}
            last = unroll.descend(inner, start, {"images": images}, fixed, inputs, rate, keep=form)
            return endpoint_distance(last, start, target)

        slope, by_rate = jax.grad(loss, (0, 1))(images, rate)
        return images - method.lr * slope, rate - method.lr_lr * by_rate

    start, target = (jax.jit(net.init)(jax.random.key(k))[0] for k in (0, 1))
    images = jax.random.normal(jax.random.key(2), (total, *SHAPE))
    return step, (images, jnp.float32(0.01), jax.random.key(3), start, target)


def build(name):
    """A case `FORM-N`: compiles the update and notes its memory; once run, nothing is left to be timed."""
    import jax

    import ddjax.cost  # noqa: F401  as in every run: the allocator returns what compiling leaves behind

    form, steps = name.split("-")
    step, arguments = update(form, int(steps))
    compiled = jax.jit(step).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    weights = sum(4 * leaf.size for leaf in jax.tree.leaves(arguments[3]))
    harness.note(program_mb=round(needed / 1e6, 1), weights_mb=round(weights / 1e6, 2))
    if form == "iterates":
        jax.block_until_ready(compiled(*arguments))
        harness.note(run_mb=harness.peak_mb())
    return lambda: None


def plot(cases, path):
    """Memory against N as an SVG whose bytes repeat."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mtt_memory"
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.5, 3.8), layout="constrained")
    styles = {
        "all": ("automatic, all activations kept", "s-", "tab:red"),
        "remat": ("automatic, steps recomputed", "^--", "tab:orange"),
        "iterates": ("closed form, iterates kept (ours)", "o-", "tab:blue"),
    }
    for form, (label, line, color) in styles.items():
        axis.loglog(STEPS, [cases[f"{form}-{n}"]["program_mb"] for n in STEPS], line, color=color, label=label)
    axis.set(xlabel="inner steps N", title="MB of the compiled update")
    axis.set_xticks(STEPS, [str(n) for n in STEPS])
    axis.minorticks_off()
    axis.grid(alpha=0.3, which="major")
    axis.legend()
    figure.savefig(path, format="svg", metadata={"Date": None})


def main():
    cases = {}
    for form in FORMS:
        for n in STEPS:  # one process at a time: each may take what there is
            cases |= harness.compare(__file__, [f"{form}-{n}"], rounds=1, warmup=0)
            print(form, n, {k: v for k, v in cases[f"{form}-{n}"].items() if k.endswith("_mb")}, flush=True)
        for before, n in itertools.pairwise(STEPS):
            grown = cases[f"{form}-{n}"]["program_mb"] - cases[f"{form}-{before}"]["program_mb"]
            cases[f"{form}-{n}"]["step_mb"] = round(grown / (n - before), 2)
    cases = {name: {k: v for k, v in case.items() if k.endswith("_mb")} for name, case in cases.items()}
    for case in cases.values():
        del case["peak_mb"], case["start_mb"]
        if "run_mb" in case:
            case["peak_mb"] = case.pop("run_mb")
    keys = {"iterates": ("program_mb", "step_mb", "peak_mb"), "remat": ("program_mb", "step_mb")}
    keys["all"] = keys["remat"]
    head = ["N", *(f"{form} {key}" for form in FORMS for key in keys[form])]
    rows = [[n, *(cases[f"{form}-{n}"].get(key, "") for form in FORMS for key in keys[form])] for n in STEPS]
    over = {n: round(cases[f"iterates-{n}"]["program_mb"] / cases[f"all-{n}"]["program_mb"], 4) for n in STEPS}
    shapes = {"arch": ARCH, "image": SHAPE, "classes": CLASSES, "ipc": IPC}
    weights = cases["iterates-10"]["weights_mb"]
    result = {"shapes": shapes, "weights_mb": weights, "iterates_over_all": over, "head": head, "rows": rows}
    path = harness.write("mtt_memory", {**result, "cases": cases})
    plot(cases, path.with_suffix(".svg"))
    print(harness.table(rows, head=head))
    print(f"one set of weights: {weights} MB; iterates over all:", over)


if __name__ == "__main__":
    harness.serve(build)
    main()
