"""``python -m ddjax.launch --config configs/x.py``: composes the stages of a run; they never call each other.

    teachers -> distill -> label -> evaluate -> report

Every arrow is a file. A stage whose inputs' hash is unchanged is skipped, so resuming, ``--only`` and caching are one
mechanism. Everything that can be refused is refused before a device is touched.
"""

import contextlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddjax import (
    config,
    distill,
    estimate,
    evaluate,
    experts,
    judge,
    lineup,
    models,
    relabel,
    report,
    rundir,
    selection,
    survey,
    teachers,
)
from ddjax.__main__ import exit_code
from ddjax.checkpoint import Checkpoint
from ddjax.data import Dataset, open_data
from ddjax.errors import ConfigError, DataError, DdjaxError, Interrupted
from ddjax.files import atomic_write, clean_temporaries, content_hash, locked, read_json, to_json
from ddjax.judge import Job
from ddjax.methods import context, name_of
from ddjax.supply import supply
from ddjax.synset import DistilledSet

LEAST_TILE = 8  # pixels along a side of a tile, below which a user is warned

# ------------------------------------------------------------------------------------------ stages


def teacher_stage(job: Job) -> teachers.Store:
    """The base model and its pool, from the shared cache or made now; RUN/teachers names them."""
    run = job.run
    with job.cost.stage("teachers"):
        store = teachers.build(
            run.teacher, job.data, job.net(run.teacher.arch), seed=run.seed, over=job.over,
            every=run.compute.checkpoint_every, cache=job.cache, log=job.log, precision=run.compute.precision,
            pooled=needs_pool(run),
        )  # fmt: skip
    manifest = read_json(store.folder / "manifest.json")
    atomic_write(job.folder.teachers / "pool.json", to_json(manifest))
    return store


def distill_stage(job: Job, store: teachers.Store, tag: str) -> None:
    """RUN/synset: what the method makes; images 8 bits a channel, float32 where it may leave the legal range."""
    run, data = job.run, job.data
    method, card, needs = run.method, data.card, run.method.needs
    net = method_net(job, store)
    held = None
    if needs.experts:
        with job.cost.stage("experts"):
            held = experts.build(needs.experts, job)
    problem = context(
        method, net, card, data.train.shape, len(data.class_names), job.over.mean,
        members=len(store.pool_accuracy) if needs.pool == "pool" else 1,
    )  # fmt: skip
    with blamed(method):
        distiller = method.build(problem)
    with blamed(method), job.cost.stage("distill"), Checkpoint(job.folder.scratch("distill")) as checkpoint:
        fed = teachers.equip(store, needs, data, over=job.over) if needs.teachers else None
        first = selection.start(job, store, held)
        found = distill.distill(
            distiller, supply(needs, data, run.seed, held), fed, first, log=job.log, checkpoint=checkpoint,
            config_hash=tag, every=run.compute.checkpoint_every,
        )  # fmt: skip
    rate = None if found.learned_lr is None else float(found.learned_lr)
    made = DistilledSet(
        images=found.images if method.STORE == "float" else distill.to_pixels(found.images, card.mean, card.std),
        labels=first.labels,
        class_names=data.class_names,
        mean=card.mean,
        std=card.std,
        meta=set_meta(job, store),
        label_logits=found.label_logits,
        learned_lr=rate,
        factor=method.factor,
    )
    made.save(job.folder.synset)


def method_net(job: Job, store: teachers.Store) -> Any:
    """The network that the method makes its images on: its own ``arch`` where it has one, else the teachers'."""
    arch = getattr(job.run.method, "arch", None)
    return job.net(arch) if arch else store.net


@contextlib.contextmanager
def blamed(method: Any) -> Iterator[None]:
    """A slip in a user's own method is told by file and line; what none of its lines raised passes as it is."""
    try:
        yield
    except (DdjaxError, Interrupted, OSError, MemoryError):
        raise
    except Exception as error:
        source = inspect.getsourcefile(type(method)) or ""
        own = not type(method).__module__.startswith("ddjax.")
        if not own or not any(frame.filename == source for frame in traceback.extract_tb(error.__traceback__)):
            raise
        raise ConfigError(f"method = {source}:{type(method).__name__}: {config.blame(error, Path(source))}") from error


def set_meta(job: Job, store: teachers.Store) -> dict[str, Any]:
    """What the manifest of the set says of its making."""
    run, data = job.run, job.data
    return {
        "dataset": {"card": data.card.id, "hash": data.hash, "licence": data.card.licence, "notes": list(data.notes)},
        "method": config.to_json(run)["method"],
        "teacher": {
            "hash": store.hash, "arch": store.net.name, "accuracy": store.base_accuracy,
            "pool_accuracy": list(store.pool_accuracy),
        },
        "label_source": source_name(run),
        "protocol": run.evaluate.rule().id,
        "departures": {name: list(pair) for name, pair in run.method.departures(data.card.id).items()},
        **({"modify": list(run.evaluate.modify)} if run.evaluate.modify else {}),
        "seeds": [run.seed],
        "augment": run.method.augment,
    }  # fmt: skip


def source_name(run: config.Run) -> str:
    """hard | pool | base: what ``label.source`` comes to."""
    return run.method.label_source if run.label.source == "auto" else run.label.source


def needs_pool(run: config.Run) -> bool:
    """Whether anything in this run looks at the weak models; else the base model is enough."""
    return "pool" in (pool_of(run), source_name(run))


def pool_of(run: config.Run) -> str:
    """Whose labels stand beside the method's: those of the teachers that it looks at, else of the base model."""
    needs = run.method.needs
    return needs.pool if needs.teachers else "base"


def source(job: Job, store: teachers.Store, name: str, made: DistilledSet) -> Any:
    """The label source of that name; ConfigError where the set has learned no labels."""
    if name == "hard":
        return relabel.Hard(made.labels, len(job.data.class_names))
    if name == "learned":
        if made.label_logits is None:
            raise ConfigError("label.source = 'learned': the method learns no labels; allowed: auto, hard, pool, base.")
        return relabel.Learned(made.label_logits)
    softened = job.run.evaluate.rule().tau if job.run.label.average == "softmax" else None
    batched = job.run.label.statistics == "batch"
    return relabel.Pool(store.net, store.of(name), job.over, name, softened, batched=batched)


def label_stage(job: Job, store: teachers.Store, made: DistilledSet) -> None:
    """RUN/labels: a target for every view."""
    made = made.decoded()
    plan = judge.view_plan(job.run, job.data, len(made.labels), made)
    name = source_name(job.run)
    origin = source(job, store, name, made)
    with job.cost.stage("label"):
        table = None
        if origin.soft:
            images = survey.normalise(np.asarray(made.images), made.mean, made.std)
            table = relabel.targets(plan, origin, images)
        batched = origin.soft and job.run.label.statistics == "batch"
        relabel.save(job.folder.labels, name, plan, table, len(made.labels), batched=batched)


def evaluate_stage(job: Job, store: teachers.Store, made: DistilledSet) -> None:
    """RUN/results.jsonl: the set and the baselines, every architecture, all seeds."""
    run, name, seen = job.run, source_name(job.run), made.decoded()
    origin = source(job, store, name, seen)
    own = evaluate.Row(row_name(run), name, np.asarray(seen.images), origin, relabel.load(job.folder.labels))
    own = own._replace(labels=seen.labels)
    soft = origin if name in ("pool", "base") else source(job, store, pool_of(run), made)
    with job.cost.stage("evaluate"):
        judge.judge(job, made, own, soft=soft, base=source(job, store, "base", made))


def row_name(run: config.Run) -> str:
    """What the set is called in the table: its method's name, marked where a baseline has it too."""
    return lineup.marked(name_of(run.method))


# ---------------------------------------------------------------------------------------- the whole


def stage_tags(run: config.Run, data: Dataset) -> dict[str, str]:
    """The hash of each stage's inputs, in the order of the stages."""
    written = config.to_json(run)
    base = {"data": data.hash, "teacher": written["teacher"], "seed": run.seed, "precision": run.compute.precision}
    tags = {"distill": content_hash(base | {"method": written["method"]})}
    rule = [run.evaluate.protocol, *run.evaluate.modify]
    tags["label"] = content_hash([tags["distill"], written["label"], *rule])
    tags["evaluate"] = content_hash([tags["label"], written["evaluate"]])
    return tags


def stages_left(folder: rundir.RunDir, tags: dict[str, str], only: tuple[str, ...]) -> list[str]:
    """The stages that are asked for and not done; ConfigError where one stands on a stage that is neither."""
    undone = [stage for stage, tag in tags.items() if not folder.done(stage, tag)]
    left = [stage for stage in undone if not only or stage in only]
    before = undone[: undone.index(left[-1])] if left else []
    lacking = [stage for stage in before if stage not in left]
    if lacking:
        wanted = [stage for stage in config.STAGES if stage in {*only, *lacking}]
        raise ConfigError(
            f"--only = {' '.join(only)}: {left[-1]} stands on {' and '.join(lacking)}, not done in "
            f"{str(folder.folder)!r} with this configuration. Nearest: --only {' '.join(wanted)}."
        )
    return left


def pipeline(job: Job, only: tuple[str, ...]) -> None:
    """All stages in order; those that are done with the same inputs are skipped."""
    folder, tags = job.folder, stage_tags(job.run, job.data)
    left = stages_left(folder, tags, only)
    for stage in tags:
        if stage not in left and (not only or stage in only):
            job.log.say(f"{stage}: done before, inputs unchanged; skipped.")
    if not left and ("teachers" not in only or (folder.teachers / "pool.json").exists()):
        return
    store = teacher_stage(job)
    acts = {
        "distill": lambda: distill_stage(job, store, tags["distill"]),
        "label": lambda: label_stage(job, store, DistilledSet.load(folder.synset)),
        "evaluate": lambda: evaluate_stage(job, store, DistilledSet.load(folder.synset)),
    }
    for stage in left:
        rundir.stop_if_asked()
        acts[stage]()
        folder.stamp(stage, tags[stage])
        atomic_write(folder.cost, to_json(job.cost.as_dict()))


def check(run: Any, data: Dataset) -> None:
    """What only the data can tell: whether ipc, networks, snapshots and given weights suit it; no device is touched."""
    selection.check(run.method, data)
    if getattr(run.method, "arch", None):
        net = judge.build_net(run, data, run.method.arch, argument="method.arch")
        if wanted := run.method.needs.experts:
            experts.check(wanted, net, data, run)
    judge.check_length(run.evaluate, run.method.ipc * run.method.factor**2 * len(data.class_names))
    judge.check_mesh(run.compute.mesh)
    for arch in run.evaluate.archs:
        judge.build_net(run, data, arch, argument="evaluate.archs")
    net = judge.build_net(run, data, run.teacher.arch, argument="teacher.arch")
    if run.label.statistics == "batch" and models.norm_of(run.teacher.arch) != "batch":
        raise ConfigError(
            f"label.statistics = 'batch': teacher.arch = {run.teacher.arch!r} has no batch norm; allowed: running, or "
            "a network with batch norm. Nearest valid: --label.statistics running."
        )
    if run.teacher.weights:
        teachers.given_weights(run.teacher.weights, net)
    teachers.taken_epochs(teachers.lean(run.teacher, needs_pool(run)))


def cautions(run: config.Run, data: Dataset) -> list[str]:
    """What a user should know before the run, as sentences: hyper-parameters not as published, tiles of few pixels."""
    found, apart = [], run.method.departures(data.card.id)
    if apart:
        told = ", ".join(f"{name} {used} ({published})" for name, (used, published) in apart.items())
        found.append(f"not as published: {told}.")
    side = min(data.train.shape[:2]) // run.method.factor
    if run.method.factor > 1 and side < LEAST_TILE:
        found.append(
            f"method.factor = {run.method.factor} leaves tiles of {side} pixels: their images are blurred; students "
            "without instance norm may learn nothing of sharp ones (docs/batch-norm.md)."
        )
    return found


def finish(job: Job) -> None:
    """report.json, report.html, the table on the screen and where the page lies."""
    atomic_write(job.folder.cost, to_json(job.cost.as_dict()))
    references = [job.run.method.REFERENCE, job.data.card.citation]
    report.keep(job.folder.folder, job.data.train, references, per_class=job.run.report.images_per_class)
    page = report.write(job.folder.folder)
    job.log.table(report.table(job.folder.folder))
    for sentence in report.said(job.folder.folder):
        job.log.say(sentence)
    job.log.say(f"report: {page}")


class Admitted(NamedTuple):
    """A run that may start: its folder, its configuration as it is stored, its data, and the stages left to do."""

    folder: rundir.RunDir
    written: dict[str, Any]
    data: Dataset
    left: list[str]


def admit(run: config.Run, launch: config.Launch, folder: Path, data: Dataset | None = None) -> Admitted:
    """Refuse all that can be refused before a device is touched or a file is written; ``data``: opened before."""
    written = config.to_json(run)
    claimed = rundir.claim(folder, written, resume=launch.resume, overwrite=launch.overwrite, only=launch.only)
    if set(launch.only) == {"report"} and not claimed.results.exists():
        raise ConfigError(
            f"--only = report: there is nothing to report in {str(folder)!r}; run the other stages first."
        )
    rundir.check_writable(folder, "--workdir")
    rundir.check_writable(run.compute.cache_folder(), "compute.cache")
    data = data or open_data(run.data, run.seed)
    check(run, data)
    if not launch.overwrite:
        judge.check_modified(claimed, run.evaluate)
    tags = stage_tags(run, data)
    left = list(tags) if launch.overwrite else stages_left(claimed, tags, launch.only)
    return Admitted(claimed, written, data, left)


def readable(run: config.Run) -> Dataset | None:
    """The data of a run where they can be read here; None, and why not on the screen, where they cannot."""
    try:
        return open_data(run.data, run.seed)
    except DataError as error:
        print(f"--check: by shapes alone, without the data: {error}", file=sys.stderr)
        return None


def look(run: config.Run, data: Dataset | None) -> dict[str, Any]:
    """``--check``: what the data forbid is refused where they are there; the estimate of the run's memory."""
    judge.check_mesh(run.compute.mesh)
    if data is not None:
        check(run, data)
    return estimate.check(run, data)


def start(run: config.Run, launch: config.Launch) -> int:
    """Carry out a run; returns the exit code."""
    if launch.check:
        found = look(run, readable(run))
        print(to_json(found), end="")
        print(estimate.sentence(found), file=sys.stderr)
        return 0 if found["fits"] else 2
    folder = Path(run.workdir) if run.workdir else rundir.default_folder(run.name)
    claimed, written, data, _ = admit(run, launch, folder)
    with rundir.stoppable(), locked(folder, wait=False):
        if launch.overwrite:
            rundir.empty(folder)
        clean_temporaries(folder)
        atomic_write(claimed.config, to_json(written))
        job = judge.prepare(run, claimed, data)
        for sentence in cautions(run, data):
            job.log.say(f"method: {sentence}")
        try:
            if set(launch.only) != {"report"}:
                pipeline(job, launch.only)
        finally:
            atomic_write(claimed.cost, to_json(job.cost.as_dict()))
        if not launch.only or "report" in launch.only:
            finish(job)
    return 0


def main(argv: Sequence[str]) -> int:
    """The whole way, from arguments to exit code 0; errors are the caller's to turn into codes."""
    return start(*config.load(argv))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
