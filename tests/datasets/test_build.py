"""A build of the dataset: stopped and gone on with, short of room, of given splits, described."""

import csv
import dataclasses
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kd_sleep import schema
from kd_sleep.config import BuildConfig, DatasetConfig
from kd_sleep.datasets import shhs_bcg
from kd_sleep.datasets.nights import open_split, read_split
from kd_sleep.datasets.shhs_bcg import finished
from kd_sleep.datasets.shhs_bcg.build import _reasons
from kd_sleep.datasets.splits import SPLITS, split_of
from kd_sleep.errors import ConfigError, DatasetError
from kd_sleep.extras import MissingPackage
from kd_sleep.features.night import Exclusion
from kd_sleep.recordings import files, night_table, shhs
from kd_sleep.training.training_set import TrainingSet

PAIRED = DatasetConfig(bcg_source="paired")
TEACHERS = DatasetConfig(recordings="rpoints", bcg_source="none")
ALONE = BuildConfig(workers=1)


def dataset(data_dir: Path, source: str = "paired") -> Path:
    return data_dir / "shhs_bcg" / source / schema.SCHEMA_VERSION


def assert_same_records(one: Path, two: Path) -> None:
    for split in SPLITS:
        a, b = (read_split(path, split, samples=True) for path in (one, two))
        assert a.recording_ids == b.recording_ids
        assert a.digest() == b.digest()
        np.testing.assert_array_equal(a.bcg, b.bcg)
        for name in ("rr_missing", "bcg_missing", "bcg_snr_db"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def stop_after(monkeypatch):
    """Makes `finished.process_night` count its calls, and break off after so many."""
    real, calls = finished.process_night, []

    def limit(count: float):
        calls.clear()

        def process(night, config):
            if len(calls) >= count:
                raise KeyboardInterrupt
            calls.append(night.recording_id)
            return real(night, config)

        monkeypatch.setattr(finished, "process_night", process)
        return calls

    return limit


def test_a_build_goes_on_where_it_was_stopped(cohort, data_dir, tmp_path, stop_after):
    first = stop_after(5)
    with pytest.raises(KeyboardInterrupt):
        shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)
    assert not dataset(tmp_path).exists()
    begun = list(first)
    second = stop_after(np.inf)
    shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)
    assert len(begun) == 5
    assert not set(begun) & set(second), "a finished night was read again"
    assert len(begun) + len(second) == 15
    assert_same_records(tmp_path, data_dir)
    assert sorted(p.name for p in dataset(tmp_path).parent.iterdir()) == [schema.SCHEMA_VERSION]


def test_a_night_whose_file_changed_meanwhile_is_read_again(cohort, tmp_path, stop_after):
    shutil.copytree(cohort, tmp_path / "cohort")
    stop_after(5)
    with pytest.raises(KeyboardInterrupt):
        shhs_bcg.build(tmp_path / "cohort", tmp_path, PAIRED, ALONE)
    xml = next((tmp_path / "cohort").rglob("shhs1-200001-nsrr.xml"))
    xml.write_text(xml.read_text().replace("Stage 2 sleep|2", "Stage 3 sleep|3"))
    second = stop_after(np.inf)
    shhs_bcg.build(tmp_path / "cohort", tmp_path, PAIRED, ALONE)
    assert second[0] == "shhs1-200001"
    assert len(second) == 11


def test_a_build_that_is_killed_loses_nothing(cohort, data_dir, tmp_path):
    command = [
        sys.executable, "-m", "launch.build_dataset", f"--shhs_dir={cohort}",
        f"--data_dir={tmp_path}", "--bcg_source=paired", "--workers=2",
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    building = dataset(tmp_path).parent / "building"
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 120
    while len(list(building.glob("*.npz"))) < 4 and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in building.glob("*.npz")}
    assert len(kept) >= 4
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "card.html" in done.stdout
    assert_same_records(tmp_path, data_dir)


@pytest.mark.parametrize("kinds", [1, 5, 6, 16])
def test_the_reasons_account_for_every_night(kinds):
    excluded = [Exclusion(str(n), "", f"reason {n % kinds}.", "") for n in range(16)]
    counts = re.findall(r"(\d+) (?:x|for)", _reasons(excluded))
    assert sum(map(int, counts)) == 16
    assert ("for other reasons" in _reasons(excluded)) == (kinds > 5)


def test_a_full_disk_is_a_clear_error_that_loses_nothing(
    cohort, data_dir, tmp_path, monkeypatch, stop_after
):
    real, written = files.write_bytes, []

    def full(path, data):
        if len(written) == 6:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        real(path, data)

    calls = stop_after(np.inf)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        with pytest.raises(DatasetError, match="no room is left") as error:
            shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)
    assert "goes on from here" in str(error.value)
    shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)
    assert len(calls) == 7 + 9  # the seventh was read, could not be kept, and is read again
    assert_same_records(tmp_path, data_dir)


def test_too_little_room_for_the_dataset_is_seen_before_it_is_written(
    cohort, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(DatasetError, match="no room is left"):
            shhs_bcg.build(
                cohort, tmp_path, TEACHERS, BuildConfig(workers=1, max_excluded_fraction=0.5)
            )


def test_two_builds_do_not_share_a_folder(cohort, tmp_path):
    from kd_sleep.datasets.shhs_bcg.build import _alone_in

    with (
        _alone_in(dataset(tmp_path).parent / "building"),
        pytest.raises(DatasetError, match="another build is at work"),
    ):
        shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)


def test_more_exclusions_than_allowed_end_the_build_and_are_listed(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "cohort")
    for path in sorted((tmp_path / "cohort" / "bcg").glob("*.edf"))[:4]:
        path.unlink()
    with pytest.raises(
        DatasetError, match=r"4 of 15 nights \(27 %\) cannot be used: 4 x "
    ) as error:
        shhs_bcg.build(tmp_path / "cohort", tmp_path, PAIRED, ALONE)
    assert "cannot be used: 4 x the night has no BCG file" in str(error.value)
    assert "--max_excluded_fraction=0.28" in str(error.value)
    listed = rows_of(dataset(tmp_path).parent / "exclusions.csv")
    assert len(listed) == 4
    assert all(row["reason"] and row["remedy"] and row["path"] for row in listed)
    allowed = BuildConfig(workers=1, max_excluded_fraction=0.28)
    builder = shhs_bcg.build(tmp_path / "cohort", tmp_path, PAIRED, allowed)
    assert rows_of(dataset(tmp_path) / "exclusions.csv") == listed
    assert not (dataset(tmp_path).parent / "exclusions.csv").exists()
    assert sum(info.num_examples for info in builder.info.splits.values()) == 11


def test_a_file_that_came_back_is_read(cohort, tmp_path, stop_after):
    shutil.copytree(cohort, tmp_path / "cohort")
    gone = sorted((tmp_path / "cohort" / "bcg").glob("*.edf"))[:4]
    for path in gone:
        path.rename(path.with_suffix(".away"))
    with pytest.raises(DatasetError):
        shhs_bcg.build(tmp_path / "cohort", tmp_path, PAIRED, ALONE)
    for path in gone:
        path.with_suffix(".away").rename(path)
    calls = stop_after(np.inf)
    builder = shhs_bcg.build(tmp_path / "cohort", tmp_path, PAIRED, ALONE)
    assert len(calls) == 4
    assert not shhs_bcg.exclusions(builder)


def test_a_file_of_an_unknown_name_is_listed(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "cohort")
    edfs = tmp_path / "cohort" / "polysomnography" / "edfs" / "shhs1"
    shutil.copy(edfs / "shhs1-200001.edf", edfs / "shhs1-200001 (1).edf")
    builder = shhs_bcg.build(tmp_path / "cohort", tmp_path, PAIRED, ALONE)
    (stray,) = shhs_bcg.exclusions(builder)
    assert stray["path"].endswith("shhs1-200001 (1).edf")
    assert "none of SHHS's" in stray["reason"]


def test_a_teachers_dataset_needs_no_edf(cohort, tmp_path):
    shutil.copytree(cohort / "polysomnography", tmp_path / "c" / "polysomnography")
    shutil.copy(cohort / "simulation.json", tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / "polysomnography" / "edfs")
    allowed = BuildConfig(workers=1, max_excluded_fraction=0.5)
    builder = shhs_bcg.build(tmp_path / "c", tmp_path, TEACHERS, allowed)
    missing = shhs_bcg.exclusions(builder)
    assert missing  # the cohort leaves some nights to the detector
    assert all("R point" in night["reason"] for night in missing)
    train = read_split(tmp_path, "train")
    assert train.bcg_source == "none"
    assert train.cohort.startswith("kd_sleep simulator")
    assert train.bcg_missing.min() == 1.0
    assert train.tachogram_valid.mean() > 0.9
    with pytest.raises(DatasetError, match="without BCG"):
        TrainingSet.of_student(train, train, [])


def test_without_samples_a_dataset_has_the_same_series(cohort, data_dir, tmp_path):
    bare = DatasetConfig(bcg_source="paired", bcg_samples=False)
    shhs_bcg.build(cohort, tmp_path, bare, BuildConfig(workers=2))
    records, _ = open_split(tmp_path, "train", ("bcg",))
    assert all(len(record["bcg"]) == 0 for record in records)
    for split in SPLITS:
        found, full = (read_split(path, split) for path in (tmp_path, data_dir))
        assert found.bcg is None
        assert found.digest() == full.digest()
        for field in dataclasses.fields(found):
            if field.name == "places":
                continue
            one, other = (getattr(nights, field.name) for nights in (found, full))
            np.testing.assert_array_equal(one, other, err_msg=field.name)
    with pytest.raises(DatasetError, match="without the BCG's samples") as error:
        read_split(tmp_path, "train", samples=True)
    assert "--bcg_samples" in str(error.value)


def test_rpoints_hold_nothing_to_simulate_a_bcg_from():
    with pytest.raises(ConfigError, match="no breathing"):
        DatasetConfig(recordings="rpoints", bcg_source="simulated")


def test_a_given_split_is_kept_and_others_are_left_out_by_name(cohort, tmp_path):
    subjects = sorted(
        {path.name[6:12] for path in (cohort / "polysomnography").rglob("shhs*-nsrr.xml")}
    )
    given = dict(zip(subjects[:-1], ("train", "validation", "test") * 10, strict=False))
    lines = ["subject_id,split", *(f"{subject},{split}" for subject, split in given.items()), ""]
    (tmp_path / "splits.csv").write_text("\r\n".join(lines))
    builder = shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE, splits_file=tmp_path / "splits.csv")
    for split in SPLITS:
        for subject in read_split(tmp_path, split).subject_ids:
            assert given[subject] == split
    left_out = shhs_bcg.exclusions(builder)
    assert {night["recording_id"][-6:] for night in left_out} == {subjects[-1]}
    assert all("is not in" in night["reason"] for night in left_out)
    # Other splits are another dataset.
    with pytest.raises(DatasetError, match="other files or settings"):
        shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)


def test_a_dry_run_tells_and_writes_nothing(cohort, tmp_path):
    text = shhs_bcg.dry_run(cohort, tmp_path / "data", PAIRED, ALONE)
    assert "15 nights: train" in text
    assert "0 nights are finished already, 15 to read" in text
    assert "s a night by 3 of them" in text
    assert ".edf" in text
    assert "are free" in text
    assert not list(tmp_path.iterdir())


def test_the_card_says_what_is_in_the_dataset(data_dir):
    folder = dataset(data_dir)
    nights = rows_of(folder / "nights.csv")
    assert len(nights) == 15
    assert all(split_of(night["subject_id"]) == night["split"] for night in nights)
    labels = np.concatenate([read_split(data_dir, split).label for split in SPLITS])
    for stage, name in enumerate(("wake", "rem", "light", "deep")):
        assert sum(int(night[name]) for night in nights) == np.count_nonzero(labels == stage)
    assert all(abs(float(night["clock_offset_s"])) <= 60.5 for night in nights)
    assert all(0.0 <= float(night["clock_confidence"]) <= 1.0 for night in nights)
    page = (folder / "card.html").read_text()
    assert "Simulated" in page
    assert page.count("<svg") == 2
    assert "aria-label" in page


def test_the_way_of_tfds_gives_the_same_records(cohort, data_dir, tmp_path):
    """`tfds build` knows nothing of ours that goes on where it was stopped."""
    import tensorflow_datasets as tfds

    builder = shhs_bcg.Builder(config="paired", data_dir=tmp_path, settings=PAIRED, workers=1)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=cohort, compute_stats="skip"),
        download_dir=tmp_path / "none",
        file_format="array_record",
    )
    assert_same_records(tmp_path, data_dir)


def test_beam_gives_the_same_records(cohort, data_dir, tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
    on_beam = BuildConfig(engine="beam", beam_options="--runner=DirectRunner")
    shhs_bcg.build(cohort, tmp_path, PAIRED, on_beam)
    assert_same_records(tmp_path, data_dir)


def test_beam_that_is_not_installed_is_named(cohort, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(MissingPackage, match=r"kd_sleep\[beam\]"):
        shhs_bcg.build(cohort, tmp_path, PAIRED, BuildConfig(engine="beam"))


def table_of(cohort: Path, path: Path, change=lambda row: None) -> Path:
    """A table that names a cohort's files, as their owner would without SHHS's names."""
    rows = []
    for night in shhs.find_nights(cohort, cohort / "bcg").nights:
        rows.append(
            {
                "id": night.recording_id, "subject": night.subject_id, "visit": night.visit,
                "ecg": night.edf, "beats": night.rpoints_csv or "", "stages": night.stages_xml,
                "bcg": night.bcg,
            }
        )  # fmt: skip
        change(rows[-1])
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], delimiter=";")
        table.writeheader()
        table.writerows(rows)
    return path


def test_a_table_of_the_same_files_gives_the_same_records(cohort, data_dir, tmp_path):
    nights = night_table.find_nights(table_of(cohort, tmp_path / "n.csv"), PAIRED)
    shhs_bcg.build(nights, tmp_path, PAIRED, BuildConfig(workers=2))
    assert_same_records(tmp_path, data_dir)


def test_nights_of_a_table_may_lack_stages_ecg_or_bcg(cohort, data_dir, tmp_path):
    lacking = {
        "shhs1-200001": ("stages",), "shhs1-200002": ("ecg", "beats"), "shhs1-200003": ("bcg",),
        "shhs1-200004": ("ecg", "beats", "stages"),
    }  # fmt: skip

    def change(row):
        row |= dict.fromkeys(lacking.get(row["id"], ()), "")
        row |= {"split": "test" if row["id"] in lacking else "train"}
        if row["subject"] == "200005":
            row["split"] = "validation"

    table = table_of(cohort, tmp_path / "n.csv", change)
    builder = shhs_bcg.build(night_table.find_nights(table, PAIRED), tmp_path, PAIRED, ALONE)
    assert not shhs_bcg.exclusions(builder)
    test = read_split(tmp_path, "test")
    assert test.recording_ids == tuple(lacking)
    assert test.bcg_source == "none and paired"
    scored, ecg, bcg = (
        [bool(there.any()) for there in test.split(column)]
        for column in (test.label >= 0, test.tachogram_valid.any(1), test.bcg_missing < 1)
    )
    assert scored == [False, True, True, False]
    assert ecg == [True, False, True, False]
    assert bcg == [True, True, False, True]
    rows = {row["recording_id"]: row for row in rows_of(dataset(tmp_path) / "nights.csv")}
    assert rows["shhs1-200003"]["bcg_source"] == "none"
    assert rows["shhs1-200002"]["clock_confidence"] == ""
