"""SRe2L: recover images from the batch-norm statistics of one converged model; Teddy's step with a pool of one.

    min_S  CE(f(A(S)), y) + alpha sum_l w_l (||mu_l(A(S)) - mu_l|| + ||var_l(A(S)) - var_l||),   w_1 = 10

Un-squared norms over channels, biased variance, the model in inference mode, priors off: as the released code does it.

Source: Yin, Xing and Shen, "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New
Perspective", NeurIPS 2023, section 3.
"""

import dataclasses
from typing import ClassVar, Literal

from ddjax.methods.teddy import Teddy
from ddjax.types import Needs


@dataclasses.dataclass(frozen=True)
class SRe2L(Teddy):
    """SRe2L's hyper-parameters: Teddy's, with the converged base model as the whole pool and as the labeller."""

    stat_scope: Literal["global", "class"] | None = None
    """SRe2L matches statistics of the whole set."""
    label_teacher: Literal["pool_mean", "base"] = "base"
    """The converged model labels the images."""

    REFERENCE: ClassVar[str] = """@inproceedings{yin2023squeeze,
  title     = {Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective},
  author    = {Yin, Zeyuan and Xing, Eric and Shen, Zhiqiang},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2023}
}"""
    DEFAULTS: ClassVar = {
        "": dict(steps=1000, batch=100, lr=0.25, stat_scope="global", alpha=0.01, flip=False, roll=4),
        "digits": dict(steps=600, lr=0.1, alpha=0.1, roll=1),
        "cifar10": dict(flip=True),
        "cifar100": dict(flip=True),
        "tiny_imagenet": dict(steps=4000, lr=0.1, alpha=1.0, flip=True),
        "imagenet": dict(steps=4000, flip=True, roll=32, crop_area=(0.08, 1.0)),
    }

    @property
    def needs(self) -> Needs:
        return super().needs._replace(statistics=self.stat_scope or "global", pool="base")
