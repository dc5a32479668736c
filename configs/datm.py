"""Difficulty-aligned trajectory matching with learned labels, CIFAR-10, ten images per class.

Paper      Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching
           (ICLR 2024).
Expected   66.8 (P-MTT, ZCA, flat experts; from memory). Here: no whitening, last epoch.
Data       $DDJAX_DATA/cifar10 (binary or python archive), or --data.train cifar:PATH.
Cost       100 experts of 100 epochs first (shared by later runs), then 10,000 steps: about a day on one GPU;
           not measured.
Command    python -m ddjax.launch --config configs/datm.py
"""

from ddjax.config import Data, Evaluate, Run, Teacher
from ddjax.methods import DATM


def get_config() -> Run:
    return Run(
        name="datm",
        data=Data(train="cifar10"),
        teacher=Teacher(arch="convnet3-batch", epochs=30, batch=128, lr=0.05),
        method=DATM(ipc=10),
        evaluate=Evaluate(
            protocol="P-MTT",
            archs=("convnet3",),
            seeds=5,
            baselines=("random_hard", "kmeans", "full_data"),
        ),
    )
