"""A set as Hugging Face `datasets` lays it: a parquet of an Image and a ClassLabel, and a dataset card.

The features stand twice, where that library looks for them: in the schema's metadata under ``huggingface`` and in the
YAML header of README.md. Needs pyarrow, the ``[hf]`` extra.
"""

import io
import json
from typing import Any

import numpy as np

from ddjax.errors import ConfigError
from ddjax.exchange.pixels import png
from ddjax.synset import DistilledSet

DATA = "data/train-00000-of-00001.parquet"
ROWS = 1000  # images of a row group
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def parquet(made: DistilledSet, images: np.ndarray) -> bytes:
    """The parquet: ``image`` {bytes, path}, ``label`` int64, and ``label_logits`` list<float32> where there are any."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError("export --to hf: needs pyarrow; pip install 'ddjax[hf]'.") from error
    kept = [{"bytes": png(image), "path": f"{i:06d}.png"} for i, image in enumerate(images)]
    columns: dict[str, Any] = {
        "image": pa.array(kept, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "label": pa.array(made.labels, pa.int64()),
    }
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(made.class_names), "_type": "ClassLabel"},
    }
    if made.label_logits is not None:
        columns["label_logits"] = pa.array(list(made.label_logits), pa.list_(pa.float32()))
        features["label_logits"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table(columns).replace_schema_metadata(about)
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=ROWS)
    return stream.getvalue()


def card(made: DistilledSet, size: int, notes: list[str]) -> str:
    """The dataset card: what the hub needs as YAML, then what a person needs."""
    return f"---\n{_header(made, size)}---\n\n{_body(made, notes)}"


def _text(value: object) -> str:
    """A YAML scalar: JSON's quoted strings are YAML's."""
    return json.dumps(str(value), ensure_ascii=True)


def _header(made: DistilledSet, size: int) -> str:
    licence = made.manifest()["licence"]
    lines = [
        "license: other" if licence else "license: unknown",
        *([f"license_name: {_text(licence)}"] if licence else []),
        f"pretty_name: {_text(title(made))}",
        "task_categories:\n- image-classification",
        "tags:\n- dataset-distillation\n- ddjax",
        f"size_categories:\n- {next((name for limit, name in SIZES if len(made) < limit), 'n>1M')}",
        "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*",
        "dataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:",
        *(f"          '{i}': {_text(name)}" for i, name in enumerate(made.class_names)),
        *(["  - name: label_logits\n    sequence: float32"] if made.soft else []),
        f"  splits:\n  - name: train\n    num_bytes: {size}\n    num_examples: {len(made)}",
        f"  download_size: {size}\n  dataset_size: {size}",
    ]
    return "".join(f"{line}\n" for line in lines)


def title(made: DistilledSet) -> str:
    """``digits distilled by teddy, 10 images per class``, as far as the manifest says."""
    data, method = made.meta.get("dataset") or {}, made.meta.get("method") or {}
    counts = made.counts()
    shared = made.soft and made.even and counts.min() != counts.max()
    per_class = str(made.ipc) if shared or counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    by = str(method.get("class") or method.get("name") or "an unnamed method").rsplit(":", 1)[-1].lower()
    if method.get("imported"):
        by = str(method.get("name") or f"an unnamed method ({method.get('layout') or by})")
    images = "image" if per_class == "1" else "images"
    told = f"{data.get('card') or 'a dataset'} distilled by {by}, {per_class} {images} per class"
    return f"{told} with learned labels" if shared else told


def _body(made: DistilledSet, notes: list[str]) -> str:
    n, h, w, d = made.images.shape
    data, source = made.meta.get("dataset") or {}, made.meta.get("source")
    cited = str(source.get("citation") or "") if isinstance(source, dict) else ""
    network = "(x / 255 - mean) / std" if made.zca is None else "whitened after (x / 255 - mean) / std"
    facts = [
        f"- {n} images of {h}x{w}x{d}, {len(made.class_names)} classes; labels count in the order of `class_label`",
        f"- networks see {network}, mean {list(made.mean)}, std {list(made.std)}",
        f"- real data: {data.get('card') or 'not stated'}; its licence: {made.manifest()['licence'] or 'not stated'}",
        f"- label source: {made.meta.get('label_source') or 'not stated'}; "
        f"protocol it is meant for: {made.meta.get('protocol') or 'not stated'}",
        *(["- `label_logits`: learned labels; their softmax is the target"] if made.soft else []),
        *([f"- learned learning rate: {made.learned_lr!r}"] if made.learned_lr is not None else []),
        *(f"- {note}" for note in notes),
    ]
    return (
        f"# {title(made)}\n\nA distilled set: few synthetic images, made to train a network as the real ones would.\n\n"
        + "\n".join(facts)
        + '\n\n```python\nfrom datasets import load_dataset\n\ndata = load_dataset("PATH", split="train")\n'
        'image, label = data[0]["image"], data[0]["label"]\n```\n\n'
        "`manifest.json` is a copy of the set's own, with everything that is known of its making.\n"
        + (f"\n## Citation\n\n```bibtex\n{cited}\n```\n" if cited else "")
    )
