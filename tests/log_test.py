"""Records survive a kill; a watcher sees bars on a terminal and few plain lines elsewhere."""

import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from ddjax import log as logging
from ddjax.log import Log, duration, text_table


def test_records_are_append_only_and_mended(tmp_path):
    first = Log(tmp_path)
    first.record("distill", 1, loss=jnp.float32(0.5), parts=np.arange(2), bad=float("nan"), n=3)
    path = tmp_path / "records.jsonl"
    with path.open("a") as stream:
        stream.write('{"schema": 1, "wa')
    Log(tmp_path).record("distill", 2, loss=0.25)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["values"] == {"loss": 0.5, "parts": [0, 1], "bad": None, "n": 3}
    assert set(lines[0]) == {"schema", "wall", "stage", "step", "values"}
    assert lines[0]["schema"] == 1
    assert lines[1]["wall"] >= lines[0]["wall"] > 1.7e9


def test_numbers_go_to_tensorboard_where_asked(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra [log] is not installed")
    log = Log(tmp_path, tensorboard=True)
    log.record("distill", 1, loss=jnp.float32(0.5), bad=float("nan"), parts=np.arange(2))
    log._writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"distill/loss" in events.read_bytes() and b"distill/bad" not in events.read_bytes()
    Log(tmp_path / "other").record("distill", 1, loss=0.5)
    assert not (tmp_path / "other" / "tensorboard").exists()


def test_only_the_lead_speaks(tmp_path):
    stream = io.StringIO()
    log = Log(tmp_path, lead=False, stream=stream)
    log.record("a", 1, x=1)
    log.say("hello")
    log.table([{"a": 1}])
    with log.progress("a", 2) as bar:
        bar.advance(2)
    assert stream.getvalue() == ""
    assert list(tmp_path.iterdir()) == []
    Log(None).record("a", 1)


def test_plain_lines_come_seldom_and_tell_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(logging.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Log(None, stream=stream).progress("distill", 100) as bar:
        now[0] = 60.0  # compilation
        bar.advance(50, loss=2.0)  # what an earlier run had done
        for _ in range(50):
            now[0] += 1.0
            bar.advance(1, loss=jnp.float32(1.23456))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "distill  50/100  50%  loss 2"
    assert lines[1] == "distill  55/100  55%  45 s left  loss 1.235"
    assert len(lines) == 11
    assert lines[-1] == "distill  100/100  done in 1 min 50 s  loss 1.235"


def test_a_stage_that_fails_is_not_called_done():
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Log(None, stream=stream).progress("a", 2):
        raise RuntimeError
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("fail", [False, True])
def test_bars_nest_on_a_terminal(fail, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    log = Log(None, stream=stream)
    try:
        with log.progress("evaluate", 2) as outer, log.progress("inner [red]", 1) as inner:
            inner.advance(1, loss=0.5)
            log.say("[hello] é")
            if fail:
                raise RuntimeError
            outer.advance(2)
    except RuntimeError:
        assert fail
    text = stream.getvalue()
    assert "evaluate" in text
    assert "inner [red]" in text
    assert "[hello] é" in text
    assert "loss 0.5" in text
    log.say("after")
    assert stream.getvalue().endswith("after\n")
    log.table([{"set": "teddy", "accuracy": "51.0 ± 1.2"}], "Results")
    assert "teddy" in stream.getvalue()


def test_plain_table_is_aligned_and_survives_an_ascii_terminal():
    rows = [
        {"set": "teddy", "accuracy %": "51.0 ± 1.2", "seeds": 5},
        {"set": "random_hard", "accuracy %": "8.0 ± 10.0", "seeds": 15},
    ]
    assert text_table(rows, "Results").splitlines() == [
        "Results",
        "set          accuracy %  seeds",
        "-----------  ----------  -----",
        "teddy        51.0 ± 1.2      5",
        "random_hard  8.0 ± 10.0     15",
    ]
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Log(None, stream=stream).table(rows)
    assert b"51.0 ? 1.2" in raw.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
