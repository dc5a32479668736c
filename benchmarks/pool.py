"""A pool of 8 ConvNet-3: gradient of the mean loss in the images, and of each loss in its parameters.

Compared: `ddjax.kernels.pool` by scan, unrolled and by vmap, with the convolution of
`ddjax.kernels.conv` and with the library's, against a plain PyTorch loop over the same networks
(PyTorch is optional). Width 128, instance normalisation, batch 64 of 32x32x3. The image gradient is
taken as the methods take it: `jax.grad` outside `pool_mean`. Per case: seconds a call (wall and CPU),
peak memory of its process, the first call (trace and compile).

    python benchmarks/pool.py [--rounds 7] [--members 8] [--batch 64]

writes benchmarks/results/pool.json.
"""

import argparse
import os

import harness

MEMBERS, BATCH, WIDTH, CLASSES = 8, 64, 128, 10
CASES = ("scan/fast", "unroll/fast", "vmap/fast", "vmap/library", "torch", "torch-channels-last")
ONCE = ("scan/library",)  # ten times slower: one round, only for the image gradient
GOAL = {"images": 0.65, "params": 0.9}


def sizes() -> tuple[int, int]:
    """Members and batch, as the parent was told."""
    return int(os.environ["BENCH_MEMBERS"]), int(os.environ["BENCH_BATCH"])


def build(name: str):
    """The step of case ``GRADIENT:WAY``."""
    gradient, way = name.split(":")
    if way.startswith("torch"):
        return build_torch(gradient, channels_last=way != "torch")
    return build_jax(gradient, *way.split("/"))


def build_jax(gradient: str, how: str, conv: str):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ddjax.kernels.labels import cross_entropy
    from ddjax.kernels.pool import pool_map, pool_mean
    from ddjax.models import build as build_net

    members, batch = sizes()
    net = build_net("convnet3", image_shape=(32, 32, 3), classes=CLASSES, conv=conv)
    params, _ = jax.vmap(net.init)(jax.random.split(jax.random.key(0), members))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((batch, 32, 32, 3)), jnp.float32)
    targets = jax.nn.one_hot(jnp.arange(batch) % CLASSES, CLASSES)

    def loss(params, images):
        return cross_entropy(net.apply(params, {}, images, train=True).logits, targets)

    def in_images(params, images):
        return jax.grad(lambda x: pool_mean(lambda p: loss(p, x), how)(params))(images)

    def in_params(params, images):
        return pool_map(lambda p: jax.grad(loss)(p, images), how)(params)

    step = jax.jit({"images": in_images, "params": in_params}[gradient])
    jax.block_until_ready((params, images))
    return lambda: jax.block_until_ready(step(params, images))


def build_torch(gradient: str, *, channels_last: bool):
    try:
        import torch
    except ModuleNotFoundError as missing:
        raise harness.Skip("torch is not installed") from missing
    from torch import nn

    members, batch = sizes()
    torch.manual_seed(0)

    def network() -> nn.Module:
        layers, inputs = [], 3
        for _ in range(3):
            layers += [nn.Conv2d(inputs, WIDTH, 3, padding=1), nn.GroupNorm(WIDTH, WIDTH)]
            layers += [nn.ReLU(inplace=True), nn.AvgPool2d(2)]
            inputs = WIDTH
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * WIDTH, CLASSES))

    nets = [network() for _ in range(members)]
    images = torch.randn(batch, 3, 32, 32)
    if channels_last:
        nets = [net.to(memory_format=torch.channels_last) for net in nets]
        images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % CLASSES

    def in_images():
        x = images.detach().requires_grad_(True)
        for net in nets:
            (nn.functional.cross_entropy(net(x), labels) / members).backward(inputs=[x])
        return x.grad

    def in_params():
        return [
            torch.autograd.grad(nn.functional.cross_entropy(net(images), labels), list(net.parameters()))
            for net in nets
        ]

    return {"images": in_images, "params": in_params}[gradient]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--rounds", type=int, default=7)
    flags.add_argument("--members", type=int, default=MEMBERS)
    flags.add_argument("--batch", type=int, default=BATCH)
    flags.add_argument("--cases", nargs="*", default=None, help="only these, e.g. scan/fast torch")
    given = flags.parse_args()
    env = {"BENCH_MEMBERS": str(given.members), "BENCH_BATCH": str(given.batch)}
    result: dict = {"members": given.members, "batch": given.batch, "rounds": given.rounds}
    for gradient in ("images", "params"):
        names = [f"{gradient}:{way}" for way in given.cases or CASES]
        cases = harness.compare(__file__, names, rounds=given.rounds, env=env)
        if gradient == "images" and given.cases is None:
            names = [f"images:{way}" for way in (*ONCE, "torch")]
            once = harness.compare(__file__, names, rounds=1, warmup=0, env=env)
            once[names[0]]["wall_ratio"] = harness.ratio(once, *names)
            cases[names[0]] = once[names[0]]
        result[gradient] = summarise(cases, gradient)
    if given.cases is None:
        print(harness.write("pool", result))


def summarise(cases: dict, gradient: str) -> dict:
    """Adds each case's ratio to the plain PyTorch loop and prints the table."""
    theirs = f"{gradient}:torch"
    rows = []
    for name, case in cases.items():
        if "skipped" in case:
            rows.append([name, case["skipped"], "", "", "", ""])
            continue
        if "wall_ratio" not in case and theirs in cases:
            case["wall_ratio"] = harness.ratio(cases, name, theirs)
            case["cpu_ratio"] = harness.ratio(cases, name, theirs, of="cpu_s")
        rows.append(
            [
                name,
                case["wall_s"],
                case.get("wall_ratio"),
                case.get("cpu_ratio"),
                case["peak_mb"],
                case["first_call_cpu_s"],
            ]
        )
    head = ["case", "s", "/ torch", "/ torch (CPU s)", "peak MB", "first call, CPU s"]
    print(harness.table(rows, head=head), flush=True)
    ratio = cases.get(f"{gradient}:scan/fast", {}).get("wall_ratio")
    met = None if ratio is None else ratio <= GOAL[gradient]
    return {"goal_scan_fast": GOAL[gradient], "goal_met": met, "cases": cases}


if __name__ == "__main__":
    harness.serve(build)
    main()
