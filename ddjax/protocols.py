"""Named, frozen evaluation protocols: everything about training a student except nets, seeds and label source.

A published protocol is never edited: a change gets a new id. Overriding a field of one (``modified``) changes its id
to ``ID+modified``, so that no table mixes the two.
"""

import dataclasses

from ddjax.errors import ConfigError, choice
from ddjax.train import Recipe


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to train and judge a student on a small set of ``M`` images.

    ``steps = clip(epochs * M / batch, *step_range)`` with ``batch = min(M, max_batch)``; the learning rate is chosen
    from ``rates``, one seed each, by accuracy on the validation split (a stratified part of the real training set that
    no distiller sees); the accuracy that counts is the one after the last step, on the test split, which is read once.
    """

    id: str
    optimiser: str = "adamw"
    weight_decay: float = 0.01
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    max_batch: int = 256
    epochs: int = 300
    step_range: tuple[int, int] = (500, 20_000)
    tau: float = 4.0  # loss on soft labels: tau^2 KL(softmax(t/tau) || softmax(s/tau)); on hard ones cross-entropy
    validation: float = 0.1
    reference: str = ""

    def batch(self, images: int) -> int:
        """Images per step for a set of ``images`` images."""
        return min(images, self.max_batch)

    def steps(self, images: int) -> int:
        """Updates of a student on a set of ``images`` images."""
        low, high = self.step_range
        return int(min(max(self.epochs * images // self.batch(images), low), high))

    def recipe(self) -> Recipe:
        """The static part of the training step."""
        return Recipe(optimiser=self.optimiser, weight_decay=self.weight_decay, tau=self.tau)

    def modified(self, **fields: object) -> "Protocol":
        """This protocol with other values, under the id ``ID+modified``."""
        return dataclasses.replace(self, id=f"{self.id.removesuffix('+modified')}+modified", **fields)


PROTOCOLS: dict[str, Protocol] = {"ddjax-1": Protocol(id="ddjax-1")}


def protocol(name: str) -> Protocol:
    """The protocol called ``name``; ConfigError with the nearest name when there is none."""
    if name not in PROTOCOLS:
        raise ConfigError(choice("evaluate.protocol", name, PROTOCOLS))
    return PROTOCOLS[name]
