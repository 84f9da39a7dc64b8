"""The BCG of training batches straight from disk, for splits larger than memory.

Grain reads the nights ahead, each whole and once a pass, in the order in which `Crops` comes to
their pools; the batches are those that a split in memory would give.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import grain
import numpy as np
from numpy.typing import NDArray

from kd_sleep.datasets.batches import Crops
from kd_sleep.datasets.nights import Nights, open_split
from kd_sleep.errors import DatasetError

READ_AHEAD = 16  # nights, some 3 MB each
THREADS = 4


class _NightsInOrder:
    """Pass after pass of (pass, row, BCG [N, S]), by position: what Grain calls a source."""

    def __init__(self, nights: Nights, crops: Crops, first_step: int):
        self._nights, self._crops = nights, crops
        absent = [
            n for n, place in zip(nights.recording_ids, nights.places, strict=True) if not place
        ]
        if absent:
            raise DatasetError(
                f"{absent[0]}: this night has no samples and was read from no dataset.",
                "Give Nights.from_arrays bcg_samples=True, or take the front end beats.",
            )
        splits = {place[:2] for place in nights.places if place}
        self._records = {key: open_split(*key, ("bcg",))[0] for key in splits}
        number, pool = crops.pool_of(first_step)  # nights of earlier pools are not needed again
        self._first = number * len(nights) + pool * crops.POOL_NIGHTS

    def __len__(self) -> int:
        return 2**31 // len(self._nights) * len(self._nights)  # passes without end

    def __getitem__(self, place: int) -> tuple[int, int, NDArray[np.int16]]:
        number, rank = divmod(self._first + place, len(self._nights))
        row = int(self._crops.night_order(number)[rank])
        source = self._nights.places[row]
        assert source is not None
        bcg = self._records[source[:2]][source.position]["bcg"]
        if len(bcg) != self._nights.windows[row]:
            raise DatasetError(
                f"{self._nights.recording_ids[row]}: {len(bcg)} windows of BCG, expected"
                f" {self._nights.windows[row]}: the dataset changed while it was read."
            )
        return number, row, bcg


def stream_bcg(nights: Nights, crops: Crops, first_step: int = 0) -> Iterator[NDArray[np.int16]]:
    """BCG [B, L, S] int16 of batch after batch, from number `first_step` on, without end.

    Windows beyond a night's ends repeat its first or last one, as `gather` does.

    Args:
      nights: read without their BCG's samples; their places say where these lie.
      crops: which windows of these nights each batch holds.
      first_step: number of the first batch.
    """
    source = _NightsInOrder(nights, crops, first_step)
    coming = iter(
        grain.MapDataset.source(source).to_iter_dataset(
            grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=READ_AHEAD)
        )
    )
    held: dict[tuple[int, int], NDArray[np.int16]] = {}
    steps = np.arange(crops.length)
    for step in itertools.count(first_step):
        wanted = crops.nights_of(step)
        while not held.keys() >= set(wanted):
            number, row, bcg = next(coming)
            held[number, row] = bcg
        rows, starts = crops(step)
        yield np.stack(
            [
                held[night][(start + steps).clip(0, nights.windows[row] - 1)]
                for night, row, start in zip(wanted, rows, starts, strict=True)
            ]
        )
        for night in crops.left_behind(held, step):
            del held[night]
