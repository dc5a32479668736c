"""Encoded images in rows: parquet as the Hugging Face hub serves it, and prepared TFDS sets.

Both are read without TensorFlow. Parquet needs pyarrow, the ``[hf]`` extra.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.base import PARTS, Parts, Source, Undecodable, checked_labels, listing
from ddjax.data.cards import CARDS
from ddjax.errors import DataError, choice

_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
_TFDS_CARDS = {"svhn_cropped": "svhn"}


def parquet(path: Path, where: str) -> Parts:
    """An image column ({bytes, path} or binary) and a label column; parts from the files' names."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{where}: needs pyarrow; pip install 'ddjax[hf]'.") from error
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise DataError(f"{where}: no .parquet file in it.")
    grouped: dict[str, list[Path]] = {}
    for file in files:
        words = [*re.split(r"[-_.]", file.stem.lower()), file.parent.name.lower()]
        part = next((PARTS[word] for word in words if word in PARTS), "") if path.is_dir() else ""
        grouped.setdefault(part, []).append(file)
    return {part: _read_parquet(pyarrow.parquet, group, where) for part, group in grouped.items()}


def _read_parquet(reader: Any, files: list[Path], where: str) -> Source:
    tables = []
    for file in files:
        try:
            schema = reader.read_schema(file)
            image, label = _columns(schema, f"{where}: {file.name}")
            tables.append(reader.read_table(file, columns=[image, label], memory_map=True))
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
            raise DataError(f"{where}: {file.name} is no readable parquet file ({error}).") from error
    chunks = [chunk for table in tables for chunk in table.column(image).chunks]
    values = [v for table in tables for v in table.column(label).to_pylist()]
    missing = [str(i) for i, v in enumerate(values) if v is None]
    if missing:
        raise DataError(f"{where}: {len(missing)} rows without a label: {listing(missing)}.")
    labels, names = checked_labels(where, np.asarray(values), _hub_names(tables[0].schema, label, where))
    starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])

    def get(i: int) -> bytes:
        k = int(np.searchsorted(starts, i, side="right")) - 1
        value = chunks[k][int(i - starts[k])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise Undecodable("no bytes in this row (only a path, or nothing)")
        return data

    return Source(where, labels, names, get, lambda i: f"{where} row {i}")


def _columns(schema: Any, where: str) -> tuple[str, str]:
    import pyarrow.types as types

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return types.is_binary(kind) or types.is_large_binary(kind)

    images = [field.name for field in schema if holds_images(field.type)]
    label = next((name for name in _LABEL_COLUMNS if name in schema.names), None)
    if len(images) != 1 or label is None:
        raise DataError(
            f"{where}: columns {', '.join(schema.names)}; needs one image column ({{bytes, path}} "
            f"or binary; found {len(images)}) and a label column ({', '.join(_LABEL_COLUMNS)})."
        )
    return images[0], label


def _hub_names(schema: Any, label: str, where: str) -> list[str] | None:
    """Class names from the hub's own metadata in the schema, where they are there."""
    held = (schema.metadata or {}).get(b"huggingface")
    try:
        feature = json.loads(held).get("info", {}).get("features", {}).get(label, {}) if held else {}
        names = feature.get("names")
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: its metadata under 'huggingface' cannot be read ({error!r}).") from None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise DataError(f"{where}: its class names are no list of text.")
    return names


def tfds(name: str, where: str) -> Parts:
    """A set prepared in ``$TFDS_DATA_DIR`` (default ~/tensorflow_datasets) as array_record.

    ``name`` is ``NAME[/config][/version][/split]``.
    """
    base = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder, left = base, [part for part in name.split("/") if part]
    while left and (folder / left[0]).is_dir():
        folder /= left.pop(0)
    if folder == base or len(left) > 1:
        known = sorted(p.name for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
        raise DataError(
            f"{choice(where, name, known or ['(nothing is prepared)'])} Looked in {base} ($TFDS_DATA_DIR); a set is "
            "prepared there with tfds build --file_format=array_record."
        )
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(_version(folder, where))
    if builder.info.file_format is None or builder.info.file_format.value != "array_record":
        raise DataError(
            f"{where}: prepared as {builder.info.file_format}; reading without TensorFlow needs "
            "array_record. Prepare it again with --file_format=array_record."
        )
    splits = list(builder.info.splits)
    if left and left[0] not in splits:
        raise DataError(choice(f"{where} split", left[0], splits))
    if left:
        return {"": _read_tfds(tensorflow_datasets, builder, left[0], where)}
    wanted = {PARTS[split]: split for split in splits if split in PARTS}
    if not wanted:
        raise DataError(f"{where}: splits {', '.join(splits)}; name one as tfds:NAME/SPLIT.")
    return {part: _read_tfds(tensorflow_datasets, builder, split, where) for part, split in wanted.items()}


def _version(folder: Path, where: str) -> Path:
    """The newest prepared version below ``folder``; several configs are a named error."""
    found = [path.parent for path in sorted(folder.rglob("dataset_info.json"))]
    found = [path for path in found if not path.name.startswith("incomplete")]
    configs = sorted({path.parent.relative_to(folder).as_posix() for path in found})
    if folder in found:
        return folder
    if len(configs) != 1:
        shown = listing(configs) if configs else "none"
        raise DataError(f"{where}: {len(configs)} prepared configs in {folder} ({shown}); name one.")
    return max(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])


def _read_tfds(module: Any, builder: Any, split: str, where: str) -> Source:
    features = builder.info.features
    images = [k for k, f in features.items() if isinstance(f, module.features.Image)]
    classes = [k for k, f in features.items() if isinstance(f, module.features.ClassLabel)]
    image = "image" if "image" in images else next(iter(images), None)
    label = "label" if "label" in classes else next(iter(classes), None)
    if image is None or label is None:
        raise DataError(f"{where}: features {', '.join(features)}; needs an Image and a ClassLabel.")
    rows = builder.as_data_source(split, decoders={image: module.decode.SkipDecoding()})
    labels = np.array([int(rows[i][label]) for i in range(len(rows))], np.int64)
    names = features[label].names
    return Source(
        where=where,
        labels=labels,
        class_names=tuple(names),
        get=lambda i: rows[int(i)][image],
        name=lambda i: f"{where}/{split} record {i}",
        card=_TFDS_CARDS.get(builder.name, builder.name if builder.name in CARDS else None),
    )
