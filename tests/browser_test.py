"""The two pages in a real browser, at a desk, on a phone and on paper: headless Chromium over a pipe, no socket opened.

Skipped, with the reason, where no Chromium is installed.
"""

import base64
import json
import os
import select
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ddjax import leaderboard, report
from ddjax.files import append_line
from ddjax.synset import DistilledSet

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
PROGRAM = os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-extensions --remote-debugging-pipe "
    "--host-resolver-rules=MAP\\ *\\ ~NOTFOUND"
)
PATIENCE = 60  # seconds for one answer
WIDE, PHONE = 1100, 390

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no browser is installed: none of {', '.join(NAMES)}")


class Browser:
    """One tab, driven by messages that end with a zero byte, on the file descriptors 3 and 4 of the browser."""

    def __init__(self, home: Path):
        theirs, self.ours = os.pipe()
        self.back, answers = os.pipe()
        self.log = open(home / "log.txt", "w")  # noqa: SIM115
        command = f"exec {shlex.quote(str(PROGRAM))} {FLAGS} --user-data-dir={shlex.quote(str(home / 'profile'))}"
        self.process = subprocess.Popen(
            ["bash", "-c", f"{command} about:blank 3<&{theirs} 4>&{answers}"],
            pass_fds=(theirs, answers), stdout=self.log, stderr=self.log,
        )  # fmt: skip
        os.close(theirs)
        os.close(answers)
        self.left, self.asked, self.events, self.session = b"", 0, [], None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self(f"{part}.enable")

    def receive(self) -> dict:
        while b"\0" not in self.left:
            ready = select.select([self.back], [], [], PATIENCE)[0]
            more = os.read(self.back, 1 << 20) if ready else b""
            assert more, f"the browser is silent: {Path(self.log.name).read_text()[-2000:]}"
            self.left += more
        message, _, self.left = self.left.partition(b"\0")
        return json.loads(message)

    def __call__(self, method: str, **parameters) -> dict:
        self.asked += 1
        about = {"sessionId": self.session} if self.session else {}
        message = json.dumps({"id": self.asked, "method": method, "params": parameters} | about).encode() + b"\0"
        while message:
            message = message[os.write(self.ours, message) :]
        while (answer := self.receive()).get("id") != self.asked:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: Path, width: int) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.events.clear()
        self("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def run(self, script: str):
        answer = self("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """Console messages, exceptions and everything that the page asked for beyond itself and its data URIs."""
        self.run("1")  # what came before is in the pipe by now
        said = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        found = [json.dumps(event["params"]) for event in self.events if event["method"] in said]
        asked = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        urls = [each["request"]["url"] for each in asked if each["type"] != "Document"]
        return found + [url for url in urls if not url.startswith("data:")]

    def picture(self, path: Path) -> Path:
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        made = self("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(made["data"]))
        return path

    def close(self) -> None:
        self.session = None
        self("Browser.close")
        self.process.wait(PATIENCE)
        os.close(self.ours)
        os.close(self.back)
        self.log.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


def line(name, arch, source, protocol, seed, accuracy):
    return {
        "schema": 1, "name": name, "arch": arch, "label_source": source, "protocol": protocol, "seed": seed,
        "accuracy": accuracy, "budget": None, "wall_s": 1.0,
    }  # fmt: skip


def make_run(folder: Path, name: str, ipc: int, base: float) -> Path:
    """A run of long names, with everything that the pages show."""
    folder.mkdir(parents=True)
    rng = np.random.Generator(np.random.Philox(ipc))
    images = rng.integers(0, 255, (3 * ipc, 16, 16, 3)).astype(np.uint8)
    classes = ("a", "a_class_name_that_is_long_and_has_no_space_at_all_in_it", "c & d")
    meta = {"dataset": {"card": "cifar10", "notes": ["test: a note"]}, "label_source": "pool"}
    DistilledSet(
        images, np.repeat(np.arange(3, dtype=np.int32), ipc), classes, (0.5,) * 3, (0.2,) * 3, meta
    ).save(folder / "synset")  # fmt: skip
    config = {
        "schema": 1, "seed": 0, "method": {"class": name, "ipc": ipc},
        "data": {"train": "cifar:" + "a-long-folder/" * 8},
        "evaluate": {"protocol": "P-IDC", "archs": ["convnet3", "mlp"], "seeds": 2},
    }  # fmt: skip
    wide = {"columns": [f"a wide column {i}" for i in range(12)], "rows": [[i / 7 for i in range(12)]], "note": "wide"}
    asked = {"columns": ["trained on", "AUC"], "rows": [[name, 0.625]], "arch": "mlp", "protocol": "P-IDC"}
    cost = {"schema": 1, "wall_s": {"distill": 60.0 * ipc, "evaluate": 9.0}, "peak_memory_bytes": 5, "compile_s": 2.0}
    further = {"schema": 1, "nas": wide, "privacy": asked}
    for file, content in {"config.json": config, "further.json": further, "cost.json": cost}.items():
        (folder / file).write_text(json.dumps(content))
    (folder / "citations.bib").write_text("@misc{a, title={" + "long" * 60 + "}}\n")
    for step in range(5):
        values = {"loss": 1 / (step + 1)}
        append_line(folder / "records.jsonl", {"schema": 1, "stage": "distill", "step": step, "values": values})
    rows = {(name, "hard"): 0.0, (name, "pool"): 0.2, ("random_hard", "hard"): -0.1, ("random_soft", "pool"): 0.1}
    for (row, source), more in rows.items():
        for arch in ("convnet3", "mlp"):
            for protocol in ("P-IDC", "ddjax-1"):
                for seed in range(2):
                    value = base + more + seed / 100 + (0.05 if arch == "mlp" else 0.0)
                    append_line(folder / "results.jsonl", line(row, arch, source, protocol, seed, value))
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of one run, and the leaderboard of three."""
    home = tmp_path_factory.mktemp("pages")
    runs = [make_run(home / f"{name}-ipc{ipc}", name, ipc, base)
            for name, ipc, base in (("teddy", 1, 0.3), ("sre2l", 1, 0.4), ("teddy", 10, 0.5))]  # fmt: skip
    page = report.write(runs[2])
    assert leaderboard.main([str(home)]) == 0
    return {"report": page, "leaderboard": home / "leaderboard.html"}


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("name", ["report", "leaderboard"])
def test_nothing_is_wrong_asked_for_missing_or_too_wide(name, width, browser, pages, tmp_path):
    browser.open(pages[name], width)
    assert browser.complaints() == []
    shown = browser.run("[...document.images].map(image => image.naturalWidth)")
    assert len(shown) > 5 and min(shown) > 0
    browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.run("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    beyond = """[...document.querySelectorAll('body *')].filter(part => !part.closest('.scroll, svg'))
        .filter(part => part.getBoundingClientRect().right > innerWidth + 0.5 || part.scrollWidth > part.clientWidth + 1
            && getComputedStyle(part).display !== 'inline').map(part => part.outerHTML.slice(0, 120))"""
    assert browser.run(beyond) == []
    assert browser.picture(tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["report", "leaderboard"])
def test_the_pages_print(name, browser, pages):
    browser.open(pages[name], WIDE)
    made = base64.b64decode(browser("Page.printToPDF", printBackground=True)["data"])
    assert made.startswith(b"%PDF-") and len(made) > 10_000
    browser("Emulation.setEmulatedMedia", media="print")
    width = 700  # a sheet of A4 less its margins
    browser("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("!document.querySelector('#filter') || !document.querySelector('#filter').checkVisibility()")
    browser("Emulation.setEmulatedMedia", media="")


ORDER = """[...document.querySelectorAll('.board')].map(table => [...table.tBodies].map(body =>
    [...body.querySelectorAll('tr.line')].map(row => row.cells[%d].dataset.sort)))"""


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_tables_sort_up_and_down_within_each_network(width, browser, pages):
    browser.open(pages["leaderboard"], width)
    press = "document.querySelector('.board').querySelectorAll('[role=button]')[%d].click()"
    before = browser.run(ORDER % 1)
    browser.run(press % 1)
    down = browser.run(ORDER % 1)
    assert down[0] == [sorted(body, key=float, reverse=True) for body in before[0]] and len(down[0]) == 2
    assert down[1:] == before[1:]  # one table at a time
    assert browser.run("document.querySelector('.board th[aria-sort]').ariaSort") == "descending"
    browser.run("document.querySelectorAll('.board [role=button]')[1].focus()")
    for kind in ("keyDown", "keyUp"):
        browser("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)
    assert browser.run(ORDER % 1)[0] == [body[::-1] for body in down[0]]
    browser.run(press % 0)
    names = browser.run(ORDER % 0)[0]
    assert names == [sorted(body) for body in names] and names[0] == ["Random real images"] * 2 + ["SRe2L", "Teddy"]
    browser.run(press % 3)  # seconds of making: baselines have none and stay last
    assert browser.run(ORDER % 4)[0] == [["60.0", "60.0", "", ""]] * 2
    assert browser.run("document.querySelector('tbody').rows[0].className") == "group"
    assert browser.complaints() == []


def test_tables_filter_by_words_and_kind(browser, pages):
    browser.open(pages["leaderboard"], WIDE)
    shown = """[...document.querySelectorAll('tr.line')].filter(row => row.checkVisibility()).length"""
    type_in = """document.querySelector('#words').value = '%s';
        document.querySelector('#filter').dispatchEvent(new Event('input'))"""
    everything = browser.run(shown)
    assert browser.run("document.querySelector('#count').value") == f"{everything} lines" and everything == 24
    browser.run(type_in % "SRe2L p-idc")  # the set, and the baseline of its run, on two networks
    assert browser.run(shown) == 4
    assert browser.run("document.querySelector('#count').value") == "4 of 24 lines"
    heads = """[...document.querySelectorAll('h2, .protocol h3, .group')]
        .filter(part => part.checkVisibility()).map(part => part.innerText)"""
    assert browser.run(heads)[:4] == ["cifar10, 1 image per class", "Protocol P-IDC", "convnet3", "mlp"]
    browser.run(type_in % "no such word")
    assert browser.run(shown) == 0
    browser.run(type_in % "")
    browser.run("document.querySelector('#baselines').click()")
    assert browser.run(shown) == 12
    assert browser.complaints() == []


def test_links_of_a_number_lead_to_the_records_and_back(browser, pages):
    browser.open(pages["leaderboard"], WIDE)
    links = browser.run("[...document.querySelectorAll('a')].map(link => link.href)")
    files = [link for link in links if "#" not in link]
    assert len(files) > 40 and all(link.startswith("file:") for link in links)
    for link in files:
        assert Path(link.removeprefix("file://")).is_file()
    inside = "[...document.querySelectorAll('a[href^=\"#\"]')]"
    assert browser.run(f"{inside}.length") > 20
    assert browser.run(f"{inside}.filter(link => !document.getElementById(link.hash.slice(1))).length") == 0


def test_what_leaves_the_page_or_runs_in_it_would_be_noticed(browser, pages, tmp_path):
    harmed = pages["leaderboard"].read_text()
    for name, more in {
        "image": '<img src="https://example.org/a.png">',
        "script": "<script>document.title = 'changed'</script>",
        "event": '<img src="data:," onerror="document.title = 1">',
    }.items():
        page = tmp_path / f"{name}.html"
        page.write_text(harmed.replace("</body>", f"{more}</body>"))
        browser.open(page, WIDE)
        assert browser.complaints() != [], name
        assert browser.run("document.title") == "Leaderboard: ddjax"
