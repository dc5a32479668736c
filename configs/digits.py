"""Teddy on scikit-learn's 8x8 digits, one image per class: the main job of `make demo`.

Paper      Yu et al., Teddy (ECCV 2024); the paper has no digits, every value here is ours and reduced to two cores.
Expected   see docs/results.md (measured here, five students).
Cost       under 3 minutes cold on 2 CPU cores, under 60 s with a warm compilation cache.
Command    python -m ddjax.launch --config configs/digits.py
"""

from ddjax.config import Compute, Data, Evaluate, Pool, Run, Teacher
from ddjax.methods.teddy import Teddy


def get_config() -> Run:
    return Run(
        name="digits",
        data=Data(train="digits"),
        teacher=Teacher(
            arch="convnet3-w32-batch",
            epochs=20,
            pool=Pool(mode="prior", size=5, snapshots=(1, 2, 3, 5, 8)),
        ),
        method=Teddy(ipc=1),
        evaluate=Evaluate(
            archs=("convnet3-w32-batch",),
            seeds=5,
            baselines=("random_hard", "random_soft", "kmeans", "herding", "base_labels", "full_data"),  # all: more rows
        ),
        compute=Compute(),
    )
