"""A set as the samples of a webdataset tar: the files of one image share a name, in order."""

import io
import json
import tarfile

import numpy as np

from ddjax.exchange.pixels import png
from ddjax.synset import DistilledSet


def samples(made: DistilledSet, images: np.ndarray) -> bytes:
    """The tar: ``NUMBER.png``, ``NUMBER.cls`` (the label as text), ``NUMBER.json`` (label, class, label_logits)."""
    stream, width = io.BytesIO(), max(6, len(str(len(made) - 1)))
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for i, (image, label) in enumerate(zip(images, made.labels.tolist(), strict=True)):
            about = {"label": label, "class": made.class_names[label]}
            if made.label_logits is not None:
                about["label_logits"] = made.label_logits[i].tolist()
            text = json.dumps(about, ensure_ascii=False)
            for kind, content in (("png", png(image)), ("cls", str(label).encode()), ("json", text.encode())):
                entry = tarfile.TarInfo(f"{i:0{width}d}.{kind}")  # owner 0, mode 644, time 0
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()
