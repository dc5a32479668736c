"""A 3x3 convolution and its two gradients on one core: outside and inside a loop, library and ours.

Columns: PyTorch channels-last (optional), `jax.lax`'s convolution and `ddjax.kernels.conv`, each JAX
one alone under `jit` and inside `lax.scan`. Rows: forward, input gradient, weight gradient of layers
of ConvNet-3 and ResNet. One process per column, pinned to one core, taken in turns; GF/s counts
2 B H W 9 I O operations and is the median of the rounds (`cpu`: by CPU seconds, which a shared
machine disturbs less). The library's gradients inside a loop get few images: they are naive.

    python benchmarks/convolution.py [--rounds 5]

writes benchmarks/results/convolution.json.
"""

import argparse
import re
import statistics
import time

import harness

COLUMNS = ("torch", "library", "ours", "library in scan", "ours in scan")
LAYERS = {  # images, side, channels in, channels out
    "32x32, 3 -> 128": (32, 32, 3, 128),
    "16x16, 128 -> 128": (32, 16, 128, 128),
    "8x8, 128 -> 128": (64, 8, 128, 128),
    "4x4, 512 -> 512": (64, 4, 512, 512),
}
OPERATIONS = ("forward", "input gradient", "weight gradient")
TRIPS = 2  # of the loop; one trip would be unrolled


def build(name: str):
    """One call times every layer and operation of a column once."""
    measured: dict = {}
    cells = {}
    for layer, (images, side, inner, outer) in LAYERS.items():
        images = 2 if name == "library in scan" else images
        flops = 2 * images * side * side * 9 * inner * outer
        functions = (torch_cell if name == "torch" else jax_cell)(name, images, side, inner, outer)
        for operation, (function, trips) in zip(OPERATIONS, functions, strict=True):
            cells[f"{layer}, {operation}"] = function, flops * trips

    def step():
        for cell, (function, flops) in cells.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            record = measured.setdefault(cell, {"wall": [], "cpu": []})
            record["wall"].append(flops / wall / 1e9)
            record["cpu"].append(flops / cpu / 1e9)
        skip = 2  # the compiling call and the warm-up
        medians = {
            cell: {k: round(statistics.median(v[skip:] or v), 2) for k, v in record.items()}
            for cell, record in measured.items()
        }
        harness.note(gflops=medians)

    return step


def jax_cell(name: str, images: int, side: int, inner: int, outer: int):
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax import lax

    from ddjax.kernels.conv import conv

    rng = np.random.default_rng(0)
    shapes = [(images, side, side, inner), (3, 3, inner, outer), (images, side, side, outer)]
    x, w, dy = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)
    how = "library" if name.startswith("library") else "fast"

    def forward(x, w):
        return conv(x, w, how=how)

    def input_gradient(w, dy):
        return jax.vjp(lambda x: forward(x, w), x)[1](dy)[0]

    def weight_gradient(x, dy):
        return jax.vjp(lambda w: forward(x, w), w)[1](dy)[0]

    def looped(function):
        """The first operand is changed a little in place in every trip, so that nothing is hoisted."""

        def trip(carry, _):
            a, b, s = carry
            a = a.at[0, 0, 0, 0].add(s)
            out = lax.optimization_barrier(function(a, b))
            return (a, b, out[0, 0, 0, 0] * 1e-30), None

        return lambda a, b: lax.scan(trip, (a, b, jnp.float32(0.0)), None, length=TRIPS)[0]

    def timed(function, *operands):
        inside = name.endswith("scan")
        compiled = jax.jit(looped(function) if inside else function).lower(*operands).compile()
        kinds = set(re.findall(r"convolution\(.*dim_labels=([\w?]+->\w+)", compiled.as_text()))
        harness.note(**{f"{function.__name__}, {side}x{side}": sorted(kinds)})
        return lambda: jax.block_until_ready(compiled(*operands)), TRIPS if inside else 1

    operands = {forward: (x, w), input_gradient: (w, dy), weight_gradient: (x, dy)}
    return [timed(function, *arguments) for function, arguments in operands.items()]


def torch_cell(name: str, images: int, side: int, inner: int, outer: int):
    try:
        import torch
    except ModuleNotFoundError as missing:
        raise harness.Skip("torch is not installed") from missing

    def normal(*shape: int):
        return torch.randn(*shape).to(memory_format=torch.channels_last)

    x, w, dy = (
        normal(images, inner, side, side),
        normal(outer, inner, 3, 3),
        normal(images, outer, side, side),
    )

    def backward(mask: list[bool]):
        return lambda: torch.ops.aten.convolution_backward(
            dy, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
        )

    def forward():
        return torch.nn.functional.conv2d(x, w, padding=1)

    functions = forward, backward([True, False, False]), backward([False, True, False])
    return [(function, 1) for function in functions]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--rounds", type=int, default=5)
    rounds = flags.parse_args().rounds
    columns = harness.compare(__file__, COLUMNS, rounds=rounds, cores=[0])
    live = [name for name in COLUMNS if "skipped" not in columns[name]]
    for clock in ("wall", "cpu"):
        rows = [[cell, *(columns[name]["gflops"][cell][clock] for name in live)] for cell in columns["ours"]["gflops"]]
        print(harness.table(rows, head=[f"GF/s ({clock})", *live]), "\n")
    print(harness.write("convolution", {"rounds": rounds, "columns": columns}))


if __name__ == "__main__":
    harness.serve(build)
    main()
