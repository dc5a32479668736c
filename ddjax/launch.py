"""``python -m ddjax.launch --config configs/x.py``: composes the stages of a run; they never call each other.

    teachers -> distill -> label -> evaluate -> report

Every arrow is a file. A stage whose inputs' hash is unchanged is skipped, so resuming, ``--only`` and caching are one
mechanism. Everything that can be refused is refused before a device is touched.
"""

import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddjax import (
    baselines,
    config,
    distill,
    estimate,
    evaluate,
    models,
    relabel,
    report,
    rundir,
    survey,
    teachers,
)
from ddjax.__main__ import exit_code
from ddjax.checkpoint import Checkpoint
from ddjax.cost import Cost
from ddjax.data import Dataset, open_data
from ddjax.errors import ConfigError, Interrupted, out_of_range
from ddjax.files import atomic_write, content_hash, locked, read_json, to_json
from ddjax.kernels.pool import default_how
from ddjax.log import Log
from ddjax.mesh import Spread
from ddjax.methods import Context, name_of
from ddjax.protocols import protocol
from ddjax.rundir import RunDir
from ddjax.synset import DistilledSet
from ddjax.types import Net


class Job(NamedTuple):
    """What every stage of a run shares."""

    run: config.Run
    folder: RunDir
    data: Dataset
    log: Log
    cost: Cost
    over: Spread
    cache: Path

    def net(self, arch: str) -> Net:
        """A network for this run's images."""
        compute = self.run.compute
        return models.build(
            arch, image_shape=self.data.train.shape, classes=len(self.data.class_names), conv=compute.conv,
            dtype=compute.precision,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------ stages


def teacher_stage(job: Job) -> teachers.Store:
    """The base model and its pool, from the shared cache or made now; RUN/teachers names them."""
    run = job.run
    with job.cost.stage("teachers"):
        store = teachers.build(
            run.teacher, job.data, job.net(run.teacher.arch), seed=run.seed, over=job.over,
            every=run.compute.checkpoint_every, cache=job.cache, log=job.log,
        )  # fmt: skip
    manifest = read_json(store.folder / "manifest.json")
    atomic_write(job.folder.teachers / "pool.json", to_json(manifest))
    return store


def distill_stage(job: Job, store: teachers.Store, tag: str) -> None:
    """RUN/synset: the method's images, 8 bits a channel."""
    run, data = job.run, job.data
    method, card = run.method, data.card
    low = tuple(float((0.0 - m) / s) for m, s in zip(card.mean, card.std, strict=True))
    high = tuple(float((1.0 - m) / s) for m, s in zip(card.mean, card.std, strict=True))
    context = Context(
        net=store.net, ipc=method.ipc, classes=len(data.class_names), image_shape=data.train.shape, low=low, high=high,
        augment=card.augment, pool_mean=job.over.mean,
    )  # fmt: skip
    distiller, needs = method.build(context), method.needs
    with job.cost.stage("distill"), Checkpoint(job.folder.scratch("distill")) as checkpoint:
        fed = teachers.equip(store, needs, data, over=job.over) if needs.teachers else None
        images = distill.distill(
            distiller, needs, fed, data, ipc=method.ipc, seed=run.seed, log=job.log, checkpoint=checkpoint,
            config_hash=tag, every=run.compute.checkpoint_every,
        )  # fmt: skip
    made = DistilledSet(
        images=distill.to_pixels(images, card.mean, card.std),
        labels=np.repeat(np.arange(len(data.class_names), dtype=np.int32), method.ipc),
        class_names=data.class_names,
        mean=card.mean,
        std=card.std,
        meta=set_meta(job, store),
    )
    made.save(job.folder.synset)


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
        "protocol": run.evaluate.protocol,
        "seeds": [run.seed],
    }  # fmt: skip


def source_name(run: config.Run) -> str:
    """hard | pool | base: what ``label.source`` comes to."""
    return run.method.label_source if run.label.source == "auto" else run.label.source


def source(job: Job, store: teachers.Store, name: str, labels: np.ndarray) -> relabel.Hard | relabel.Pool:
    """The label source of that name."""
    if name == "hard":
        return relabel.Hard(labels, len(job.data.class_names))
    return relabel.Pool(store.net, store.of(name), job.over, name)


def view_plan(job: Job, images: int) -> relabel.Plan:
    """The views that students of a set of this size will see."""
    run, rule = job.run, protocol(job.run.evaluate.protocol)
    return relabel.plan(
        run.seed, images, rule.batch(images), rule.steps(images), job.data.card.augment, run.label.epochs
    )


def label_stage(job: Job, store: teachers.Store, made: DistilledSet) -> None:
    """RUN/labels: a target for every view."""
    plan = view_plan(job, len(made.labels))
    name = source_name(job.run)
    origin = source(job, store, name, made.labels)
    with job.cost.stage("label"):
        table = None
        if origin.soft:
            images = survey.normalise(np.asarray(made.images), made.mean, made.std)
            table = relabel.targets(plan, origin, images)
        relabel.save(job.folder.labels, name, plan, table, len(made.labels))


def evaluate_stage(job: Job, store: teachers.Store, made: DistilledSet) -> None:
    """RUN/results.jsonl: the set and the baselines, every architecture, all seeds."""
    run, data = job.run, job.data
    rule, over, wanted = protocol(run.evaluate.protocol), job.over, run.evaluate.baseline_names()
    every, name = run.compute.checkpoint_every, source_name(run)
    images = made.images
    origin = source(job, store, name, made.labels)
    soft = origin if origin.soft else source(job, store, "pool", made.labels)
    plan = view_plan(job, len(made.labels))
    table = relabel.load(job.folder.labels)
    own = evaluate.Row(name_of(run.method), name, np.asarray(images), origin, table)
    with job.cost.stage("evaluate"):
        for number, arch in enumerate(run.evaluate.archs):
            net, trained = job.net(arch), None
            if "full_data" in wanted:
                trained = baselines.full_data(
                    net, data, seed=run.seed, over=over, every=every, cache=job.cache, log=job.log
                ) if number == 0 else None  # fmt: skip
            if trained:
                line = baselines.full_data_line(trained, net.name, rule.id, run.seed)
                cell = {k: line[k] for k in ("name", "arch", "label_source", "protocol")}
                evaluate.write_cell(job.folder.results, cell, [line])
            rows = [own, *baselines.rows(
                wanted, own, soft, source(job, store, "base", made.labels), trained, net, data,
                ipc=run.method.ipc, seed=run.seed,
            )]  # fmt: skip
            group = evaluate.students(net, rule, plan, made.mean, made.std, over=over)
            evaluate.announce(group, rows, run.evaluate.seeds, job.folder.results, job.log)
            for row in rows:
                evaluate.evaluate_row(
                    group, row, data, seeds=run.evaluate.seeds, seed=run.seed, results=job.folder.results,
                    scratch=job.folder.scratch("evaluate"), every=every, log=job.log,
                )  # fmt: skip


# ---------------------------------------------------------------------------------------- the whole


def pipeline(job: Job, only: tuple[str, ...]) -> None:
    """All stages in order; those that are done with the same inputs are skipped."""
    run, folder = job.run, job.folder
    written = config.to_json(run)
    base = {"data": job.data.hash, "teacher": written["teacher"], "seed": run.seed, "compute": list(job.over)}
    tags = {"distill": content_hash(base | {"method": written["method"]})}
    tags["label"] = content_hash([tags["distill"], written["label"], run.evaluate.protocol])
    tags["evaluate"] = content_hash([tags["label"], written["evaluate"]])
    store = teacher_stage(job)
    for stage, act in (
        ("distill", lambda: distill_stage(job, store, tags["distill"])),
        ("label", lambda: label_stage(job, store, DistilledSet.load(folder.synset))),
        ("evaluate", lambda: evaluate_stage(job, store, DistilledSet.load(folder.synset))),
    ):
        if only and stage not in only:
            continue
        if folder.done(stage, tags[stage]):
            job.log.say(f"{stage}: done before, inputs unchanged; skipped.")
            continue
        act()
        folder.stamp(stage, tags[stage])
        atomic_write(folder.cost, to_json(job.cost.as_dict()))


def check_ipc(ipc: int, data: Dataset) -> None:
    """The baselines need the images: ipc may not exceed the smallest training class."""
    counts = np.bincount(data.train.labels, minlength=len(data.class_names))
    smallest = int(counts.argmin())
    if ipc > counts[smallest]:
        allowed = f"<= {counts[smallest]}, the training images of the smallest class {data.class_names[smallest]!r}"
        raise ConfigError(out_of_range("method.ipc", ipc, allowed, int(counts[smallest])))


def stop(number: int, frame: Any) -> None:
    """A signal ends the run in good order: exit code 3, to be resumed."""
    raise Interrupted(f"signal {signal.Signals(number).name}")


def prepare(run: config.Run, folder: RunDir, data: Dataset) -> Job:
    """Start the backend: compilation cache on, how to map networks decided, log and cost opened."""
    cache = run.compute.cache_folder()
    use_compilation_cache(cache)
    how = default_how(jax.default_backend()) if run.compute.pool_how == "auto" else run.compute.pool_how
    over = Spread(how, run.compute.mesh[0] if run.compute.mesh else jax.device_count())
    log = Log(folder.folder)
    cost = Cost(read_json(folder.cost) if folder.cost.exists() else None)
    shape = "x".join(map(str, data.train.shape))
    log.say(
        f"{run.name}: {len(data.train)} train, {len(data.val)} validation, {len(data.test)} test images {shape}, "
        f"{len(data.class_names)} classes; {jax.devices()[0].device_kind} x {jax.device_count()}, networks by {how}."
    )
    for note in data.notes:
        log.say(f"data: {note}.")
    return Job(run, folder, data, log, cost, over, cache)


def use_compilation_cache(cache: Path) -> None:
    """Keep compiled programs under ``cache/xla/<jax, cpu>``, small and quick ones too."""
    made_on = content_hash([platform.machine(), platform.processor(), os.cpu_count(), cpu_model()])[:12]
    jax.config.update("jax_compilation_cache_dir", str(cache / "xla" / f"{jax.__version__}-{made_on}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cpu_model() -> str:
    """The processor's name and features: programs compiled for one may not run on another."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def finish(job: Job) -> None:
    """report.json, report.html, the table on the screen and where the page lies."""
    atomic_write(job.folder.cost, to_json(job.cost.as_dict()))
    page = report.write(job.folder.folder)
    job.log.table(report.table(job.folder.folder))
    job.log.say(f"report: {page}")


def start(run: config.Run, launch: config.Launch) -> int:
    """Carry out a run; returns the exit code."""
    if launch.check:
        found = estimate.check(run)
        print(to_json(found), end="")
        return 0 if found["fits"] else 2
    folder = Path(run.workdir) if run.workdir else rundir.default_folder(run.name)
    written = config.to_json(run)
    claimed = rundir.claim(folder, written, resume=launch.resume, overwrite=launch.overwrite, only=launch.only)
    data = open_data(run.data, run.seed)
    check_ipc(run.method.ipc, data)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with locked(folder, wait=False):
        if launch.overwrite:
            rundir.empty(folder)
        atomic_write(claimed.config, to_json(written))
        job = prepare(run, claimed, data)
        try:
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
