"""ddjax: dataset distillation in JAX. Distil, label, evaluate beside honest baselines, report.

    import ddjax
    run = ddjax.Run(data=ddjax.Data(train="digits"), method=ddjax.Teddy(ipc=1), workdir="RUN")
    images, labels = ddjax.distill(run).arrays()

Names are loaded when they are first used (PEP 562): importing ddjax loads neither jax nor numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ loads these
    from ddjax.config import (  # noqa: F401
        Compute,
        Data,
        Evaluate,
        Judge,
        Label,
        Pool,
        Report,
        Run,
        Teacher,
        from_json,
        load,
        to_json,
    )
    from ddjax.errors import (  # noqa: F401
        CheckpointError,
        ConfigError,
        DataError,
        DdjaxError,
        DivergenceError,
    )
    from ddjax.methods import METHODS, Context, Method, SRe2L, Teddy  # noqa: F401
    from ddjax.protocols import PROTOCOLS, Protocol  # noqa: F401
    from ddjax.synset import DistilledSet  # noqa: F401

__version__ = "0.1.0"

_PLACES = {
    "ddjax.config": "Compute Data Evaluate Judge Label Pool Report Run Teacher from_json load to_json",
    "ddjax.errors": "CheckpointError ConfigError DataError DdjaxError DivergenceError",
    "ddjax.methods": "METHODS Context Method SRe2L Teddy",
    "ddjax.protocols": "PROTOCOLS Protocol",
    "ddjax.synset": "DistilledSet",
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names.split()}


_STAGES = ("distill", "evaluate")  # modules that can be called: see ddjax.api


def __getattr__(name: str) -> Any:
    if name in _STAGES:
        return importlib.import_module(f"ddjax.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ddjax' has no attribute {name!r}")
    return vars(importlib.import_module(_MODULE_OF[name]))[name]


def __dir__() -> list[str]:
    return sorted(["__version__", *_MODULE_OF, *_STAGES])
