"""What a run says: records on disk, and progress, messages and tables for whoever watches.

``records.jsonl`` is append-only, one line ``{"schema", "wall", "stage", "step", "values"}`` each,
``wall`` in seconds since 1970. A resumed run may repeat a step; the later line counts. On a
terminal there is a bar with the time left; elsewhere plain lines, one in five seconds at most.
"""

import contextlib
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ddjax.files import append_line, mend_lines

SCHEMA = 1
EVERY = 5.0  # seconds between two plain lines
_NUMBER = re.compile(r"[–\d]")


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays as numbers or lists; what is not finite becomes None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Bar:
    """How far a stage is. The time left is judged by what came after the first ``advance``, so
    neither compilation nor steps that an earlier run has done mislead it."""

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total, self.done = stage, total, 0
        self.began = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._shown: Mapping[str, Any] = {}
        self._draw: Any = lambda bar: None

    def advance(self, n: int = 1, **shown: Any) -> None:
        """``n`` more steps are done; ``shown`` are scalars to show beside the bar."""
        self.done += n
        if self._first is None:
            self._first = (self.done, time.monotonic())
        self._shown = shown or self._shown
        self._draw(self)

    @property
    def left(self) -> float | None:
        """Seconds left, or None while nothing is known."""
        if self._first is None or self.done <= self._first[0]:
            return None
        each = (time.monotonic() - self._first[1]) / (self.done - self._first[0])
        return each * max(0, self.total - self.done)

    def values(self) -> str:
        """The shown scalars as text; fetches them from the device."""
        items = {name: plain(value) for name, value in self._shown.items()}
        return "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in items.items()
        )


class Log:
    """The voice of one run. ``folder`` None keeps no records; not ``lead``: silent and no records.

    ``stream``: where to print, standard output if None. ``tensorboard``: numbers go to folder/tensorboard too.
    """

    def __init__(
        self, folder: Path | str | None, *, lead: bool = True, stream: TextIO | None = None, tensorboard: bool = False
    ) -> None:
        self._path = Path(folder) / "records.jsonl" if folder is not None and lead else None
        self._lead = lead
        self._stream = stream
        self._console: Any = None
        self._live: Any = None
        self._writer: Any = None
        if self._path is not None and tensorboard:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._path.parent / "tensorboard"), flush_secs=2)
        if self._path is not None:
            mend_lines(self._path)

    def record(self, stage: str, step: int, **values: Any) -> None:
        """Append one line; arrays are fetched, a number that is not finite is written as null."""
        if self._path is not None:
            line = {"schema": SCHEMA, "wall": round(time.time(), 3), "stage": stage}
            found = {name: plain(value) for name, value in values.items()}
            append_line(self._path, line | {"step": int(step), "values": found})
            for name, value in found.items() if self._writer else ():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"{stage}/{name}", value, int(step))

    def say(self, text: str) -> None:
        """One message."""
        if not self._lead:
            return
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        stream = self._stream or sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)

    @contextlib.contextmanager
    def progress(self, stage: str, total: int) -> Iterator[Bar]:
        """``with log.progress("distill", 500) as bar: bar.advance(10, loss=loss)``; they nest."""
        bar = Bar(stage, total)
        if not self._lead:
            yield bar
        elif (self._stream or sys.stdout).isatty():
            with self._bars(bar):
                yield bar
        else:
            yield from self._lines(bar)

    def _lines(self, bar: Bar) -> Iterator[Bar]:
        last = time.monotonic()

        def draw(bar: Bar) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY and bar.done < bar.total:
                last = time.monotonic()
                left = f"  {duration(bar.left)} left" if bar.left is not None else ""
                share = f"{bar.done}/{bar.total}  {bar.done / max(1, bar.total):.0%}"
                self.say(f"{bar.stage}  {share}{left}  {bar.values()}".rstrip())

        bar._draw = draw
        yield bar
        spent = duration(time.monotonic() - bar.began)
        self.say(f"{bar.stage}  {bar.done}/{bar.total}  done in {spent}  {bar.values()}".rstrip())

    @contextlib.contextmanager
    def _bars(self, bar: Bar) -> Iterator[None]:
        from rich import progress as rich

        outer = self._live
        if outer is None:
            self._live = rich.Progress(
                rich.TextColumn("{task.description}", markup=False),
                rich.BarColumn(bar_width=24),
                rich.MofNCompleteColumn(),
                rich.TextColumn("{task.fields[time]}"),
                rich.TextColumn("{task.fields[values]}", style="dim", markup=False),
                console=self._rich(),
                refresh_per_second=5,
            )
            self._live.start()
        live = self._live
        task = live.add_task(bar.stage, total=bar.total, time="", values="")
        last = 0.0

        def draw(bar: Bar) -> None:
            nonlocal last
            if time.monotonic() - last < 0.2 and bar.done < bar.total:
                return
            last = time.monotonic()
            spent = duration(last - bar.began)
            text = f"{duration(bar.left)} left" if bar.left else spent
            live.update(task, completed=bar.done, time=text, values=bar.values())

        bar._draw = draw
        try:
            yield
            spent = duration(time.monotonic() - bar.began)
            live.update(task, completed=bar.done, time=spent, values=bar.values())
        finally:
            if outer is None:
                live.stop()
                self._live = None

    def table(self, rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
        """Print rows that share their keys; the keys are the heads."""
        if not rows or not self._lead:
            return
        if not (self._stream or sys.stdout).isatty():
            self.say(text_table(rows, title))
            return
        from rich.table import Table

        made = Table(title=title or None, title_justify="left", header_style="bold")
        for number, head in enumerate(rows[0]):
            made.add_column(head, justify="left" if _is_text(rows, head) else "right")
            made.columns[number].no_wrap = number == 0
        for row in rows:
            made.add_row(*(str(value) for value in row.values()))
        self._rich().print(made)

    def _rich(self) -> Any:
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=self._stream, highlight=False)
        return self._console


def _is_text(rows: Sequence[Mapping[str, Any]], head: str) -> bool:
    return not all(_NUMBER.match(str(row[head])) or str(row[head]) == "" for row in rows)


def text_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """The same table as plain text: columns aligned, a rule under the heads."""
    heads = list(rows[0])
    width = {h: max(len(h), *(len(str(row[h])) for row in rows)) for h in heads}
    left = {h: _is_text(rows, h) for h in heads}

    def line(cells: Mapping[str, Any]) -> str:
        shown = (str(cells[h]).ljust(width[h]) if left[h] else str(cells[h]).rjust(width[h]) for h in heads)
        return "  ".join(shown).rstrip()

    rule = "  ".join("-" * width[h] for h in heads)
    lines = [line({h: h for h in heads}), rule, *(line(row) for row in rows)]
    return "\n".join([title, *lines] if title else lines)
