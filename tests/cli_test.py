"""The command line: what it teaches, what it refuses, and with which exit code."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddjax import __main__ as cli
from ddjax import __version__
from ddjax.errors import ConfigError, DataError, DivergenceError, Interrupted

ROOT = Path(__file__).resolve().parents[1]


def run(*argv: str, cwd: Path) -> subprocess.CompletedProcess:
    """``python -m ddjax …`` as a user starts it, with the package of this checkout."""
    return subprocess.run(
        [sys.executable, "-m", *argv],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def raising(error: BaseException):
    def command(argv):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("seed is wrong"), 2, "ddjax: seed is wrong\n"),
        (DataError("a.png is not an image"), 2, "ddjax: a.png is not an image\n"),
        (DivergenceError("NaN at step 3"), 2, "ddjax: NaN at step 3\n"),
        (Interrupted("SIGTERM"), 3, "ddjax: stopped; the same command goes on (launch: with --resume). SIGTERM\n"),
        (KeyboardInterrupt(), 3, "ddjax: stopped; the same command goes on (launch: with --resume).\n"),
        (OSError(errno.ENOSPC, "No space left"), 3, "ddjax: the disk is full"),
        (OSError(errno.EDQUOT, "Quota"), 3, "ddjax: the disk is full"),
    ],
)
def test_errors_become_exit_codes(error, code, said, capsys):
    assert cli.exit_code(raising(error), []) == code
    assert capsys.readouterr().err.startswith(said)


def test_a_defect_of_ours_keeps_its_traceback():
    for error in (ZeroDivisionError(), OSError(errno.EACCES, "denied")):
        with pytest.raises(type(error)):
            cli.exit_code(raising(error), [])


def test_the_overview_names_every_command(capsys):
    for argv in ([], ["--help"], ["-h"], ["help"]):
        assert cli.main(argv) == 0
        shown = capsys.readouterr().out
        assert all(f"ddjax {name}" in shown for name in cli.COMMANDS)
        assert "Exit codes" in shown
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_a_wrong_command_is_told_the_nearest(capsys):
    assert cli.main(["lanch"]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"ddjax: command = 'lanch' is not known; allowed: {', '.join(cli.COMMANDS)}. Did you mean 'launch'?\n"
    )


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["report"], 2),
        (["report", "--help"], 0),
        (["sweep"], 2),
        (["sweep", "--help"], 0),
        (["data"], 2),
        (["data", "fetch"], 2),
        (["data", "fetch", "--help"], 0),
        (["data", "fetch", "cifar10", "--to"], 2),
    ],
)
def test_usage_is_shown_where_words_are_missing(argv, code, capsys):
    assert cli.main(argv) == code
    assert "usage: ddjax" in capsys.readouterr().out


def test_fetch_refuses_what_it_does_not_know(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "fetch", "cifar"]) == 2
    assert "Did you mean 'cifar10'?" in capsys.readouterr().err
    assert cli.main(["data", "fetch", "cifar10", "--too", "x"]) == 2
    assert "Did you mean '--to'?" in capsys.readouterr().err
    assert cli.main(["data", "fetch", "digits"]) == 2
    assert "ships with the package" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bad_flags_of_launch_are_refused_before_anything_is_made(tmp_path):
    done = run("ddjax.launch", "--method.stepz", "10", "--method.ipc", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ddjax: 2 problems:")
    assert "Did you mean --method.steps?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_launch_help_teaches(tmp_path):
    done = run("ddjax", "launch", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("--method.steps", "--evaluate.baselines", "Exit codes", "configs/digits.py"):
        assert word in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves_is_no_defect(tmp_path):
    command = f"{sys.executable} -m ddjax --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() in ("0", "3")
