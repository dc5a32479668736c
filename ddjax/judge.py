"""Judging a set beside its baselines: the last stage of a run, and ``ddjax evaluate SET`` for a set that is there.

Rows (the set with its own labels, then each baseline) x architectures x seeds under one protocol; all rows of an
architecture share its compiled programs.
"""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddjax import baselines, config, estimate, evaluate, fitting, lineup, models, modify, relabel, report, whitened
from ddjax.cost import Cost
from ddjax.data import Dataset, open_data
from ddjax.errors import ConfigError, DataError, out_of_range
from ddjax.files import atomic_write, content_hash, locked, read_json, read_lines, to_json
from ddjax.kernels.pool import default_how
from ddjax.log import Log
from ddjax.mesh import Spread
from ddjax.protocols import Protocol, Setting
from ddjax.rundir import RunDir, check_writable, is_empty, stoppable
from ddjax.setcheck import STORED
from ddjax.synset import MANIFEST, DistilledSet
from ddjax.types import Net

BY_CLASS = ("coverage", "continual")  # further evaluations that look at the images of each class alone


class Job(NamedTuple):
    """What every stage of a run shares; ``run`` is a config.Run, or a config.Judge."""

    run: Any
    folder: RunDir
    data: Dataset
    log: Log
    cost: Cost
    over: Spread
    cache: Path

    def net(self, arch: str) -> Net:
        """A network for this run's images."""
        return build_net(self.run, self.data, arch)


def build_net(run: Any, data: Dataset, arch: str, classes: int | None = None, argument: str = "") -> Net:
    """The network called ``arch`` for the images and classes of ``data``; ConfigError where it does not suit them."""
    return models.build(
        arch, image_shape=data.train.shape, classes=classes or len(data.class_names), conv=run.compute.conv,
        dtype=run.compute.precision, argument=argument,
    )  # fmt: skip


def prepare(run: Any, folder: RunDir, data: Dataset) -> Job:
    """Start the backend: compilation cache on, how to map networks decided, log and cost opened."""
    cache = run.compute.cache_folder()
    use_compilation_cache(cache)
    how = default_how(jax.default_backend()) if run.compute.pool_how == "auto" else run.compute.pool_how
    check_mesh(run.compute.mesh)
    devices, along = run.compute.mesh or (jax.device_count(), jax.device_count())
    split = run.compute.split_batch
    if split is None:
        split = along > 1 and one_network(run, data) > estimate.device_bytes()
    over = Spread(how, devices, split, along)
    log = Log(folder.folder, tensorboard=isinstance(run, config.Run) and run.report.tensorboard)
    cost = Cost(read_json(folder.cost) if folder.cost.exists() else None)
    shape = "x".join(map(str, data.train.shape))
    log.say(
        f"{folder.folder}: {len(data.train)} train, {len(data.val)} validation, {len(data.test)} test images {shape}, "
        f"{len(data.class_names)} classes; {jax.devices()[0].device_kind} x {jax.device_count()}, networks by {how}."
    )
    for note in data.notes:
        log.say(f"data: {note}.")
    here = {
        "device": jax.devices()[0].device_kind, "devices": jax.device_count(), "cores": os.cpu_count(),
        "jax": jax.__version__, "how": how, "conv": run.compute.conv,
    }  # fmt: skip
    before = read_json(folder.machine) if folder.machine.exists() else here
    if before != here:
        log.say(f"resumed on another machine shape ({before} before, {here} now): equal to tolerance, not to the bit.")
    atomic_write(folder.machine, to_json(here))
    return Job(run, folder, data, log, cost, over, cache)


def check_mesh(mesh: tuple[int, int] | None) -> None:
    """ConfigError for a mesh of more devices than there are."""
    if mesh is not None and mesh[0] * mesh[1] > (count := jax.device_count()):
        allowed = f"two counts whose product is at most {count}, the devices here ({jax.devices()[0].platform})"
        raise ConfigError(out_of_range("compute.mesh", mesh, allowed, f"{count} 1"))


def one_network(run: Any, data: Dataset) -> int:
    """Bytes of the largest network of this run, trained alone on its largest batch."""
    archs, batches = set(run.evaluate.archs), [baselines.BATCH, run.evaluate.rule().max_batch]
    if isinstance(run, config.Run):
        archs.add(run.teacher.arch)
        batches.append(run.teacher.batch or 0)
    return max(estimate.alone(build_net(run, data, arch), max(batches)) for arch in archs)


def use_compilation_cache(cache: Path) -> None:
    """Keep compiled programs under ``cache/xla/<jax, cpu>``, small and quick ones too."""
    made_on = content_hash([platform.machine(), os.cpu_count(), cpu_model()])[:12]
    jax.config.update("jax_compilation_cache_dir", str(cache / "xla" / f"{jax.__version__}-{made_on}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if jax.default_backend() == "cpu":  # XLA's own caches are for GPUs, and their path would enter every key
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def cpu_model() -> str:
    """The processor's name and features: programs compiled for one may not run on another."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def smallest_class(data: Dataset) -> tuple[int, str]:
    """How many training images the smallest class has, and whose they are in words."""
    counts = np.bincount(data.train.labels, minlength=len(data.class_names))
    smallest = int(counts.argmin())
    return int(counts[smallest]), f"the training images of the smallest class {data.class_names[smallest]!r}"


def setting(data: Dataset, images: int, made: DistilledSet | None, arch: str, classes: int | None = None) -> Setting:
    """What the protocol is told of ``images`` images beside the set ``made``, for students called ``arch``."""
    told = {}
    if made is not None:
        told = {"made": made.meta.get("augment"), "learned_lr": made.learned_lr, "scale": (made.mean, made.std)}
    return Setting(images, classes or len(data.class_names), data.card, arch, side=data.train.shape[0], **told)


def own_plan(asked: config.Judge, data: Dataset, made: DistilledSet) -> relabel.Plan:
    """The views of the set itself, as its first architecture's students see them."""
    seen = made.decoded()
    return view_plan(asked, data, len(seen), seen)


def view_plan(
    run: Any, data: Dataset, images: int, made: DistilledSet | None = None, arch: str | None = None,
    rule: Protocol | None = None, classes: int | None = None,
) -> relabel.Plan:  # fmt: skip
    """The views that students of a set of this size will see; those of the first architecture unless told."""
    told = setting(data, images, made, arch or run.evaluate.archs[0], classes)
    found = (rule or run.evaluate.rule()).at(told)
    return relabel.plan(
        run.seed, images, found.batch, found.steps, found.augment, run.label.epochs, ragged=found.ragged
    )


def judge(
    job: Job, made: DistilledSet, own: evaluate.Row, *, soft: relabel.Pool | None, base: relabel.Pool | None
) -> None:
    """RUN/results.jsonl: the set and the baselines, every architecture, all seeds; then the further evaluations."""
    run, every = job.run, job.run.compute.checkpoint_every
    numbers = list(range(run.seed, run.seed + run.evaluate.seeds))
    first = students(job, made, run.evaluate.archs[0], len(made))  # a row of real images has as many as are stored
    rows = lineup.rows(job, made, own, first, soft=soft, base=base)
    for arch in run.evaluate.archs:
        for size, some in lineup.of_size(rows).items():
            here = (arch, size) == (run.evaluate.archs[0], len(made))
            group, pairs = first if here else students(job, made, arch, size), lineup.twins(some)
            evaluate.announce(
                group, [row for row, twin in pairs if twin is None], seeds=run.evaluate.seeds, seed=run.seed,
                results=job.folder.results, every=every, log=job.log,
            )  # fmt: skip
            for row, twin in pairs:
                if twin is not None:
                    job.log.say(f"evaluate {row.name}, {arch}: the images of {twin.name}, so its numbers too.")
                    evaluate.repeat(group, row, twin, numbers, job.folder.results)
                    continue
                own_views = group if row.views is None else students(job, made, arch, size, plan=row.views)
                evaluate.evaluate_row(
                    own_views, with_classes(row, own, made), job.data, seeds=run.evaluate.seeds, seed=run.seed,
                    results=job.folder.results, scratch=job.folder.scratch("evaluate"), every=every, log=job.log,
                )  # fmt: skip
    if run.evaluate.further:
        from ddjax import further  # which stands on this module

        further.run(job, made.decoded(), rows, soft=soft)


def students(
    job: Job, made: DistilledSet, arch: str, size: int, *, classes: int | None = None, rule: Protocol | None = None,
    plan: Any = None,
) -> evaluate.Students:  # fmt: skip
    """The programs of one architecture for rows of ``size`` images under the run's protocol.

    For further evaluations: another number of ``classes``, another ``rule``; for recorded views: their ``plan``.
    """
    net = build_net(job.run, job.data, arch, classes)
    told, chosen = setting(job.data, size, made, arch, classes), rule or job.run.evaluate.rule()
    plan = plan or view_plan(job.run, job.data, size, made, arch, chosen, classes)
    return evaluate.students(net, chosen, plan, made.mean, made.std, over=job.over, setting=told)


def with_classes(row: evaluate.Row, own: evaluate.Row, made: DistilledSet) -> evaluate.Row:
    """The row with the classes of its images: the set's, or those of real images, as many of each class in order."""
    if row.labels is not None:
        return row
    classes = len(made.class_names)
    real = np.repeat(np.arange(classes, dtype=np.int32), len(row.images) // classes)
    return row._replace(labels=made.decoded().labels if row.images is own.images else real)


def check_classes(made: DistilledSet, data: Dataset, asked: config.Judge) -> None:
    """Baselines hold as many real images of each class as the set does: equal numbers, and no more than there are.

    Where the labels are learned, ``N / C`` of each class: the set's images then belong to no class alone.
    """
    check_mesh(asked.compute.mesh)
    for arch in asked.evaluate.archs:
        build_net(asked, data, arch, argument="evaluate.archs")
    if not (asked.evaluate.baseline_names() or asked.evaluate.further):
        return
    counts, learned = made.counts(), made.soft and asked.label.source != "hard"
    uneven = f"set = {asked.set!r} has {counts.min()} to {counts.max()} images per class"
    if counts.min() != counts.max() and not (learned and made.even):
        why = f", {len(made)} images with learned labels in all for {len(counts)} classes" if learned else ""
        raise DataError(
            f"{uneven}{why}; the baselines need equal numbers. Allowed: --evaluate.baselines none, and no "
            "--evaluate.further."
        )
    by_class = [name for name in asked.evaluate.further if name in BY_CLASS] if counts.min() != counts.max() else []
    if by_class:
        raise DataError(
            f"{uneven}, by the largest of its learned labels; {' and '.join(by_class)} of --evaluate.further "
            "take images class by class. Allowed: the others."
        )
    held, told = smallest_class(data)
    if made.ipc > held:
        raise DataError(
            f"set = {asked.set!r} has {made.ipc} images per class; the baselines need as many real ones, and {told} "
            f"are {held}. Allowed: more in --data.train, or --evaluate.baselines none, and no --evaluate.further."
        )


def check_rule(made: DistilledSet, data: Dataset, asked: config.Judge, home: Path | None) -> None:
    """What the protocol and ``label.source`` take must be there: a learned rate, learned labels, stored ones."""
    for arch in asked.evaluate.archs:
        asked.evaluate.rule().at(setting(data, len(made), made, arch))
    check_length(asked.evaluate, len(made))
    beside = Path(asked.set) / "labels" / "manifest.json"
    if asked.label.source == "auto" and home is None and made.meta.get(STORED) and not beside.is_file():
        raise ConfigError(
            f"set = {asked.set!r}: the soft labels that its manifest names are not in {str(beside.parent)!r}. "
            "Allowed: the folder that it was imported to, or --label.source hard or base."
        )
    unmade = home and made.meta.get("label_source") in ("pool", "base") and not (home / "labels").exists()
    if unmade and asked.label.source in ("auto", "pool"):
        raise ConfigError(
            f"set = {asked.set!r}: its run holds no labels. Allowed: --label.source hard or base, or first "
            f"python -m ddjax.launch --config {home}/config.json --workdir {home} --resume."
        )
    lacks = {"learned": "has learned no labels"} if made.label_logits is None else {}
    lacks |= {"pool": "brings no weak models"} if home is None else {}
    if asked.label.source in lacks:
        raise ConfigError(
            f"label.source = {asked.label.source!r}: the set {lacks[asked.label.source]}; allowed: auto, hard, base."
        )


def check_length(asked: config.Evaluate, images: int) -> None:
    """The epochs that ``evaluate.modify`` asks for must be what students of a set of this size get."""
    wrong = modify.clipped(asked.rule(), asked.modify, images)
    if wrong:
        raise ConfigError(wrong)


def place_of(given: Path) -> Path:
    """Where a lone set is judged: the folder where it was judged before, if it lies in one, else one beside it."""
    before = [folder for folder in (given, given.parent) if (folder / "config.json").is_file()]
    return before[0] if before else given.with_name(f"{given.resolve().name}-evaluated")


def check_place(out: RunDir, made: DistilledSet, home: Path | None) -> None:
    """The folder to write into must be the set's own run, hold the same set, or be empty."""
    if out.folder == home or is_empty(out.folder, but=("given",)):
        return
    there = DistilledSet.load(out.folder) if out.config.exists() and out.synset.exists() else None
    if there is None or identity(there) != identity(made):
        raise ConfigError(
            f"--workdir = {str(out.folder)!r} holds {'another set' if there else 'files that are no evaluation'}; "
            "allowed: a new folder, or one where this set was judged before."
        )


def identity(made: DistilledSet) -> dict[str, Any]:
    """All that a set's manifest says, its files' hashes among it, but which ddjax wrote it."""
    said = json.loads(made.packed()[MANIFEST])
    return {name: value for name, value in said.items() if name not in ("ddjax", "hash")}


def check_modified(out: RunDir, asked: config.Evaluate) -> None:
    """ConfigError where the folder holds rows of a modified protocol and its config.json would no longer tell it."""
    if not (out.config.exists() and out.results.exists()):
        return
    before = read_json(out.config).get("evaluate") or {}
    was = (before.get("protocol"), *(before.get("modify") or ()))
    modified = any(str(line.get("protocol", "")).endswith("+modified") for line in read_lines(out.results))
    if modified and was != (asked.protocol, *asked.modify):
        flags = f"--protocol {was[0]}" + (f" --modify {' '.join(was[1:])}" if was[1:] else "")
        raise ConfigError(
            f"--workdir = {str(out.folder)!r} holds rows of a modified protocol, and would then tell another one. "
            f"Allowed: the same ({flags}), or a new folder."
        )


def main(argv: Sequence[str]) -> int:
    """``ddjax evaluate SET``: students on a stored set, hard labels or those of the run it lies in."""
    asked, judging = config.load_judge(argv)
    if judging.check:
        from ddjax import outlook  # which stands on this module

        return outlook.tell(asked)
    start(asked)
    return 0


class Admitted(NamedTuple):
    """An evaluation that may start: the set, the data in its class order, the run it lies in, the folder to write."""

    made: DistilledSet
    data: Dataset
    home: Path | None
    out: RunDir


def admit(asked: config.Judge) -> Admitted:
    """Refuse all that can be refused before a device is touched or a file is written."""
    made, data = DistilledSet.load(asked.set), open_data(asked.data, asked.seed)
    data = fitting.fitted(made, data, asked.set)
    check_classes(made, data, asked)
    home = config.home_of(Path(asked.set))
    check_rule(made, data, asked, home)
    out = RunDir(Path(asked.workdir) if asked.workdir else home or place_of(Path(asked.set)))
    check_writable(out.folder, "--workdir")
    check_place(out, made, home)
    check_modified(out, asked.evaluate)
    fitting.check_same_data(made, data, out.config, home)
    return Admitted(made, data, home, out)


def start(asked: config.Judge) -> Path:
    """Judge a stored set; returns the folder of the report."""
    return run(asked, admit(asked))


def run(asked: config.Judge, admitted: Admitted) -> Path:
    """Judge what was admitted; returns the folder of the report."""
    made, data, home, out = admitted
    with stoppable(), locked(out.folder, wait=False):
        if home is None or out.folder != home:  # the latest evaluation is what report.json tells
            method = {"class": "set", **(made.meta.get("method") or {})}
            method |= {"ipc": made.ipc}
            told = {"method": method, "judged_on": fitting.judged_on(data, asked.data.train)}
            atomic_write(out.config, to_json(config.to_json(asked) | told))
            made.save(out.synset)
        job = prepare(asked, out, whitened.like(made, data))
        with job.cost.stage("evaluate"):
            own, soft = lineup.own_row(job, made, home, own_plan(asked, data, made))
            judge(job, made, own, soft=soft, base=soft)
        atomic_write(out.cost, to_json(job.cost.as_dict()))
        report.keep(out.folder, data.train, [data.card.citation])
        page = report.write(out.folder)
        job.log.table(report.table(out.folder))
        for sentence in report.said(out.folder):
            job.log.say(sentence)
        job.log.say(f"report: {page}")
    return out.folder
