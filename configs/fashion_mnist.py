"""Teddy on Fashion-MNIST, ConvNet-3, sized for two CPU cores.

Paper      Yu et al., Teddy (ECCV 2024), reports no Fashion-MNIST: there is no published number to meet.
Expected   see docs/results.md (measured here; protocol ddjax-1, five students, controls beside them).
Data       $DDJAX_DATA/fashion_mnist with the four original .gz files, or --data.train idx:IMAGES,LABELS
           --data.test idx:IMAGES,LABELS.
Cost       about 20 minutes on 2 CPU cores at ipc 1, twice that at ipc 10.
Command    python -m ddjax.launch --config configs/fashion_mnist.py --method.ipc 10
"""

from ddjax.config import Data, Evaluate, Label, Pool, Run, Teacher
from ddjax.methods.teddy import Teddy


def get_config() -> Run:
    return Run(
        name="fashion_mnist",
        data=Data(train="fashion_mnist", subset=10_000),
        teacher=Teacher(arch="convnet3-w32-batch", epochs=10, batch=128, pool=Pool(size=5, snapshots=(1, 2, 3, 5, 8))),
        method=Teddy(ipc=1, steps=500),
        label=Label(epochs=100),
        evaluate=Evaluate(
            archs=("convnet3-w32-batch",),
            seeds=5,
            baselines=("random_hard", "random_soft", "kmeans", "herding", "base_labels", "full_data"),  # all: more rows
        ),
    )
