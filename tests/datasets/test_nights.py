"""A split in memory: the same however it is read, known by its digest, rows never mixed up."""

import dataclasses
import hashlib
import weakref

import numpy as np
import pytest

from kd_sleep import schema
from kd_sleep.datasets.nights import bcg_source_of, open_split, read_split, stack
from kd_sleep.errors import DatasetError
from kd_sleep.features.series import RECORD_FIELDS

COLUMNS = (
    *("label", "tachogram", "tachogram_valid", "hrv", "rr_missing"),
    *("jj", "beat_confidence", "breath", "movement"),
    *("summary_night", "summary_past", "summary_window"),
    *("bcg", "bcg_scale", "bcg_missing", "bcg_snr_db"),
)

# Of them, as the record has them: the others are made when a split is read.
STORED = {*COLUMNS} & {*schema.NIGHT_FIELDS} - {"tachogram", "hrv", "bcg_scale"}


@pytest.fixture(scope="module")
def nights(data_dir):
    return read_split(data_dir, "train", samples=True)


@pytest.fixture
def records(data_dir):
    """All fields of the training nights, shortest night first."""
    source, _ = open_split(data_dir, "train", tuple(schema.NIGHT_FIELDS))
    found = [
        {key: value.decode() if isinstance(value, bytes) else value for key, value in r.items()}
        for r in source
    ]
    return sorted(found, key=lambda record: len(record["label"]))


def test_without_samples_a_split_is_the_same_but_for_them(data_dir, nights):
    bare = read_split(data_dir, "train")
    assert bare.bcg is None
    assert bare.digest() == nights.digest()
    for field in dataclasses.fields(nights):
        if field.name != "bcg":
            there, here = getattr(nights, field.name), getattr(bare, field.name)
            np.testing.assert_array_equal(here, there, err_msg=field.name)


@pytest.mark.parametrize("name", ["recording_ids", "teacher_digest", "bcg_digest"])
def test_the_digest_follows_what_names_a_night(nights, name):
    changed = ("another", *getattr(nights, name)[1:])
    assert dataclasses.replace(nights, **{name: changed}).digest() != nights.digest()


def test_the_digest_follows_labels_and_the_order_of_nights(nights):
    label = nights.label.copy()
    label[-1] = 0 if label[-1] else 1
    assert dataclasses.replace(nights, label=label).digest() != nights.digest()
    assert nights.select(np.arange(len(nights))[::-1]).digest() != nights.digest()
    assert nights.select(np.arange(len(nights))).digest() == nights.digest()


def test_bcg_is_known_by_its_digest(records):
    """What was read is what the digest in the record was made of."""
    assert len({record["bcg_digest"] for record in records}) == len(records)
    for record in records:
        scale = np.float32(record["bcg_scale"])
        arrays = [record["bcg"], scale, *(record[name] for name in RECORD_FIELDS)]
        digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays))
        assert digest.hexdigest() == record["bcg_digest"]


def test_columns_are_what_the_records_hold(nights, records):
    """By name, not by position: nights are sorted, the dataset's file is not."""
    by_name = {record["recording_id"]: record for record in records}
    assert list(nights.recording_ids) == sorted(by_name)
    for name in STORED:
        for row, part in enumerate(nights.split(getattr(nights, name))):
            np.testing.assert_array_equal(part, by_name[nights.recording_ids[row]][name])


def test_places_find_the_records_again(data_dir, nights):
    source, _ = open_split(data_dir, "train", ("recording_id",))
    shuffled = nights.select(np.random.default_rng(0).permutation(len(nights)))
    assert {place[:2] for place in shuffled.places} == {(str(data_dir), "train")}
    found = [source[place.position]["recording_id"].decode() for place in shuffled.places]
    assert found == list(shuffled.recording_ids)


def test_selecting_nights_keeps_rows_together(nights):
    chosen = nights.select([2, 0])
    assert chosen.recording_ids == (nights.recording_ids[2], nights.recording_ids[0])
    assert chosen.places == (nights.places[2], nights.places[0])
    assert (chosen.cohort, len(chosen)) == (nights.cohort, 2)
    for name in COLUMNS:
        before, after = (n.split(getattr(n, name)) for n in (nights, chosen))
        np.testing.assert_array_equal(after[0], before[2], err_msg=name)
        np.testing.assert_array_equal(after[1], before[0], err_msg=name)


def test_a_night_alone_equals_the_same_beside_others(records):
    short, long = records[0], records[-1]
    alone, beside = stack([dict(short)]), stack([dict(long), dict(short)])
    for name in COLUMNS:
        split = beside.split(getattr(beside, name))
        np.testing.assert_array_equal(split[1], getattr(alone, name), err_msg=name)
    assert beside.teacher_digest[1] == alone.teacher_digest[0]


def test_stacking_lets_go_of_what_it_copied(records):
    """BCG in records and in columns at once would be twice the memory."""
    arrays = [weakref.ref(record["bcg"]) for record in records]
    assert all(array() is not None for array in arrays)
    stack(records)
    assert all(array() is None for array in arrays)


def test_a_dataset_of_another_version_is_refused_by_name(tmp_path):
    (tmp_path / "shhs_bcg" / "paired" / "1.2.0").mkdir(parents=True)
    with pytest.raises(DatasetError, match=rf"1\.2\.0.*{schema.SCHEMA_VERSION}") as caught:
        read_split(tmp_path, "train")
    assert "kd-sleep build_dataset" in caught.value.remedy


def test_two_datasets_in_one_folder_are_refused(tmp_path):
    for source in schema.BCG_SOURCES:
        (tmp_path / "shhs_bcg" / source / schema.SCHEMA_VERSION).mkdir(parents=True)
    with pytest.raises(DatasetError, match="two datasets"):
        bcg_source_of(tmp_path)
