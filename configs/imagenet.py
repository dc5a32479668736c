"""Teddy on ImageNet-1K, ResNet-18, 224x224.

Paper      Yu et al., Teddy (ECCV 2024).
Expected   ResNet-18, IPC 10 / 50 / 100: 34.1 +- 0.1 / 52.5 +- 0.1 / 56.5 +- 0.1 (confirmed by two later papers). SRe2L:
           21.3 / 46.8 / 52.8 as published, 31.1 / 49.5 / 54.3 when trained as well as Teddy. Not measured here.
Cost       8 GPUs, about a day (estimated from step counts, not measured); checked here with --check.
Command    python -m ddjax.launch --config configs/imagenet.py --data.train tar:PATH --data.test tar:PATH
"""

from ddjax.config import Compute, Data, Evaluate, Label, Pool, Run, Teacher
from ddjax.methods.teddy import Teddy


def get_config() -> Run:
    return Run(
        name="imagenet",
        data=Data(train="imagenet", size=224, resize="crop", channels="rgb"),
        teacher=Teacher(
            arch="resnet18-imagenet",
            epochs=90,
            batch=256,
            lr=0.1,
            weight_decay=1e-4,
            pool=Pool(mode="prior", size=9, snapshots=(2, 4, 6, 10, 15, 20, 30, 45, 60)),
        ),
        method=Teddy(ipc=10),
        label=Label(epochs=300),
        evaluate=Evaluate(archs=("resnet18-imagenet",), seeds=3, baselines="all"),
        compute=Compute(precision="bfloat16"),
    )
