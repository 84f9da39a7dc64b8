"""The ladder's rungs on a tiny cohort: what they are made of, and what is said of them."""

import dataclasses

import numpy as np
import pytest

from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import DatasetError
from kd_sleep.recordings.shhs import find_nights
from kd_sleep.schema import RECORDED
from kd_sleep.stages import NUM_STAGES
from kd_sleep.study import ladder

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def climbed(tiny_study):
    """The study's ladder."""
    workdir, results = tiny_study
    return workdir / "ladder", results.ladder


@pytest.fixture(scope="module")
def made(climbed, cohort):
    """A night's files, and what its rungs are made of."""
    night = find_nights(cohort).nights[0]
    with np.load(climbed[0] / "jj" / f"{night.recording_id}.npz") as arrays:
        return night, dict(arrays)


def guessed(name, splits, workdir, preset):
    """In place of training: [M, W, K]."""
    rng = np.random.default_rng(len(name))
    shape = (preset.study.ladder_seeds, len(splits["test"].label))
    return np.log(rng.dirichlet(np.full(NUM_STAGES, 5.0), shape))


def test_the_steps_from_ecg_to_student_add_up(climbed):
    _, found = climbed
    steps = {rung.name: rung for rung in found.rungs if rung.cause}
    assert [rung.cause for rung in steps.values()] == [
        "sensor timing", "detector", "noise", "breath and movement", "network",
    ]  # fmt: skip
    changes = [rung.change.value for rung in steps.values()]
    assert sum(changes) == pytest.approx(found.gap.value)
    assert sum(changes[:3]) == pytest.approx(found.sensor.value)
    assert found.network == steps[ladder.STUDENT].change
    assert (found.top, found.rungs[-1].name) == (ladder.ECG, ladder.STUDENT)
    expected = {name: rung.expected for name, rung in steps.items()}
    assert expected[ladder.FOUND] == expected[ladder.STUDENT] == "loss"
    assert expected[ladder.SERIES] == "gain"


def test_recordings_of_other_nights_make_no_ladder(tiny, data_dir, cohort, tmp_path):
    folder = tmp_path / "polysomnography" / "annotations-events-nsrr" / "shhs1"
    folder.mkdir(parents=True)
    source = next((cohort / "polysomnography").rglob("*-nsrr.xml"))
    (folder / "shhs1-200999-nsrr.xml").write_bytes(source.read_bytes())
    with pytest.raises(DatasetError, match=r"lacks \d+ nights of the dataset"):
        ladder.climb([data_dir], tmp_path, tmp_path / "ladder", tiny)


def test_a_night_is_the_same_whoever_makes_it(made, cohort, tmp_path):
    night, arrays = made
    ladder._write_series(tmp_path, cohort, night)
    with np.load(tmp_path / f"{night.recording_id}.npz") as again:
        for name, array in arrays.items():
            np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_each_change_worsens_the_intervals(made, data_dir, climbed):
    """By 10 ms or so for the pulse's delay, then by missed beats, then by noise."""
    night, _ = made
    nights = {split: read_split(data_dir, split) for split in SPLITS}
    (split,) = (name for name in SPLITS if night.recording_id in nights[name].recording_ids)
    of_night = nights[split].select([nights[split].recording_ids.index(night.recording_id)])
    names = (ladder.ECG, ladder.DELAYED, ladder.NOISE_FREE, ladder.FOUND)
    ecg, delayed, noise_free, found = (
        next(ladder._series(name, of_night, climbed[0] / "jj"))[0] for name in names
    )

    def error_s(jj):
        return np.nanmean(np.abs(jj - ecg))

    assert 0.002 < error_s(delayed) < 0.02
    # A cohort's other beds delay the pulse by other amounts: the two are not of one draw.
    assert error_s(delayed) < error_s(noise_free) < error_s(found)
    np.testing.assert_array_equal(np.isnan(delayed).all(1), np.isnan(ecg).all(1))
    assert np.isfinite(noise_free).mean() > np.isfinite(found).mean()


def test_a_simulated_night_is_rendered_from_its_own_drive(made, tmp_path):
    night, arrays = made
    ladder._write_series(tmp_path, None, night)
    with np.load(tmp_path / f"{night.recording_id}.npz") as inferred:
        for name in (ladder.DELAYED, ladder.NOISE_FREE):
            assert not np.array_equal(inferred[f"{name} jj"], arrays[f"{name} jj"], equal_nan=True)


@pytest.mark.parametrize(
    ("cohort_name", "bcg_source", "known", "name"),
    [
        ("kd_sleep simulator", "paired", True, "noise"),
        ("kd_sleep simulator", "simulated", False, "noise"),
        (RECORDED, "simulated", False, "noise"),
        (RECORDED, "paired", False, "sensor, bed and inferred body"),
    ],
)
def test_only_a_bcg_of_a_known_drive_loses_to_noise(
    climbed, tiny, cohort, data_dir, monkeypatch, cohort_name, bcg_source, known, name
):
    asked = []

    def read(*arguments, **more):
        nights = read_split(*arguments, **more)
        return dataclasses.replace(nights, cohort=cohort_name, bcg_source=bcg_source)

    monkeypatch.setattr(ladder, "read_split", read)
    monkeypatch.setattr(ladder, "_by_seed", guessed)
    monkeypatch.setattr(ladder, "_make_series", lambda *settings: asked.append(settings[3]))
    found = ladder.climb([data_dir], cohort, climbed[0], tiny)
    assert asked == [known]
    assert {rung.name: rung.cause for rung in found.rungs}[ladder.FOUND] == name
    assert found.inferred == (name != "noise")
    assert ("not noise alone" in found.about[1]) == found.inferred


def test_a_student_without_more_than_its_series_is_no_rung_of_its_own(
    climbed, tiny, cohort, data_dir, monkeypatch
):
    monkeypatch.setattr(ladder, "_by_seed", guessed)
    plain = dataclasses.replace(tiny, student=dataclasses.replace(tiny.student, causal=False))
    found = ladder.climb([data_dir], cohort, climbed[0], plain)
    assert found.rungs[-1].name == ladder.SERIES
    assert found.network is None


def test_windows_without_beats_weigh_as_any_other(tiny, data_dir, tmp_path, monkeypatch):
    nights = read_split(data_dir, "validation")
    missing = dataclasses.replace(
        nights, bcg_missing=np.full_like(nights.bcg_missing, 0.7),
        rr_missing=np.ones_like(nights.rr_missing),
    )  # fmt: skip
    series = [
        (np.full((windows, 120), np.nan), np.full((windows, nights.hrv.shape[1] - 1), np.nan))
        for windows in nights.windows
    ]
    blind = ladder._shown(missing, series)
    assert not blind.tachogram.any()
    assert not blind.tachogram_valid.any()
    weights = {}

    def fit(run, data, *others):
        train = data.nights
        batch = {name: getattr(train, name) for name in (*run.columns, "label")}
        found = run.objective.weigh(batch | {"valid_BL": np.ones(train.label.shape, bool)})
        weights[run.kind] = np.asarray(found["label_weights"])
        raise InterruptedError

    monkeypatch.setattr(ladder, "fit", fit)
    for name, shown in ((ladder.FOUND, blind), (ladder.SERIES, missing)):
        with pytest.raises(InterruptedError):
            ladder._log_probs(name, dict.fromkeys(SPLITS, shown), tmp_path, tiny, 0)
    for kind in ("teacher", "student"):
        np.testing.assert_array_equal(weights[kind], nights.label >= 0)
