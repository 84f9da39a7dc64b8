"""Arrays in, a student out: any teacher for any nights, and nothing on disk unless asked for."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

import kd_sleep
from kd_sleep.config import PRESETS, BuildConfig, DatasetConfig, DistillConfig, StudentConfig
from kd_sleep.datasets import shhs_bcg
from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import ConfigError, DatasetError, ExportError, TrainingError
from kd_sleep.inference import container
from kd_sleep.inference.saved import load_network
from kd_sleep.simulation.night_arrays import simulated_arrays

TINY = PRESETS["tiny"]
STUDENT = StudentConfig(width=8, context_windows=3)
TRAIN = dataclasses.replace(TINY.student_train, steps=4, evaluate_every=2)


def nights_of(subjects, **changes):
    return kd_sleep.Nights.from_arrays(**simulated_arrays(subjects, hours=0.6) | changes)


def without(name, subjects):
    """These nights without ECG, BCG or stages."""
    return nights_of(subjects, **{name: None})


@pytest.fixture(scope="module")
def parts():
    return nights_of(range(4)), nights_of([10, 11]), nights_of([20, 21, 22])


@pytest.fixture(scope="module")
def teacher(parts):
    train = dataclasses.replace(TRAIN, steps=2)
    return kd_sleep.fit_teacher(parts[0], validation=parts[1], model=TINY.teacher, train=train)


def student_of(nights, teacher, validation, train=TRAIN, **options):
    return kd_sleep.fit_student(
        nights, teacher=teacher, validation=validation, model=STUDENT, train=train, **options
    )


@pytest.fixture(scope="module")
def student(parts, teacher):
    return student_of(nights_of(range(30, 33)), teacher, parts[1])


def test_a_student_in_memory_stages_is_scored_and_is_saved(parts, teacher, student, tmp_path):
    scores = kd_sleep.evaluate(student, parts[2], teacher=teacher, train=parts[0])
    assert set(scores.systems) == {"student", "teacher", "time_of_night", "majority"}
    assert scores.data.recordings == 3
    bcg = simulated_arrays([20], hours=0.6)["bcg"][0]
    night = student.stage(bcg, 50.0)
    assert len(night) == 72
    assert repr(night).startswith("<Staging: 72 windows, Wake ")
    assert len(repr(night)) < 120
    student.save(tmp_path / "mine.kdsleep")
    again = kd_sleep.load_student(tmp_path / "mine.kdsleep")
    np.testing.assert_allclose(again.stage(bcg, 50.0).probs, night.probs, atol=1e-4)
    there = kd_sleep.evaluate(again, parts[2], teacher=teacher)
    assert there.systems["student"] == scores.systems["student"]
    with pytest.raises(TrainingError, match="on 1 of the 2 subjects of the test split: 30"):
        kd_sleep.evaluate(again, nights_of([30, 70]))
    again.save(tmp_path / "again.kdsleep")
    assert kd_sleep.load_student(tmp_path / "again.kdsleep").trained.name == student.trained.name


def test_a_student_sees_in_staging_what_it_saw_in_training(parts, student):
    arrays = simulated_arrays([20], hours=0.6)
    night = student.stage(arrays["bcg"][0], 50.0)
    logits = student.trained.logits(nights_of([20]))[0] / student.temperature
    there = night.staged
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(night.probs[there], expected[there], atol=1e-3)


def test_a_teacher_stages_beats(parts, teacher):
    arrays = simulated_arrays([20], hours=0.6)
    beats = arrays["beat_times_s"][0]
    night = teacher.stage(beat_times_s=beats)
    alone = kd_sleep.Nights.from_arrays(subject_ids=["x"], beat_times_s=[beats])
    np.testing.assert_array_equal(
        night.stages[night.staged], teacher.trained.logits(alone)[0].argmax(-1)[night.staged]
    )
    edges_s = 30.0 * np.arange(len(night) + 1)
    counted_bpm = 2.0 * np.histogram(beats, edges_s)[0]
    good = night.missing < 0.1
    assert good.sum() > 30
    np.testing.assert_allclose(night.heart_bpm[good], counted_bpm[good], rtol=0.1)
    mean_ratio = np.mean(night.heart_bpm[good] / counted_bpm[good])
    assert mean_ratio == pytest.approx(1.0, abs=0.02)
    assert night.summary()["staged_windows"] == night.staged.sum()
    with pytest.raises(TrainingError, match="expected ecg with rate_hz, or beat_times_s"):
        teacher.stage()
    with pytest.raises(DatasetError, match="ecg_rate_hz: None"):
        teacher.stage(ecg=np.zeros(9000))


def test_a_teacher_of_one_cohort_teaches_students_on_another(parts, teacher_dir, tmp_path):
    """The teacher is of simulated files, the student of arrays without stages."""
    teacher = kd_sleep.load_teacher(teacher_dir)
    scored = without("stages", [40, 41])
    student = student_of(scored, teacher, parts[1], distill=DistillConfig(alpha=0.0))
    card = student.program.card
    assert card["teacher"] == teacher.trained.name
    assert card["data"]["labelled_nights"] == 0
    assert student.trained.rows[-1]["kl"] > 0
    scores = kd_sleep.evaluate(student, parts[2], teacher=teacher)
    assert scores.systems["student"].pooled.kappa.value is not None


def test_each_term_uses_the_nights_that_it_can(parts, teacher):
    """ECG alone, both, BCG alone with stages and without, in one run."""
    arrays = simulated_arrays(range(50, 54), hours=0.6)
    mixed = kd_sleep.Nights.from_arrays(
        **arrays | {
            "bcg": [None, *arrays["bcg"][1:]],
            "beat_times_s": [*arrays["beat_times_s"][:2], None, None],
            "stages": [*arrays["stages"][:3], None],
        }
    )  # fmt: skip
    student = student_of(mixed, teacher, parts[1])
    data = student.program.card["data"]
    assert (data["nights"], data["labelled_nights"]) == (2, 2)
    assert data["left_out"] == ["50-1", "53-1"]
    again = kd_sleep.fit_teacher(mixed, validation=parts[1], model=TINY.teacher, train=TRAIN)
    assert again.trained.settings["trained_on"]["left_out"] == ["52-1", "53-1"]


@pytest.fixture(scope="module")
def ecg_dir(cohort, tmp_path_factory):
    """The same cohort's nights as a dataset without BCG."""
    out = tmp_path_factory.mktemp("without") / "ecg"
    shhs_bcg.build(cohort, out, DatasetConfig(bcg_source="none"), BuildConfig(workers=1))
    return out


def test_datasets_on_disk_mix(data_dir, ecg_dir, teacher_dir, tmp_path):
    paired, mixed = read_split(data_dir, "train"), read_split([data_dir, ecg_dir], "train")
    assert len(mixed) == 2 * len(paired)
    assert len(set(mixed.recording_ids)) == len(mixed)
    assert {place.data_dir for place in mixed.places} == {str(data_dir), str(ecg_dir)}
    assert mixed.has_bcg.sum() == len(paired)
    validation, teacher = read_split(data_dir, "validation"), kd_sleep.load_teacher(teacher_dir)
    alone, together = (student_of(n, teacher, validation) for n in (paired, mixed))
    assert together.program.card["data"]["left_out"] == sorted(
        name for name in mixed.recording_ids if name.endswith("@ecg")
    )
    assert alone.trained.rows[0]["labelled_share"] == together.trained.rows[0]["labelled_share"]
    with pytest.raises(DatasetError, match="is the same night in two of them"):
        read_split([data_dir, data_dir], "train")


def test_fine_tuning_says_whether_it_helped(parts, teacher, student, tmp_path):
    nights, still = nights_of([60, 61]), dataclasses.replace(TRAIN, learning_rate=1e-12)
    same = student_of(nights, teacher, parts[1], still, start=student)
    assert "did not improve" in same.started()
    assert same.trained.name == student.trained.name
    assert same.program.card["start"]["from"] == student.trained.name
    longer = dataclasses.replace(TRAIN, steps=30, evaluate_every=10, learning_rate=1e-2)
    tuned = student_of(nights, teacher, parts[1], longer, start=student, workdir=tmp_path / "w")
    kappas = [row["validation_kappa"] for row in tuned.trained.rows]
    better = max(kappas[1:]) > kappas[0]
    assert ("improved" in tuned.started()) == better
    assert ("did not improve" in tuned.started()) != better
    assert (tuned.trained.name != student.trained.name) == better
    assert kd_sleep.load_student(tmp_path / "w").started() == tuned.started()
    with pytest.raises(TrainingError, match="on 1 of the 2 subjects of the test split: 30"):
        kd_sleep.evaluate(tuned, nights_of([30, 70]))
    with pytest.raises(TrainingError, match="architectures differ"):
        kd_sleep.fit_student(
            nights, teacher=teacher, validation=parts[1], start=student, train=TRAIN,
            model=dataclasses.replace(STUDENT, width=12),
        )  # fmt: skip


def test_files_are_a_start_as_the_networks_in_them_are(parts, teacher, student, tmp_path):
    """A student from a student's file, from a teacher and from a teacher's file."""
    teacher.save(tmp_path / "teacher.kdsleep")
    student.save(tmp_path / "student.kdsleep")
    nights = nights_of([60, 61])
    files = [load_network(tmp_path / f"{kind}.kdsleep") for kind in ("teacher", "student")]
    for memory, file in zip((teacher, student), files, strict=True):
        one, other = (student_of(nights, teacher, parts[1], start=s) for s in (memory, file))
        assert one.trained.name == other.trained.name
        assert other.trained.settings["start"] == memory.trained.name
        assert other.trained.settings["trained_on"] == one.trained.settings["trained_on"]
    with pytest.raises(TrainingError, match=r"student\.kdsleep was trained.* validation split: 30"):
        student_of(nights, teacher, nights_of([30]), start=files[1])


def test_a_teachers_file_is_the_teacher_with_its_folds(parts, tmp_path):
    nights, validation, test = parts
    teacher = kd_sleep.fit_teacher(
        nights, validation=validation, model=TINY.teacher, train=TRAIN, folds=2
    )
    path = tmp_path / "teacher.kdsleep"
    teacher.save(path)
    again = kd_sleep.load_teacher(path)
    for name in (*nights.subject_ids, "70"):
        one, other = (each.trained.for_subject(name, nights.cohort) for each in (teacher, again))
        assert one.name == other.name
    names = {again.trained.for_subject(name, nights.cohort).name for name in nights.subject_ids}
    assert names == {fold.name for fold in again.trained.folds}
    assert again.trained.for_subject("10", nights.cohort) is again.trained
    assert again.trained.for_subject(nights.subject_ids[0], "recorded") is again.trained
    assert kd_sleep.evaluate(again, test).systems == kd_sleep.evaluate(teacher, test).systems
    for load in (kd_sleep.load_student, lambda path: load_network(path, "student")):
        with pytest.raises(ExportError, match="holds a teacher"):
            load(path)
    with pytest.raises(ConfigError, match="is a folder"):
        teacher.save(tmp_path)
    content = container.read(path)
    for change in ({"teacher": "0"}, {"settings": [{}]}, {"stages": ["Wake"]}):
        changed = container.Content({**content.card, **change}, content.arrays, b"")
        path.write_bytes(container.pack(changed))
        with pytest.raises(ExportError, match="its settings cannot be used"):
            kd_sleep.load_teacher(path)


def test_a_subject_is_on_one_side_alone(parts, teacher, student):
    nights = parts[0]
    for fit in (
        lambda v: kd_sleep.fit_teacher(nights, validation=v, model=TINY.teacher, train=TRAIN),
        lambda v: student_of(nights, teacher, v),
    ):
        with pytest.raises(DatasetError, match="subject 3 is in both nights and validation"):
            fit(nights_of([3, 70]))
    known = nights_of([3, 70])  # to the teacher
    with pytest.raises(TrainingError, match=r"this teacher was trained.* validation split: 3"):
        student_of(nights_of([71]), teacher, known)
    with pytest.raises(TrainingError, match="subjects of the test split: 3"):
        kd_sleep.evaluate(teacher, known)


def test_what_cannot_be_trained_is_refused_by_name(parts, teacher):
    nights, validation, _ = parts
    with pytest.raises(TrainingError, match=r"alpha=0\.3: there is no teacher"):
        student_of(nights, None, validation)
    with pytest.raises(DatasetError, match="nights: a dataset without BCG"):
        student_of(without("bcg", [80]), teacher, validation)
    with pytest.raises(DatasetError, match="nights: none of them has both an ECG and stages"):
        kd_sleep.fit_teacher(without("stages", [80]), validation=validation)
    with pytest.raises(DatasetError, match="validation: none of its nights has an ECG"):
        kd_sleep.fit_teacher(nights, validation=without("beat_times_s", [80]))
    with pytest.raises(ConfigError, match="teacher: expected a trained network, got str"):
        student_of(nights, ["teacher"], validation)
    with pytest.raises(ConfigError, match="folds=1"):
        kd_sleep.fit_teacher(nights, validation=validation, folds=1)


def test_the_whole_way_reads_no_file_and_needs_no_reader():
    code = (
        "import sys\n"
        "for name in ('tensorflow_datasets', 'grain', 'array_record', 'edfio', 'h5py', 'sleepecg',"
        " 'matplotlib', 'pandas'):\n"
        "    sys.modules[name] = None\n"
        "import kd_sleep\n"
        "from kd_sleep.config import *\n"
        "from kd_sleep.simulation.night_arrays import simulated_arrays\n"
        "one, other = (kd_sleep.Nights.from_arrays(**simulated_arrays(n, hours=0.5))"
        " for n in ([1], [2]))\n"
        "how = {'train': TrainConfig(steps=1, batch_size=1, sequence_windows=8)}\n"
        "tiny = {'width': 8, 'context_windows': 0}\n"
        "t = kd_sleep.fit_teacher(one, validation=other, model=TeacherConfig(**tiny), **how)\n"
        "s = kd_sleep.fit_student(one, teacher=t, validation=other,"
        " model=StudentConfig(**tiny), **how)\n"
        "test = kd_sleep.Nights.from_arrays(**simulated_arrays([3], hours=0.5))\n"
        "print(kd_sleep.evaluate(s, test).data.windows)\n"
        "print(len(s.stage(simulated_arrays([3], hours=0.5)['bcg'][0], 50.0)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    assert out.stdout.split() == ["60", "60"]
