"""PhysioNet's slpdb: tiny records whole, damaged and half there; the real ones."""

import datetime
import shutil
from pathlib import Path

import numpy as np
import pytest
import wfdb

from kd_sleep.config import DatasetConfig
from kd_sleep.errors import DatasetError
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.recordings import slpdb
from kd_sleep.simulation import sensors
from kd_sleep.simulation.physiology import draw_subject, simulate_night

NONE, SIMULATED = DatasetConfig(bcg_source="none"), DatasetConfig(bcg_source="simulated")
RATE_HZ = 250
STAGES = ["W", "1 H", "2", "2 HA", "3 LA", "4", "R", "MT", "M", "W"]
LABELS = [0, 2, 2, 2, 3, 3, 1, -1, -1, 0]


def write_record(folder: Path, name: str, rate_hz: int = RATE_HZ, stages=STAGES) -> Path:
    """Five minutes of a simulated heart, with signals, in the database's files."""
    rng = np.random.default_rng(3)
    night = simulate_night(rng, draw_subject(rng), hours=0.1)
    seconds = 30 * len(stages)
    signals = {
        "ECG": sensors.ecg(rng, night.drive, rate_hz)[: seconds * rate_hz],
        "Resp (nasal)": np.repeat(night.drive.breathing, rate_hz // 10)[: seconds * rate_hz],
        "Resp (chest)": np.repeat(night.drive.breathing, rate_hz // 10)[: seconds * rate_hz],
    }
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name, fs=rate_hz, units=["mV", "l", "l"], sig_name=list(signals), fmt=["212"] * 3,
        p_signal=np.stack(list(signals.values()), 1), write_dir=str(folder),
        base_time=datetime.time(23, 7),
    )  # fmt: skip
    at = np.maximum(np.arange(len(stages)) * 30 * rate_hz, 1)  # the first one at sample 1
    wfdb.wrann(
        name, "st", at, ['"'] * len(at), aux_note=list(stages), fs=rate_hz, write_dir=str(folder)
    )
    beats = night.drive.beat_times_s[night.drive.beat_times_s < seconds]
    kinds = np.where(np.arange(len(beats)) % 50 == 7, "V", "N").tolist()
    wfdb.wrann(
        name, "ecg", np.rint(beats * rate_hz).astype(int), kinds, fs=rate_hz, write_dir=str(folder)
    )
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_record(tmp_path / "slpdb", "slp01a")


def only(folder: Path, config: DatasetConfig = NONE):
    (night,) = slpdb.find_nights(folder).nights
    return process_night(night, config)


def without(folder: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        (folder / f"slp01a{suffix}").unlink()


def test_a_record_is_read_with_its_signals_or_without(folder):
    whole = only(folder)
    assert whole["label"].tolist() == LABELS
    assert (whole["cohort"], whole["subject_id"], whole["visit"]) == ("slpdb", "slp01", 1)
    assert whole["ecg_quality"].mean() > 0.9
    assert only(folder, SIMULATED)["simulator"] == "kd_sleep simulator 1.1"
    (night,) = slpdb.find_nights(folder).nights
    recording = night.read()
    assert [belt.label for belt in recording.effort] == ["Resp (chest)", "Resp (nasal)"]
    assert not recording.rpoints.normal.all()
    without(folder, ".dat")
    bare = only(folder)
    np.testing.assert_array_equal(bare["tachogram"], whole["tachogram"])
    assert np.isnan(bare["ecg_quality"]).all()
    assert only(folder, SIMULATED)["simulator"].endswith(
        ", breathing from the heartbeats, no movement"
    )


@pytest.mark.parametrize("harm", ["missing", "cut", "junk", "few"])
def test_beats_are_detected_where_the_records_own_are_unusable(folder, harm):
    whole, path = only(folder), folder / "slp01a.ecg"
    data = path.read_bytes()
    changed = {"missing": None, "cut": data[:-30], "junk": b"\1\2", "few": data[:60] + b"\0\0"}[
        harm
    ]
    path.unlink() if changed is None else path.write_bytes(changed)
    record = only(folder)
    both = np.isfinite(record["tachogram"]) & np.isfinite(whole["tachogram"])
    assert both.mean() > 0.7
    assert np.median(np.abs(record["tachogram"] - whole["tachogram"])[both]) < 0.005
    without(folder, ".dat")
    assert isinstance(only(folder), Exclusion)
    assert only(folder).path == str(path)


def rewritten(folder: Path, old: str, new: str) -> None:
    path = folder / "slp01a.hea"
    path.write_text(path.read_text().replace(old, new))


DAMAGE = {
    "no stages": (lambda f: without(f, ".st"), ".st", "is missing"),
    "no header": (lambda f: without(f, ".hea"), ".hea", "is missing"),
    "an empty header": (lambda f: (f / "slp01a.hea").write_text(""), ".hea", "no readable WFDB"),
    "no beats and no signals": (lambda f: without(f, ".ecg", ".dat"), ".ecg", "is missing"),
    "stages cut short": (
        lambda f: (f / "slp01a.st").write_bytes((f / "slp01a.st").read_bytes()[:-9]),
        ".st", "no end mark",
    ),
    "empty stages": (lambda f: (f / "slp01a.st").write_bytes(b""), ".st", "no end mark"),
    "signals cut short": (
        lambda f: (f / "slp01a.dat").write_bytes((f / "slp01a.dat").read_bytes()[:9999]),
        ".dat", "no readable WFDB file",
    ),
    "an unknown stage": (
        lambda f: write_record(f, "slp01a", stages=[*STAGES, "N3"]), ".st",
        "unknown stage 'N3' at 300 s",
    ),
    "no word": (
        lambda f: write_record(f, "slp01a", stages=["W", " "]), ".st", "unknown stage ''",
    ),
    "another rate in the header": (
        lambda f: rewritten(f, "slp01a 3 250 75000", "slp01a 3 360 75000"), ".st",
        "counts 250 samples a second, its header 360",
    ),
    "no ECG": (lambda f: rewritten(f, "ECG", "EMG"), ".dat", "has no ECG among EMG"),
    "a length of no night": (lambda f: rewritten(f, "75000", "0"), ".hea", "tells 0 samples"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_record_that_is_half_there_is_left_out_by_name(folder, damage):
    harm, suffix, reason = DAMAGE[damage]
    harm(folder)
    result = only(folder)
    assert isinstance(result, Exclusion)
    assert reason in result.reason
    assert result.path == str(folder / f"slp01a{suffix}")


def test_a_record_of_another_rate_is_read_at_that_rate(tmp_path):
    record = only(write_record(tmp_path, "slp02b", rate_hz=500))
    assert record["label"].tolist() == LABELS
    assert 0.4 < np.nanmedian(record["tachogram"]) < 1.6


def test_a_persons_records_are_one_subject_in_one_split(tmp_path):
    for name in ("slp01a", "slp01b", "slp02a", "slp67x", "notes"):
        (tmp_path / f"{name}.st").touch()
    (tmp_path / "RECORDS").touch()
    listing = slpdb.find_nights(tmp_path)
    assert [(n.recording_id, n.subject_id, n.visit) for n in listing.nights] == [
        ("notes", "notes", 1), ("slp01a", "slp01", 1), ("slp01b", "slp01", 2),
        ("slp02a", "slp02", 1), ("slp67x", "slp67", 1),
    ]  # fmt: skip
    assert {*listing.splits.values()} == {"train", "validation", "test"}


@pytest.mark.parametrize("name", ["empty", "gone"])
def test_a_folder_without_records_says_how_to_fetch_them(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"kd-sleep fetch_slpdb"):
        slpdb.find_nights(tmp_path / name)


def test_without_a_way_to_physionet_the_error_says_so(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(wfdb, "dl_database", offline)
    with pytest.raises(DatasetError, match=r"cannot be fetched from PhysioNet \(no route\)"):
        slpdb.fetch(tmp_path / "out")


def test_the_real_records(real_data):
    if not (real_data / "slpdb").is_dir():
        pytest.skip(f"{real_data / 'slpdb'} is absent")
    records = {
        n.recording_id: process_night(n, NONE)
        for n in slpdb.find_nights(real_data / "slpdb").nights
    }
    assert len(records) == 14
    assert len({r["subject_id"] for r in records.values()}) == 12
    counts = np.bincount(np.concatenate([r["label"] for r in records.values()]) + 1, minlength=5)
    assert counts.tolist() == [65, 2179, 550, 4198, 502]
    assert (records["slp14"]["label"][:7] >= 0).tolist() == [False] * 6 + [True]
    assert max(r["rr_missing"].mean() for r in records.values()) < 0.1


def test_files_that_other_downloads_left_are_passed_over(folder):
    shutil.copy(folder / "slp01a.st", folder / "slp01a.st.part")
    assert len(slpdb.find_nights(folder).nights) == 1
