"""Says every few seconds that something is still at work, so that a minute of silence does not look like a hang."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import perf_counter

__all__ = ["Report", "to_terminal", "waiting"]

Report = Callable[[str], None]


def to_terminal(text: str) -> None:
    """Print a line to standard error if somebody sits there; pipes and files get nothing."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def waiting(what: str, report: Report = to_terminal, every_s: float = 5.0) -> Iterator[None]:
    """Report "WHAT: N s" every `every_s` seconds while the body runs; a body that ends sooner says nothing."""
    ended, begin = Event(), perf_counter()

    def tell() -> None:
        while not ended.wait(every_s):
            report(f"{what}: {perf_counter() - begin:.0f} s")

    thread = Thread(target=tell, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
