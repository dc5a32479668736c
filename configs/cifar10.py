"""Teddy on CIFAR-10, ConvNet-3, sized for two CPU cores.

Paper      Yu et al., Teddy (ECCV 2024), reports no CIFAR-10: there is no published number to meet.
Expected   see docs/results.md (measured on the JPEG re-encoded set that is at hand, which no paper uses).
Data       $DDJAX_DATA/cifar10 (binary or python archive), or --data.train zip:PATH --data.test zip:PATH.
Cost       about 40 minutes on 2 CPU cores at ipc 1.
Command    python -m ddjax.launch --config configs/cifar10.py --method.ipc 10
"""

from ddjax.config import Data, Evaluate, Label, Pool, Run, Teacher
from ddjax.methods.teddy import Teddy


def get_config() -> Run:
    return Run(
        name="cifar10",
        data=Data(train="cifar10", subset=10_000),
        teacher=Teacher(
            arch="convnet3-w32-batch", epochs=10, batch=128, lr=0.05, pool=Pool(size=5, snapshots=(1, 2, 3, 5, 8))
        ),
        method=Teddy(ipc=1, steps=500),
        label=Label(epochs=100),
        evaluate=Evaluate(
            archs=("convnet3-w32-batch",),
            seeds=5,
            baselines=("random_hard", "random_soft", "kmeans", "herding", "base_labels", "full_data"),  # all: more rows
        ),
    )
