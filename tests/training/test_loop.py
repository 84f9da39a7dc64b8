"""The loop: told to stop, killed, on several hosts, from any place: the same end."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import folders
import numpy as np
import pytest
from folders import params_of

from kd_sleep.config import PRESETS, DistillConfig, ExecutionConfig
from kd_sleep.errors import Stopped, TrainingError
from kd_sleep.evaluation.held_out import evaluate_folders
from kd_sleep.training import feeds, loop
from kd_sleep.training.checkpoints import Checkpoints
from kd_sleep.training.metrics_log import SPEED, read_metrics
from kd_sleep.training.run import record_of
from kd_sleep.training.soft_labels import fingerprint

ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(Path(folders.__file__).parent),
}
TINY = PRESETS["tiny"]
SHORT = dataclasses.replace(TINY.student_train, steps=8, evaluate_every=4)


SAMPLES = dataclasses.replace(TINY.student, front_end="autocorrelation")


def train(
    data_dir, teacher_dir, workdir, train_config=SHORT, loss=TINY.distill, model=TINY.student, **how
):
    folders.train_student(data_dir, [teacher_dir], workdir, model, loss, train_config, **how)
    return params_of(workdir)


@pytest.fixture(scope="module")
def whole(data_dir, teacher_dir, tmp_path_factory):
    """Work folder and parameters of a run from the host's memory that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "w"
    return workdir, train(data_dir, teacher_dir, workdir)


def test_where_the_dataset_lies_makes_no_difference(whole, data_dir, teacher_dir, tmp_path):
    # Another program, another order of sums.
    on_device = ExecutionConfig(dataset_in="device")
    train(data_dir, teacher_dir, tmp_path / "device", execution=on_device)
    for one, other in zip(read_metrics(whole[0]), read_metrics(tmp_path / "device"), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-6)


def test_samples_streamed_from_disk_make_no_difference(data_dir, teacher_dir, tmp_path):
    one, other = (
        train(
            data_dir, teacher_dir, tmp_path / place, model=SAMPLES,
            execution=ExecutionConfig(dataset_in=place),
        )
        for place in ("host", "disk")
    )  # fmt: skip
    assert fingerprint(one) == fingerprint(other)


def test_sigterm_saves_and_the_run_goes_on(whole, data_dir, teacher_dir, tmp_path, monkeypatch):
    """Told in the middle between two evaluations."""
    original = loop._assert_finite

    def tell(metrics, step, name):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        original(metrics, step, name)

    monkeypatch.setattr(loop, "_assert_finite", tell)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=r"stopped at step 6 of 8; all of it is saved"):
        train(data_dir, teacher_dir, tmp_path / "w")
    assert signal.getsignal(signal.SIGTERM) is before
    assert Checkpoints(tmp_path / "w" / "checkpoints", read_only=True).latest_step() == 6
    with pytest.raises(TrainingError, match="stopped at step 6 of 8"):
        params_of(tmp_path / "w")
    monkeypatch.undo()
    assert fingerprint(train(data_dir, teacher_dir, tmp_path / "w")) == fingerprint(whole[1])
    assert read_metrics(tmp_path / "w") == read_metrics(whole[0])


def test_speed_is_logged_apart_from_what_was_learned(whole):
    rows = read_metrics(whole[0], SPEED)
    assert [row["step"] for row in rows] == [4, 8]
    for row in rows:
        assert row["windows_per_s"] > 0
        assert 0 <= row["waiting_share"] <= 1
        assert row["compile_s"] > 0
        assert row["host_memory_gb"] > 0.1
    assert not set(rows[0]) & set(read_metrics(whole[0])[0]) - {"step"}


def test_a_profile_is_written_where_it_is_asked_for(whole, data_dir, teacher_dir, tmp_path):
    assert not (whole[0] / "profile").exists()
    train(data_dir, teacher_dir, tmp_path, execution=ExecutionConfig(profile=True))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("model", [TINY.student, SAMPLES])
def test_every_option_trains(data_dir, teacher_dir, tmp_path, model):
    """All of them at once: none is dead, none breaks another."""
    loss = DistillConfig(
        labelled_nights=4, direction="js", label_smoothing=0.1,
    )  # fmt: skip
    config = dataclasses.replace(
        SHORT, accumulate=2, compute_dtype="bfloat16", ema_decay=0.9, batch_seed=7
    )
    train(data_dir, teacher_dir, tmp_path, config, loss, model)
    rows = read_metrics(tmp_path)
    assert all(np.isfinite(list(row.values())).all() for row in rows)


def test_an_ensemble_of_teachers_teaches(whole, data_dir, teacher_dir, tmp_path):
    other = tmp_path / "teacher"
    folders.train_teacher(
        data_dir, other, TINY.teacher, dataclasses.replace(TINY.teacher_train, seed=1, steps=4)
    )
    arguments = (TINY.student, TINY.distill, SHORT)
    folders.train_student(data_dir, [teacher_dir, other], tmp_path / "w", *arguments)
    settings = record_of(tmp_path / "w", "student")["settings"]
    assert settings["teacher"].count("+") == 1
    scored = evaluate_folders(
        [data_dir], [teacher_dir, other], {"mixed": tmp_path / "w"}, tmp_path, TINY.evaluation
    )
    assert set(scored.systems) >= {"teacher", "mixed"}
    with pytest.raises(TrainingError, match="learned from another teacher"):
        evaluate_folders([data_dir], [other], {"mixed": tmp_path / "w"}, tmp_path, TINY.evaluation)
    assert read_metrics(tmp_path / "w")[0]["kl"] != read_metrics(whole[0])[0]["kl"]


def test_no_transfer_goes_unnoticed(data_dir, teacher_dir, tmp_path, monkeypatch):
    """The guard is up: a batch that was not put on the device by name is an error."""
    monkeypatch.setattr(feeds, "put", lambda batch, mesh, members=0: batch)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(data_dir, teacher_dir, tmp_path)


def test_parts_that_do_not_divide_a_batch_are_refused(data_dir, teacher_dir, tmp_path):
    config = dataclasses.replace(SHORT, accumulate=3)
    with pytest.raises(TrainingError, match="--batch_size=4 does not divide into --accumulate=3"):
        train(data_dir, teacher_dir, tmp_path / "w", config)
    assert not (tmp_path / "w").exists()


PROCESS = """
import dataclasses, pathlib, sys
import jax
data, teacher, workdir, port, number, count = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(f"localhost:{port}", int(count), int(number))
from kd_sleep.config import PRESETS
from folders import train_student
tiny = PRESETS["tiny"]
train = dataclasses.replace(tiny.student_train, steps=8, evaluate_every=4)
paths = pathlib.Path(data), [pathlib.Path(teacher)], pathlib.Path(workdir)
train_student(*paths, tiny.student, tiny.distill, train)
assert jax.device_count() == int(count)
"""


def test_two_processes_are_one(whole, data_dir, teacher_dir, tmp_path):
    """Over gloo on loopback: half of every batch each, one checkpoint, one log."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [
                sys.executable, "-c", PROCESS, data_dir, teacher_dir, tmp_path, str(port),
                str(number), "2",
            ],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors[0][-2000:]
    for one, other in zip(read_metrics(whole[0]), read_metrics(tmp_path), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-6)
    assert fingerprint(params_of(tmp_path))
