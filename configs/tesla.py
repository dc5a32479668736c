"""Trajectory matching in constant memory, CIFAR-10, ten images per class.

Paper      Cui et al., Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory (ICML 2023).
Expected   66.4 (P-MTT, ZCA, the best evaluation on the test set). Here: no whitening, last epoch.
Data       $DDJAX_DATA/cifar10 (binary or python archive), or --data.train cifar:PATH.
Cost       100 experts of 50 epochs first (shared by later runs), then 10,000 steps: about a day on one GPU;
           not measured.
Command    python -m ddjax.launch --config configs/tesla.py
"""

from ddjax.config import Data, Evaluate, Run, Teacher
from ddjax.methods import TESLA


def get_config() -> Run:
    return Run(
        name="tesla",
        data=Data(train="cifar10"),
        teacher=Teacher(arch="convnet3-batch", epochs=30, batch=128, lr=0.05),
        method=TESLA(ipc=10),
        evaluate=Evaluate(
            protocol="P-MTT",
            archs=("convnet3",),
            seeds=5,
            baselines=("random_hard", "kmeans", "full_data"),
        ),
    )
