"""Teacher, soft labels, student: what is kept, what is refused, how a killed run goes on."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from kd_sleep.config import PRESETS, DistillConfig
from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import TrainingError
from kd_sleep.training import distill, loop, soft_labels
from kd_sleep.training.checkpoints import Checkpoints, Progress
from kd_sleep.training.metrics_log import read_metrics

TINY = PRESETS["tiny"]


def train(data_dir, teacher_dir, workdir, distill_config=TINY.distill, train_config=None):
    distill.train_student(
        data_dir,
        [teacher_dir],
        workdir,
        TINY.student,
        distill_config,
        train_config or TINY.student_train,
    )


def params_of(workdir, data_dir):
    return distill.load_student(workdir, read_split(data_dir, "validation"))[1]


def test_a_teacher_leaves_soft_labels_for_every_night(data_dir, teacher_dir):
    for split in ("train", "validation", "test"):
        nights = read_split(data_dir, split)
        module, params, name = distill.load_teacher(teacher_dir, nights)
        soft = soft_labels.load(teacher_dir / "soft_labels", split, name, nights)
        logits = loop.predict(module, params, nights, distill.TEACHER_COLUMNS)
        np.testing.assert_allclose(soft, np.concatenate(logits), atol=1e-5)


def test_soft_labels_follow_their_windows(data_dir, teacher_dir):
    nights = read_split(data_dir, "train")
    _, _, name = distill.load_teacher(teacher_dir, nights)
    soft = soft_labels.load(teacher_dir / "soft_labels", "train", name, nights)
    turned = nights.select(np.arange(len(nights))[::-1])
    other = soft_labels.load(teacher_dir / "soft_labels", "train", name, turned)
    np.testing.assert_array_equal(other, np.concatenate(nights.split(soft)[::-1]))


def test_stale_soft_labels_are_refused_by_name(data_dir, teacher_dir):
    nights = read_split(data_dir, "train")
    _, params, name = distill.load_teacher(teacher_dir, nights)
    folder = teacher_dir / "soft_labels"
    other = jax.tree.map(lambda leaf: leaf + 1e-3, params)
    with pytest.raises(TrainingError, match="another teacher"):
        soft_labels.load(folder, "train", soft_labels.fingerprint(other), nights)
    changed = dataclasses.replace(nights, teacher_digest=("0" * 64, *nights.teacher_digest[1:]))
    with pytest.raises(TrainingError, match=f"other RR features of {nights.recording_ids[0]}"):
        soft_labels.load(folder, "train", name, changed)
    stranger = dataclasses.replace(nights, recording_ids=("shhs1-1", *nights.recording_ids[1:]))
    with pytest.raises(TrainingError, match="no soft labels for shhs1-1"):
        soft_labels.load(folder, "train", name, stranger)
    with pytest.raises(TrainingError, match="train_teacher"):
        soft_labels.load(folder / "nowhere", "train", name, nights)


def test_labelled_nights_nest(data_dir):
    nights = read_split(data_dir, "train")
    chosen = [
        set(distill.labelled_rows(nights, DistillConfig(labelled_nights=n)).tolist())
        for n in range(1, len(nights) + 1)
    ]
    for fewer, more in itertools.pairwise(chosen):
        assert fewer < more
    assert len(distill.labelled_rows(nights, DistillConfig())) == len(nights)
    with pytest.raises(TrainingError, match="--labelled_nights=99"):
        distill.labelled_rows(nights, DistillConfig(labelled_nights=99))


def test_nights_that_nobody_scored_are_not_counted_as_labelled(data_dir):
    nights = read_split(data_dir, "train")
    label = nights.label.copy()
    label[: nights.windows[:4].sum()] = -1
    some = dataclasses.replace(nights, label=label)
    assert distill.labelled_rows(some, DistillConfig()).tolist() == list(range(4, len(nights)))
    none = dataclasses.replace(nights, label=np.full_like(label, -1))
    assert len(distill.labelled_rows(none, DistillConfig())) == 0
    with pytest.raises(TrainingError, match="nothing else to learn from"):
        distill.labelled_rows(none, DistillConfig(alpha=1.0))


def test_validation_without_a_score_is_an_error(data_dir, tmp_path, monkeypatch):
    original = distill.read_split

    def unscored(folder, split, **kwargs):
        nights = original(folder, split, **kwargs)
        return dataclasses.replace(nights, label=np.full_like(nights.label, -1))

    monkeypatch.setattr(distill, "read_split", unscored)
    with pytest.raises(TrainingError, match="No validation night is scored"):
        distill.train_teacher(data_dir, tmp_path, TINY.teacher, TINY.teacher_train)


def test_hidden_labels_have_no_say(data_dir, teacher_dir, tmp_path, monkeypatch):
    """Other stages in the nights that are not labelled: the same student to the bit."""
    train(data_dir, teacher_dir, tmp_path / "one")
    original = distill.read_split

    def with_other_stages(folder, split, **kwargs):
        nights = original(folder, split, **kwargs)
        if split != "train":
            return nights
        labels = nights.labels()
        for row in set(range(len(nights))) - {*distill.labelled_rows(nights, TINY.distill)}:
            labels[row] = np.where(labels[row] >= 0, 3 - labels[row], labels[row])
        return dataclasses.replace(nights, label=np.concatenate(labels))

    monkeypatch.setattr(distill, "read_split", with_other_stages)
    train(data_dir, teacher_dir, tmp_path / "two")
    one, two = (params_of(tmp_path / name, data_dir) for name in ("one", "two"))
    assert soft_labels.fingerprint(one) == soft_labels.fingerprint(two)


def test_the_baseline_never_hears_the_teacher(data_dir, teacher_dir, tmp_path, monkeypatch):
    """With alpha = 1, a teacher that says something else leaves the same student."""
    alone = dataclasses.replace(TINY.distill, alpha=1.0)
    train(data_dir, teacher_dir, tmp_path / "one", alone)
    # Its batches are full of labels, although most nights have none.
    assert all(row["labelled_share"] > 0.95 for row in read_metrics(tmp_path / "one"))
    original = soft_labels.load

    def other(*arguments):
        return 10.0 * original(*arguments)[:, ::-1]

    monkeypatch.setattr(soft_labels, "load", other)
    train(data_dir, teacher_dir, tmp_path / "two", alone)
    one, two = (params_of(tmp_path / name, data_dir) for name in ("one", "two"))
    assert soft_labels.fingerprint(one) == soft_labels.fingerprint(two)


def test_a_folder_serves_one_set_of_settings(data_dir, teacher_dir, tmp_path):
    train(data_dir, teacher_dir, tmp_path / "w")
    train(data_dir, teacher_dir, tmp_path / "w")  # nothing to do
    with pytest.raises(TrainingError, match=r"other settings: alpha \(0.3 there, 0.5 here\)"):
        train(data_dir, teacher_dir, tmp_path / "w", DistillConfig(alpha=0.5))
    with pytest.raises(TrainingError, match="holds a student"):
        distill.train_teacher(data_dir, tmp_path / "w", TINY.teacher, TINY.teacher_train)
    with pytest.raises(TrainingError, match="expected a trained teacher, found student"):
        train(data_dir, tmp_path / "w", tmp_path / "v")


def test_a_run_says_what_made_it(data_dir, teacher_dir, tmp_path):
    train(data_dir, teacher_dir, tmp_path / "w")
    written = json.loads((tmp_path / "w" / "settings.json").read_text())
    assert written["settings"]["distill"]["alpha"] == 0.3
    snr_db = written["settings"]["trained_on"]["snr_db"]
    assert snr_db["p01"] < snr_db["p50"] < snr_db["p99"]
    assert {"jax", "flax", "python", "kd_sleep"} <= set(written["versions"])
    assert written["git_revision"]
    rows = read_metrics(tmp_path / "w")
    assert [row["step"] for row in rows] == [10, 20]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert list((tmp_path / "w" / "tensorboard").glob("events.*"))


def test_a_loss_that_is_not_finite_stops_the_run(data_dir, teacher_dir, tmp_path):
    hot = dataclasses.replace(TINY.student_train, learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(TrainingError, match=r"(loss|gradient_norm) is (nan|inf).* at step"):
        train(data_dir, teacher_dir, tmp_path / "w", train_config=hot)


LONG = dataclasses.replace(TINY.student_train, steps=60, evaluate_every=5)
RUN = """
import dataclasses, pathlib, sys
from kd_sleep.config import PRESETS
from kd_sleep.training.distill import train_student
data, teacher, workdir = map(pathlib.Path, sys.argv[1:])
tiny = PRESETS["tiny"]
train = dataclasses.replace(tiny.student_train, steps=60, evaluate_every=5)
train_student(data, [teacher], workdir, tiny.student, tiny.distill, train)
"""


def start(data_dir, teacher_dir, workdir):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(data_dir), str(teacher_dir), str(workdir)],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def test_a_killed_run_goes_on_to_the_same_bits(data_dir, teacher_dir, tmp_path):
    """SIGKILL in the middle, twice; the end is that of a run which was never stopped."""
    train(data_dir, teacher_dir, tmp_path / "whole", train_config=LONG)
    killed = tmp_path / "killed"
    for at_least in (5, 25):
        process = start(data_dir, teacher_dir, killed)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            rows = read_metrics(killed)
            if rows and rows[-1]["step"] >= at_least:
                break
            time.sleep(0.02)
        assert process.poll() is None, "ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert read_metrics(killed)[-1]["step"] < 60
    assert start(data_dir, teacher_dir, killed).wait() == 0
    names = [
        soft_labels.fingerprint(params_of(tmp_path / w, data_dir)) for w in ("whole", "killed")
    ]
    assert names[0] == names[1]
    whole, resumed = read_metrics(tmp_path / "whole"), read_metrics(killed)
    assert whole == resumed


def test_a_folder_of_another_architecture_or_unfinished_is_refused(data_dir, teacher_dir, tmp_path):
    train(data_dir, teacher_dir, tmp_path / "w")
    settings = json.loads((tmp_path / "w" / "settings.json").read_text())
    settings["settings"]["train"]["steps"] = 40
    (tmp_path / "w" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(TrainingError, match="stopped at step 20 of 40"):
        params_of(tmp_path / "w", data_dir)
    settings["settings"]["model"]["width"] = 12
    (tmp_path / "w" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(TrainingError, match="does not fit this model"):
        params_of(tmp_path / "w", data_dir)
    shutil.rmtree(tmp_path / "w" / "checkpoints")
    with pytest.raises(TrainingError, match="no checkpoint"):
        params_of(tmp_path / "w", data_dir)


@pytest.fixture(scope="module")
def run_of_two(data_dir, teacher_dir, tmp_path_factory):
    """A student's folder with the checkpoints of steps 10 and 20."""
    out = tmp_path_factory.mktemp("run") / "w"
    train(data_dir, teacher_dir, out)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"10", "20"}
    return out


def cut_short(step):
    file = max((step / "default" / "d").iterdir(), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-2000])


DAMAGES = {
    "data cut short": cut_short,
    "no manifest": lambda step: (step / "default" / "manifest.ocdbt").unlink(),
    "no metadata": lambda step: (step / "default" / "_METADATA").unlink(),
    "metadata of 0 bytes": lambda step: (step / "default" / "_METADATA").write_bytes(b""),
    "no data": lambda step: shutil.rmtree(step / "default" / "d"),
    "an empty step": lambda step: (shutil.rmtree(step), step.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_older_one_taken(
    data_dir, teacher_dir, run_of_two, tmp_path, capsys, damage
):
    shutil.copytree(run_of_two, tmp_path / "w")
    DAMAGES[damage](tmp_path / "w" / "checkpoints" / "20")
    with pytest.raises(TrainingError, match=r"w: stopped at step 10 of 20; damaged: step 20"):
        params_of(tmp_path / "w", data_dir)
    if damage == "data cut short":
        train(data_dir, teacher_dir, tmp_path / "w")
        assert "goes on from step 10; damaged: step 20" in capsys.readouterr().err
        one, other = (params_of(w, data_dir) for w in (run_of_two, tmp_path / "w"))
        assert soft_labels.fingerprint(one) == soft_labels.fingerprint(other)
        return
    shutil.rmtree(tmp_path / "w" / "checkpoints" / "10")
    with pytest.raises(TrainingError, match=r"w/checkpoints: no sound checkpoint; damaged") as e:
        params_of(tmp_path / "w", data_dir)
    assert "Copy the folder again" in e.value.remedy
    assert "\n" not in str(e.value)


def test_a_checkpoint_of_nan_is_damaged(tmp_path):
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
    checkpoints.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}", '{"kind": "student"}', "\x00" * 9])
def test_damaged_settings_are_named(data_dir, teacher_dir, run_of_two, tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    for use in (params_of, lambda w, d: train(d, teacher_dir, w)):
        with pytest.raises(TrainingError, match=r"settings\.json: is damaged") as caught:
            use(tmp_path, data_dir)
        assert "Copy the folder again" in caught.value.remedy


def test_settings_that_lack_a_part_and_what_is_no_folder_are_named(data_dir, tmp_path):
    (tmp_path / "settings.json").write_text('{"kind": "student", "settings": {"model": {}}}')
    with pytest.raises(TrainingError, match="is damaged, it has no train"):
        params_of(tmp_path, data_dir)
    (tmp_path / "settings.json").unlink()
    (tmp_path / "settings.json").mkdir()
    with pytest.raises(TrainingError, match=r"settings\.json: cannot be read"):
        params_of(tmp_path, data_dir)
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(TrainingError, match="checkpoints: is a file"):
        Checkpoints(tmp_path / "checkpoints", read_only=True)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda a: a[:-30], "rows of float32, expected"),
        (lambda a: np.roll(a, 7, 0), "not the soft labels that were saved for shhs1-"),
        (lambda a: a * np.float32(np.nan), "not the soft labels that were saved for shhs1-"),
        (lambda a: a.astype(np.float64), "rows of float64"),
    ],
)
def test_soft_labels_that_are_not_as_they_were_saved_are_refused(
    data_dir, teacher_dir, tmp_path, change, word
):
    nights = read_split(data_dir, "train")
    name = distill.load_teacher(teacher_dir, nights)[2]
    shutil.copytree(teacher_dir / "soft_labels", tmp_path / "s")
    path = tmp_path / "s" / "train.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(TrainingError, match=word) as caught:
        soft_labels.load(tmp_path / "s", "train", name, nights)
    assert str(path) in str(caught.value)
    assert "command that trained the teacher" in caught.value.remedy


@pytest.mark.parametrize("file", ["train.npy", "train.json"])
@pytest.mark.parametrize("left", [0, 50, -100])
def test_soft_labels_cut_short_are_refused(data_dir, teacher_dir, tmp_path, file, left):
    nights = read_split(data_dir, "train")
    name = distill.load_teacher(teacher_dir, nights)[2]
    shutil.copytree(teacher_dir / "soft_labels", tmp_path / "s")
    path = tmp_path / "s" / file
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(TrainingError, match=f"{file}: is damaged"):
        soft_labels.load(tmp_path / "s", "train", name, nights)


def test_a_teacher_whose_logits_are_not_finite_leaves_no_soft_labels(data_dir, tmp_path):
    nights = read_split(data_dir, "validation")
    logits = [np.full((count, 4), np.nan) for count in nights.windows]
    with pytest.raises(TrainingError, match=f"for {nights.recording_ids[0]} are not finite"):
        soft_labels.save(tmp_path, "validation", "t", nights, logits)
    assert not list(tmp_path.iterdir())
