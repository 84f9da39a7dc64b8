"""A signal at another rate, by any ratio: `on_grid` sees all of it, `RunningGrid` the past alone.

Sample n of the new grid is taken at n / new_rate_hz s of the series' clock, that is at the place

    p = (n / new_rate_hz - start_s) * rate_hz

between the old samples, in float64: after 14 h at 1,000 Hz it is out by less than 1e-8 of a sample.
A clock that runs fast or starts late is the series' own rate and start, so nothing is warped.

Above twice the new rate, a FIR first takes every D-th sample. The rest is a sinc about p, cut off
at half the lower of both rates, under a Kaiser window of `ZEROS` zeros either side. Each weight is
a polynomial in the fraction of p, so that fractions need not repeat: at a degree of `TERMS` - 1
it is within 1e-5 of the sinc, and constants pass exactly.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from kd_sleep.signals.timeseries import FLAT_S, Series

ZEROS, BETA = 10, 5.0  # as `scipy.signal.resample_poly` has them
TERMS = 8
_DECIMATION_DB = 80.0
_BLOCK = 1 << 15  # grid samples at once: a night at 1,000 Hz need not fit in memory as float64
_ROWS = 2048  # of a product; always as many, so that pieces of a stream give the same bits


def on_grid(
    series: Series, new_rate_hz: float, samples: int | None = None, first: int = 0
) -> Series:
    """The series at the times (first + n) / new_rate_hz of its clock.

    Args:
      series: with its own rate and start; the sensor's clock corrected where it is known.
      new_rate_hz: of the grid.
      samples: how many; None for as many as the series has time for, if it starts at 0.
      first: number of the first.

    Returns:
      [samples]; missing beyond the series' ends and where a sample beside the place is.
    """
    if samples is None:
        samples = series.samples_at(new_rate_hz) - first
    if series.rate_hz == new_rate_hz and series.start_s == 0 and first + samples == len(series):
        return dataclasses.replace(series[first:], start_s=first / new_rate_hz)
    kernel = _Kernel(series.rate_hz, new_rate_hz, series.start_s)
    values, missing = np.zeros(samples), np.ones(samples, bool)
    if len(series) and samples:
        place = kernel.places(first, first + samples)
        begin, end = np.searchsorted(place, [0.0, len(series)])
        values[:begin], values[end:] = series.values[0], series.values[-1]
        # A large offset costs no precision.
        level = float(series.values[0])
        values[begin:end] = kernel.at(series.values, 0, first + begin, first + end, level)
        missing[begin:end] = kernel.missing(series.missing, 0, place[begin:end])
    return Series(values, missing, new_rate_hz, first / new_rate_hz)


class _Kernel:
    """Weights from one rate to another, and their use."""

    def __init__(self, rate_hz: float, new_rate_hz: float, start_s: float):
        self._every = every = max(1, int(rate_hz / (2.0 * new_rate_hz)))
        self._step = rate_hz / new_rate_hz
        self._start = start_s * rate_hz
        slow_hz = rate_hz / every
        self._fir, self._fir_side = np.ones(1), 0
        if every > 1:
            width = 2.0 * (slow_hz - new_rate_hz) / rate_hz
            taps, beta = signal.kaiserord(_DECIMATION_DB, width)
            self._fir_side = every * math.ceil(taps / 2 / every)
            self._fir = signal.firwin(2 * self._fir_side + 1, 1.0 / every, window=("kaiser", beta))
        edge = min(1.0, new_rate_hz / slow_hz)
        self._side = side = math.ceil(ZEROS / edge)
        node = 0.5 - 0.5 * np.cos(np.pi * (np.arange(TERMS) + 0.5) / TERMS)
        x = np.arange(1 - side, side + 1)[:, None] - node
        window = np.i0(BETA * np.sqrt(np.clip(1.0 - (x / side) ** 2, 0.0, 1.0))) - 1.0
        weights = np.sinc(edge * x) * window
        weights /= weights.sum(0)
        self._weights = weights @ np.linalg.inv(np.vander(node - 0.5, increasing=True)).T
        # To a rate that divides the old one, all fractions are alike: one FIR does.
        hop, start = self._step / every, -self._start / every
        self._hop = round(hop) if hop == round(hop) and start == round(start) else 0
        # Old samples that a grid sample needs before and behind its place.
        self.before = side * every + self._fir_side
        self.behind = (side + 1) * every + self._fir_side

    def places(self, first: int, stop: int) -> NDArray[np.float64]:
        """[stop - first] places of grid samples among the old ones; they increase."""
        return np.arange(first, stop, dtype=np.float64) * self._step - self._start

    def missing(self, missing: NDArray[np.bool_], begin: int, place: NDArray) -> NDArray[np.bool_]:
        """[m] whether a sample beside each place is missing; the samples count from `begin`."""
        if not missing.any():
            return np.zeros(len(place), bool)
        below = place.astype(np.int64)
        # To a slower rate, every sample is beside some place, also where places are whole numbers.
        above = below + 1 if self._step > 1.0 else np.ceil(place).astype(np.int64)
        above = np.minimum(above - begin, len(missing) - 1)
        return missing[below - begin] | missing[above]

    def at(
        self, values: NDArray, begin: int, first: int, stop: int, level: float = 0.0
    ) -> NDArray[np.float64]:
        """[stop - first] grid samples, by old ones that count from `begin`.

        Beyond the old samples' ends the last one goes on. All are summed relative to `level`.
        """
        out = np.empty(stop - first)
        for number in range(first, stop, _BLOCK):
            end = min(number + _BLOCK, stop)
            out[number - first : end - first] = self._block(values, begin, number, end, level)
        return out

    def _block(
        self, values: NDArray, begin: int, first: int, stop: int, level: float
    ) -> NDArray[np.float64]:
        place = self.places(first, stop) / self._every
        below = np.floor(place).astype(np.int64)
        part, row = place - below - 0.5, below - below[0]
        low_at = (below[0] - self._side + 1) * self._every - self._fir_side - begin
        high_at = (below[-1] + self._side) * self._every + self._fir_side + 1 - begin
        old = values[max(low_at, 0) : high_at].astype(np.float64) - level
        edges = max(-low_at, 0), max(high_at - len(values), 0)
        if any(edges):
            old = np.pad(old, edges, mode="edge")
        if self._every > 1:
            skip = 2 * self._fir_side // self._every
            old = signal.upfirdn(self._fir, old, 1, self._every)[skip:]
        if self._hop:
            taps = self._weights @ (-0.5) ** np.arange(TERMS)
            lead = -(len(taps) - 1) % self._hop
            filtered = signal.upfirdn(taps[::-1], np.pad(old, (lead, 0)), 1, self._hop)
            return filtered[(len(taps) - 1 + lead) // self._hop :][: len(part)] + level
        windows = np.lib.stride_tricks.sliding_window_view(old, 2 * self._side)
        found = np.empty(len(part))
        rows = np.zeros(_ROWS, np.int64)
        for start in range(0, len(part), _ROWS):
            here = slice(start, min(start + _ROWS, len(part)))
            count = here.stop - start
            rows[:count] = row[here]
            terms = (windows[rows] @ self._weights)[:count].T
            sums = terms[-1].copy()
            for term in terms[-2::-1]:
                sums *= part[here]
                sums += term
            found[here] = sums + level
        return found


class RunningGrid:
    """A series brought to a grid while it is recorded: what `on_grid` does, from the past alone.

    Departures from `on_grid` of the series `without_flat`:

      - a gap is bridged with the last sample before it, not with a straight line to the one behind;
      - a run without change is missing from its second `FLAT_S` on.

    A grid sample is there when the old samples that it needs are: some 0.2 s later at 50 Hz. They
    are the same however the samples are cut into pieces.
    """

    def __init__(self, rate_hz: float, new_rate_hz: float):
        self._kernel = _Kernel(rate_hz, new_rate_hz, 0.0)
        self._rate_hz, self._new_rate_hz = rate_hz, new_rate_hz
        self._run = max(2, math.ceil(FLAT_S * rate_hz))  # equal samples that are a dropout
        self._first: float | None = None  # sample there was; all are relative to it
        self._last, self._equal = 0.0, 0  # sample, and how long it has not changed
        self._values, self._missing = np.empty(0), np.empty(0, bool)  # that are still needed
        self._begin = 0  # number of the first of these
        self._made = 0  # grid samples so far

    def push(self, samples: Series) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The grid samples that are known by now, and which of them are missing.

        Args:
          samples: [n] the next ones.

        Returns:
          [m] relative to the first sample there was, gaps bridged; [m].
        """
        values, missing = self._bridged(samples.values.astype(np.float64), ~samples.missing)
        self._values = np.concatenate([self._values, values])
        self._missing = np.concatenate([self._missing, missing])
        end = self._begin + len(self._values)
        return self._until(end - self._kernel.behind)

    def finish(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The grid samples that only waited for what a change of rate looks ahead."""
        return self._until(self._begin + len(self._values))

    def _bridged(
        self, values: NDArray[np.float64], there: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Samples relative to the first, gaps filled with the last before them; and the gaps."""
        if self._first is None:
            if not there.any():
                return np.zeros(len(values)), ~there
            self._first = self._last = float(values[there.argmax()])
        if not len(values):
            return values, ~there
        number = np.arange(len(values))
        place = np.maximum.accumulate(np.where(there, number, -1))
        filled = np.where(place >= 0, values[place], self._last)
        # How long each sample has been what it is; a gap goes on with the run before it.
        changed = np.diff(filled, prepend=self._last) != 0
        since = np.maximum.accumulate(np.where(changed, number, -1))
        equal = np.where(since >= 0, number - since + 1, number + 1 + self._equal)
        self._last, self._equal = float(filled[-1]), int(equal[-1])
        return filled - self._first, ~there | (equal > self._run)

    def _until(self, place: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The grid samples that lie before a place among the old ones."""
        kernel, first = self._kernel, self._made
        ahead = max(0, math.ceil(place * self._new_rate_hz / self._rate_hz) + 1 - first)
        places = kernel.places(first, first + ahead)
        places = places[places < place]
        stop = first + len(places)
        if stop == first:
            return np.empty(0), np.empty(0, bool)
        values = kernel.at(self._values, self._begin, first, stop)
        missing = kernel.missing(self._missing, self._begin, places)
        needed = max(0, int(kernel.places(stop, stop + 1)[0]) - kernel.before) - self._begin
        self._values, self._missing = self._values[needed:], self._missing[needed:]
        self._begin, self._made = self._begin + needed, stop
        return values, missing
