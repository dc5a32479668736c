"""Teddy on Tiny-ImageNet (or any archive of 64x64 class folders), ConvNet-4, sized for two CPU cores.

Paper      Yu et al., Teddy (ECCV 2024), ResNet-18; its Tiny-ImageNet numbers are doubtful or unknown, and this cell
           (a narrow ConvNet, few images) is ours: no published number to meet. The paper's cell is
           configs/tiny_imagenet_resnet18.py.
Expected   see docs/results.md.
Data       $DDJAX_DATA/tiny_imagenet, or --data.train zip:PATH --data.test zip:PATH (folders and tars too).
Cost       with --method.steps 100 --evaluate.seeds 2 at most 15 minutes on 2 CPU cores, baselines included.
Command    python -m ddjax.launch --config configs/tiny_imagenet.py --method.ipc 1
"""

from ddjax.config import Data, Evaluate, Label, Pool, Run, Teacher
from ddjax.methods.teddy import Teddy


def get_config() -> Run:
    return Run(
        name="tiny_imagenet",
        data=Data(train="tiny_imagenet", size=64, resize="squash", channels="rgb"),
        teacher=Teacher(
            arch="convnet4-w16-batch", epochs=4, batch=128, lr=0.05, pool=Pool(size=3, snapshots=(1, 2, 3))
        ),
        method=Teddy(ipc=1, steps=100, stat_scope="class", alpha=0.1),
        label=Label(epochs=20),
        evaluate=Evaluate(
            archs=("convnet4-w16-batch",),
            seeds=2,
            baselines=("random_hard", "random_soft", "kmeans", "herding", "base_labels", "full_data"),  # all: more rows
        ),
    )
