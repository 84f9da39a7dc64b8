"""A night's page: what its files hold, drawn; and a clear word where they hold nothing."""

import pytest

from kd_sleep.config import DatasetConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.night_page import write_night_pages

PAIRED = DatasetConfig(bcg_source="paired")


@pytest.mark.parametrize("source", ["paired", "simulated", "none"])
def test_a_page_shows_the_night_and_says_where_it_comes_from(cohort, tmp_path, source):
    config = DatasetConfig(bcg_source=source)
    (line,) = write_night_pages(tmp_path, cohort, cohort / "bcg", ["shhs1-200001"], config)
    page = (tmp_path / "shhs1-200001.html").read_text()
    assert line.endswith("shhs1-200001.html")
    assert "Simulated: kd_sleep simulator" in page
    assert page.count("<svg") == (2 if source == "paired" else 1)
    assert ("ppm off" in page) == (source == "paired")
    assert "nan" not in page.lower().replace("nanum", "")


def test_a_night_that_cannot_be_used_has_no_page_and_a_reason(cohort, tmp_path):
    lines = write_night_pages(tmp_path / "out", cohort, tmp_path, ["shhs1-200001"], PAIRED)
    assert "no BCG file" in next(iter(lines))
    assert not (tmp_path / "out").exists()


def test_an_unknown_night_is_named(cohort, tmp_path):
    with pytest.raises(DatasetError, match="no night shhs1-999999"):
        list(write_night_pages(tmp_path, cohort, cohort / "bcg", ["shhs1-999999"], PAIRED))
