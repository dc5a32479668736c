"""Writes docs/benchmarks.md from benchmarks/results/*.json: what was timed, where, and whether the goals are met.

python benchmarks/timings_page.py
"""

import json

import harness
from results_page import markdown

HEAD = """# Benchmarks

Written by `python benchmarks/timings_page.py` from `benchmarks/results/*.json`. Each table is one run of one script on
one machine: every case a process of its own, the cases taken in turns, medians over the rounds. Ratios are of seconds
on the wall (median of the round-by-round ratios); the column "CPU" is the same of CPU seconds, the sounder clock where
others use the machine. Memory is the process's peak; the first call compiles. `load` is the one-minute load average
when the script ended, about 1 to 2 on an otherwise idle machine. PyTorch is optional and only timed.
"""


def read(name: str) -> dict:
    """A result, or {} where the script was not run."""
    path = harness.RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def where(found: dict, command: str) -> list[str]:
    """The command and the machine."""
    m, versions = found["machine"], found["machine"]["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("jax", "torch") if name in versions)
    return [f"    {command}", "", f"{m['cpu']}, {m['cores']} cores, {packages}; load {m['load_1min']}.", ""]


def said(text: str, met: bool) -> list[str]:
    """A goal and whether it is met."""
    return [f"Goal: {text}: {'met' if met else '**missed**'}.", ""]


def cases(found: dict, over: str) -> list[str]:
    """Seconds, ratio to the case ``over``, memory and first call of every case."""
    rows = []
    for name, case in found.items():
        if "skipped" in case:
            rows.append([name, case["skipped"], "", "", "", ""])
            continue
        alike = len(case["rounds"]["wall_s"]) == len(found[over]["rounds"]["wall_s"])  # else timed apart
        ratios = [f"{harness.ratio(found, name, over, of=of):.2f}" if alike else "" for of in CLOCKS]
        rows.append([name, f"{case['wall_s']:.3g}", *ratios, f"{case['peak_mb']:.0f}", f"{case['first_call_s']:.1f}"])
    return [markdown(["case", "s", f"/ {over}", "CPU", "peak MB", "first call, s"], rows), ""]


CLOCKS = ("wall_s", "cpu_s")


def convolution() -> list[str]:
    found = read("convolution")
    columns = {name: c["gflops"] for name, c in found["columns"].items() if "gflops" in c}
    rows = [[cell, *(f"{c[cell]['cpu']:.0f}" for c in columns.values())] for cell in next(iter(columns.values()))]
    return [
        "## Convolution", "", "3x3 convolutions on one core, GFlop a CPU second; `in scan` is inside `lax.scan`, where "
        "the library's derivatives fall to its naive loop.", "", *where(found, "python benchmarks/convolution.py"),
        markdown(["shape, pass", *columns], rows), "",
    ]  # fmt: skip


def taylor() -> list[str]:
    found = read("taylor")
    rows = []
    for row in found["rows"]:
        r = dict(zip(found["head"], row, strict=True))
        rows.append([str(r["K"]), *(f"{1e3 * r[f'{k} update_cpu_s']:.0f} / {r[f'{k} program_mb']:.0f}"
                                    for k in ("taylor", "unrolled", "remat")), f"{r['agree']:.2f}"])  # fmt: skip
    worst = max(abs(v - 1) for v in found["taylor_over_k1"]["cpu_s"].values())
    return [
        "## Taylor matching against unrolling", "", "One update of 10 synthetic images (ConvNet-3, width 32, 64 real "
        "images): CPU ms / MB of the compiled program, against K inner steps. `agree` is the cosine between the two "
        "image gradients.", "", *where(found, "python benchmarks/taylor.py"),
        markdown(["K", "Taylor", "unrolled", "unrolled, recomputed", "agree"], rows), "",
        "![time and memory against K](../benchmarks/results/taylor.svg)", "",
        *said("flat within 10 %", worst <= 0.1), f"Largest deviation from K = 1: {100 * worst:.0f} %.", "",
    ]  # fmt: skip


def mtt_memory() -> list[str]:
    found = read("mtt_memory")
    rows = [[str(cell) for cell in row] for row in found["rows"]]
    ours = [case for name, case in found["cases"].items() if name.startswith("iterates")]
    grown = max(case["step_mb"] for case in ours if "step_mb" in case)
    return [
        "## Memory of trajectory matching", "", "One update of MTT through N inner steps (ConvNet-3, width 128, 100 "
        "images of 32x32, DSA): MB of the compiled program, its growth per inner step since the row above, MB of the "
        "process. `iterates` is what the method does, `remat` recomputes every step, `all` keeps all activations.", "",
        *where(found, "python benchmarks/mtt_memory.py"), markdown(found["head"], rows), "",
        "![memory against N](../benchmarks/results/mtt_memory.svg)", "",
        *said("each inner step adds one set of weights and no activations", grown <= 1.1 * found["weights_mb"]),
        f"One set of weights: {found['weights_mb']} MB. Largest growth per step: {grown} MB.", "",
    ]  # fmt: skip


def draw() -> list[str]:
    found = read("draw")
    return [
        "## One drawn member", "", "Ten distillation steps at one of 9 weak models drawn each step (`pool_draw=one`), "
        "beside a single model.", "", *where(found, "python benchmarks/draw.py"), *cases(found["cases"], "one/1"),
        *said(f"one/9 at most {found['goal']}x one/1", found["goal_met"]),
    ]  # fmt: skip


def pool() -> list[str]:
    found = read("pool")
    out = ["## A pool of eight networks", "", "ConvNet-3 of width 64, 64 images: the gradient of the mean loss in the "
           "images, and in the parameters.", "", *where(found, "python benchmarks/pool.py")]  # fmt: skip
    for part in ("images", "params"):
        part_found = found[part]
        goal = next(v for k, v in part_found.items() if k.startswith("goal_") and k != "goal_met")
        out += cases(part_found["cases"], f"{part}:torch")
        out += said(f"scan/fast at most {goal}x PyTorch", part_found["goal_met"])
    return out


def evaluation() -> list[str]:
    found = read("evaluation")
    out = ["## Five students", "", f"ConvNet-3 of width 128 on {found['sizes']['images']} images, "
           f"{found['sizes']['steps']} updates of each of {found['sizes']['students']} students; then a test pass over "
           f"{found['sizes']['test']} images.", "", *where(found, "python benchmarks/evaluation.py")]  # fmt: skip
    for part in ("train", "test"):
        out += cases(found[part]["cases"], f"{part}:torch")
        out += said(f"at most {found[part]['goal']}x PyTorch", found[part]["goal_met"])
    return out


def dsa_evaluation() -> list[str]:
    found = read("dsa_evaluation")
    sizes = found["sizes"]
    out = ["## Five students with DSA", "", f"ConvNet-3 of width 128 on {sizes['images']} images under P-DC with DSA, "
           f"{sizes['steps']} of its {sizes['epochs']} updates of each of {sizes['students']} students.", "",
           *where(found, "python benchmarks/dsa_evaluation.py"), *cases(found["cases"], "torch")]  # fmt: skip
    out += [f"All {sizes['epochs']} epochs from a cold start: {found.get('cold_ratio', '–')}x PyTorch.", ""]
    return out + said(f"at most {found['goal']:.2f}x PyTorch", found["goal_met"])


def methods() -> list[str]:
    found = read("methods")
    out = ["## One outer iteration of each method", "", "Ten classes of 32x32x3, 10 images a class, 256 real images of "
           "each class (FRePo: 1,024 in all), ConvNet-3 of width 128; SRe2L: ResNet-18, batches of 50. MTT goes "
           "through 20 inner steps; DC and DSA take one matching and then one epoch of the network on the set.", "",
           *where(found, "python benchmarks/methods.py")]  # fmt: skip
    for name, part in found["methods"].items():
        out += [f"### {name}", "", *cases(part["cases"], f"{name}:torch")]
        for of, ratio, met in (("time", "goal", "goal_met"), ("peak memory", "goal_memory", "goal_memory_met")):
            out += [] if part[ratio] is None else said(f"at most {part[ratio]}x of PyTorch's {of}", part[met])
    return out


def digits_minutes() -> list[str]:
    found = read("digits_minutes")
    rows = [[name, f"{row['seconds']:.0f}", *(f"{row['stages'].get(stage, 0):.0f}" for stage in STAGES),
             f"{row['load_1min']:.1f}"] for name, row in found["rows"].items()]  # fmt: skip
    most = max(row["seconds"] for row in found["rows"].values())
    return [
        "## Methods on digits", "", "Seconds of `python -m ddjax.launch --config configs/digits.py --method NAME` with "
        "an empty compilation cache; teachers and the network on all data are cached from the first row on. "
        "Other work ran beside it (load).", "", *where(found, "python benchmarks/digits_minutes.py"),
        markdown(["method", "in all", *STAGES, "load"], rows), "", *said("at most 300 s", most <= found["limit_s"]),
    ]  # fmt: skip


STAGES = ("teachers", "experts", "distill", "label", "evaluate")


def main() -> None:
    sections = {
        "convolution": convolution, "taylor": taylor, "mtt_memory": mtt_memory, "draw": draw, "pool": pool,
        "evaluation": evaluation, "dsa_evaluation": dsa_evaluation, "methods": methods,
        "digits_minutes": digits_minutes,
    }  # fmt: skip
    out = [HEAD]
    for name, section in sections.items():
        out += section() if read(name) else []
    page = harness.ROOT / "docs" / "benchmarks.md"
    page.write_text("\n".join(out).rstrip() + "\n")
    print(page)


if __name__ == "__main__":
    main()
