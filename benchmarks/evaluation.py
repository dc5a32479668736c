"""Five students on a small set: ours in one program, ours one by one, and a plain PyTorch loop.

ConvNet-3 (width 128, instance normalisation) on 100 images of 32x32x3 with hard labels and the recipe of protocol
ddjax-1: batches of all 100 images, AdamW, weight decay 0.01, cosine to 0, random crops of 4 pixels' padding and flips,
`steps` updates. Ours is `ddjax.evaluate.train_students` as `ddjax evaluate` calls it. The PyTorch loop is written for
the purpose: images normalised once, a batch's crops cut at once by one gather, fused AdamW. Then the test pass of all
students over `test` images (ours: `ddjax.survey.accuracy` on uint8; PyTorch: normalised floats, batches of 250).

    python benchmarks/evaluation.py [--rounds 7] [--students 5] [--steps 20]        about 15 minutes on two cores

writes benchmarks/results/evaluation.json. Pixels are random: it is the time that is measured. Each case does all
students: seconds are divided by students x steps where the table says so.
"""

import argparse
import os

import harness

TRAIN = ("ours-one-program", "ours-one-by-one", "torch", "torch-channels-last")
TEST = ("ours", "torch", "torch-channels-last")
GOAL = {"train": 0.75, "test": 0.55}
SHAPE, WIDTH, CLASSES, IMAGES, PAD, RATE, BATCH = (32, 32, 3), 128, 10, 100, 4, 1e-3, 250
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def sizes() -> tuple[int, int, int]:
    """Students, steps and test images, as the parent was told."""
    return tuple(int(n) for n in os.environ["BENCH_SIZES"].split())


def pixels(images: int):
    """Random images uint8 ``[images, 32, 32, 3]`` and their labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (images, *SHAPE), dtype=np.uint8), np.arange(images) % CLASSES


def build(name: str):
    """The step of case ``train:WAY`` or ``test:WAY``."""
    stage, way = name.split(":")
    if way.startswith("torch"):
        return build_torch(stage, channels_last=way != "torch")
    return build_test() if stage == "test" else build_train(one_by_one=way == "ours-one-by-one")


def build_train(*, one_by_one: bool):
    import jax

    from ddjax import evaluate, models, relabel
    from ddjax.kernels import pool
    from ddjax.mesh import Spread
    from ddjax.protocols import protocol
    from ddjax.types import Augment

    students, steps, _ = sizes()
    images, labels = pixels(IMAGES)
    rule, net = protocol("ddjax-1"), models.build("convnet3", image_shape=SHAPE, classes=CLASSES)
    views = Augment(pad=PAD, flip=True)
    plan = relabel.plan(0, IMAGES, rule.batch(IMAGES), steps, views)
    over = Spread(pool.default_how(jax.default_backend()))
    group = evaluate.students(net, rule, plan, MEAN, STD, over=over)
    row = evaluate.Row("random_real", "hard", images, relabel.Hard(labels, CLASSES))
    table = evaluate.targets(group, row)
    parts = [[seed] for seed in range(students)] if one_by_one else [list(range(students))]

    def train() -> None:
        for seeds in parts:
            rates = [RATE] * len(seeds)
            done = evaluate.train_students(group, row, table, rates, seeds, steps, stage="benchmark")
            jax.block_until_ready(done)

    return train


def build_test():
    import jax

    from ddjax import models, survey
    from ddjax.kernels import pool
    from ddjax.mesh import Spread

    students, _, count = sizes()
    split = Resident(*pixels(count))
    net = models.build("convnet3", image_shape=SHAPE, classes=CLASSES)
    params, state = jax.vmap(net.init)(jax.random.split(jax.random.key(0), students))
    over = Spread(pool.default_how(jax.default_backend()))
    return lambda: survey.accuracy(net, params, state, split, MEAN, STD, over=over)


class Resident:
    """A split that lies in memory."""

    def __init__(self, images, labels):
        self.images, self.labels, self.shape = images, labels, images.shape[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, index):
        return self.images[index]


def build_torch(stage: str, *, channels_last: bool):
    try:
        import torch
    except ModuleNotFoundError as missing:
        raise harness.Skip("torch is not installed") from missing

    students, steps, count = sizes()
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images, labels = pixels(IMAGES if stage == "train" else count)
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (MEAN, STD))
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
    images, labels = images.contiguous(memory_format=layout), torch.from_numpy(labels)

    def network():
        return torch_network().to(memory_format=layout)

    if stage == "train":
        return lambda: [torch_train(network(), images, labels, steps, layout) for _ in range(students)]
    nets = [network() for _ in range(students)]
    return lambda: [torch_test(net, images, labels) for net in nets]


def torch_network():
    from torch import nn

    layers, inputs = [], SHAPE[2]
    for _ in range(3):
        layers += [nn.Conv2d(inputs, WIDTH, 3, padding=1), nn.GroupNorm(WIDTH, WIDTH)]
        layers += [nn.ReLU(inplace=True), nn.AvgPool2d(2)]
        inputs = WIDTH
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * WIDTH, CLASSES))


def torch_train(net, images, labels, steps: int, layout) -> None:
    """One student, `steps` updates of all images, each seen through a random crop and flip."""
    import torch

    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=RATE, fused=True)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (PAD,) * 4).permute(0, 2, 3, 1).contiguous()
    line, column = torch.arange(height)[None, :], torch.arange(width)[None, :]
    net.train()
    for _ in range(steps):
        index = torch.randperm(n)
        top, left = torch.randint(0, 2 * PAD + 1, (2, n, 1))
        across = torch.where(torch.rand(n, 1) < 0.5, column.flip(1), column)
        crops = padded[index[:, None, None], (top + line)[:, :, None], (left + across)[:, None, :]]
        crops = crops.permute(0, 3, 1, 2).contiguous(memory_format=layout)
        loss = torch.nn.functional.cross_entropy(net(crops), labels[index])
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        cosine.step()


def torch_test(net, images, labels) -> float:
    import torch

    net.eval()
    with torch.no_grad():
        parts = zip(images.split(BATCH), labels.split(BATCH), strict=True)
        right = sum((net(x).argmax(1) == y).sum().item() for x, y in parts)
    return right / len(labels)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--rounds", type=int, default=7)
    flags.add_argument("--students", type=int, default=5)
    flags.add_argument("--steps", type=int, default=20, help="updates of each student")
    flags.add_argument("--test", type=int, default=2000, help="test images")
    flags.add_argument("--stage", choices=("train", "test"), default=None, help="only this; nothing is written")
    flags.add_argument("--cores", type=int, nargs="*", default=None, help="pin every case to these (nothing written)")
    given = flags.parse_args()
    env = {"BENCH_SIZES": f"{given.students} {given.steps} {given.test}"}
    about = {name: getattr(given, name) for name in ("rounds", "students", "steps", "test")} | {"images": IMAGES}
    result: dict = {"sizes": about}
    for stage, ways in (("train", TRAIN), ("test", TEST)):
        if given.stage in (None, stage):
            names = [f"{stage}:{way}" for way in ways]
            cases = harness.compare(__file__, names, rounds=given.rounds, cores=given.cores, env=env)
            result[stage] = summarise(cases, stage, given)
    if given.stage is None and given.cores is None:
        print(harness.write("evaluation", result))


def summarise(cases: dict, stage: str, given: argparse.Namespace) -> dict:
    """Adds to each case its ratios to the plain PyTorch loop; prints the table."""
    ours, theirs = next(iter(cases)), f"{stage}:torch"
    units = given.students * (given.steps if stage == "train" else 1)
    rows = []
    for name, case in cases.items():
        if "skipped" in case:
            rows.append([name, case["skipped"], "", "", "", "", ""])
            continue
        case["ms_per_seed_and_step" if stage == "train" else "ms_per_seed"] = 1e3 * case["wall_s"] / units
        case["wall_ratio"] = harness.ratio(cases, name, theirs)
        case["cpu_ratio"] = harness.ratio(cases, name, theirs, of="cpu_s")
        rows.append([name, 1e3 * case["wall_s"] / units, 1e3 * case["cpu_s"] / units, case["wall_ratio"],
                     case["cpu_ratio"], case["peak_mb"], case["first_call_cpu_s"]])  # fmt: skip
    unit = "per seed and step" if stage == "train" else "per seed"
    head = ["case", f"ms {unit}", "CPU ms", "/ torch", "/ torch (CPU s)", "peak MB", "first call, CPU s"]
    print(harness.table(rows, head=head), flush=True)
    best = f"{stage}:torch-channels-last"
    found = {"goal": GOAL[stage], "ratio": harness.ratio(cases, ours, theirs)}
    found["ratio_to_channels_last"] = harness.ratio(cases, ours, best)
    found["goal_met"] = None if found["ratio"] is None else found["ratio"] <= GOAL[stage]
    if stage == "train":
        found["one_program_over_one_by_one"] = harness.ratio(cases, ours, "train:ours-one-by-one")
    return {**found, "cases": cases}


if __name__ == "__main__":
    harness.serve(build)
    main()
