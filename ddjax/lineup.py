"""Which rows are judged: the set with its own labels, the same images with hard labels, and the baselines asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ddjax import baselines, config, early, evaluate, relabel
from ddjax.baselines import FullData
from ddjax.errors import ConfigError
from ddjax.exchange import softlabels
from ddjax.files import content_hash, read_json, to_json
from ddjax.synset import DistilledSet


def shared_teacher(job: Any) -> FullData:
    """The network on all training images, of the first architecture; from the shared cache or trained now."""
    run = job.run
    return baselines.full_data(
        job.net(run.evaluate.archs[0]), job.data, seed=run.seed, over=job.over, every=run.compute.checkpoint_every,
        cache=job.cache, log=job.log, precision=run.compute.precision,
    )  # fmt: skip


def shared_labels(job: Any, trained: FullData) -> relabel.Pool:
    """Soft labels from the network on all data, for sets that bring no teacher."""
    return relabel.Pool(job.net(job.run.evaluate.archs[0]), trained.teachers(), job.over, "full_data")


def own_name(made: DistilledSet) -> str:
    """What a set that lies there is called in the table: its method's name, else ``set``."""
    return marked(str((made.meta.get("method") or {}).get("class", "set")).rsplit(":", 1)[-1].lower())


def marked(name: str) -> str:
    """A method's name, marked where a baseline has it too."""
    return f"coreset_{name}" if name in config.BASELINES else name


def own_row(
    job: Any, made: DistilledSet, home: Path | None, plan: relabel.Plan
) -> tuple[evaluate.Row, relabel.Pool | None]:
    """The set with the labels that ``label.source`` means, and their teacher where they are made here; ``plan``: the
    views of its first architecture's students.

    auto: those stored in its run, where they are soft, or view by view beside an imported set, which are replayed on
    the very views they were stored for; else those it has learned; else, where the protocol asks for a teacher, those
    of the network on all training images (base says so outright); else hard ones.
    """
    row, teacher = labelled_row(job.run, made, home, plan), None
    if row.source is None:
        teacher = shared_labels(job, shared_teacher(job))
        row = row._replace(label_source=teacher.name, source=teacher)
    return row, teacher


def labelled_row(run: Any, made: DistilledSet, home: Path | None, plan: relabel.Plan) -> evaluate.Row:
    """``own_row`` as far as no network is needed: without a source where a teacher is to make the labels."""
    wanted, made = run.label.source, made.decoded()
    row = evaluate.Row(
        own_name(made), "hard", np.asarray(made.images), relabel.Hard(made.labels, len(made.class_names)),
        labels=made.labels,
    )  # fmt: skip
    learned, recorded = made.label_logits, Path(run.set) / "labels" / "manifest.json"
    if wanted == "hard":
        return row
    if wanted == "auto" and home is None and recorded.is_file():
        views = softlabels.load(recorded.parent)
        softlabels.check_fits(views, len(made.labels), len(made.class_names), recorded.parent)
        source = relabel.Stored(views.logits)
        return row._replace(label_source="fkd", source=source, table=views.logits, views=views)
    stored = stored_row(run, home, row, plan) if home and wanted != "learned" else None
    if stored:
        return stored
    if learned is not None and wanted in ("auto", "learned"):
        return row._replace(label_source="learned", source=relabel.Learned(learned))
    if wanted == "base" or run.evaluate.rule().labels == "teacher":
        return row._replace(label_source="full_data", source=None)
    return row


def stored_row(run: Any, home: Path, row: evaluate.Row, plan: relabel.Plan) -> evaluate.Row | None:
    """The set with the soft labels stored in its run; ConfigError where their views are not this protocol's."""
    table = relabel.load(home / "labels") if (home / "labels").exists() else None
    if table is None:
        return None
    about, views = read_json(home / "labels" / "manifest.json"), json.loads(to_json(plan.augment.said()))
    wanted = (plan.batch, plan.seed, plan.epochs, views)
    if tuple(about[name] for name in ("batch", "seed", "epochs", "augment")) != wanted:
        raise ConfigError(
            f"label.source: the labels stored in {str(home)!r} are of {about['epochs']} epochs of batches of "
            f"{about['batch']} (seed {about['seed']}); this evaluation needs {plan.epochs} of {plan.batch} (seed "
            f"{plan.seed}), under the views of {run.evaluate.rule().id}. Allowed: the run's own seed and protocol, "
            "or --label.source hard or base."
        )
    return row._replace(label_source=about["label_source"], source=relabel.Stored(table), table=table)


def rows(
    job: Any, made: DistilledSet, own: evaluate.Row, group: evaluate.Students, *, soft: Any, base: Any
) -> list[evaluate.Row]:
    """The set first, then what stands beside it; ``group``: students of the first architecture for real images.

    ``full_data`` needs no students: its line is written here.
    """
    run, data, wanted = job.run, job.data, job.run.evaluate.baseline_names()
    ipc, net = made.ipc, job.net(run.evaluate.archs[0])
    lacking = ("random_soft" in wanted and soft is None) or ("base_labels" in wanted and base is None)
    trained = shared_teacher(job) if lacking or set(baselines.NEED_TRAINED) & set(wanted) else None
    if trained:
        soft, base = soft or shared_labels(job, trained), base or shared_labels(job, trained)
    if trained and "full_data" in wanted:
        line = baselines.full_data_line(trained, net.name, run.evaluate.rule().id, run.seed)
        cell = {k: line[k] for k in ("name", "arch", "label_source", "protocol")}
        evaluate.write_cell(job.folder.results, cell, [line])
    found = [own]
    if wanted and own.label_source != "hard":
        labels = made.decoded().labels
        hard = relabel.Hard(labels, len(made.class_names))
        found.append(own._replace(label_source="hard", source=hard, table=None, labels=labels, views=None))
    spend = baselines.bytes_of(own, made)
    found += baselines.rows(wanted, own, soft, base, trained, net, data, ipc=ipc, seed=run.seed, spend=spend)
    if trained and early.NAME in wanted:
        images = baselines.random_images(data, ipc, run.seed)
        found.append(early.row(
            group, net, trained, images, data, over=job.over, seed=run.seed, results=job.folder.results,
            scratch=job.folder.scratch("evaluate"), every=run.compute.checkpoint_every, log=job.log,
        ))  # fmt: skip
    if "random_same_bytes" in wanted and not any(row.name == "random_same_bytes" for row in found):
        job.log.say(f"random_same_bytes: the bytes of the set buy {ipc} real images a class: the row random_hard.")
    return found


def of_size(found: list[evaluate.Row]) -> dict[int, list[evaluate.Row]]:
    """The rows by how many images they have, in order: those of one size share their students' programs."""
    sizes = dict.fromkeys(row.images.shape[0] for row in found)
    return {int(size): [row for row in found if row.images.shape[0] == size] for size in sizes}


def twins(found: list[evaluate.Row]) -> list[tuple[evaluate.Row, evaluate.Row | None]]:
    """Each row, and the first one before it with the same images under the same hard labels, or None.

    Coresets choose alike where there are few images: at one a class k-means and herding are the same.
    """
    seen: dict[str, evaluate.Row] = {}
    pairs = []
    for row in found:
        soft = row.source.soft or row.label_source != "hard"
        tag = row.name if soft else content_hash([np.asarray(row.images), np.asarray(row.source.table)])
        pairs.append((row, seen.get(tag)))
        seen.setdefault(tag, row)
    return pairs


def counterpart(job: Any, found: list[evaluate.Row], soft: Any) -> evaluate.Row:
    """Random real images as many as the set's, with labels of its source.

    A set with stored labels that brings no teacher: those of full_data; one that has learned its labels: hard ones.
    """
    own, data = found[0], job.data
    name = "random_hard" if own.label_source in ("hard", "learned") else "random_soft"
    for row in found:
        if row.name == name:
            return row
    ipc, classes = len(own.images) // len(data.class_names), len(data.class_names)
    images = baselines.random_images(data, ipc, job.run.seed)
    numbers = np.repeat(np.arange(classes, dtype=np.int32), ipc)
    if name == "random_hard":
        return evaluate.Row(name, "hard", images, relabel.Hard(numbers, classes))
    soft = soft or shared_labels(job, shared_teacher(job))
    return evaluate.Row(name, soft.name, images, soft, labels=numbers)
