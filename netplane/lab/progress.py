"""Show a long job's steps: bars on a terminal, a line a step elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Advance = Callable[[], None]

CONSOLE = Console(stderr=True, highlight=False)


class Steps:
    """The steps of one job; use it as a context manager."""

    def __init__(self, console: Console = CONSOLE) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._progress.stop()

    @contextlib.contextmanager
    def step(self, title: str, total: int = 1) -> Iterator[Advance]:
        """Show one step of `total` parts; the block calls what it is given once a part, or leaves it to the end."""
        task = self._progress.add_task(title, total=total)
        yield lambda: self._progress.advance(task)
        self._progress.update(task, completed=total)
        if not self._console.is_terminal:
            # Whoever read may be gone, as after a broken connection; what was begun goes on without.
            with contextlib.suppress(OSError):
                self._console.file.write(f"✓ {title}\n")
                self._console.file.flush()
