"""One pure function over many nights, on all cores, with a progress bar."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_nights(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, description: str
) -> Iterator[Result]:
    """Yields function(item) in the order of `items`.

    Args:
      function: picklable by name, as is what it takes and returns.
      items: one per night.
      workers: processes; 0 takes one per core, 1 stays in this process.
      description: what the progress bar says.
    """
    with tqdm(total=len(items), desc=description, unit="night") as bar:
        if workers == 1 or len(items) < 2:
            for item in items:
                yield function(item)
                bar.update()
            return
        # Not fork: a process with JAX's threads in it must not be forked. The server imports once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_module_of(function)])
        with concurrent.futures.ProcessPoolExecutor(
            workers or None, mp_context=context, initializer=_leave_interrupts_to_the_parent
        ) as pool:
            for result in pool.map(function, items):
                yield result
                bar.update()


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal; one of them is enough to stop the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _module_of(function: Callable) -> str:
    """The module that a worker needs; a functools.partial's is that of the function inside."""
    return getattr(function, "func", function).__module__
