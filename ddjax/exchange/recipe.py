"""How to train on a set in PyTorch: a program that reads the set's torch export and follows its protocol.

The program is put together from what the set has (hard, learned or teachers' labels, whitening, learned rate) and what
its protocol says (optimiser, schedule, batch, updates, loss, augmentation). What of the protocol it leaves out, it
says. `ddjax` itself never imports torch.
"""

import textwrap
from types import SimpleNamespace
from typing import Any

from ddjax.data.cards import CARDS
from ddjax.errors import ConfigError
from ddjax.exchange import recipe_parts as torch
from ddjax.exchange.hub import title
from ddjax.kernels.dsa import DSA_OPS
from ddjax.modify import read
from ddjax.protocols import MODIFIED, PROTOCOLS, Rule, Setting
from ddjax.synset import DistilledSet
from ddjax.train import Recipe
from ddjax.types import Augment

DEFAULT = "ddjax-1"
DRAWN = (
    "pad", "flip", "area", "ratio", "cutmix", "cutmix_p", "mixup", "mix_batch", "dsa", "dsa_always", "dc", "shuffle",
)  # fmt: skip


def recipe(made: DistilledSet) -> str:
    """The program, as text."""
    rule, instead = rule_for(made)
    parts = [
        head(made, rule, instead), prepare(made, rule.recipe), *drawn(rule.augment),
        torch.NETWORK.replace("DEPTH", str(depth(made))), train(made, rule), torch.TEST,
    ]  # fmt: skip
    return "\n\n".join(part.strip("\n") + "\n" for part in parts)


def depth(made: DistilledSet) -> int:
    """Blocks of the ConvNet: 3 for 8 to 63 pixels, one more for each doubling."""
    return sum(min(made.images.shape[1:3]) > most for most in (1, 3, 7, 63, 127, 223))


def rule_for(made: DistilledSet) -> tuple[Rule, str]:
    """The protocol that the set names, in its setting; else the default one, and why."""
    named, (n, side, _, _) = made.meta.get("protocol"), made.images.shape
    card: Any = CARDS.get(str((made.meta.get("dataset") or {}).get("card")))
    setting = Setting(
        images=n, classes=len(made.class_names), arch=f"convnet{depth(made)}", made=made.meta.get("augment"), side=side,
        card=card or SimpleNamespace(id="custom", augment=Augment(pad=max(1, side // 8))), learned_lr=made.learned_lr,
        scale=(made.mean, made.std),
    )  # fmt: skip
    if named is None:
        return PROTOCOLS[DEFAULT].at(setting), "the set names none"
    base, words = named.removesuffix(MODIFIED), made.meta.get("modify") or ()
    if base not in PROTOCOLS:
        return PROTOCOLS[DEFAULT].at(setting), f"the set names {named}, which is not known here"
    fields, wrong = read(PROTOCOLS[base], words)
    rule = PROTOCOLS[base].modified(**fields)
    why = f"with {' '.join(words)}" if rule.id != base else ""
    if wrong or rule.id != named:
        why = f"the set names {named} and does not tell what was changed"
    try:
        return rule.at(setting), why
    except ConfigError:
        return PROTOCOLS[DEFAULT].at(setting), f"the set names {named} but has no learned rate"


def labels_are(made: DistilledSet) -> str:
    """hard | learned (with the images) | teacher (logits of a teacher, such as a run's mean over views)."""
    if not made.soft:
        return "hard"
    return "learned" if made.meta.get("label_source") in (None, "learned") else "teacher"


# ---------------------------------------------------------------------------------------------- the parts


def left_out(made: DistilledSet, rule: Rule) -> list[str]:
    """What of the protocol the program does not do, and why, one sentence each."""
    views, plain, found = rule.augment, Augment(), []
    own = (*views.dsa, *views.dsa_always)
    if not set(own) <= set(DSA_OPS):
        found.append(
            f"the views of {rule.id}, one of {', '.join(own)} for a batch: they are its release's own and would make "
            "most of this program; without them students see the images as they are"
        )
    others = [k for k, value in views.said().items() if k not in DRAWN and value != getattr(plain, k)]
    found += [f"the views {', '.join(others)}: this program does not draw them"] if others else []
    if rule.teacher and labels_are(made) != "teacher":
        found.append(
            f"the teacher: under {rule.id} a network trained on the real images labels every view, and the set brings "
            f"none; students learn {'its learned labels' if made.soft else 'the class of each image'} instead"
        )
    return found


def head(made: DistilledSet, rule: Rule, instead: str) -> str:
    """What the program is, and its numbers."""
    how, told = rule.recipe, [f"{title(made)}: training in PyTorch.", "First: ddjax set export SET set.pt --to torch"]
    told.append(f"Protocol {rule.id}{f' ({instead})' if instead else ''}: {rule.steps} updates of {rule.batch} images.")
    if rule.marks:
        told.append("As published the best of several looks at the TEST images counted; here the last update does.")
    if len(rule.rates) > 1:
        rates = ", ".join(f"{rate:g}" for rate in rule.rates)
        told.append(f"RATE is one of {rates}: choose it on a validation split of the real images, never on a test.")
    told += [f"Left out: {sentence}." for sentence in left_out(made, rule)]
    if how.clean:
        told.append("The pass over unmixed images that moves batch statistics is not needed: this network keeps none.")
    if labels_are(made) == "teacher":
        told.append(
            "Labels: each image's mean over the views that the teachers labelled; ddjax trains on every view's."
        )
    numbers = {
        "FILE": '"set.pt"', "SEED": 0, "STEPS": rule.steps, "BATCH": rule.batch,
        "RATE": f"{rule.rates[len(rule.rates) // 2]:.6g}", "DECAY": f"{how.weight_decay * (how.optimiser != 'adam'):g}",
        "TAU": f"{how.tau:g}", "EMA": f"{rule.ema:g}",
    }  # fmt: skip
    used = {"TAU": "TAU" in loss(made, how), "EMA": bool(rule.ema)}
    numbers = {name: value for name, value in numbers.items() if used.get(name, True)}
    comment = "".join(f"{part}\n" for line in told for part in textwrap.wrap(f"# {line}", 110, subsequent_indent="# "))
    return comment + torch.IMPORTS + "\n".join(f"{name} = {value}" for name, value in numbers.items())


def targets(made: DistilledSet, how: Recipe) -> str:
    """What the network is to say of each image, as the loss wants it."""
    logits = 'data["label_logits"].to(device)'
    if labels_are(made) == "hard":
        return "F.one_hot(labels, classes).float()" + (" - 1 / classes" if how.hard == "mse" else "")
    if labels_are(made) == "learned":
        return logits if how.hard == "mse" else f"{logits}.softmax(1)"
    return {
        "kl": f"({logits} / TAU).softmax(1)", "plain_kl": f"({logits} / TAU).softmax(1)", "mse_ce": logits,
        "mse": f"{logits}.softmax(1) - 1 / classes",
    }.get(how.soft, f"{logits}.softmax(1)")  # fmt: skip


def loss(made: DistilledSet, how: Recipe) -> str:
    """The loss of logits ``z`` and targets ``y``."""
    kind = how.soft if labels_are(made) == "teacher" else how.hard
    divergence = 'F.kl_div((z / TAU).log_softmax(1), y, reduction="batchmean")'
    return {
        "kl": f"TAU**2 * {divergence}", "plain_kl": divergence, "mse": "0.5 * ((z - y) ** 2).sum(1).mean()",
        "mse_ce": f"F.mse_loss(z, y) + {how.ce:g} * F.cross_entropy(z, labels[rows])",
    }.get(kind, "F.cross_entropy(z, y)")  # fmt: skip


def prepare(made: DistilledSet, how: Recipe) -> str:
    """The set on the device, and what real images go through before a network sees them."""
    stored = 'prepare(data["images"])' if made.space == "pixels" else 'data["images"].to(device)'
    white = torch.WHITEN if made.zca is not None else ""
    return torch.PREPARE.replace("WHITEN", white).replace("IMAGES", stored).replace("TARGETS", targets(made, how))


def drawn(views: Augment) -> list[str]:
    """The functions that draw a view, in the order in which they are used."""
    found = [torch.SHUFFLE.replace("STRIPS", str(views.shuffle))] if views.shuffle > 1 else []
    if views.area is not None:
        area, ratio = (", ".join(f"{value:.6g}" for value in pair) for pair in (views.area, views.ratio))
        found.append(torch.RESIZED.replace("AREA", area).replace("RATIO", ratio))
    if views.pad:
        found.append(torch.CROP.replace("PAD", str(views.pad)))
    if views.flip:
        found.append(torch.FLIP)
    if dsa(views):
        always = "".join(f"{op!r}, " for op in views.dsa_always)
        found.append(torch.DSA.replace("OPS", repr(list(views.dsa))).replace("ALWAYS ", always))
    if views.dc:
        ops = ", ".join(f"dc_{name}" for name in views.dc)
        found.append(torch.DC.replace("COUNT", str(len(views.dc))).replace("OPS", ops))
    if views.cutmix:
        found.append(torch.CUTMIX.replace("ALPHA", f"{views.cutmix:g}").replace("CHANCE", f"{views.cutmix_p:g}"))
    elif views.mixup:
        found.append(torch.MIXUP.replace("ALPHA", f"{views.mixup:g}"))
    return found


def dsa(views: Augment) -> bool:
    """Whether the views are those of DSA's own ops."""
    return bool(views.dsa) and set((*views.dsa, *views.dsa_always)) <= set(DSA_OPS)


def train(made: DistilledSet, rule: Rule) -> str:
    """The loop."""
    views, how = rule.augment, rule.recipe
    calls = {
        "x = shuffle(x)": views.shuffle > 1, "x = resized_crop(x)": views.area is not None, "x = crop(x)": views.pad,
        "x = flip(x)": views.flip, "x = dsa(x)": dsa(views), "x = dc(x)": views.dc, "x, y = mix(x, y)": views.mixes,
    }  # fmt: skip
    average = {"KEPT": torch.KEPT, "AVERAGE": torch.AVERAGE, "LAID": torch.LAID}
    program = torch.TRAIN
    for mark, text in average.items():
        program = program.replace(mark, text if rule.ema else "")
    drops = f"\n    if step in {list(how.drops)}:\n        optimiser.state.clear()  # the momentum is lost at a drop"
    return (
        program.replace("GROUPS", torch.GROUPS if how.decay == "weights" and how.optimiser != "adam" else torch.ALL)
        .replace("OPTIMISER", torch.OPTIMISERS[how.optimiser].replace("MOMENTUM", f"{how.momentum:g}"))
        .replace("FACTOR", factor(how)).replace("COUNT", str(rule.per_epoch))
        .replace("FORGET", drops if how.forget and how.drops else "")
        .replace("VIEWS", "".join(f"\n    {call}" for call, wanted in calls.items() if wanted))
        .replace("LOSS", loss(made, how))
    )  # fmt: skip


def factor(how: Recipe) -> str:
    """The body of a function of ``step``: the rate at an update as a share of its peak."""
    wave, indent = "0.5 * (1 + math.cos(math.pi * {}))", "\n    "
    if how.shape == "steps":
        return f"return {how.drop:g} ** sum(step >= at for at in {list(how.drops)})"
    if how.shape in ("stairs", "tail"):
        share = f"share = step // {how.every} * {how.every} / STEPS"
        if how.shape == "stairs":
            return f"{share}{indent}return {wave.format(f'share / {how.stretch:g}')}"
        last = f"if share > 5 / 6:{indent}    return 0.5 * (1 + math.cos(5 * math.pi / 12)) * (1 - share)"
        return f"{share}{indent}{last}{indent}return {wave.format('share / 2')}"
    if not how.warmup:
        return f"return {wave.format('step / STEPS')}"
    rise = "(step + 1)" if how.shape == "cosine" else "step"
    first = f"if step < {how.warmup}:{indent}    return {rise} / {how.warmup}"
    fall = wave.format(f"(step - {how.warmup}) / max(STEPS - {how.warmup}, 1)")
    fall = f"{how.floor:g} + {1 - how.floor:g} * {fall}" if how.floor else fall
    return f"{first}{indent}return {fall}"
