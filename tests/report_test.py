"""A hand-written run folder becomes the report.json of the design and a page that needs nothing."""

import base64
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ddjax import report, tally
from ddjax.config import BASELINES
from ddjax.errors import DataError
from ddjax.files import append_line
from ddjax.log import text_table
from ddjax.synset import DistilledSet

ARCHS = ("convnet3", "mlp")
CONFIG = {
    "schema": 1,
    "seed": 0,
    "data": {"train": "digits", "test": None},
    "method": {"class": "teddy", "ipc": 2, "betas": [0.5, 0.9], "flip": False},
    "evaluate": {"protocol": "ddjax-1", "archs": list(ARCHS), "seeds": 3},
    "report": {"images_per_class": 4},
}
ROWS = {  # name, arch, label source: accuracies, budget
    ("full_data", "convnet3", "hard"): ([0.9], {"epochs": 3, "images": 1168, "seconds": 12.0}),
    ("random_hard", "convnet3", "hard"): ([0.2, 0.3, 0.4], None),
    ("teddy", "mlp", "pool"): ([0.4, 0.4, 0.4], None),
    ("teddy", "convnet3", "hard"): ([0.1, 0.2, 0.3], None),
    ("teddy", "convnet3", "pool"): ([0.5, 0.6, 0.7], None),
}


class Split:
    labels = np.array([2, 0, 1, 1, 0, 2, 2, 1], np.int32)

    def gather(self, index):
        return np.broadcast_to(index[:, None, None, None], (len(index), 8, 8, 1)).astype(np.uint8)


def _line(name, arch, source, seed, accuracy, budget):
    return {
        "schema": 1, "name": name, "arch": arch, "label_source": source, "protocol": "ddjax-1",
        "seed": seed, "accuracy": accuracy, "epoch": 5, "steps": 50, "lr": 0.003,
        "validation_accuracy": 0.5, "budget": budget, "wall_s": 1.0, "peak_memory_bytes": 1000,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    images = np.arange(6 * 64, dtype=np.uint16).reshape(6, 8, 8, 1) % 251
    meta = {
        "dataset": {"card": "digits", "licence": "BSD & co", "notes": ["a <b> note"]},
        "label_source": "pool",
    }
    names = ("zero", "<script>one</script>", "två")
    DistilledSet(
        images.astype(np.uint8), np.repeat(np.arange(3, dtype=np.int32), 2), names,
        (0.5,), (0.5,), meta,
    ).save(tmp_path / "synset")  # fmt: skip
    report.keep(tmp_path, Split(), ["@misc{a, title={A <i>}, url={https://a.example/x}}"])
    for folder, content in {
        "labels": {"schema": 1, "bytes": 1234, "label_source": "pool"},
        "teachers": {"schema": 1, "arch": "mlp", "accuracy": 0.9, "pool_accuracy": [0.5, 0.7]},
    }.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "manifest.json").write_text(json.dumps(content))
    spent = {"wall_s": {"label": 1.5, "distill": 60.0}, "peak_memory_bytes": 5, "compile_s": 2.0}
    (tmp_path / "cost.json").write_text(json.dumps({"schema": 1} | spent))
    for (name, arch, source), (accuracies, budget) in ROWS.items():
        for seed, accuracy in enumerate(accuracies):
            line = _line(name, arch, source, seed, accuracy, budget)
            append_line(tmp_path / "results.jsonl", line)
    for step in range(1000):
        values = {"loss": 1 / (step + 1), "none": None, "label": "x"}
        record = {"schema": 1, "wall": 0.0, "stage": "distill", "step": step, "values": values}
        append_line(tmp_path / "records.jsonl", record)
    return tmp_path


class Page(html.parser.HTMLParser):
    """Collects what a browser would load, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.images, self.tags, self.open, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img", "link", "path", "use", "rect"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.loads.append(value)
            if tag == "img" and name == "src":
                self.images.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def test_report_json_is_that_of_the_design(run):
    report.write(run)
    found = json.loads((run / "report.json").read_text())
    assert list(found) == sorted(found)
    std, scores = pytest.approx(0.1), found.pop("scores")
    assert (scores["hlr"], scores["ior"], scores["ars"]) == (pytest.approx(0.7), pytest.approx(0.3), None)
    assert scores["lrs"] == pytest.approx((np.exp(-0.2) - np.exp(-1)) / (np.e - np.exp(-1)))  # 0.3 / 2 - 0.7 / 2
    assert scores["random"] == {"name": "random_hard", "label_source": "hard"}
    assert found == {
        "schema": 1,
        "dataset": "digits",
        "method": "teddy",
        "ipc": 2,
        "protocol": "ddjax-1",
        "results": [
            {"arch": "convnet3", "label_source": "pool", "accuracy_mean": pytest.approx(0.6),
             "accuracy_std": std, "seeds": 3},
            {"arch": "convnet3", "label_source": "hard", "accuracy_mean": pytest.approx(0.2),
             "accuracy_std": std, "seeds": 3},
            {"arch": "mlp", "label_source": "pool", "accuracy_mean": pytest.approx(0.4),
             "accuracy_std": pytest.approx(0.0), "seeds": 3},
        ],
        "baselines": [
            {"name": "random_hard", "arch": "convnet3", "label_source": "hard", "budget": None,
             "accuracy_mean": pytest.approx(0.3), "accuracy_std": std, "seeds": 3},
            {"name": "full_data", "arch": "convnet3", "label_source": "hard",
             "budget": {"epochs": 3, "images": 1168, "seconds": 12.0},
             "accuracy_mean": 0.9, "accuracy_std": None, "seeds": 1},
        ],
        "cost": {
            "wall_s": {"label": 1.5, "distill": 60.0}, "peak_memory_bytes": 5, "compile_s": 2.0,
        },
        "bytes": {"images": 384, "labels": 1234, "projector": 0, "backbone_if_shipped": 0},
    }  # fmt: skip


def test_scores_and_paired_differences_come_from_the_lines(run):
    for seed in range(3):
        append_line(run / "results.jsonl", _line("random_soft", "convnet3", "pool", seed, 0.55 + 0.1 * seed, None))
    text = Page(report.write(run).read_text(encoding="utf-8")).text
    found = json.loads((run / "report.json").read_text())["scores"]
    # full data 0.9, hard labels 0.2, the set 0.6, random images with its labels 0.65: LRS of -0.05 / 2 - 0.7 / 2
    assert found["lrs"] == pytest.approx((np.exp(-0.375) - np.exp(-1)) / (np.exp(1) - np.exp(-1)))
    assert found["ars"] is None
    assert "LRS" in text and "ARS is" in text and "−5.0 points" in text and "+70.0 points" in text
    assert "+30.0[+30.0, +30.0]" in text and "is at least 0.25" in text
    gaps = report.gaps(tally.read(run))
    assert [(gap["title"], gap["points"]) for gap in gaps] == [
        ("Teddy", "+40.0"), ("Random real images", "+30.0"), ("Random real images", "−5.0"),
    ]  # fmt: skip


def test_further_evaluations_are_shown_as_they_were_written(run):
    table = {
        "columns": ["attack", "auc", "rows"],
        "rows": [["loss <b>", 0.51234, None], ["lira", 0.5, 1200]],
        "note": "AUC.",
    }
    (run / "further.json").write_text(json.dumps({"schema": 1, "membership_inference": table}))
    page = report.write(run).read_text(encoding="utf-8")
    shown = Page(page)
    assert shown.open == []
    for text in ("Membership inference", "AUC.", "loss <b>", "0.5123", "1,200", "–"):
        assert text in shown.text
    assert '<th>attack</th><th class="number">auc</th><th class="number">rows</th>' in page


def test_further_evaluations_are_read_in_percent_and_points(run):
    table = {
        "columns": ["network", "the set", "difference", "95 % interval", "AUC"],
        "rows": [["mlp", 0.51234, -0.0091, [-0.02, 0.001], 0.51234], ["vit", 1, None, None, 0.5]],
        "note": "", "units": {"the set": "%", "difference": "points", "95 % interval": "points"},
    }  # fmt: skip
    (run / "further.json").write_text(json.dumps({"schema": 1, "optimisers": table}))
    (part,) = report.further(tally.read(run))
    assert [column["name"] for column in part["columns"]] == [
        "network", "the set, %", "difference, points", "95 % interval, points", "AUC"
    ]  # fmt: skip
    assert part["rows"] == [["mlp", "51.2", "−0.9", "[−2.0, +0.1]", "0.5123"], ["vit", "100.0", "–", "–", "0.5"]]
    for broken in ({"units": []}, {"units": {"the set": 3}}, {"columns": [["network"], *table["columns"][1:]]}):
        (run / "further.json").write_text(json.dumps({"schema": 1, "optimisers": table | broken}))
        with pytest.raises(DataError, match="optimisers is no table"):
            report.write(run)


def test_every_architecture_is_a_column_of_one_table(run):
    for arch in ("vit", "lenet"):
        append_line(run / "results.jsonl", _line("random_hard", arch, "hard", 0, 0.125, None))
    append_line(run / "results.jsonl", _line("teddy", "resnet18", "pool", 0, 0.9, None) | {"protocol": "P-DC"})
    found = report.across(report.shown_rows(tally.read(run)), "ddjax-1")
    assert found is not None and found["archs"] == ["convnet3", "mlp", "vit", "lenet"]  # none of P-DC
    cells = {(line["name"], line["label_source"]): list(line["cells"].values()) for line in found["lines"]}
    assert cells["teddy", "pool"] == ["60.0 ± 10.0", "40.0 ± 0.0", "–", "–"]
    assert cells["random_hard", "hard"] == ["30.0 ± 10.0", "–", "12.5 ± –", "12.5 ± –"]
    text = Page(report.write(run).read_text(encoding="utf-8")).text
    assert "4 architectures under ddjax-1" in text
    assert report.across(report.shown_rows(tally.read(run))[:1], "ddjax-1") is None


def test_scores_are_said_at_the_end_of_a_run(run):
    assert [line.partition(":")[0] for line in report.said(run)] == [
        "LRS", "lost to all training images, hard labels", "gained over random images, hard labels"
    ]  # fmt: skip
    assert report.said(run)[0] == "LRS: 0.192 [0.175, 0.210]" and report.said(run)[1].endswith("+70.0 points")
    (run / "results.jsonl").write_text("")
    assert report.said(run) == []


def test_a_policy_forbids_scripts_and_requests(run):
    page = report.write(run).read_text(encoding="utf-8")
    policy = page.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert "default-src &#39;none&#39;" in policy and "script-src" not in policy and "http" not in policy


BROKEN = {
    "config.json": (
        '{"schema": 1, "data": {}, "method": {"class": "teddy", "ipc": 1}, "evaluate": {}}',
        "lacks data.train",
    ),
    "results.jsonl": ('{"schema": 1, "name": "teddy"}\n', "line 1, lacks arch, label_source, protocol, seed, accuracy"),
    "records.jsonl": ('{"schema": 1, "stage": "s", "step": 1}\n', "line 1, lacks values"),
    "cost.json": ('{"schema": 7}', "has schema 7; this ddjax reads up to schema 1. Upgrade ddjax"),
    "labels/manifest.json": ("[]", "is no object with a schema"),
    "further.json": ('{"schema": 1, "nas": {"columns": ["a"], "rows": [[1, 2]]}}', "nas is no table"),
    "samples.safetensors": ("x", "is no safetensors file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_by_name(name, run):
    (run / name).write_text(BROKEN[name][0])
    with pytest.raises(DataError) as told:
        report.write(run)
    assert name in str(told.value) and BROKEN[name][1] in str(told.value)
    assert not (run / "report.json").exists()


HARMED = [
    ("config.json", ("seed",), "0"), ("config.json", ("report",), []), ("config.json", ("data", "subset"), "all"),
    ("config.json", ("method", "ipc"), True), ("config.json", ("evaluate", "archs"), "mlp"),
    ("config.json", ("data", "train"), 3), ("cost.json", ("wall_s",), {"a": "b"}), ("cost.json", ("compile_s",), None),
    ("labels/manifest.json", ("bytes",), "9"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place", "value"), HARMED)
def test_a_value_of_another_kind_is_refused_by_name(name, place, value, run):
    found = inner = json.loads((run / name).read_text())
    for word in place[:-1]:
        inner = inner[word]
    inner[place[-1]] = value
    (run / name).write_text(json.dumps(found))
    with pytest.raises(DataError, match=rf"{name}'.*another kind of value"):
        report.write(run)


@pytest.mark.parametrize("accuracy", ["1.5", "-0.1", "NaN", "true", '"0.5"', "56.5"])
def test_an_accuracy_that_is_no_fraction_is_refused(accuracy, run):
    line = json.dumps(_line("teddy", "mlp", "pool", 7, 0.25, None)).replace(
        '"accuracy": 0.25', f'"accuracy": {accuracy}'
    )
    with open(run / "results.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"results.jsonl', line 14,.*accuracy"):
        report.write(run)


def test_intervals_are_those_of_student(run):
    found = {(row["name"], row["arch"], row["label_source"]): row for row in tally.rows(tally.read(run))}
    low, high = found["teddy", "convnet3", "pool"]["interval"]
    assert (low, high) == pytest.approx((0.6 - 4.302653 * 0.1 / 3**0.5, 0.6 + 4.302653 * 0.1 / 3**0.5))
    assert found["full_data", "convnet3", "hard"]["interval"] is None


def test_every_baseline_has_a_title():
    assert set(BASELINES) <= set(tally.BASELINES)


def test_a_seed_counts_once_and_other_protocols_stay_out_of_the_json(run):
    append_line(run / "results.jsonl", _line("teddy", "convnet3", "pool", 2, 0.4, None))
    other = _line("teddy", "convnet3", "pool", 0, 0.99, None) | {"protocol": "P-DC"}
    append_line(run / "results.jsonl", other)
    report.write(run)
    found = json.loads((run / "report.json").read_text())
    assert found["results"][0]["accuracy_mean"] == pytest.approx(0.5)
    assert found["results"][0]["seeds"] == 3
    assert [row["protocol"] for row in report.table(run)] == ["ddjax-1"] * 5 + ["P-DC"]
    assert "protocol P-DC" in (run / "report.html").read_text()


def test_the_table_of_a_run(run):
    assert text_table(report.table(run)).splitlines() == [
        "set          labels  network    accuracy %  seeds",
        "-----------  ------  --------  -----------  -----",
        "teddy        pool    convnet3  60.0 ± 10.0      3",
        "teddy        hard    convnet3  20.0 ± 10.0      3",
        "random_hard  hard    convnet3  30.0 ± 10.0      3",
        "full_data    hard    convnet3     90.0 ± –      1",
        "teddy        pool    mlp        40.0 ± 0.0      3",
    ]


def test_the_page_is_self_contained_and_escaped(run):
    path = report.write(run)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.loads
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in page.loads)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in text
    assert "url(http" not in text
    assert page.tags.count("svg") == 1
    for shown in (
        "Teddy on digits", "60.0 ± 10.0", "90.0 ± –", "<script>one</script>", "två", "A <b> note",
        "BSD & co", "A <i>", "3 epochs, 1,168 images, 12 s", "1.23 kB", "method.betas", "0.5 0.9",
        "1 min 00 s",
    ):  # fmt: skip
        assert shown in page.text
    assert page.text.index("distill") < page.text.index("label1.5")
    assert 'name="viewport"' in text


def test_images_show_the_set_beside_real_ones_of_the_class(run):
    kept = load_file(run / "samples.safetensors")
    assert kept["labels"].tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert kept["images"][:, 0, 0, 0].tolist() == [1, 4, 2, 3, 7, 0, 5, 6]
    images = Page(report.write(run).read_text(encoding="utf-8")).images
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))) for uri in images]
    made = DistilledSet.load(run).images
    np.testing.assert_array_equal(shown[0], made[0, ..., 0])
    np.testing.assert_array_equal(shown[1], made[1, ..., 0])
    assert [int(image[0, 0]) for image in shown[2:4]] == [1, 4]
    assert len(shown) == 6 + 8


def test_large_and_float_images_are_shown_small(tmp_path):
    rng = np.random.Generator(np.random.Philox(0))
    images = rng.normal(size=(2, 100, 50, 3)).astype(np.float32)
    labels = np.arange(2, dtype=np.int32)
    made = DistilledSet(images, labels, ("a", "b"), (0.5,) * 3, (0.2,) * 3)
    files = tally.Files(CONFIG, made, None, [], [], [], None, None, {}, "")
    for item in report.gallery(files, 4):
        (uri,) = item["synthetic"]
        small = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert small.size == (36, 72)
        assert item["real"] == []


def test_equal_files_give_equal_bytes(run):
    first = report.write(run).read_bytes()
    assert report.write(run).read_bytes() == first
    assert str(run).encode() not in first


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    with pytest.raises(DataError, match=r"config.json' does not exist"):
        report.write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    page = Page(report.write(tmp_path).read_text())
    assert "Teddy on digits" in page.text
    assert page.images == []
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["results"] == found["baselines"] == []
    assert found["bytes"] == {
        "images": None, "labels": None, "projector": 0, "backbone_if_shipped": 0,
    }  # fmt: skip
    assert report.table(tmp_path) == []


def test_curves_are_thinned_and_take_the_last_line_of_a_step():
    def record(step, value):
        return {"stage": "s", "step": step, "values": {"loss": value}}

    records = [record(step, 1.0) for step in range(5000)]
    (panel,) = report.curves([*records, record(10, 2.0), {**record(0, 1.0), "stage": "one"}])
    assert (panel["stage"], panel["name"]) == ("s", "loss")
    assert 300 < panel["svg"].count("\nL ") < 800
    assert len(panel["svg"]) < 20_000


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "–"), (0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 kB"), (5e9, "5 GB")],
)
def test_size(count, text):
    assert tally.size(count) == text


def test_a_protocol_shows_its_fields_and_its_clauses():
    def facts(name, *words):
        return dict(report.protocol_facts({"evaluate": {"protocol": name, "modify": list(words)}}))

    found = facts("P-RDED")
    assert found["where card cifar100, network convnet3 …"] == "max_batch 25, rates 0.002"
    assert found["where 100 or 1000 classes, ipc <= 10"] == "max_batch 100" and found["tau"] == "20.0"
    assert "cases" not in found and facts("P-NEW") == facts("P-RDED", "colour=red") == facts(None) == {}
    changed = facts("P-RDED", "max_batch=7")
    assert (changed["id"], changed["max_batch"]) == ("P-RDED+modified", "7")
    assert changed["where network vgg11 …"] == "rates 0.0005" and "where ipc <= 10" in found.keys() - changed.keys()


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (None, ""),
        ({"lr": 0.05, "seconds": 34.0, "epochs": 20, "steps": 1180}, "20 epochs, 1,180 steps, 34 s, lr 0.05"),
        ({"features": "full_data"}, "on full-data features"),
        (
            {"bytes_allowed": 1500, "bytes": 1360, "ipc": 2, "cut_by": None},
            "2 images per class, 1.36 kB, 1.5 kB allowed",
        ),
        (
            {"teacher": "full_data", "stopped_epoch": 3, "epochs": 20, "teacher_accuracy": 0.5, "tried_epochs": [1, 3]},
            "stopped after epoch 3 of 20, labels of the network on all images, its accuracy 50.0 %",
        ),
    ],
)
def test_a_budget_in_words(budget, words):
    assert tally.budget_note(budget) == words


def test_the_configuration_shows_numbers_as_numbers():
    assert report.flat({"a": 1, "b": 0.0, "c": True, "d": None, "e": [0, 1]}) == [
        ("a", "1"), ("b", "0.0"), ("c", "yes"), ("d", "–"), ("e", "0 1"),
    ]  # fmt: skip
