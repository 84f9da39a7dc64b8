"""Where a run's time and memory go."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from typing import TypeVar

import jax

T = TypeVar("T")


class Meter:
    """Times a loop of dispatches; `steps` is for the loop to count up."""

    def __init__(self, windows_a_step: int):
        self._windows = windows_a_step
        self._compile_s: float | None = None
        self.restart()

    def restart(self) -> None:
        """Begins a new reading."""
        self.steps = 0
        self._waited_s = self._compiling_s = 0.0
        self._began = time.perf_counter()

    def wait_for(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; counts the time until each of them is there."""
        while True:
            asked = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            self._waited_s += time.perf_counter() - asked
            yield item

    @contextlib.contextmanager
    def dispatch(self) -> Iterator[None]:
        """Around a call of the step; the first one, which compiles it, is kept apart."""
        began = time.perf_counter()
        yield
        if self._compile_s is None:
            self._compile_s = self._compiling_s = time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Figures since the last reading, once the device has caught up.

        windows_per_s and waiting_share (of the time, for input) leave compiling out.
        """
        seconds = time.perf_counter() - self._began - self._compiling_s
        found = {
            "windows_per_s": self.steps * self._windows / seconds,
            "waiting_share": self._waited_s / seconds,
            "compile_s": self._compile_s or 0.0,
            "host_memory_gb": _peak_rss_bytes() / 1e9,
        }
        on_device = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in on_device:
            found["device_memory_gb"] = on_device["peak_bytes_in_use"] / 1e9
        return found


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
