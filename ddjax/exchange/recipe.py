"""How to train on a set in PyTorch: a program that reads the set's torch export and follows its protocol.

The program is put together from what the set has (hard or learned labels, whitening, learned rate) and what its
protocol says (optimiser, schedule, batch, steps, temperature, augmentation). What of the protocol it leaves out, it
says. `ddjax` itself never imports torch.
"""

from ddjax.data.cards import CARDS
from ddjax.exchange.hub import title
from ddjax.kernels.dsa import DSA_OPS
from ddjax.protocols import PROTOCOLS, Protocol
from ddjax.synset import DistilledSet
from ddjax.types import Augment

DEFAULT = "ddjax-1"
MIRRORED = ("digits", "mnist", "svhn", "usps")  # whose meaning a mirror changes
KNOWN = {"pad", "flip", "area", "ratio", "cutmix", "cutmix_p", "mixup", "mix_batch", "dsa", "dsa_always"}


def recipe(made: DistilledSet) -> str:
    """The program, as text."""
    named = str(made.meta.get("protocol"))
    rule, views = PROTOCOLS.get(named) or PROTOCOLS[DEFAULT], augmentation(made)
    parts = [
        head(made, rule, views, f"the set names {named}" if named not in PROTOCOLS else ""), prepare(made),
        *drawn(views), network(made), train(made, rule, views), TEST,
    ]  # fmt: skip
    return "\n\n".join(part.strip("\n") + "\n" for part in parts)


def augmentation(made: DistilledSet) -> Augment:
    """Which random views a student of this set sees: DSA where the set asks for it, else what its card says."""
    card = (made.meta.get("dataset") or {}).get("card")
    if made.meta.get("augment") == "dsa":
        return Augment(dsa=tuple(op for op in DSA_OPS if op != "flip" or card not in MIRRORED))
    return CARDS[card].augment if card in CARDS else Augment()


def head(made: DistilledSet, rule: Protocol, views: Augment, instead: str) -> str:
    """What the program is, its numbers, and the set."""
    n = len(made)
    left = [name for name, value in views.said().items() if name not in KNOWN and value != getattr(Augment(), name)]
    told = [
        f"{title(made)}: training in PyTorch.",
        "First: ddjax set export SET set.pt --to torch",
        f"Protocol {rule.id}{f' ({instead})' if instead else ''}: {rule.optimiser}, {rule.steps(n)} steps of "
        f"{rule.batch(n)} images; accuracy counts after the last step.",
    ]
    if made.learned_lr is None and len(rule.rates) > 1:
        rates = ", ".join(f"{rate:g}" for rate in rule.rates)
        told.append(f"RATE is one of {rates}: choose it on a validation split of the real images, never on a test.")
    if left:
        told.append(f"Left out here: {', '.join(left)} of the protocol's augmentation.")
    rate = made.learned_lr if made.learned_lr is not None else rule.rates[len(rule.rates) // 2]
    numbers = {
        "FILE": '"set.pt"', "SEED": 0, "STEPS": rule.steps(n), "BATCH": rule.batch(n), "RATE": f"{rate:.6g}",
        "DECAY": rule.weight_decay,
    }  # fmt: skip
    if made.soft:
        numbers["TAU"] = rule.tau
    comment = "\n".join(f"# {line}" for line in told)
    return f"{comment}\nimport math\n\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n" + (
        "\n".join(f"{name} = {value}" for name, value in numbers.items())
    )


def prepare(made: DistilledSet) -> str:
    """The set on the device, and what real images go through before a network sees them."""
    white = """
    x = ((x.flatten(1) - data["zca"]["mean"].to(device)) @ data["zca"]["matrix"].to(device)).view_as(x)"""
    stored = {
        "pixels": 'prepare(data["images"])',
        "normalised": 'data["images"].to(device)  # stored normalised',
        "whitened": 'data["images"].to(device)  # stored whitened',
    }[made.space]
    targets = 'data["label_logits"].to(device)' if made.soft else "F.one_hot(labels, classes).float()"
    return f'''
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(SEED)
data = torch.load(FILE, weights_only=True)
mean, std = (data[name].view(1, -1, 1, 1).to(device) for name in ("mean", "std"))


def prepare(pixels):
    """Real images uint8 [N, D, H, W] as the network expects them."""
    x = (pixels.to(device).float() / 255 - mean) / std{white if made.zca is not None else ""}
    return x


images, labels, classes = {stored.partition("  #")[0]}, data["labels"].to(device), len(data["class_names"])
targets = {targets}
'''


def drawn(views: Augment) -> list[str]:
    """The functions that draw a view, in the order in which they are used."""
    found = []
    if views.area is not None:
        found.append(RESIZED.replace("AREA", f"{views.area[0]}, {views.area[1]}").replace(
            "RATIO", f"{views.ratio[0]:.6g}, {views.ratio[1]:.6g}"))  # fmt: skip
    if views.pad:
        found.append(CROP.replace("PAD", str(views.pad)))
    if views.flip:
        found.append(FLIP)
    if views.dsa:
        found.append(DSA.replace("OPS", repr(list(views.dsa))).replace("ALWAYS", repr(list(views.dsa_always))))
    if views.cutmix:
        found.append(CUTMIX.replace("ALPHA", f"{views.cutmix:g}").replace("CHANCE", f"{views.cutmix_p:g}"))
    elif views.mixup:
        found.append(MIXUP.replace("ALPHA", f"{views.mixup:g}"))
    return found


def network(made: DistilledSet) -> str:
    """ConvNet-D with instance normalisation (Zhao et al., ICLR 2021), as deep as the images ask for."""
    side = min(made.images.shape[1:3])
    depth = next(
        depth for depth, most in ((0, 1), (1, 3), (2, 7), (3, 63), (4, 127), (5, 223), (6, 10**9)) if side <= most
    )
    return NETWORK.replace("DEPTH", str(depth))


def train(made: DistilledSet, rule: Protocol, views: Augment) -> str:
    """The loop."""
    steps = ["x, y = images[rows], targets[rows]"]
    steps += ["x = resized_crop(x)"] if views.area is not None else []
    steps += ["x = crop(x)"] if views.pad else []
    steps += ["x = flip(x)"] if views.flip else []
    steps += ["x = dsa(x)"] if views.dsa else []
    soft = "probabilities(y)" if made.soft else "y"
    if views.cutmix or views.mixup:
        steps.append(f"x, y = mix(x, {soft})")
        soft = "y"
    loss = f"TAU**2 * F.cross_entropy(net(x) / TAU, {soft})" if made.soft else f"F.cross_entropy(net(x), {soft})"
    loop = TRAIN.replace("OPTIMISER", OPTIMISERS[rule.optimiser])
    return (PROBABILITIES if made.soft else "") + loop.replace("VIEWS", "\n    ".join(steps)).replace("LOSS", loss)


OPTIMISERS = {
    "adamw": "torch.optim.AdamW(groups, lr=RATE)",
    "sgd": "torch.optim.SGD(groups, lr=RATE, momentum=0.9)",
}

PROBABILITIES = """

def probabilities(logits):
    return (logits / TAU).softmax(1)

"""

RESIZED = '''
def resized_crop(x):
    """A random box of AREA of the area, width / height of RATIO, at the image's own size."""
    n, _, h, w = x.shape
    area = torch.empty(n, device=x.device).uniform_(AREA) * h * w
    ratio = torch.empty(n, device=x.device).uniform_(*(math.log(r) for r in (RATIO))).exp()
    tall, wide = ((area / ratio).sqrt() / h).clamp(max=1), ((area * ratio).sqrt() / w).clamp(max=1)
    top, left = ((torch.rand(2, n, device=x.device) * 2 - 1) * (1 - torch.stack([tall, wide]))).unbind()
    zero = torch.zeros_like(tall)
    theta = torch.stack([torch.stack([wide, zero, left], 1), torch.stack([zero, tall, top], 1)], 1)
    return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)
'''

CROP = '''
def crop(x, pad=PAD):
    """Shifted by up to ``pad`` pixels, zeros coming in."""
    n, _, h, w = x.shape
    wide = F.pad(x, [pad] * 4)
    shifts = torch.randint(2 * pad + 1, (n, 2)).tolist()
    return torch.stack([image[:, a : a + h, b : b + w] for image, (a, b) in zip(wide, shifts)])
'''

FLIP = """
def flip(x):
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
"""

DSA = '''
def dsa(x):
    """Differentiable Siamese augmentation (Zhao and Bilen, ICML 2021): one op for the batch, parameters per image."""
    ops = OPS
    for op in [*ALWAYS, ops[torch.randint(len(ops), ()).item()]]:
        x = apply(op, x, *torch.rand(3, len(x), 1, 1, 1, device=x.device))
    return x


def apply(op, x, u, v, w):
    n, _, height, width = x.shape
    rows, columns = torch.arange(height, device=x.device).view(-1, 1), torch.arange(width, device=x.device)
    if op == "color":
        x = x + u - 0.5
        middle = x.mean(1, keepdim=True)
        x = (x - middle) * 2 * v + middle
        middle = x.mean((1, 2, 3), keepdim=True)
        return (x - middle) * (w + 0.5) + middle
    if op == "flip":
        return torch.where(u < 0.5, x.flip(3), x)
    if op == "cutout":
        tall, wide = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
        top = (u * (height + 1 - tall % 2)).floor() - tall // 2
        left = (v * (width + 1 - wide % 2)).floor() - wide // 2
        inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        return x * ~inside
    if op == "crop":
        down, right = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
        dy, dx = (u * (2 * down + 1)).floor() - down, (v * (2 * right + 1)).floor() - right
        y, z = rows + dy, columns + dx
        inside = (y >= 0) & (y < height) & (z >= 0) & (z < width)
        flat = y.clamp(0, height - 1) * width + z.clamp(0, width - 1)
        return (x.flatten(2).gather(2, flat.long().view(n, 1, -1).expand(-1, x.shape[1], -1))).view_as(x) * inside
    u, v = u.flatten(), v.flatten()
    zero = torch.zeros_like(u)
    if op == "scale":
        a, b = (t * (1.2 - 1 / 1.2) + 1 / 1.2 for t in (u, v))
        theta = torch.stack([torch.stack([a, zero, zero], 1), torch.stack([zero, b, zero], 1)], 1)
    else:  # rotate
        angle = (u - 0.5) * 2 * math.radians(15)
        theta = torch.stack([torch.stack([angle.cos(), -angle.sin(), zero], 1),
                             torch.stack([angle.sin(), angle.cos(), zero], 1)], 1)
    return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)
'''

CUTMIX = '''
def mix(x, y):
    """CutMix: a box of another image of the batch, labels by its area."""
    if torch.rand(()) >= CHANCE:
        return x, y
    _, _, h, w = x.shape
    kept = torch.distributions.Beta(ALPHA, ALPHA).sample().item()
    tall, wide = round(h * math.sqrt(1 - kept)), round(w * math.sqrt(1 - kept))
    middle, centre = torch.randint(h, ()).item(), torch.randint(w, ()).item()
    top, left = max(0, middle - tall // 2), max(0, centre - wide // 2)
    bottom, right = min(h, middle + tall // 2), min(w, centre + wide // 2)
    order, x = torch.randperm(len(x), device=x.device), x.clone()
    x[:, :, top:bottom, left:right] = x[order, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (h * w)
    return x, share * y + (1 - share) * y[order]
'''

MIXUP = '''
def mix(x, y):
    """MixUp: images and labels blended with others of the batch."""
    kept = torch.distributions.Beta(ALPHA, ALPHA).sample().item()
    order = torch.randperm(len(x), device=x.device)
    return kept * x + (1 - kept) * x[order], kept * y + (1 - kept) * y[order]
'''

NETWORK = '''
def convnet(example, classes, depth=DEPTH, width=128):
    """ConvNet-D with instance normalisation (Zhao et al., ICLR 2021)."""
    layers, inputs = [], example.shape[1]
    for block in range(depth):
        padding = 3 if block == 0 and example.shape[1:] == (1, 28, 28) else 1
        layers += [nn.Conv2d(inputs, width, 3, padding=padding), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
        inputs = width
    body = nn.Sequential(*layers, nn.Flatten()).to(example.device)
    return nn.Sequential(body, nn.Linear(body(example).shape[1], classes)).to(example.device)
'''

TRAIN = """
net = convnet(images[:1], classes)
groups = [
    {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": DECAY},
    {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
]
optimiser = OPTIMISER
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
order = torch.empty(0, dtype=torch.long)
for step in range(STEPS):
    if len(order) < BATCH:
        order = torch.randperm(len(images))
    rows, order = order[:BATCH].to(device), order[BATCH:]
    VIEWS
    loss = LOSS
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
print(f"loss after {STEPS} steps: {loss.item():.4f}")
"""

TEST = '''
@torch.no_grad()
def accuracy(pixels, labels):
    """Of real images uint8 [N, D, H, W]; labels count in data["class_names"]."""
    net.eval()
    right = [net(prepare(x)).argmax(1).cpu().eq(y).sum() for x, y in zip(pixels.split(512), labels.split(512))]
    return (sum(right) / len(labels)).item()
'''
