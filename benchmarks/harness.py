"""Side-by-side timing for `benchmarks/`: every case a process of its own, the cases taken in turns.

A benchmark script defines `build(name) -> step` and `main()`; `step()` does the work once and
blocks until it is done::

    import harness

    def build(name):                 # runs in the child; import jax or torch here, not at the top
        x, fn = ...
        return lambda: jax.block_until_ready(fn(x))

    def main():
        cases = harness.compare(__file__, ["ours", "torch"], rounds=7)
        cases["ours"]["wall_ratio"] = harness.ratio(cases, "ours", "torch")
        harness.write("my_benchmark", {"cases": cases})

    if __name__ == "__main__":
        harness.serve(build)         # a child ends here; the parent passes through
        main()

Each case runs in a fresh process (so `peak_mb` and `first_call_s` are its own) that then waits; the
parent calls them A B C A B C ..., so that a slow minute of a shared machine falls on all alike.
Seconds are medians over the rounds, wall and CPU (all threads of the process: the sounder one where
others use the machine). An optional library that is absent: raise `harness.Skip("torch is not
installed")` in `build`; the case is then recorded as skipped. A child may call
`harness.note(flops=...)` to have values written beside its timing. `write` puts a JSON into
`benchmarks/results/` with the machine described.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch")
_notes: dict = {}


class Skip(Exception):
    """A case that cannot run here; the message is the reason that is recorded."""


class CaseError(Exception):
    """A child ended before it had answered; the message holds its exit status."""


def machine() -> dict:
    """CPU model, cores, memory (GiB), system, Python and package versions, 1-minute load."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    installed = {d.name.lower() for d in metadata.distributions() if d.name}
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES if name in installed},
        "load_1min": round(os.getloadavg()[0], 2),
        "accelerator": "none",
    }


def peak_mb() -> float:
    """Largest resident memory of this process so far, MB (10^6 bytes)."""
    scale = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6, 1)


def note(**values) -> None:
    """Have `values` (JSON) written beside the timing of the case that this child runs."""
    _notes.update(values)


def _timed(step: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def serve(build: Callable[[str], Callable[[], object]]) -> None:
    """In a child: build the asked case, answer the parent's calls, exit. Elsewhere: return."""
    if len(sys.argv) < 3 or sys.argv[1] != "--serve":
        return
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers

    def answer(value: dict) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        start = peak_mb()
        step = build(sys.argv[2])
    except Skip as reason:
        answer({"skipped": str(reason)})
        sys.exit(0)
    wall, cpu = _timed(step)
    answer({"first_call_s": wall, "first_call_cpu_s": cpu})
    for line in sys.stdin:
        if line.strip() == "end":
            break
        wall, cpu = _timed(step)
        answer({"wall": wall, "cpu": cpu})
    answer({"peak_mb": peak_mb(), "start_mb": start, **_notes})
    sys.exit(0)


class Worker:
    """One case in a process of its own, kept waiting between its turns."""

    def __init__(self, script: str, name: str, *, cores: Sequence[int] | None, env: dict | None):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        quiet = {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
        pin = None if cores is None else (lambda: os.sched_setaffinity(0, set(cores)))
        if cores is not None:
            quiet |= {"OMP_NUM_THREADS": str(len(cores))}
        self.name, self.walls, self.cpus, self.out = name, [], [], {}
        self.process = subprocess.Popen(
            [sys.executable, script, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **quiet, **(env or {})},
            preexec_fn=pin,
        )
        self.out |= self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise CaseError(f"case {self.name!r} ended with status {self.process.wait()}")
        return json.loads(line)

    def _send(self, word: str) -> dict:
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._read()

    def turn(self) -> None:
        got = self._send("go")
        self.walls.append(got["wall"])
        self.cpus.append(got["cpu"])

    def end(self) -> dict:
        """Close the process and give its record: the medians and every round's seconds."""
        if "skipped" not in self.out:
            self.out |= {
                "wall_s": statistics.median(self.walls),
                "cpu_s": statistics.median(self.cpus),
            }
            self.out |= self._send("end")
            self.out["rounds"] = {"wall_s": self.walls, "cpu_s": self.cpus}
        self.process.communicate()
        return self.out


def compare(
    script: str,
    names: Sequence[str],
    *,
    rounds: int = 7,
    warmup: int = 1,
    cores: Sequence[int] | None = None,
    env: dict | None = None,
) -> dict[str, dict]:
    """Run cases of `script` in turns: {name: {wall_s, cpu_s, first_call_s, peak_mb, rounds, ...}}.

    `cores` pins every child to these (Linux). All children live until the end: memory adds up.
    """
    workers: list[Worker] = []
    try:
        for name in names:
            workers.append(Worker(script, name, cores=cores, env=env))
        live = [worker for worker in workers if "skipped" not in worker.out]
        for worker in live * warmup:
            worker._send("go")
        for _ in range(rounds):
            for worker in live:
                worker.turn()
        return {worker.name: worker.end() for worker in workers}
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()


def ratio(cases: dict[str, dict], ours: str, theirs: str, *, of: str = "wall_s") -> float | None:
    """Median over the rounds of ours / theirs within a round; None if one was skipped."""
    if "skipped" in cases[ours] or "skipped" in cases[theirs]:
        return None
    a, b = cases[ours]["rounds"][of], cases[theirs]["rounds"][of]
    return round(statistics.median(x / y for x, y in zip(a, b, strict=True)), 4)


def table(rows: Sequence[Sequence[object]], *, head: Sequence[str]) -> str:
    """Plain aligned text of `rows` under `head`."""
    cells = [list(head)] + [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def write(name: str, result: dict) -> Path:
    """Write `result` with the machine described to `benchmarks/results/NAME.json`; its path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"schema": 1, "benchmark": name, "machine": machine(), **result}, indent=1) + "\n")
    return path
