"""Batches of window sequences: which ones, and how they are taken out of a split's columns.

Which windows batch number `step` holds is a pure function of (seed, step): a run that was stopped
goes on with the very batches that it would have had, with no iterator to save, and it makes no
difference whether the windows lie in the host's memory, on an accelerator or on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_sleep.datasets.nights import Nights
from kd_sleep.stages import UNSCORED

Batch = dict[str, Any]  # arrays [B, L, ...] by name, of NumPy or JAX


class Sequences(NamedTuple):
    """Where B sequences lie among the W windows of a split; three arrays [..., B] int32.

    begin: the first window, which may lie before the night's own.
    low, high: first window of the night, and the one after its last.
    """

    begin: Any
    low: Any
    high: Any


def gather(columns: Mapping[str, Any], where: Sequences, length: int) -> Batch:
    """The columns [W, ...] at B sequences of L windows; NumPy in, NumPy out, and likewise JAX.

    `valid_BL` is False and `label` UNSCORED where a sequence reaches beyond its night.
    """
    index, valid = windows_of(where, length)
    return masked({name: column[index] for name, column in columns.items()}, valid)


def windows_of(where: Sequences, length: int) -> tuple[Any, Any]:
    """[B, L] windows of a split, those beyond a night put to its ends; and which are its own."""
    xp = where.begin.__array_namespace__()
    windows = where.begin[:, None] + xp.arange(length, dtype=where.begin.dtype)[None]
    valid = (windows >= where.low[:, None]) & (windows < where.high[:, None])
    return xp.clip(windows, where.low[:, None], where.high[:, None] - 1), valid


def masked(batch: Batch, valid_BL: Any) -> Batch:
    """The batch with `valid_BL`, and no label where that is False."""
    xp = valid_BL.__array_namespace__()
    label = xp.where(valid_BL, batch["label"], xp.int8(UNSCORED))
    return batch | {"label": label, "valid_BL": valid_BL}


class Crops:
    """Which B sequences of L windows a batch holds; in a pass each window comes up once.

    In every pass the grid that cuts a night is shifted by a random 0 to L - 1 windows, so that a
    window's place in its sequence, and with it the context that it is seen in, is uniform. A night
    of N windows shifted by s gives ceil((N + s) / L) sequences, the mean (N + L - 1) / L; how many
    a pass holds depends on its shifts. The nights are permuted, and sequences are permuted within
    pools of `POOL_NIGHTS` nights: a reader from disk that holds two pools reads each night once a
    pass.
    """

    POOL_NIGHTS = 256

    def __init__(self, windows: NDArray[np.int64], batch_size: int, length: int, seed: int):
        if not np.sum(windows):
            raise ValueError("windows: no night has any, so there is no batch to cut.")
        self.windows, self.batch_size, self.length, self.seed = windows, batch_size, length, seed
        self._first = np.cumsum(windows) - windows
        self._before = [0]  # sequences in all passes before each one, as far as was asked
        self._passes: dict[int, _Pass] = {}

    def before(self, number: int) -> int:
        """Sequences in all passes before a pass."""
        known = list(self._before)
        while len(known) <= number:
            _, _, cuts = self._grid(len(known) - 1)
            known.append(known[-1] + int(cuts.sum()))
        self._before = known
        return known[number]

    def __call__(self, step: int) -> tuple[NDArray, NDArray]:
        """Rows [B] and first windows [B] of batch number `step`, from 0."""
        numbers, places = self._places(step)
        found = [self._pass(number) for number in numbers]
        rows = np.array([p.rows[place] for p, place in zip(found, places, strict=True)])
        starts = np.array([p.starts[place] for p, place in zip(found, places, strict=True)])
        return rows, starts

    def sequences(self, step: int) -> Sequences:
        """The same batch by its place among the windows of the split."""
        rows, starts = self(step)
        low = self._first[rows]
        place = (low + starts, low, low + self.windows[rows])
        return Sequences(*(array.astype(np.int32) for array in place))

    def _places(self, step: int) -> tuple[NDArray, NDArray]:
        """Number of the pass, and place in it, of each sequence of a batch."""
        wanted = step * self.batch_size + np.arange(self.batch_size)
        while self._before[-1] <= wanted[-1]:
            self.before(len(self._before))
        before = np.array(self._before)
        numbers = np.searchsorted(before, wanted, side="right") - 1
        return numbers, wanted - before[numbers]

    def _pass(self, number: int) -> _Pass:
        number = int(number)
        found = self._passes.get(number)
        if found is None:
            found = self._make_pass(number)
            kept = {n: p for n, p in self._passes.items() if abs(n - number) == 1}
            # Replaced, not changed, and not read again: readers ahead are threads.
            self._passes = kept | {number: found}
        return found

    def _grid(self, number: int) -> tuple[np.random.Generator, NDArray, NDArray]:
        """The generator of a pass, each night's shift [R], and its number of sequences [R]."""
        rng = np.random.default_rng([self.seed, number])
        shift = rng.integers(0, self.length, len(self.windows))
        return rng, shift, -(-(self.windows + shift) // self.length)

    def _make_pass(self, number: int) -> _Pass:
        rng, shift, cuts_R = self._grid(number)
        order = rng.permutation(len(self.windows))
        sequences = []
        for first in range(0, len(order), self.POOL_NIGHTS):
            nights = order[first : first + self.POOL_NIGHTS]
            cuts = cuts_R[nights]
            rows = np.repeat(nights, cuts)
            cut = np.arange(len(rows)) - np.repeat(np.cumsum(cuts) - cuts, cuts)
            starts = cut * self.length - shift[rows]
            sequences.append(rng.permutation(np.stack([rows, starts], axis=1)))
        return _Pass(*np.concatenate(sequences).T)


class _Pass(NamedTuple):
    rows: NDArray[np.int64]  # of each sequence
    starts: NDArray[np.int64]


def whole_nights(nights: Nights, columns: tuple[str, ...], batch_size: int = 4) -> Iterator[Batch]:
    """All nights whole, in order, in batches of one shape; the last is padded with empty ones."""
    length = int(nights.windows.max())
    for start in range(0, len(nights), batch_size):
        rows = np.arange(start, start + batch_size)
        real = rows < len(nights)
        rows = rows.clip(max=len(nights) - 1)
        low = nights.first[rows]
        # A night that ends before it begins has no valid window.
        where = Sequences(np.where(real, low, low - length), low, low + nights.windows[rows])
        yield gather(nights.columns((*columns, "label")), where, length)
