"""The table of a night record holds records to itself."""

import numpy as np
import pytest

from kd_sleep import schema


def a_record(windows: int = 3, sampled: int = 3) -> dict:
    """A record of `windows` windows, with BCG samples of `sampled` of them."""
    sizes, record = {"N": windows, "M": sampled}, {}
    for name, field in schema.NIGHT_FIELDS.items():
        shape = tuple(sizes.get(size, size) for size in field.shape)
        record[name] = "text" if field.dtype is str else np.zeros(shape, field.dtype)
    return record


@pytest.mark.parametrize("sampled", [3, 0])
def test_a_record_by_the_table_is_accepted(sampled):
    schema.validate(a_record(sampled=sampled))


def test_samples_of_some_windows_alone_are_refused():
    with pytest.raises(ValueError, match="bcg"):
        schema.validate(a_record(sampled=2))


@pytest.mark.parametrize("name", schema.NIGHT_FIELDS)
def test_a_field_that_is_missing_or_of_another_kind_is_named(name):
    without = a_record()
    del without[name]
    with pytest.raises(ValueError, match=name):
        schema.validate(without)
    with pytest.raises(ValueError, match=name):
        schema.validate(a_record() | {name: np.zeros((2, 2, 2), np.complex64)})


@pytest.mark.parametrize("label", [[4, 0, 0], [-2, 0, 0]])
def test_a_label_beyond_the_classes_is_refused(label):
    with pytest.raises(ValueError, match="label"):
        schema.validate(a_record() | {"label": np.array(label, np.int8)})


def test_a_night_without_windows_is_refused():
    with pytest.raises(ValueError, match="label"):
        schema.validate(a_record(0, sampled=0))
