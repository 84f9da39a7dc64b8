"""Batches: every window once a pass, the same for a seed and step, nothing beyond a night's end."""

import numpy as np
import pytest

from kd_sleep.datasets.batches import Crops, crop, read_split, stack, whole_nights
from kd_sleep.stages import UNSCORED

WINDOWS = np.array([100, 37, 64, 1, 250])


def windows_of(crops, steps):
    """How often each window of each night comes up in these steps."""
    counts = [np.zeros(n, int) for n in WINDOWS]
    for step in steps:
        for row, start in zip(*crops(step), strict=True):
            index = start + np.arange(crops.length)
            np.add.at(counts[row], index[(index >= 0) & (index < WINDOWS[row])], 1)
    return np.concatenate(counts)


@pytest.mark.parametrize("length", [1, 16, 64, 300])
def test_every_window_comes_once_a_pass(length):
    crops = Crops(WINDOWS, batch_size=1, length=length, seed=3)
    for number in range(3):
        steps = range(number * crops.per_pass, (number + 1) * crops.per_pass)
        assert (windows_of(crops, steps) == 1).all()


def test_the_grid_of_cuts_moves_from_pass_to_pass():
    """Else a window would always have the same neighbours at a sequence's edge."""
    crops = Crops(WINDOWS, batch_size=1, length=16, seed=3)
    cuts = [
        {(int(row[0]), int(start[0])) for row, start in map(crops, steps)}
        for steps in (range(crops.per_pass), range(crops.per_pass, 2 * crops.per_pass))
    ]
    assert len(cuts[0] & cuts[1]) < len(cuts[0]) / 2


def test_batches_run_over_the_end_of_a_pass():
    crops = Crops(WINDOWS, batch_size=7, length=16, seed=3)
    counts = windows_of(crops, range(crops.per_pass))  # seven passes in all
    assert (counts == 7).all()


def test_a_batch_is_a_function_of_seed_and_step():
    one, two = (Crops(WINDOWS, 8, 16, seed=5) for _ in range(2))
    later = two(41)
    for _ in range(3):
        one(7)
    np.testing.assert_array_equal(one(41), later)
    assert not np.array_equal(one(41), Crops(WINDOWS, 8, 16, seed=6)(41))
    assert not np.array_equal(one(0), one(0 + one.per_pass))


def test_a_crop_is_masked_beyond_the_night(data_dir):
    nights = read_split(data_dir, "train")
    rows, starts = np.array([0, 1]), np.array([-3, nights.windows[1] - 5])
    batch = crop(nights, rows, starts, 8, ("tachogram", "bcg"))
    assert batch["valid_BL"].tolist() == [[False] * 3 + [True] * 5, [True] * 5 + [False] * 3]
    assert (batch["label"][~batch["valid_BL"]] == UNSCORED).all()
    np.testing.assert_array_equal(batch["tachogram"][0, 3:], nights.tachogram[0, :5])
    np.testing.assert_array_equal(batch["bcg"][1, :5], nights.bcg[1, starts[1] :][:5])
    np.testing.assert_array_equal(batch["bcg_scale"], nights.bcg_scale[:2])


def test_whole_nights_hold_each_night_once(data_dir):
    nights = read_split(data_dir, "train")
    batches = list(whole_nights(nights, ("tachogram",), batch_size=3))
    assert len({batch["tachogram"].shape for batch in batches}) == 1
    valid = np.concatenate([batch["valid_BL"] for batch in batches])
    assert valid.sum() == nights.windows.sum()
    labels = np.concatenate([batch["label"] for batch in batches])
    assert (labels >= 0).sum() == (nights.label >= 0).sum()


def test_teacher_inputs_are_finite_and_scaled_by_the_night(data_dir):
    nights = read_split(data_dir, "train")
    assert np.isfinite(nights.tachogram).all()
    assert np.isfinite(nights.hrv).all()
    for row, count in enumerate(nights.windows):
        valid = nights.tachogram_valid[row, :count]
        assert abs(np.median(nights.tachogram[row, :count][valid])) < 1e-3
        assert np.abs(nights.hrv[row, :count, :-1].mean(0)).max() < 0.3


def test_a_longer_neighbour_changes_nothing_but_padding(data_dir):
    """A night stacked alone, and beside one that is longer."""
    import tensorflow_datasets as tfds

    source = tfds.data_source("shhs_bcg/paired", data_dir=data_dir, split="train")
    records = [
        {key: value.decode() if isinstance(value, bytes) else value for key, value in r.items()}
        for r in source
    ]
    short, long = sorted(records, key=lambda r: len(r["label"]))[:: len(records) - 1]
    alone, beside = stack([short]), stack([short, long])
    count = len(short["label"])
    assert beside.label.shape[1] > count
    for name in ("label", "tachogram", "tachogram_valid", "hrv", "bcg", "rr_missing"):
        np.testing.assert_array_equal(getattr(beside, name)[0, :count], getattr(alone, name)[0])
    assert beside.teacher_digest[0] == alone.teacher_digest[0]


def test_selecting_nights_keeps_rows_together(data_dir):
    nights = read_split(data_dir, "train")
    chosen = nights.select([2, 0])
    assert chosen.recording_ids == (nights.recording_ids[2], nights.recording_ids[0])
    np.testing.assert_array_equal(chosen.bcg[1], nights.bcg[0])
    assert len(chosen) == 2
    assert chosen.cohort == nights.cohort
