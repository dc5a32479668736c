"""Every method on digits with its own defaults, compiled anew: does each end within five minutes on two cores?

    python benchmarks/digits_minutes.py [--methods dm kip] [--scratch DIR]      about an hour

Each run is `python -m ddjax.launch --config configs/digits.py --method NAME`, a process of its own, with an empty
compilation cache; teachers and baselines come from the cache of the first run, experts are made anew. Writes
benchmarks/results/digits_minutes.json; methods that stand there are not run again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

from ddjax.files import read_json
from ddjax.methods import METHODS

LIMIT = 300.0


def run(name: str, scratch: Path) -> dict:
    """Seconds of the whole command and of its stages."""
    cache, out = scratch / "cache", scratch / name
    for part in ("xla", "experts"):
        shutil.rmtree(cache / part, ignore_errors=True)
    words = ["--config", "configs/digits.py", "--method", name, "--workdir", str(out)]
    began, env = time.monotonic(), os.environ | {"DDJAX_CACHE": str(cache)}
    subprocess.run([sys.executable, "-m", "ddjax.launch", *words], check=True, cwd=harness.ROOT, env=env,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    spent = round(time.monotonic() - began, 1)
    stages = {stage: round(s, 1) for stage, s in read_json(out / "cost.json")["wall_s"].items()}
    return {"seconds": spent, "stages": stages, "met": spent <= LIMIT, "load_1min": round(os.getloadavg()[0], 2)}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    flags.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "ddjax-minutes")
    given = flags.parse_args()
    path = harness.RESULTS / "digits_minutes.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    for name in given.methods:
        if name not in rows:
            shutil.rmtree(given.scratch / name, ignore_errors=True)
            rows[name] = run(name, given.scratch)
            print(name, rows[name], flush=True)
            harness.write("digits_minutes", {"limit_s": LIMIT, "rows": rows})


if __name__ == "__main__":
    main()
