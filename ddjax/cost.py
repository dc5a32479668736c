"""What a run costs: wall time of each stage, peak memory, seconds spent compiling.

Totals go on across resumed runs: start with ``Cost(read_json(RUN/cost.json))``. A kill loses what
was spent since the file was last written, nothing more.
"""

import contextlib
import ctypes
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.monitoring

SCHEMA = 1
_COMPILE = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_LONG = 1.0  # seconds: a compilation from here on leaves much behind
_heard = {"compile_s": 0.0}


def _hear(event: str, duration_secs: float, **_: Any) -> None:
    if event in _COMPILE:
        _heard["compile_s"] += duration_secs
    if event == _COMPILE[-1] and duration_secs >= _LONG:
        give_back()


def give_back() -> None:
    """Return to the system what this process has freed: after a long compilation hundreds of MB, which the program's
    own buffers would otherwise come on top of. Does nothing where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


jax.monitoring.register_event_duration_secs_listener(_hear)


def peak_memory_bytes() -> int:
    """Most bytes in use at once so far: of the fullest device that counts, else of the process.

    GPU and TPU report ``peak_bytes_in_use``; on a CPU it is the resident set of the process,
    Python and libraries included.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    on_device = max((int(s.get("peak_bytes_in_use", 0)) for s in stats), default=0)
    if on_device:
        return on_device
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


class Cost:
    """Adds up what a run costs; ``before`` is an earlier ``as_dict()`` of the same run."""

    def __init__(self, before: Mapping[str, Any] | None = None) -> None:
        before = before or {}
        self._wall: dict[str, float] = dict(before.get("wall_s", {}))
        self._peak = int(before.get("peak_memory_bytes", 0))
        self._compile = float(before.get("compile_s", 0.0)) - _heard["compile_s"]

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to ``name``, also when it ends by an error."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._wall[name] = self._wall.get(name, 0.0) + time.monotonic() - began

    @property
    def compile_s(self) -> float:
        """Seconds spent tracing, lowering and compiling (or loading compiled programs)."""
        return self._compile + _heard["compile_s"]

    def peak_memory_bytes(self) -> int:
        """The peak of this process and of those that it resumed."""
        self._peak = max(self._peak, peak_memory_bytes())
        return self._peak

    def as_dict(self) -> dict[str, Any]:
        """``{"schema", "wall_s": {stage: seconds}, "peak_memory_bytes", "compile_s"}``."""
        return {
            "schema": SCHEMA,
            "wall_s": {name: round(seconds, 3) for name, seconds in self._wall.items()},
            "peak_memory_bytes": self.peak_memory_bytes(),
            "compile_s": round(self.compile_s, 3),
        }
