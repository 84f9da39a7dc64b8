"""Many nights on all cores: in order, few held at a time, and a worker that dies is named."""

import math
import os

import pytest

from kd_sleep.errors import KdSleepError
from kd_sleep.parallel import map_nights


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    items = list(range(50))
    assert list(map_nights(math.factorial, items, workers, "x")) == [*map(math.factorial, items)]


def test_workers_run_one_blas_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # what a user has set stays
    list(map_nights(math.factorial, [1, 2], 2, "x"))
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_an_error_reaches_the_caller():
    with pytest.raises(ValueError, match="not defined for negative"):
        list(map_nights(math.factorial, [1, -1, 2], 2, "x"))


def test_a_worker_that_dies_is_named():
    with pytest.raises(KdSleepError, match="Reading: a worker process died"):
        list(map_nights(os._exit, [1, 1, 1], 2, "Reading"))


def test_who_stops_early_waits_for_nothing():
    results = map_nights(math.factorial, list(range(1000)), 2, "x")
    assert next(results) == 1
    results.close()


def test_the_bar_counts_nights_a_minute_and_those_done_before(capsys):
    list(map_nights(math.factorial, [1, 2], 1, "Reading", done=2))
    shown = capsys.readouterr().err
    assert "Reading:  50%" in shown
    assert "4/4 nights" in shown
    assert "nights/min" in shown
