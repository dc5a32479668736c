"""Runs written by hand, side by side: what shares a table or a line, where a number leads, what is refused."""

import dataclasses
import html
import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest

from ddjax import __main__ as cli
from ddjax import baselines, board, evaluate, leaderboard, literature, report, runfiles, storage, zca
from ddjax.exchange import softlabels
from ddjax.files import append_line
from ddjax.synset import DistilledSet

ARCH = "convnet3"


def make_run(folder, method="teddy", ipc=1, rows=(), *, protocol="ddjax-1", data=None, seed=0, meta=None, bib=""):
    """A run of 8x8 images; ``rows``: (name, architecture, labels, protocol or None) -> accuracies."""
    folder.mkdir(parents=True)
    config = {
        "schema": 1, "seed": seed, "data": {"train": "digits"} | (data or {}), "method": {"class": method, "ipc": ipc},
        "evaluate": {"protocol": protocol, "archs": [ARCH, "mlp"], "seeds": 3},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    images = np.full((2 * ipc, 8, 8, 1), 7, np.uint8)
    labels = np.repeat(np.arange(2, dtype=np.int32), ipc)
    about = {"dataset": {"card": "digits"}, "label_source": "pool"} | (meta or {})
    DistilledSet(images, labels, ("a", "b"), (0.5,), (0.5,), about).save(folder / "synset")
    (folder / "labels").mkdir()
    (folder / "labels" / "manifest.json").write_text('{"schema": 1, "bytes": 1000, "label_source": "pool"}')
    spent = {"wall_s": {"distill": 60.0, "label": 3.0, "evaluate": 9.0}, "peak_memory_bytes": 5000, "compile_s": 1.0}
    (folder / "cost.json").write_text(json.dumps({"schema": 1} | spent))
    (folder / "citations.bib").write_text(bib)
    for (name, arch, source, other), accuracies in dict(rows).items():
        for number, accuracy in enumerate(accuracies):
            append_line(folder / "results.jsonl", {
                "schema": 1, "name": name, "arch": arch, "label_source": source, "protocol": other or protocol,
                "seed": number, "accuracy": accuracy, "budget": None, "wall_s": 2.0,
            })  # fmt: skip
    return folder


RANDOM = {
    ("random_hard", ARCH, "hard", None): [0.2, 0.3, 0.4],
    ("random_soft", ARCH, "pool", None): [0.5, 0.5, 0.6],
    ("herding", ARCH, "hard", None): [0.25, 0.25, 0.3],
}


@pytest.fixture
def home(tmp_path):
    """Three runs of one cell's data, one of another ipc, one of other data."""
    own = {("teddy", ARCH, "pool", None): [0.6, 0.7, 0.8], ("teddy", ARCH, "hard", None): [0.3, 0.3, 0.3]}
    other = {("teddy", ARCH, "pool", "P-DC"): [0.4, 0.4], ("teddy", "mlp", "pool", None): [0.35]}
    relabelled = {("base_labels", ARCH, "base", None): [0.45, 0.45, 0.45]}
    bib = "@misc{a, title={A <i>}}\n\n@misc{b, title={B}}\n"
    make_run(tmp_path / "runs/teddy-1", rows=own | RANDOM | other | relabelled, bib=bib)
    make_run(tmp_path / "runs/teddy-2", rows={("teddy", ARCH, "pool", None): [0.5, 0.6, 0.7]} | RANDOM, seed=1, bib=bib)
    make_run(tmp_path / "runs/sre2l", "sre2l", rows={("sre2l", ARCH, "base", None): [0.9, 0.9, 0.9]} | RANDOM)
    make_run(tmp_path / "runs/ten/a b&<c>", ipc=10, rows={("teddy", ARCH, "hard", None): [0.8]})
    make_run(tmp_path / "runs/sub", rows={("teddy", ARCH, "hard", None): [0.1]}, data={"subset": 100})
    return tmp_path


def shown(sections):
    """Titles, protocols, networks, and of each line its title, numbers and runs."""
    return [
        (section.dataset, section.variant, section.ipc, table.protocol, arch, [
            (line.title, *(None if n is None else round(n.mean, 3) for n in (line.hard, line.soft)),
             [run.name for run in line.runs])
            for line in lines
        ])
        for section in sections for table in section.tables for arch, lines in table.groups
    ]  # fmt: skip


def test_numbers_stand_by_data_ipc_and_protocol_hard_beside_soft(home):
    runs, problems, begun = board.collect([home / "runs"])
    assert not problems and not begun
    three = ["sre2l", "teddy-1", "teddy-2"]
    assert shown(board.sections(runs)) == [
        ("digits", "", 1, "P-DC", ARCH, [("Teddy", None, 0.4, ["teddy-1"])]),
        ("digits", "", 1, "ddjax-1", ARCH, [
            ("SRe2L", None, 0.9, ["sre2l"]),
            ("Teddy", 0.3, 0.7, ["teddy-1"]),
            ("Teddy", None, 0.6, ["teddy-2"]),
            ("Random real images", 0.3, 0.533, three),
            ("Teddy, relabelled", None, 0.45, ["teddy-1"]),
            ("Herding images", 0.267, None, three),
        ]),
        ("digits", "", 1, "ddjax-1", "mlp", [("Teddy", None, 0.35, ["teddy-1"])]),
        ("digits", "", 10, "ddjax-1", ARCH, [("Teddy", 0.8, None, ["ten/a b&<c>"])]),
        ("digits", "100 training images", 1, "ddjax-1", ARCH, [("Teddy", 0.1, None, ["sub"])]),
    ]  # fmt: skip


def test_baselines_are_one_number_only_where_every_seed_agrees(home):
    path = home / "runs" / "sre2l" / "results.jsonl"
    path.write_text(path.read_text().replace('"accuracy": 0.25', '"accuracy": 0.24'))
    (table,) = [s.tables[1] for s in board.sections(board.collect([home / "runs"])[0]) if (s.ipc, s.variant) == (1, "")]
    lines = [line for line in table.groups[0][1] if line.title == "Herding images"]
    assert [[run.name for run in line.runs] for line in lines] == [["teddy-1", "teddy-2"], ["sre2l"]]


def test_scores_stand_on_the_line_of_the_network_that_they_are_of(tmp_path):
    rows = {("teddy", ARCH, "hard", None): [0.5, 0.5], ("full_data", ARCH, "hard", None): [0.9]}
    rows |= {("random_hard", ARCH, "hard", None): [0.4, 0.4], ("teddy", "mlp", "hard", None): [0.3, 0.3]}
    make_run(tmp_path / "run", rows=rows, meta={"label_source": "hard"})
    runs, _, _ = board.collect([tmp_path])
    assert runs[0].report["scores"]["lrs"] is not None
    (section,) = leaderboard.tables(runs, tmp_path)
    notes = {arch: [one["note"] for one in lines if one["own"]] for arch, lines in section["tables"][0]["groups"]}
    assert "LRS" in notes[ARCH][0] and "LRS" not in notes["mlp"][0]


def test_bytes_are_those_of_images_and_labels(home):
    runs, _, _ = board.collect([home / "runs" / "teddy-1"])
    lines = board.sections(runs)[0].tables[1].groups[0][1]
    found = {line.title: [number.parts for number in line.numbers] for line in lines}
    images = 2 * 64
    assert found["Teddy"] == [{"images": images, "labels": 2 * 4}, {"images": images, "labels": 1000}]
    assert found["Random real images"] == [{"images": images, "labels": 2 * 4}, {"images": images, "labels": 1000}]
    assert found["Teddy, relabelled"] == [{"images": images, "labels": 1000}]
    assert cli.main(["report", str(home / "runs")]) == 0
    page = Links((home / "runs" / "leaderboard.html").read_text()).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "3 seeds, images 128 bytes, pool labels 1 kB" in page


def test_a_learned_rate_counts_where_students_trained_at_it(tmp_path):
    rows = {("x", ARCH, "hard", None): [0.5], ("random_hard", ARCH, "hard", None): [0.4]}
    folder = make_run(tmp_path / "set", "x", rows=rows)
    made = DistilledSet.load(folder / "synset")
    shutil.rmtree(folder / "synset")
    dataclasses.replace(made, learned_lr=0.1).save(folder / "synset")
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for rate, parts in ((0.01, {}), (float(np.float32(0.1)), {"learned_lr": 4})):
        (folder / "results.jsonl").write_text("".join(json.dumps(line | {"lr": rate}) + "\n" for line in lines))
        (run,), _, _ = board.collect([folder])
        found = [n.parts for line in board.sections([run])[0].tables[0].groups[0][1] for n in line.numbers]
        assert found == [{"images": 128, "labels": 8} | parts] * 2


def test_labels_that_a_teacher_made_on_the_way_take_no_bytes_and_say_so(tmp_path):
    rows = {("mtt", ARCH, "full_data", "P-RDED"): [0.5], ("random_soft", ARCH, "full_data", "P-RDED"): [0.4]}
    folder = make_run(tmp_path / "set", "mtt", rows=rows, protocol="P-RDED", meta={"label_source": "hard"})
    shutil.rmtree(folder / "labels")
    runs, _, _ = board.collect([folder])
    lines = board.sections(runs)[0].tables[0].groups[0][1]
    assert [number.parts for line in lines for number in line.numbers] == [{"images": 128, "labels": None}] * 2
    assert cli.main(["report", str(tmp_path)]) == 0
    for name in ("leaderboard.html", "leaderboard.md"):
        text = (tmp_path / name).read_text().replace("\N{NO-BREAK SPACE}", " ").replace("\\_", "_")
        assert text.count("1 seed, images 128 bytes, full_data labels by a teacher, not stored") == 2


def test_stored_and_learned_labels_and_whitening_are_counted_as_the_set_counts_them(tmp_path):
    views = softlabels.Recorded(2, 2, 3, softlabels.FKD, softlabels.tensors(3, 2, 2))
    rows = {("x", ARCH, "fkd", None): [0.5], ("x", ARCH, "learned", None): [0.4], ("x", ARCH, "hard", None): [0.4],
            ("base_labels", ARCH, "full_data", None): [0.3]}  # fmt: skip
    folder = make_run(tmp_path / "set", "x", rows=rows)
    shutil.rmtree(folder / "labels")
    images = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 8, 8, 1)
    white = zca.fit(np.random.default_rng(0).normal(size=(70, 8, 8, 1)).astype("f4"), transform="eps", eps=0.1)
    labels, soft = np.arange(2, dtype=np.int32), np.eye(2, dtype=np.float32)
    made = DistilledSet(images, labels, ("a", "b"), (0.5,), (0.5,), label_logits=soft, zca=white)
    softlabels.Relabelled.of(made, views).save(tmp_path / "given")
    DistilledSet.load(tmp_path / "given").save(folder / "synset")  # as `ddjax evaluate` keeps it: without labels/
    (run,), _, _ = board.collect([folder])
    kept = storage.components(DistilledSet.load(folder / "synset"))
    assert kept == {"images": 512, "labels": 8, "label_logits": 16, "zca": 4 * (64 + 2 * 64**2), "stored_labels": 234}
    lines = board.sections([run])[0].tables[0].groups[0][1]
    found = {number.row["label_source"]: number.parts for line in lines for number in line.numbers}
    own = {"images": 512, "zca": kept["zca"]}
    assert found == {
        "fkd": own | {"labels": 234}, "learned": own | {"labels": 16}, "hard": own | {"labels": 8},
        "full_data": own | {"labels": None},
    }  # fmt: skip
    facts = dict(leaderboard.about(run, tmp_path)["facts"])
    assert facts["stored"] == storage.told(kept)
    assert run.report["bytes"]["labels"] == 234
    hard = evaluate.Row("x", "hard", images, None)  # what random_same_bytes may spend is the same number
    fkd = hard._replace(label_source="fkd", table=views.logits, views=views)
    for row in (hard, fkd, hard._replace(label_source="learned")):
        spent = sum(count or 0 for count in found[row.label_source].values())
        assert baselines.bytes_of(row, DistilledSet.load(folder / "synset")) == spent


@pytest.mark.parametrize(
    ("data", "meta", "name"),
    [
        ({"train": "idx:a,b"}, {"dataset": {"card": "mnist"}}, "mnist"),
        ({"train": "idx:a,b", "card": "usps"}, {"dataset": None}, "usps"),
        ({"train": "cifar:x/cifar-100"}, {"dataset": None}, "cifar100"),
        ({"train": "folder:photos"}, {"dataset": {"card": "custom"}}, "folder:photos"),
        ({"train": {"class": "mine.py:Photos"}}, {"dataset": {"card": "custom"}}, "mine.py:Photos"),
    ],
)
def test_the_data_is_known_by_its_card(data, meta, name, tmp_path):
    folder = make_run(tmp_path / "run", rows={("set", ARCH, "hard", None): [0.5]}, data=data, meta=meta)
    runs, problems, _ = board.collect([folder])
    assert not problems and board.sections(runs)[0].dataset == name


def test_two_modified_protocols_never_share_a_table_and_looks_at_the_test_split_are_told(home):
    other = {("teddy", ARCH, "hard", "P-DC+modified"): [0.5]}
    for name, words in (("m1", ["epochs=2"]), ("m2", ["epochs=3"]), ("m3", None)):
        folder = make_run(home / "m" / name, rows=other, bib="")
        found = json.loads((folder / "config.json").read_text())
        found["evaluate"] |= {"modify": words} if words else {}
        (folder / "config.json").write_text(json.dumps(found))
    path = home / "m" / "m3" / "results.jsonl"
    path.write_text(path.read_text().replace('"seed": 0', '"selected_on": "test", "seed": 0'))
    assert [table.protocol for table in board.sections(board.collect([home / "m"])[0])[0].tables] == [
        "P-DC+modified (epochs=2)", "P-DC+modified (epochs=3)", "P-DC+modified (in m3)"
    ]  # fmt: skip
    assert cli.main(["report", str(home / "m")]) == 0
    for name in ("leaderboard.html", "leaderboard.md"):
        assert (home / "m" / name).read_text().count(leaderboard.ON_TEST) == 1
    assert cli.main(["report", str(home / "m" / "m3")]) == 0
    page = (home / "m" / "m3" / "report.html").read_text()
    assert "looks at the test split: optimistic" in page and "the test split chose nothing" not in page


def test_students_with_and_without_the_sets_own_augmentation_never_share_a_table(tmp_path):
    rows = {("dc", ARCH, "hard", None): [0.5, 0.6], ("random_hard", ARCH, "hard", None): [0.4, 0.4]}
    for name, augment in (("plain", None), ("siamese", "dsa")):
        make_run(tmp_path / name, "dc", rows=rows, protocol="P-DC", meta={"augment": augment})
    found = board.sections(board.collect([tmp_path])[0])
    assert sorted(table.protocol for section in found for table in section.tables) == ["P-DC", "P-DC with dsa"]
    assert literature.of_protocol("P-DC with dsa") == literature.of_protocol("P-DC") != []
    page = report.page(runfiles.read(tmp_path / "siamese"))
    assert "evaluated under protocol P-DC with dsa." in page


def test_privacy_is_a_column_where_it_was_asked(home):
    table = {
        "columns": ["trained on", "attack", "members", "AUC"], "note": "", "arch": ARCH, "protocol": "ddjax-1",
        "rows": [["teddy", "loss", 9, 0.61], ["teddy", "LiRA", 9, 0.59], ["random_hard", "loss", 9, 0.75]],
    }  # fmt: skip
    (home / "runs" / "teddy-1" / "further.json").write_text(json.dumps({"schema": 1, "privacy": table}))
    runs, _, _ = board.collect([home / "runs"])
    first, second = board.sections(runs)[0].tables
    found = {(arch, line.title, line.runs[0].name): line.privacy for arch, lines in second.groups for line in lines}
    assert found[ARCH, "Teddy", "teddy-1"] == 0.61 and found[ARCH, "Random real images", "sre2l"] == 0.75
    assert {value for where, value in found.items() if where[1] not in ("Teddy", "Random real images")} == {None}
    assert found["mlp", "Teddy", "teddy-1"] is None and first.groups[0][1][0].privacy is None
    assert cli.main(["report", str(home / "runs")]) == 0
    text = (home / "runs" / "leaderboard.html").read_text()
    assert text.count("attack AUC</th>") == 1 and "| 0.610 |" in (home / "runs" / "leaderboard.md").read_text()


def test_an_imported_set_says_where_it_came_from(tmp_path):
    files = [{"name": name, "sha256": "0"} for name in ("images.pt", "labels.pt", "lr.pt", "x.pt")]
    paper = literature.PAPERS["zhou2022regression"]
    source = {"preset": "mtt", "files": files, "notes": ["mtt: a note."]}
    named = source | {"paper": paper.short, "citation": paper.bibtex}
    for name, told, about in (
        ("unnamed", source, {"class": "mtt-layout", "layout": "MTT layout"}),
        ("named", named, {"class": "frepo", "name": "FRePo"}),
    ):
        rows = {(about["class"], ARCH, "hard", "P-MTT"): [0.5]}
        meta = {"source": told, "dataset": {"card": "mnist"}}
        folder = make_run(tmp_path / "runs" / name, rows=rows, protocol="P-MTT", meta=meta)
        found = json.loads((folder / "config.json").read_text())
        found["method"] |= about | {"imported": True}
        (folder / "config.json").write_text(json.dumps(found))
    assert cli.main(["report", str(tmp_path / "runs")]) == 0
    page = Links((tmp_path / "runs" / "leaderboard.html").read_text())
    assert "MTT layout, imported" in page.text and "FRePo, imported" in page.text and "MTT, imported" not in page.text
    assert "preset mtt: images.pt, labels.pt, lr.pt, and 1 more" in page.text and "mtt: a note" in page.text
    cited = [href for href in page.hrefs if href.startswith("#cite-")]
    assert cited.count("#cite-zhou2022regression") == 2  # beside its number and in its run
    assert cited.count("#cite-cazenavette2022trajectories") == 3  # the protocol's: the table's head and both runs
    assert {href[1:] for href in cited} <= set(page.ids)
    text = (tmp_path / "runs" / "leaderboard.md").read_text()
    assert "The protocol is that of `cazenavette2022trajectories`." in text and "`zhou2022regression`)" in text
    for name in ("unnamed", "named"):
        assert cli.main(["report", str(tmp_path / "runs" / name)]) == 0
        bib = (tmp_path / "runs" / name / "citations.bib").read_text()
        assert ("Neural Feature Regression" in bib) == (name == "named") and "Matching Training Trajectories" in bib
        page = (tmp_path / "runs" / name / "report.html").read_text()
        assert bib.strip() in html.unescape(page)
        assert ("Zhou et al., NeurIPS 2022</a>" in page) == (name == "named")
        assert 'Protocol P-MTT: <a href="#references">Cazenavette et al., CVPR 2022</a>' in page


def test_a_glob_that_hits_the_page_itself_skips_it_and_says_so(home, capsys):
    assert cli.main(["report", str(home / "runs")]) == 0
    (home / "old").mkdir()
    shutil.copy(home / "runs" / "leaderboard.html", home / "old")
    shutil.rmtree(home / "runs" / "ten")
    words = [*map(str, sorted((home / "runs").iterdir())), str(home / "old")]
    assert cli.main(["report", *words, "--out", str(home / "out")]) == 0
    told = capsys.readouterr().err
    for page in (home / "runs" / "leaderboard.html", home / "runs" / "leaderboard.md", home / "old"):
        assert f"note: {page} is a page that ddjax wrote, no run; skipped." in told
    assert cli.main(["report", str(home / "runs" / "leaderboard.html"), str(home / "old")]) == 2
    assert "pages that ddjax wrote, and no run" in capsys.readouterr().err
    (home / "notes.txt").touch()
    assert cli.main(["report", str(home / "notes.txt"), str(home / "runs" / "sub")]) == 2
    assert "notes.txt' is a file. Allowed: folders of runs" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- the pages


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.hrefs, self.ids, self.tags, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.hrefs += [found["href"]] if "href" in found else []
        self.ids += [found["id"]] if "id" in found else []

    def handle_data(self, data):
        self.text += data


def test_every_number_leads_to_its_records_configuration_and_citation(home, capsys):
    assert cli.main(["report", str(home / "runs"), "--out", str(home / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(home / "out" / "leaderboard.html")
    text = (home / "out" / "leaderboard.html").read_text(encoding="utf-8")
    page = Links(text)
    files = {href for href in page.hrefs if not href.startswith("#")}
    assert "../runs/teddy-1/results.jsonl" in files and "../runs/teddy-1/config.json" in files
    assert all((home / "out" / unquote(href)).is_file() for href in files)
    assert {href[1:] for href in page.hrefs if href.startswith("#")} <= set(page.ids)
    assert {"run-1", "run-5", "cite-a", "cite-b"} <= set(page.ids)
    assert "../runs/ten/a%20b%26%3Cc%3E/results.jsonl" in files
    for words in ("70.0 ± 10.0", "[45.2, 94.8]", "30.0 ± 0.0", "1 min 03 s", "A <i>", "method.class", "seed 1: 70.0"):
        assert words in page.text, words
    assert text.count("<script>") == 1 and not {"link", "iframe", "object"} & set(page.tags)
    assert str(home) not in text


def test_markdown_holds_the_same_tables(home):
    cli.main(["report", str(home / "runs")])
    text = (home / "runs" / "leaderboard.md").read_text(encoding="utf-8")
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == [
        "# Leaderboard", "## digits, 1 image per class", "### Protocol P-DC", "### Protocol ddjax-1",
        "## digits, 10 images per class", "### Protocol ddjax-1",
        "## digits, 100 training images, 1 image per class", "### Protocol ddjax-1", "## Runs", "## References",
    ]  # fmt: skip
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {8}
    assert "| **Teddy** (seed 0, `yu2024teddy`) | convnet3 | [30.0 ± 0.0](teddy-1/results.jsonl)" in text
    assert r"a b\&\<c\>" in text and "~~~~bibtex\n@misc{a, title={A <i>}}\n\n@misc{b" in text


def test_equal_files_give_equal_bytes(home):
    pages = []
    for _ in range(2):
        assert cli.main(["report", str(home / "runs")]) == 0
        pages.append([(home / "runs" / name).read_bytes() for name in ("leaderboard.html", "leaderboard.md")])
    assert pages[0] == pages[1]


def test_one_run_keeps_its_own_page_and_several_go_beside_where_one_stands(home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    assert cli.main(["report", "runs/sub"]) == 0
    assert capsys.readouterr().out.strip() == "runs/sub/report.html"
    assert cli.main(["report", "runs/sub", "runs/teddy-1", "runs/sub/../sub"]) == 0
    assert capsys.readouterr().out.strip() == "leaderboard/leaderboard.html"
    assert Links((home / "leaderboard" / "leaderboard.html").read_text()).ids.count("run-2") == 1
    assert "run-3" not in (home / "leaderboard" / "leaderboard.html").read_text()
    assert cli.main(["report", "runs/sub", "--out", "one"]) == 0
    assert (home / "one" / "leaderboard.md").is_file()


# ----------------------------------------------------------------------------------- what is refused


def spoil(folder, name, content):
    (folder / name).write_text(content)


BROKEN = {
    "missing": (lambda f: shutil.rmtree(f), "does not exist"),
    "not a run": (lambda f: (f / "config.json").unlink(), "holds no run"),
    "newer config": (lambda f: spoil(f, "config.json", '{"schema": 9}'), "config.json' has schema 9"),
    "no json": (lambda f: spoil(f, "config.json", "{"), "config.json' is not valid JSON"),
    "newer line": (lambda f: spoil(f, "results.jsonl", '{"schema": 2}\n'), "line 1, has schema 2"),
    "torn line": (lambda f: spoil(f, "results.jsonl", "{\n"), "line 1 is not valid JSON"),
    "no lines": (lambda f: spoil(f, "results.jsonl", ""), "holds no results yet"),
    "a folder": (lambda f: (f / "cost.json").unlink() or (f / "cost.json").mkdir(), "cost.json"),
    "torn set": (lambda f: spoil(f / "synset", "images.safetensors", "x"), "sha256 differs"),
    "no BibTeX": (lambda f: spoil(f, "citations.bib", "nothing"), "reference"),
    "deep": (lambda f: spoil(f, "further.json", "[" * 200_000), "further.json' is not valid JSON"),
}  # fmt: skip


def test_each_run_that_cannot_be_read_is_one_named_error(home, capsys):
    folders = []
    for number, (harm, _) in enumerate(BROKEN.values()):
        folders.append(shutil.copytree(home / "runs" / "sub", home / f"broken-{number}"))
        harm(folders[-1])
    assert cli.main(["report", str(home / "runs"), *map(str, folders), "--out", str(home / "out")]) == 2
    said = capsys.readouterr().err
    told = re.findall(r"^  \d+\. (.*)$", said, re.M)
    assert said.startswith(f"ddjax: {len(BROKEN)} problems:") and len(told) == len(BROKEN)
    for folder, (_, words) in zip(folders, BROKEN.values(), strict=True):
        (mine,) = [sentence for sentence in told if f"{folder.name}'" in sentence or f"{folder.name}/" in sentence]
        assert words in mine
    assert not (home / "out").exists()


def test_a_run_under_way_below_a_folder_is_told_on_the_page(home):
    (home / "runs" / "sub" / "results.jsonl").write_text("")
    assert cli.main(["report", str(home / "runs")]) == 0
    text = (home / "runs" / "leaderboard.html").read_text()
    assert "Left out: sub: no results yet" in text and "100 training images" not in text


def test_a_set_that_nobody_judged_is_told_the_next_step(home, capsys):
    assert cli.main(["report", str(home / "runs" / "sub" / "synset"), "--out", "x"]) == 2
    assert "ddjax evaluate SET --workdir RUN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a", "--outt", "x"], "Did you mean '--out'?"),
        (["--out", "x"], "RUN is missing"),
        (["--out", "x", "a"], "--out = 'x a' is not one folder"),
        (["a", "--out"], "--out = '' is not one folder"),
        (["a", "--out", ""], "--out = '' is not one folder"),
        (["a", "--out="], "--out = '' is not one folder"),
        (["a", "--out", "x", "--out", "y"], "--out: given twice; allowed: once"),
        ([""], "RUN = '' names no folder"),
    ],
)
def test_wrong_words_are_told(argv, said, capsys):
    assert cli.main(["report", *argv]) == 2
    assert said in capsys.readouterr().err
    assert leaderboard.main(["--help"]) == 0


def test_a_file_where_the_folder_of_the_page_should_be_is_told(home, capsys):
    (home / "file").write_text("mine")
    assert cli.main(["report", str(home / "runs"), "--out", str(home / "file")]) == 2
    assert "--out = " in capsys.readouterr().err and (home / "file").read_text() == "mine"
