"""``ddjax evaluate SET --check``: what would run and whether it fits; writes nothing and touches no device.

All that an evaluation refuses before it starts is refused here too: set and data are read and compared. Then rows,
updates and memory are told by shapes alone (``ddjax.estimate``); rows that turn out alike are trained once.
"""

import math
import sys
from typing import Any

from ddjax import baselines, config, estimate, judge, lineup
from ddjax.files import to_json


def tell(asked: config.Judge) -> int:
    """Print the outlook, JSON and one sentence; exit code 0, or 2 where the device's memory does not hold it."""
    found = outlook(asked)
    print(to_json(found), end="")
    rows, updates = len(found["rows"]), sum(one["updates"] * one["students"] for one in found["archs"].values())
    print(
        f"{estimate.sentence(found)} Would run: {found['protocol']}, {rows} rows x {len(found['archs'])} networks, "
        f"{updates:,} updates of students at most, into {found['workdir']}."
        + (f" On top: {', '.join(found['further'])}, whose students are not counted." if found["further"] else ""),
        file=sys.stderr,
    )
    return 0 if found["fits"] else 2


def outlook(asked: config.Judge) -> dict[str, Any]:
    """What ``asked`` would run: rows, batch, updates and students of each network, bytes of each stage."""
    made, data, home, out = judge.admit(asked)
    own = lineup.labelled_row(asked, made, home, judge.own_plan(asked, data, made))
    wanted, how, size = asked.evaluate.baseline_names(), estimate.mapped(asked), len(own.images)
    rows = [f"{own.name} ({own.label_source})"]
    rows += [f"{own.name} (hard)"] if wanted and own.label_source != "hard" else []
    rows += [name for name in wanted if name != "full_data"]
    archs, most = {}, 0
    for arch in asked.evaluate.archs:
        rule = asked.evaluate.rule().at(judge.setting(data, size, made, arch))
        tried = len(rule.rates) if rule.chosen_on else 0
        students = len(rows) * (asked.evaluate.seeds + tried)
        archs[arch] = {"batch": rule.batch, "updates": rule.steps, "students": students}
        net = judge.build_net(asked, data, arch)
        most = max(most, estimate.students(asked, net, tried, rule.batch, how))
    stages = {"evaluate": most + size * math.prod(data.train.shape)}
    need = {*baselines.NEED_TRAINED, "random_soft", "base_labels", "coverage", "privacy"}
    if own.source is None or need & {*wanted, *asked.evaluate.further}:
        net = judge.build_net(asked, data, asked.evaluate.archs[0])
        stages["full_data"] = estimate.training(net, 1, min(baselines.BATCH, len(data.train)), how)
        rows += ["full_data"] if "full_data" in wanted else []
    return {
        "schema": 1, "set": asked.set, "workdir": str(out.folder), "protocol": asked.evaluate.rule().id, "rows": rows,
        "archs": archs, "further": list(asked.evaluate.further), "image_shape": data.train.shape,
        "classes": len(data.class_names), "images": size,
    } | estimate.verdict(stages)  # fmt: skip
