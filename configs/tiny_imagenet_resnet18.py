"""Teddy on Tiny-ImageNet, ResNet-18 (small-image stem): the paper's cell.

Paper      Yu et al., Teddy (ECCV 2024).
Expected   IPC 50: 55.2 +- 0.1 (copied by a later table; doubtful: the rows beside it are re-runs). IPC 100: unknown.
           SRe2L in its own paper: 41.1 / 49.7 at IPC 50 / 100 (its training logs).
Cost       one GPU, about 6 hours (estimated from step counts, not measured); checked here with --check.
Command    python -m ddjax.launch --config configs/tiny_imagenet_resnet18.py --method.ipc 50
"""

from ddjax.config import Data, Evaluate, Pool, Run, Teacher
from ddjax.methods.teddy import Teddy


def get_config() -> Run:
    return Run(
        name="tiny_imagenet_resnet18",
        data=Data(train="tiny_imagenet"),
        teacher=Teacher(
            arch="resnet18",
            epochs=50,
            batch=256,
            lr=0.2,
            weight_decay=1e-4,
            pool=Pool(mode="prior", size=9, snapshots=(1, 2, 3, 5, 8, 12, 18, 27, 40)),
        ),
        method=Teddy(ipc=50),
        evaluate=Evaluate(archs=("resnet18",), seeds=3, baselines="all"),
    )
