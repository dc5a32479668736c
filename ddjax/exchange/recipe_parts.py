"""The pieces of the PyTorch program that `ddjax.exchange.recipe` puts together: text, never run here."""

IMPORTS = """import math

import torch
from torch import nn
from torch.nn import functional as F

"""

PREPARE = '''
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(SEED)
data = torch.load(FILE, weights_only=True)
mean, std = (data[name].view(1, -1, 1, 1).to(device) for name in ("mean", "std"))


def prepare(pixels):
    """Real images uint8 [N, D, H, W] as the network expects them."""
    x = (pixels.to(device).float() / 255 - mean) / stdWHITEN
    return x


images, labels, classes = IMAGES, data["labels"].to(device), len(data["class_names"])
targets = TARGETS
'''

WHITEN = """
    x = ((x.flatten(1) - data["zca"]["mean"].to(device)) @ data["zca"]["matrix"].to(device)).view_as(x)"""

GROUPS = """[
    {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": DECAY},
    {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
]"""

ALL = '[{"params": list(net.parameters()), "weight_decay": DECAY}]'

OPTIMISERS = {
    "adamw": "torch.optim.AdamW(groups, lr=RATE)",
    "adam": "torch.optim.Adam(groups, lr=RATE)",
    "sgd": "torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM)",
}

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
    for op in [ALWAYS ops[torch.randint(len(ops), ()).item()]]:
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

SHUFFLE = '''
def shuffle(x, strips=STRIPS):
    """Patch shuffle: the strips of rows change places, then those of columns, for each image its own."""
    for axis in (2, 3):
        size = x.shape[axis]
        side = size // strips
        order = torch.rand(len(x), strips, device=x.device).argsort(1)
        moved = (order[:, :, None] * side + torch.arange(side, device=x.device)).flatten(1)
        rest = torch.arange(strips * side, size, device=x.device).expand(len(x), -1)
        index = torch.cat([moved, rest], 1).view(len(x), 1, *((-1, 1) if axis == 2 else (1, -1)))
        x = x.gather(axis, index.expand_as(x))
    return x
'''

DC = '''
def dc(x):
    """One of these for each image (Zhao, Mopuri and Bilen, ICLR 2021); what comes in is the batch's mean, or 0."""
    mean, made = x.mean((0, 2, 3)).view(1, -1, 1, 1), x
    which = torch.randint(COUNT, (len(x), 1, 1, 1), device=x.device)
    for i, op in enumerate([OPS]):
        made = torch.where(which == i, op(x, mean), made)
    return made


def dc_crop(x, mean):
    """Shifted by -4 to 3 pixels."""
    shift = torch.randint(-4, 4, (2, len(x), 1), device=x.device)
    rows, columns = (torch.arange(size, device=x.device) + by for size, by in zip(x.shape[2:], shift))
    return dc_read(x, rows, columns, mean)


def dc_scale(x, mean):
    """Each axis to a whole size of its own, 0.8 to 1.2 of the height, by the nearest pixel, centred; zeros."""
    sides = ((0.8 + 0.4 * torch.rand(2, len(x), 1, device=x.device)) * x.shape[2]).long()
    canvas, places = sides.amax(0).clamp(min=max(x.shape[2:])), []
    for side, size in zip(sides, x.shape[2:]):
        place = torch.arange(size, device=x.device) + (canvas - size) // 2 - (canvas - side) // 2
        source = (place * size / side).long().clamp(max=size - 1)
        places.append(torch.where((place >= 0) & (place < side), source, -1))
    return dc_read(x, *places, torch.zeros_like(mean))


def dc_rotate(x, mean):
    """A whole angle of -45 to 44 degrees; torch's cubic convolution where the release has cubic splines."""
    angle, (h, w) = torch.deg2rad(torch.randint(-45, 45, (len(x),), device=x.device).float()), x.shape[2:]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([torch.stack([cos, -sin * h / w, zero], 1), torch.stack([sin * w / h, cos, zero], 1)], 1)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x - mean.mean(), grid, mode="bicubic", align_corners=False) + mean.mean()


def dc_noise(x, mean):
    return x + 0.001 * torch.randn_like(x)


def dc_read(x, rows, columns, fill):
    """Image i at rows [i] and columns [i]; fill outside of it."""
    n, d, h, w = x.shape
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None]
    place = rows.clamp(0, h - 1)[:, :, None] * w + columns.clamp(0, w - 1)[:, None]
    taken = x.flatten(2).gather(2, place.view(n, 1, -1).expand(-1, d, -1)).view_as(x)
    return torch.where(inside[:, None], taken, fill)
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
def factor(step):
    FACTOR


net = convnet(images[:1], classes)
groups = GROUPSKEPT
optimiser = OPTIMISER
schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
epoch = []
for step in range(STEPS):
    if not epoch:
        epoch = list(torch.randperm(len(images)).split(BATCH)[:COUNT])
    rows = epoch.pop().to(device)FORGET
    x, y = images[rows], targets[rows]VIEWS
    z = net(x)
    loss = LOSS
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()AVERAGE
print(f"loss after {STEPS} updates: {loss.item():.4f}")LAID
"""

KEPT = """
average = [p.detach().clone() for p in net.parameters()]  # what is judged: the running average of the weights"""

AVERAGE = """
    for kept, p in zip(average, net.parameters()):
        kept.lerp_(p.detach(), 1 - EMA)"""

LAID = """
with torch.no_grad():
    for kept, p in zip(average, net.parameters()):
        p.copy_(kept)"""

TEST = '''
@torch.no_grad()
def accuracy(pixels, labels):
    """Of real images uint8 [N, D, H, W]; labels count in data["class_names"]."""
    net.eval()
    right = [net(prepare(x)).argmax(1).cpu().eq(y).sum() for x, y in zip(pixels.split(512), labels.split(512))]
    return (sum(right) / len(labels)).item()
'''
