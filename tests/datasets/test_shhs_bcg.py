"""The TFDS dataset: built without TensorFlow, read by its name, subjects apart, nothing lost."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from kd_sleep import schema
from kd_sleep.config import BuildConfig, DatasetConfig
from kd_sleep.datasets import shhs_bcg
from kd_sleep.datasets.nights import bcg_source_of, read_split
from kd_sleep.datasets.splits import SPLITS, split_of
from kd_sleep.errors import DatasetError

PAIRED, HOW = DatasetConfig(bcg_source="paired"), BuildConfig()
DATASET = "shhs_bcg/paired/" + schema.SCHEMA_VERSION


@pytest.fixture
def copy_of_data(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    return tmp_path / "data"


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


def test_every_night_of_the_cohort_is_there_once_and_by_subject(cohort, data_dir):
    seen = {}
    for split in SPLITS:
        nights = read_split(data_dir, split)
        assert nights.cohort.startswith("kd_sleep simulator")
        assert nights.bcg_source == "paired"
        for recording, subject in zip(nights.recording_ids, nights.subject_ids, strict=True):
            assert seen.setdefault(recording, split) == split
            assert split_of(subject) == split
    assert len(seen) == len(list((cohort / "bcg").glob("*.edf")))


def test_workers_make_no_difference(cohort, data_dir, tmp_path):
    shhs_bcg.build(cohort, tmp_path, PAIRED, BuildConfig(workers=1))
    for split in SPLITS:
        one, two = (read_split(path, split, samples=True) for path in (tmp_path, data_dir))
        assert one.teacher_digest == two.teacher_digest
        np.testing.assert_array_equal(one.bcg, two.bcg)
        np.testing.assert_array_equal(one.label, two.label)


def test_left_out_nights_stand_in_the_metadata(cohort, tmp_path):
    """One bad night never stops the others, and is never lost in silence."""
    shutil.copytree(cohort, tmp_path / "cohort")
    bad = tmp_path / "cohort" / "bcg" / "shhs1-200004.edf"
    bad.write_bytes(bad.read_bytes()[:10_000])
    missing = "polysomnography/annotations-events-nsrr/shhs1/shhs1-200006-nsrr.xml"
    (tmp_path / "cohort" / missing).unlink()
    builder = shhs_bcg.build(tmp_path / "cohort", tmp_path, PAIRED, HOW)
    left_out = {night["recording_id"]: night for night in shhs_bcg.exclusions(builder)}
    assert set(left_out) == {"shhs1-200004", "shhs1-200006"}
    assert "cut short" in left_out["shhs1-200004"]["reason"]
    assert "is missing" in left_out["shhs1-200006"]["reason"]
    written = json.loads((tmp_path / DATASET / "metadata.json").read_text())
    assert len(written["exclusions"]) == 2
    assert sum(info.num_examples for info in builder.info.splits.values()) == 13


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(DatasetError, match="polysomnography/edfs") as error:
        shhs_bcg.build(tmp_path, tmp_path / "data", DatasetConfig(), HOW)
    assert "simulate" in str(error.value)
    assert not (tmp_path / "data").exists()


def test_too_few_subjects_for_three_splits_are_refused(cohort, tmp_path):
    for path in (cohort / "polysomnography").rglob("shhs1-200002*"):
        target = tmp_path / path.relative_to(cohort)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with pytest.raises(DatasetError, match="1 subjects leave split validation and test"):
        shhs_bcg.build(tmp_path, tmp_path / "data", DatasetConfig(), HOW)


def test_a_split_without_a_usable_night_names_the_reasons(cohort, tmp_path):
    shutil.copytree(cohort / "polysomnography", tmp_path / "polysomnography")
    (tmp_path / "bcg").mkdir()
    with pytest.raises(DatasetError, match="has no BCG file"):
        shhs_bcg.build(tmp_path, tmp_path / "data", PAIRED, HOW)


def test_a_dataset_of_other_files_is_neither_kept_nor_overwritten(cohort, copy_of_data, tmp_path):
    before = (copy_of_data / DATASET / "metadata.json").read_bytes()
    shhs_bcg.build(cohort, copy_of_data, PAIRED, HOW)  # the same files: kept
    shutil.copytree(cohort, tmp_path / "cohort")
    (tmp_path / "cohort" / "bcg" / "shhs1-200004.edf").unlink()
    with pytest.raises(DatasetError, match="other files"):
        shhs_bcg.build(tmp_path / "cohort", copy_of_data, PAIRED, HOW)
    assert (copy_of_data / DATASET / "metadata.json").read_bytes() == before


def test_a_build_says_what_made_it(data_dir):
    made_by = json.loads((data_dir / DATASET / "metadata.json").read_text())["made_by"]
    assert made_by["bcg_source"] == "paired"
    assert "sleepecg" in made_by["versions"]


def test_a_missing_bcg_folder_is_named(cohort, tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        shhs_bcg.build(cohort, tmp_path, PAIRED, HOW, bcg_dir=tmp_path / "nowhere")


def test_a_subject_in_two_splits_is_found_when_reading(copy_of_data):
    path = copy_of_data / DATASET / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["subjects"]["test"].append(metadata["subjects"]["train"][0])
    path.write_text(json.dumps(metadata))
    with pytest.raises(DatasetError, match="in both train and test"):
        read_split(copy_of_data, "test")


def test_records_of_another_splits_subject_are_found_when_reading(copy_of_data):
    path = copy_of_data / DATASET / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["subjects"]["train"].pop(0)
    path.write_text(json.dumps(metadata))
    with pytest.raises(DatasetError, match="subjects that are not its own"):
        read_split(copy_of_data, "train")


def test_a_subject_in_two_splits_is_found_when_building(cohort, tmp_path, monkeypatch):
    """A split rule that looked at the visit would part a person's two nights."""
    from kd_sleep.datasets.shhs_bcg import plan as plan_module

    calls = iter((*SPLITS, "train") * 10)
    monkeypatch.setattr(plan_module, "split_of", lambda subject: next(calls))
    with pytest.raises(DatasetError, match="is in both"):
        shhs_bcg.build(cohort, tmp_path, PAIRED, HOW)


def test_other_contents_of_the_same_size_are_other_files(cohort, copy_of_data, tmp_path):
    shutil.copytree(cohort, tmp_path / "cohort")
    xml = next((tmp_path / "cohort").rglob("*-nsrr.xml"))
    xml.write_text(xml.read_text().replace("Stage 2 sleep|2", "Stage 3 sleep|3"))
    with pytest.raises(DatasetError, match="other files"):
        shhs_bcg.build(tmp_path / "cohort", copy_of_data, PAIRED, HOW)


def test_no_dataset_says_how_to_build_one(tmp_path):
    with pytest.raises(DatasetError, match="build_dataset"):
        bcg_source_of(tmp_path)
