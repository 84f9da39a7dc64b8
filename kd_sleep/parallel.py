"""One pure function over many nights, on all cores, with a progress bar."""

from __future__ import annotations

import concurrent.futures
import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from tqdm import tqdm

from kd_sleep.errors import KdSleepError

Item = TypeVar("Item")
Result = TypeVar("Result")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT_BYTES = 1 << 29
_AHEAD = 4  # nights handed out for each worker: enough to keep it busy, few enough to hold


class NightBar(tqdm):
    """A progress bar with nights a minute: one takes about a second, and there are thousands."""

    def __init__(self, total: int, description: str, done: int = 0):
        super().__init__(
            total=total,
            initial=done,
            desc=description,
            unit=" nights",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} nights"
            " [{elapsed}<{remaining}, {per_minute} nights/min]",
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """What `bar_format` may name, `per_minute` among it."""
        found = super().format_dict
        done, elapsed = found["n"] - found["initial"], found["elapsed"]
        rate = found["rate"] or (done / elapsed if elapsed else 0.0)
        return found | {"per_minute": f"{60.0 * rate:.0f}" if rate else "?"}


def map_nights(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    description: str,
    *,
    done: int = 0,
) -> Iterator[Result]:
    """Yields function(item) in the order of `items`.

    Args:
      function: picklable by name, as is what it takes and returns.
      items: one per night.
      workers: processes; 0 takes one per core, 1 stays in this process.
      description: what the progress bar says.
      done: nights that an earlier call finished; the bar counts them, too.

    Raises:
      KdSleepError: a worker died; most often, there was no memory left.
    """
    with NightBar(done + len(items), description, done) as bar:
        if workers == 1 or len(items) < 2:
            for item in items:
                yield function(item)
                bar.update()
            return
        # One thread each: as many workers as cores are busy already. Read when workers load NumPy.
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(name, "1")
        # Not fork: a process with JAX's threads in it must not be forked. The server imports once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_module_of(function)])
        with concurrent.futures.ProcessPoolExecutor(
            workers or None, mp_context=context, initializer=_settle
        ) as pool:
            left = iter(items)
            ahead = _AHEAD * (workers or multiprocessing.cpu_count())
            running = deque(pool.submit(function, item) for item in islice(left, ahead))
            try:
                while running:
                    result = running.popleft().result()
                    running.extend(pool.submit(function, item) for item in islice(left, 1))
                    yield result
                    bar.update()
            except BrokenProcessPool:
                raise KdSleepError(
                    f"{description}: a worker process died; most often there was no memory left.",
                    "Give the same command again, with fewer --workers if need be.",
                ) from None
            finally:
                # Who stops early waits for the nights under way alone. Without waiting, a thread of
                # the pool goes on while the caller imports TFDS, whose lazy imports then reach it.
                pool.shutdown(cancel_futures=True)


def _settle() -> None:
    """Makes a process a good worker."""
    # Ctrl-C reaches every process of a terminal; one of them is enough to stop the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A night's large temporaries would else be fetched from the system and given back, page by
    # page, which takes a fifth of the time. glibc alone has this, and elsewhere nothing is lost.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES // 16)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _module_of(function: Callable) -> str:
    """The module that a worker needs; a functools.partial's is that of the function inside."""
    return getattr(function, "func", function).__module__
