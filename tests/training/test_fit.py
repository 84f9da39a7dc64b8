"""Teacher, soft labels, student: what is kept, what is refused, how a killed run goes on."""

import copy
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import folders
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from folders import params_of
from scipy.special import softmax

from kd_sleep.config import PRESETS, DistillConfig
from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import TrainingError
from kd_sleep.training import checkpoints as checkpoints_module
from kd_sleep.training import training_set
from kd_sleep.training.checkpoints import Checkpoints, Progress
from kd_sleep.training.metrics_log import read_metrics
from kd_sleep.training.soft_labels import fingerprint, mixed_log_probs, soft_labels
from kd_sleep.training.trained import Trained, load_trained
from kd_sleep.training.training_set import labelled_rows

TINY = PRESETS["tiny"]


def train(data_dir, teacher_dir, workdir, distill_config=TINY.distill, train_config=None):
    train_config = train_config or TINY.student_train
    return folders.train_student(
        data_dir, [teacher_dir], workdir, TINY.student, distill_config, train_config
    )


@pytest.fixture(scope="module")
def finished(data_dir, teacher_dir, tmp_path_factory):
    """A student's folder with the checkpoints of steps 10 and 20."""
    out = tmp_path_factory.mktemp("run") / "w"
    train(data_dir, teacher_dir, out)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"10", "20"}
    return out


@pytest.fixture
def run_of_two(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "w")


@pytest.fixture
def teacher(teacher_dir, tmp_path):
    """The tiny teacher in a folder of its own, without soft labels."""
    shutil.copytree(teacher_dir, tmp_path / "teacher")
    shutil.rmtree(tmp_path / "teacher" / "soft_labels", ignore_errors=True)
    return load_trained(tmp_path / "teacher", "teacher")


@pytest.fixture
def asked(monkeypatch):
    """Recordings of every call of a network on nights."""
    found = []
    logits = Trained.logits

    def spied(self, nights):
        found.append(nights.recording_ids)
        return logits(self, nights)

    monkeypatch.setattr(Trained, "logits", spied)
    return found


# --- Soft labels


def test_a_teacher_labels_any_nights_and_keeps_the_labels(data_dir, teacher, asked):
    for split in ("train", "test"):
        nights = read_split(data_dir, split)
        soft = soft_labels([teacher], nights)
        assert soft.shape == (len(nights.label), 1, 4)
        asked.clear()
        assert np.array_equal(soft_labels([teacher], nights), soft)
        turned = nights.select(np.arange(len(nights))[::-1])
        other = soft_labels([teacher], turned)
        np.testing.assert_array_equal(other, np.concatenate(nights.split(soft)[::-1]))
        assert asked == []
        np.testing.assert_allclose(soft[:, 0], np.concatenate(teacher.logits(nights)), atol=1e-5)


def test_soft_labels_of_other_content_or_another_teacher_are_never_found(data_dir, teacher, asked):
    nights = read_split(data_dir, "train")
    soft_labels([teacher], nights)
    first, *others = nights.recording_ids
    asked.clear()
    changed = dataclasses.replace(nights, teacher_digest=("0" * 64, *nights.teacher_digest[1:]))
    soft_labels([teacher], changed)
    stranger = dataclasses.replace(nights, recording_ids=("shhs1-1", *others))
    soft_labels([teacher], stranger)
    assert asked == [(first,), ("shhs1-1",)]
    asked.clear()
    params = jax.tree.map(lambda leaf: leaf + np.float32(1e-3), teacher.params)
    soft_labels([dataclasses.replace(teacher, params=params)], nights)
    assert asked == [nights.recording_ids]


def test_damaged_soft_labels_are_refused_by_name(data_dir, teacher):
    nights = read_split(data_dir, "test")
    soft_labels([teacher], nights)
    (path,) = (teacher.workdir / "soft_labels").glob("*.npy")
    logits, index = np.load(path), path.with_suffix(".json")
    sound = json.loads(index.read_text())
    turned, renamed = copy.deepcopy(sound), copy.deepcopy(sound)
    turned["nights"].reverse()
    renamed["nights"][0].update(recording="else")

    def refused(word):
        with pytest.raises(TrainingError, match=rf"{path.stem}\.json: damaged.*{word}") as caught:
            soft_labels([teacher], nights)
        assert "Remove it" in caught.value.remedy

    for damaged, word in (
        (logits + np.float32(1), "checksum"),
        (np.zeros((len(logits), 5), np.float32), "5 classes, expected 4"),
    ):
        np.save(path, damaged)
        refused(word)
    np.save(path, logits)
    for other in (turned, renamed):
        index.write_text(json.dumps(other))
        refused("checksum")
    index.write_text(json.dumps(sound)[:50])
    refused("")
    index.unlink()
    path.unlink()
    np.testing.assert_array_equal(soft_labels([teacher], nights)[:, 0], logits)


def test_a_teacher_of_other_inputs_is_refused(data_dir, teacher):
    settings = teacher.settings | {"trained_on": {"schema": "1.0.0"}}
    old = dataclasses.replace(teacher, record=teacher.record | {"settings": settings})
    with pytest.raises(TrainingError, match=r"schema 1\.0\.0, these nights have"):
        soft_labels([old], read_split(data_dir, "train"))


def test_several_teachers_are_mixed_by_their_probabilities():
    logits = np.random.default_rng(0).normal(size=(7, 3, 4)).astype(np.float32)
    expected = np.log(softmax(logits, -1).mean(1))
    np.testing.assert_allclose(mixed_log_probs(logits), expected, atol=1e-6)


# --- Labels that may be seen


def test_labelled_nights_nest_and_are_scored(data_dir):
    nights = read_split(data_dir, "train")
    chosen = [
        set(labelled_rows(nights, DistillConfig(labelled_nights=n)).tolist())
        for n in range(1, len(nights) + 1)
    ]
    for fewer, more in itertools.pairwise(chosen):
        assert fewer < more
    with pytest.raises(TrainingError, match="--labelled_nights=99"):
        labelled_rows(nights, DistillConfig(labelled_nights=99))
    label = nights.label.copy()
    label[: nights.windows[:4].sum()] = -1
    some = dataclasses.replace(nights, label=label)
    assert labelled_rows(some, DistillConfig()).tolist() == list(range(4, len(nights)))
    none = dataclasses.replace(nights, label=np.full_like(label, -1))
    assert len(labelled_rows(none, DistillConfig())) == 0
    with pytest.raises(TrainingError, match="nothing else to learn from"):
        labelled_rows(none, DistillConfig(alpha=1.0))


def test_hidden_labels_have_no_say(data_dir, teacher_dir, finished, tmp_path, monkeypatch):
    """Other stages in the nights that are not labelled: the same student to the bit."""
    original = folders.read_split

    def with_other_stages(folder, split, **kwargs):
        nights = original(folder, split, **kwargs)
        if split != "train":
            return nights
        labels = nights.labels()
        for row in set(range(len(nights))) - {*labelled_rows(nights, TINY.distill)}:
            labels[row] = np.where(labels[row] >= 0, 3 - labels[row], labels[row])
        return dataclasses.replace(nights, label=np.concatenate(labels))

    monkeypatch.setattr(folders, "read_split", with_other_stages)
    other = train(data_dir, teacher_dir, tmp_path / "two")
    assert fingerprint(params_of(finished)) == other.name


def test_the_baseline_never_hears_the_teacher(data_dir, teacher_dir, monkeypatch):
    """With alpha = 1, other soft labels leave the same student."""
    alone = dataclasses.replace(TINY.distill, alpha=1.0)
    one = train(data_dir, teacher_dir, None, alone)
    # Its batches are full of labels, although most nights have none.
    assert all(row["labelled_share"] > 0.95 for row in one.rows)
    original = training_set.soft_labels
    monkeypatch.setattr(
        training_set, "soft_labels", lambda *arguments: 10.0 * original(*arguments)[:, ::-1]
    )
    assert train(data_dir, teacher_dir, None, alone).name == one.name


# --- Work folders


def test_a_folder_serves_one_set_of_settings(data_dir, teacher_dir, run_of_two, tmp_path):
    before = read_metrics(run_of_two)
    train(data_dir, teacher_dir, run_of_two)  # nothing to do
    assert read_metrics(run_of_two) == before
    with pytest.raises(TrainingError, match=r"other settings: alpha \(0.3 there, 0.5 here\)"):
        train(data_dir, teacher_dir, run_of_two, DistillConfig(alpha=0.5))
    with pytest.raises(TrainingError, match="holds a student"):
        folders.train_teacher(data_dir, run_of_two, TINY.teacher, TINY.teacher_train)
    with pytest.raises(TrainingError, match="expected a trained teacher, found student"):
        train(data_dir, run_of_two, tmp_path / "v")


def test_a_run_records_what_made_it(finished):
    written = json.loads((finished / "settings.json").read_text())
    assert written["settings"]["distill"]["alpha"] == 0.3
    snr_db = written["settings"]["trained_on"]["snr_db"]
    assert snr_db["p01"] < snr_db["p50"] < snr_db["p99"]
    assert {"jax", "flax", "python", "kd_sleep"} <= set(written["versions"])
    assert written["git_revision"]
    rows = read_metrics(finished)
    assert [row["step"] for row in rows] == [10, 20]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert list((finished / "tensorboard").glob("events.*"))


def test_a_loss_that_is_not_finite_stops_the_run(data_dir, teacher_dir):
    hot = dataclasses.replace(TINY.student_train, learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(TrainingError, match=r"(loss|gradient_norm) is (nan|inf).* at step"):
        train(data_dir, teacher_dir, None, train_config=hot)


def test_validation_without_a_score_is_an_error(data_dir, tmp_path, monkeypatch):
    original = folders.read_split

    def unscored(folder, split, **kwargs):
        nights = original(folder, split, **kwargs)
        label = np.full_like(nights.label, -1) if split == "validation" else nights.label
        return dataclasses.replace(nights, label=label)

    monkeypatch.setattr(folders, "read_split", unscored)
    with pytest.raises(TrainingError, match="No validation night is scored"):
        folders.train_teacher(data_dir, tmp_path, TINY.teacher, TINY.teacher_train)


RUN = """
import dataclasses, pathlib, sys
from kd_sleep.config import PRESETS
from folders import train_student
data, teacher, workdir = map(pathlib.Path, sys.argv[1:])
tiny = PRESETS["tiny"]
train = dataclasses.replace(tiny.student_train, steps=60, evaluate_every=5)
train_student(data, [teacher], workdir, tiny.student, tiny.distill, train)
"""


def start(data_dir, teacher_dir, workdir):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(data_dir), str(teacher_dir), str(workdir)],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(folders.__file__).parent)},
    )


def test_a_killed_run_goes_on_to_the_same_bits(data_dir, teacher_dir, tmp_path):
    """SIGKILL in the middle; the end is that of a run which was never stopped."""
    long = dataclasses.replace(TINY.student_train, steps=60, evaluate_every=5)
    killed = tmp_path / "killed"
    process = start(data_dir, teacher_dir, killed)
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        rows = read_metrics(killed)
        if rows and rows[-1]["step"] >= 15:
            break
        time.sleep(0.02)
    assert process.poll() is None, "ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_metrics(killed)[-1]["step"] < 60
    resumed = train(data_dir, teacher_dir, killed, train_config=long)
    undisturbed = train(data_dir, teacher_dir, tmp_path / "whole", train_config=long)
    assert resumed.name == undisturbed.name
    assert read_metrics(tmp_path / "whole") == read_metrics(killed)


def test_a_folder_of_another_architecture_or_unfinished_is_refused(run_of_two):
    settings = json.loads((run_of_two / "settings.json").read_text())
    settings["settings"]["train"]["steps"] = 40
    (run_of_two / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(TrainingError, match="stopped at step 20 of 40"):
        params_of(run_of_two)
    settings["settings"]["model"]["width"] = 12
    (run_of_two / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(TrainingError, match="does not fit this model"):
        params_of(run_of_two)
    shutil.rmtree(run_of_two / "checkpoints")
    with pytest.raises(TrainingError, match="no checkpoint"):
        params_of(run_of_two)


# --- Damage


def data_of(step):
    return max((step / "default" / "d").iterdir(), key=lambda path: path.stat().st_size)


def cut_short(step):
    data_of(step).write_bytes(data_of(step).read_bytes()[:-2000])


def zeros_within(step):
    data = bytearray(data_of(step).read_bytes())
    data[4096:12288] = bytes(8192)
    data_of(step).write_bytes(data)


DAMAGES = {
    "data cut short": cut_short,
    "a block of zeros": zeros_within,
    "no manifest": lambda step: (step / "default" / "manifest.ocdbt").unlink(),
    "metadata of 0 bytes": lambda step: (step / "default" / "_METADATA").write_bytes(b""),
    "an empty step": lambda step: (shutil.rmtree(step), step.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_is_not_used(run_of_two, damage):
    DAMAGES[damage](run_of_two / "checkpoints" / "20")
    with pytest.raises(TrainingError, match=r"w: stopped at step 10 of 20; damaged: step 20"):
        params_of(run_of_two)
    shutil.rmtree(run_of_two / "checkpoints" / "10")
    with pytest.raises(TrainingError, match=r"w/checkpoints: no sound checkpoint; damaged") as e:
        params_of(run_of_two)
    assert "Copy the folder again" in e.value.remedy
    assert "\n" not in str(e.value)


def test_a_run_goes_on_from_the_older_checkpoint_and_ends_as_if_undisturbed(
    data_dir, teacher_dir, finished, run_of_two, capsys
):
    cut_short(run_of_two / "checkpoints" / "20")
    train(data_dir, teacher_dir, run_of_two)
    assert "goes on from step 10; damaged: step 20" in capsys.readouterr().err
    one, other = (
        ocp.StandardCheckpointer().restore(w / "checkpoints" / "20" / "default")
        for w in (finished, run_of_two)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert read_metrics(finished) == read_metrics(run_of_two)


def test_a_checkpoint_of_nan_is_damaged_and_one_without_permission_is_not(tmp_path, monkeypatch):
    state = {"kernel": np.zeros(3, np.float32)}
    good = Progress(state, state, np.float32(0.1), np.int32(4))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(4, good)
    checkpoints.save(8, good.replace(best={"kernel": np.float32([0, np.nan, 0])}))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    step, found = checkpoints.latest(good, here)
    assert step == 4
    np.testing.assert_array_equal(found.best["kernel"], state["kernel"])
    assert "step 8 (its arrays are not finite)" in checkpoints.damage

    def refuse(folder):
        raise ValueError("PERMISSION_DENIED: Error opening local file")

    monkeypatch.setattr(checkpoints_module, "_assert_readable", refuse)
    with pytest.raises(TrainingError, match="no permission to read step 4"):
        checkpoints.latest(good, here)
    checkpoints.close()
    assert (tmp_path / "4").is_dir()


def test_damaged_settings_are_named(data_dir, teacher_dir, tmp_path):
    path = tmp_path / "settings.json"
    for text in ("", "[]", "{}", '{"kind": "student"}', "\x00" * 9):
        path.write_text(text)
        for use in (params_of, lambda w: train(data_dir, teacher_dir, w)):
            with pytest.raises(TrainingError, match=r"settings\.json: is damaged") as caught:
                use(tmp_path)
            assert "Copy the folder again" in caught.value.remedy
    path.write_text('{"kind": "student", "settings": {"model": {}}}')
    with pytest.raises(TrainingError, match="is damaged, it has no train"):
        params_of(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(TrainingError, match=r"settings\.json: cannot be read"):
        params_of(tmp_path)
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(TrainingError, match="checkpoints: is a file"):
        Checkpoints(tmp_path / "checkpoints", read_only=True)
