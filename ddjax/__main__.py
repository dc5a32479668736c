"""The command line: ``ddjax COMMAND …``, the same as ``python -m ddjax COMMAND …``.

Exit codes: 0 done; 2 bad input, configuration or divergence; 3 stopped and resumable (signal, full
disk); 1 a defect of ours, with its traceback.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence

from ddjax.errors import ConfigError, DdjaxError, Interrupted, choice

OVERVIEW = """ddjax: make a large image set small, and say honestly what was lost.

  ddjax launch --config configs/digits.py      distil, label, evaluate, report: the whole way
  ddjax launch --data.train folder:photos      the same on your own folder of class folders
  ddjax evaluate RUN                           judge a set that is there already
  ddjax sweep --method teddy,sre2l --workdir T a table of runs, resumable, and its leaderboard
  ddjax report RUN RUN …                       one run: its page again; several, or a folder of runs: a leaderboard
  ddjax set show|check|convert|import|export   look at a distilled set; bring sets of others in, and yours out
  ddjax data fetch CARD                        download a public archive and check its sha256

ddjax COMMAND --help tells the flags of a command. `python -m ddjax` is the same command.
Exit codes: 0 done, 2 bad input, 3 stopped and resumable, 1 a defect of ours."""


def _launch(argv: Sequence[str]) -> int:
    from ddjax.launch import main

    return main(argv)


def _evaluate(argv: Sequence[str]) -> int:
    from ddjax.judge import main

    return main(argv)


def _report(argv: Sequence[str]) -> int:
    from ddjax.leaderboard import main

    return main(argv)


def _sweep(argv: Sequence[str]) -> int:
    from ddjax.sweep import main

    return main(argv)


def _set(argv: Sequence[str]) -> int:
    from ddjax.exchange.command import main

    return main(argv)


def _data(argv: Sequence[str]) -> int:
    if argv[:1] != ["fetch"] or len(argv) not in (2, 4) or _asks_help(argv):
        print(FETCH)
        return 0 if _asks_help(argv) else 2
    from ddjax.data.cards import card
    from ddjax.data.fetch import fetch

    wanted = card(argv[1], argument="data fetch CARD")
    base = os.environ.get("DDJAX_DATA", "data")
    folder = argv[3] if argv[2:3] == ["--to"] else os.path.join(base, wanted.id)
    if len(argv) == 4 and argv[2] != "--to":
        raise ConfigError(choice("data fetch: flag", argv[2], ["--to"]))
    for path in fetch(wanted, folder):
        print(path)
    return 0


def _asks_help(argv: Sequence[str]) -> bool:
    return "-h" in argv or "--help" in argv


FETCH = """usage: ddjax data fetch CARD [--to FOLDER]

Downloads the public archive of a card, where there is a network, and checks its sha256. Without
--to it goes to $DDJAX_DATA/CARD (data/CARD where that is not set), where a configuration that names
the card finds it."""

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "launch": _launch,
    "evaluate": _evaluate,
    "sweep": _sweep,
    "report": _report,
    "set": _set,
    "data": _data,
}


def exit_code(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; errors that are the input's fault become one message and their exit code."""
    try:
        return command(list(argv))
    except DdjaxError as error:
        print(f"ddjax: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"ddjax: stopped; the same command goes on (launch: with --resume). {error}".rstrip(), file=sys.stderr)
        return 3
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has left
        return 3
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"ddjax: the disk is full; make room, then --resume. {error}", file=sys.stderr)
        return 3


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(OVERVIEW)
        return 0
    if argv[0] in ("-V", "--version"):
        from ddjax import __version__

        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        raise ConfigError(choice("command", argv[0], COMMANDS))
    return COMMANDS[argv[0]](argv[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; returns the exit code."""
    return exit_code(_dispatch, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
