"""Neural feature regression with pooling on CIFAR-10, ten images per class.

Paper      Zhou, Nezhadarya and Ba, Dataset Distillation using Neural Feature Regression (NeurIPS 2022).
Expected   65.5 (P-FRePo).
Data       $DDJAX_DATA/cifar10 (binary or python archive), or --data.train cifar:PATH.
Cost       sized for one GPU, not measured; on two CPU cores give fewer --method.steps and --data.subset
           10000.
Command    python -m ddjax.launch --config configs/frepo.py
"""

from ddjax.config import Data, Evaluate, Run, Teacher
from ddjax.methods import FRePo


def get_config() -> Run:
    return Run(
        name="frepo",
        data=Data(train="cifar10"),
        teacher=Teacher(arch="convnet3-batch", epochs=30, batch=128, lr=0.05),
        method=FRePo(ipc=10),
        evaluate=Evaluate(
            protocol="P-FRePo",
            archs=("convnet3-doubling-none",),
            seeds=5,
            baselines=("random_hard", "kmeans", "full_data"),
        ),
    )
