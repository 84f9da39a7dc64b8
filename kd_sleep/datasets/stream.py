"""The BCG of training batches straight from disk, for splits larger than memory.

The batches are those that a split in memory gives. Their sequences come from one pool of nights
after another (`Crops`): with two pools held, each night is read once a pass.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from kd_sleep.datasets.batches import Crops
from kd_sleep.datasets.nights import Nights, open_split
from kd_sleep.errors import DatasetError

THREADS = 4


def stream_bcg(nights: Nights, crops: Crops, first_step: int = 0) -> Iterator[NDArray[np.int16]]:
    """BCG [B, L, S] int16 of batch after batch, from number `first_step` on, without end.

    Windows beyond a night's ends repeat its first or last one, as `gather` does.

    Args:
      nights: read without their BCG's samples; their places say where these lie.
      crops: which windows of these nights each batch holds.
      first_step: number of the first batch.

    Raises:
      DatasetError: a night that was read from no dataset, or has changed there.
    """
    for name, place in zip(nights.recording_ids, nights.places, strict=True):
        if place is None:
            raise DatasetError(
                f"{name}: this night has no samples and was read from no dataset.",
                "Give Nights.from_arrays bcg_samples=True, or take the front end beats.",
            )
    splits = {place[:2] for place in nights.places if place}
    records = {split: open_split(*split, ("bcg",))[0] for split in splits}

    @functools.lru_cache(maxsize=2 * crops.POOL_NIGHTS)
    def night(row: int) -> NDArray[np.int16]:
        place = nights.places[row]
        assert place is not None
        bcg = records[place[:2]][place.position]["bcg"]
        if len(bcg) != nights.windows[row]:
            raise DatasetError(
                f"{nights.recording_ids[row]}: {len(bcg)} windows of BCG, expected"
                f" {nights.windows[row]}: the dataset changed while it was read."
            )
        return bcg

    steps = np.arange(crops.length)
    with ThreadPoolExecutor(THREADS) as pool:
        for step in itertools.count(first_step):
            rows, starts = crops(step)
            wanted = sorted({*rows.tolist()})
            read = dict(zip(wanted, pool.map(night, wanted), strict=True))
            yield np.stack(
                [
                    read[row][(start + steps).clip(0, nights.windows[row] - 1)]
                    for row, start in zip(rows.tolist(), starts, strict=True)
                ]
            )
