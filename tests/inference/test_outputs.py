"""Files in, files out: what they hold, that other tools read them; one bad night is only one."""

import csv
import datetime
import json
import shutil
from pathlib import Path

import edfio
import numpy as np
import pytest
from matplotlib.figure import Figure

from kd_sleep.commands import stage_night
from kd_sleep.config import PRESETS, DatasetConfig
from kd_sleep.errors import ConfigError, KdSleepError
from kd_sleep.features.night import process_night
from kd_sleep.inference import outputs
from kd_sleep.inference.ecg_staging import load_teacher
from kd_sleep.inference.outputs import EDF_TEXTS, Reading, found, names, stage_file, stage_files
from kd_sleep.inference.picture import _shade, write_picture
from kd_sleep.metrics import confusion_counts, kappa
from kd_sleep.recordings import shhs
from kd_sleep.recordings.beat_files import read_beats
from kd_sleep.recordings.scored_windows import labels_of_night
from kd_sleep.recordings.stage_files import read_scoring
from kd_sleep.stages import STAGE_NAMES

START = datetime.datetime(2026, 1, 31, 22, 30)


@pytest.fixture(scope="module")
def student(make_student):
    return make_student(sqi=True, card={"data": {"simulated": True, "snr_db": {"p01": 90.0, "p50": 95.0, "p99": 99.0}}})  # fmt: skip  # noqa: E501


@pytest.fixture(scope="module")
def staged(student, bcg, tmp_path_factory):
    """Folder of the results, and the staging itself: of a night with an hour's gap at its end."""
    folder = tmp_path_factory.mktemp("staged")
    values = bcg.values.copy()
    values[60 * 3000 : 70 * 3000] = np.nan
    np.save(folder / "a night.npy", values)
    night = stage_file(
        student,
        folder / "a night.npy",
        "a_night",
        folder,
        Reading(rate_hz=bcg.rate_hz, start=START),
    )
    return folder, night


def test_the_csv_has_a_line_for_each_window(staged):
    folder, night = staged
    with open(folder / "a_night-hypnogram.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(night)
    assert [row["stage"] for row in rows] == night.stage_names()
    assert rows[2]["start"] == "2026-01-31T22:31:00"
    assert rows[2]["start_s"] == "60"
    for row, probs, sqi in zip(rows, night.probs, night.sqi, strict=True):
        written = [row[f"p_{name.lower()}"] for name in STAGE_NAMES]
        if row["flag"] == "missing":
            assert written == [""] * 4
            assert row["stage"] == "Unscored"
            assert row["sqi"] == ""
            continue
        np.testing.assert_allclose([float(p) for p in written], probs, atol=1e-4)
        assert (row["flag"] == "doubtful") == (sqi < 0.5)
        assert row["warnings"] == "snr"
    assert [row["flag"] for row in rows[60:70]] == ["missing"] * 10


def test_the_edf_has_an_annotation_for_each_window(staged):
    folder, night = staged
    edf = edfio.read_edf(folder / "a_night-hypnogram.edf")
    stages = [a for a in edf.annotations if a.text.startswith("Sleep stage")]
    assert [a.onset for a in stages] == [30.0 * n for n in range(len(night))]
    assert {a.duration for a in stages} == {30.0}
    assert [a.text for a in stages] == [EDF_TEXTS[stage] for stage in night.stages.tolist()]
    doubtful = np.zeros(len(night), bool)
    for a in edf.annotations:
        if a.text == "doubtful":
            doubtful[round(a.onset / 30) : round((a.onset + a.duration) / 30)] = True
    np.testing.assert_array_equal(doubtful, night.flagged)
    assert any(a.text == "warning: snr" for a in edf.annotations)
    assert datetime.datetime.combine(edf.startdate, edf.starttime) == START


def test_the_summary_says_what_it_is_of(staged, student):
    folder, night = staged
    summary = json.loads((folder / "a_night-summary.json").read_text())
    assert summary["recording"] == "a night.npy"
    assert summary["windows"] == len(night)
    assert summary["start"] == START.isoformat()
    assert summary["flag"] == night.reliability()
    assert summary["tst_min"] == night.summary()["tst_min"]
    assert summary["warnings"][0]["reason"] == "snr"
    assert summary["trained_on"]["simulated"] is True
    assert "jax" in summary["versions"]
    assert any("missing" in note for note in summary["notes"])


def test_the_picture_is_one_and_says_the_warning(staged, student, tmp_path):
    folder, night = staged
    assert (folder / "a_night-night.png").read_bytes().startswith(b"\x89PNG")
    for name, start in (("once", START), ("again", START), ("hours", None)):
        write_picture(tmp_path / f"{name}.svg", night, "a $night$ <x>", start)
    once, again, hours = ((tmp_path / f"{n}.svg").read_text() for n in ("once", "again", "hours"))
    assert once == again
    for text in ("a $night$ &lt;x&gt;", "WARNING", "hypnogram", "no medical device", "23:00"):
        assert text in once or text == "hypnogram"
    assert "hours since the recording began" in hours


def test_spans_are_shaded_from_end_to_end_single_windows_too():
    axes = Figure().subplots()
    _shade(axes, np.array([False, True, False, True, True]), np.arange(6.0), "red")
    spans = [path.get_extents() for path in axes.collections[0].get_paths()]
    assert [(span.x0, span.x1) for span in spans] == [(1.0, 2.0), (3.0, 5.0)]


def test_names_are_plain_and_no_two_alike(tmp_path):
    paths = [
        Path(f"x/{name}") for name in ("a b.edf", "a_b.csv", "A_b.npy", "...edf", "né/$(x).h5")
    ]
    assert [name for _, name in names(paths)] == ["a_b", "a_b-2", "A_b-3", "night", "x"]
    long = Path("x" * 240 + ".edf")
    assert names([long])[0][1] == "x" * 100


def test_hidden_files_and_folders_are_no_recordings(tmp_path):
    for name in ("night.edf", "._night.edf", "~$night.csv", ".hidden.h5"):
        (tmp_path / name).touch()
    (tmp_path / "old.csv").mkdir()
    assert found([tmp_path]) == [tmp_path / "night.edf"]


def test_what_is_meant_by_folders(tmp_path):
    for name in ("b.edf", "a.csv", "a-hypnogram.csv", "b-hypnogram.edf", "notes.md", "c.NPY"):
        (tmp_path / name).write_text("")
    assert [path.name for path in found([tmp_path])] == ["a.csv", "b.edf", "c.NPY"]
    assert found([tmp_path / "b.edf", tmp_path / "b.edf"]) == [tmp_path / "b.edf"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="no recording in it"):
        found([tmp_path / "none"])
    with pytest.raises(ConfigError, match="no such file"):
        found([tmp_path / "nowhere"])


def test_one_bad_file_does_not_stop_the_others(student, bcg_path, tmp_path, monkeypatch):
    outputs._network.cache_clear()
    monkeypatch.setattr(outputs, "load_student", lambda path: student)
    nights, out = tmp_path / "nights", tmp_path / "out"
    nights.mkdir()
    shutil.copy(bcg_path, nights / "2 good.edf")
    (nights / "1 bad.edf").write_text("no EDF")
    np.save(nights / "3 noise.npy", np.random.default_rng(0).normal(size=400 * 100))
    np.save(nights / "4 slow.npy", np.ones(400))
    with pytest.raises(ConfigError, match="one for 4 recordings"):
        list(stage_files(tmp_path, [nights], out, Reading(start=START), workers=1))
    done = list(
        stage_files(tmp_path, [nights], out, Reading(rate_hz=100.0, picture="none"), workers=1)
    )
    outputs._network.cache_clear()
    assert [Path(outcome.path).name for outcome in done] == [
        "1 bad.edf", "2 good.edf", "3 noise.npy", "4 slow.npy",
    ]  # fmt: skip
    assert [bool(outcome.problem) for outcome in done] == [True, False, True, True]
    assert "flagged as doubtful" in done[1].report
    assert "Warning: its median SNR" in done[1].report
    assert "no heartbeat" in done[2].problem
    assert sorted(path.name for path in out.iterdir()) == [
        "2_good-hypnogram.csv", "2_good-hypnogram.edf", "2_good-summary.json",
    ]  # fmt: skip


def run(*arguments) -> int:
    """Status of `stage_night` with these flags, in this process."""
    with pytest.raises(SystemExit) as ended:
        stage_night.flags.run(stage_night.main, ["--workers=1", *arguments])
    return ended.value.code


def test_the_command_stages_files_and_names_those_that_it_cannot(
    student, bcg_path, tmp_path, monkeypatch, capsys
):
    outputs._network.cache_clear()
    monkeypatch.setattr(outputs, "load_student", lambda path: student)
    (tmp_path / "bad.csv").write_text("bcg\n1\n2\n")
    out = f"--out={tmp_path / 'out'}"
    both = f"--bcg={bcg_path},{tmp_path / 'bad.csv'}"
    assert run("--student=a", both, out, "--picture=svg") == 2
    printed = capsys.readouterr()
    assert "flagged as doubtful" in printed.out
    assert "Warning: its median SNR" in printed.out
    assert f"not staged: {tmp_path / 'bad.csv'}: " in printed.err
    kinds = {path.name.removeprefix(bcg_path.stem) for path in (tmp_path / "out").iterdir()}
    assert kinds == {"-hypnogram.csv", "-hypnogram.edf", "-summary.json", "-night.svg"}
    for flags in (["--student=a"], ["--teacher=a", both], ["--student=a", both, "--ecg=b"], []):
        assert run(*flags, out) == 2
        assert "Give --student with --bcg, or --teacher with --ecg." in capsys.readouterr().err
    assert run("--student=a", both, out, "--stages=s.csv") == 2
    assert "--stages=s.csv: one for 2 recordings" in capsys.readouterr().err
    outputs._network.cache_clear()


def test_a_night_is_compared_with_a_scorers_stages(
    student, bcg, bcg_path, cohort, tmp_path, monkeypatch, capsys
):
    """In any format: the same accuracy, kappa and confusion matrix from XML and from CSV."""
    outputs._network.cache_clear()
    monkeypatch.setattr(outputs, "load_student", lambda path: student)
    staged = student.stage(bcg.values, bcg.rate_hz)
    xml = shhs.paths_of(cohort, bcg_path.stem).stages_xml
    labels = labels_of_night(xml, read_scoring(xml), len(staged))
    rows = [{-1: "?", 0: "W", 1: "R", 2: "N2", 3: "N3"}[int(label)] for label in labels]
    (tmp_path / "s.csv").write_text("\n".join(["stage", *rows]))
    found = []
    for stages in (xml, tmp_path / "s.csv"):
        how = [f"--bcg={bcg_path}", f"--stages={stages}", f"--out={tmp_path}", "--picture=svg"]
        assert run("--student=a", *how) == 0
        found.append(json.loads((tmp_path / f"{bcg_path.stem}-summary.json").read_text()))
    one, other = (summary["agreement"] for summary in found)
    assert one == other
    both = (labels >= 0) & staged.staged
    confusion = confusion_counts(labels[both], staged.stages[both], 4)
    assert one["confusion"] == confusion.tolist()
    assert one["windows"] == both.sum()
    assert one["accuracy"] == pytest.approx((labels == staged.stages)[both].mean())
    assert one["kappa"] == pytest.approx(float(kappa(confusion)))
    printed = capsys.readouterr().out
    assert f"Against the given stages: accuracy {one['accuracy']:.1%}" in printed
    assert "scored \\ staged" in printed
    svg = (tmp_path / f"{bcg_path.stem}-night.svg").read_text()
    assert "Against the given stages" in svg
    assert ">scored<" in svg
    (tmp_path / "s.csv").write_text("\n".join(["stage", *rows[:-9]]))
    assert run("--student=a", f"--bcg={bcg_path}", f"--stages={tmp_path / 's.csv'}", how[2]) == 2
    assert f"{tmp_path / 's.csv'}: lists" in capsys.readouterr().err
    outputs._network.cache_clear()


@pytest.mark.parametrize("late", [-3, 0, 4, 2000])
def test_stages_are_placed_by_the_clocks(cohort, late):
    """A recording that begins `late` windows after the scoring, or ends before it."""
    name = "shhs1-200001"
    xml = shhs.paths_of(cohort, name).stages_xml
    scoring = read_scoring(xml)
    first = datetime.datetime.combine(datetime.date(2001, 1, 1), scoring.start_time)
    start = first + datetime.timedelta(seconds=30 * late + 10, days=400)
    labels = outputs._labels(xml, start, len(scoring.labels) - 5)
    for window, label in enumerate(labels.tolist()):
        there = 0 <= window + late < len(scoring.labels)
        assert label == (scoring.labels[window + late] if there else -1)


def test_stages_of_no_common_window_or_another_length_are_refused(student, bcg):
    staged = student.stage(bcg.values, bcg.rate_hz)
    with pytest.raises(KdSleepError, match="3 stages for a night of"):
        staged.against([0, 1, 2])
    with pytest.raises(KdSleepError, match="No window that was staged"):
        staged.against(np.full(len(staged), -1))
    alike = staged.against(staged.stages).agreement
    assert alike.summary()["accuracy"] == 1.0


def test_a_teacher_stages_an_ecg_and_files_of_beats(
    cohort, teacher_dir, bcg_path, tmp_path, monkeypatch, capsys
):
    """The four outputs of a BCG's night; stages are those of the night's record."""
    outputs._network.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = shhs.paths_of(cohort, bcg_path.stem)
    beats = read_beats(files.rpoints_csv)
    np.save(tmp_path / "beats.npy", beats.times_s[beats.normal])
    rows = "\n".join(f"{time:.3f}" for time in beats.times_s[beats.normal])
    (tmp_path / "beats.csv").write_text("time_s\n" + rows)
    ecgs = f"{files.edf},{files.rpoints_csv},{tmp_path / 'beats.npy'},{tmp_path / 'beats.csv'}"
    out = tmp_path / "out"
    how = [f"--teacher={teacher_dir}", f"--out={out}", "--picture=svg"]
    assert run(*how, f"--ecg={ecgs}") == 0
    names = sorted(path.name for path in out.iterdir())
    kinds = ["-hypnogram.csv", "-hypnogram.edf", "-night.svg", "-summary.json"]
    stems = sorted({name.rpartition("-")[0].removesuffix("-hypnogram") for name in names})
    assert len(stems) == 4
    assert names == sorted(stem + kind for stem in stems for kind in kinds)
    stages = {}
    for stem in stems:
        with open(out / f"{stem}-hypnogram.csv", newline="", encoding="utf-8") as file:
            stages[stem] = [row["stage"] for row in csv.DictReader(file)]
    record = process_night(files, DatasetConfig(bcg_source="none"))
    teacher = load_teacher(teacher_dir)
    expected = teacher.stage_beats(beats.times_s, beats.normal, len(record["label"])).stage_names()
    assert (
        stages[files.rpoints_csv.stem][:-1] == expected[: len(stages[files.rpoints_csv.stem]) - 1]
    )
    assert stages["beats"] == stages["beats-2"]
    same = np.mean([a == b for a, b in zip(stages[files.edf.stem], expected, strict=False)])
    assert same > 0.9  # by the detector's beats
    summary = json.loads((out / f"{files.edf.stem}-summary.json").read_text())
    assert summary["teacher"]["model"]["width"] == PRESETS["tiny"].teacher.width
    assert summary["channel"] == "ECG"
    assert 40 < summary["heart_bpm"] < 100
    svg = (out / f"{files.edf.stem}-night.svg").read_text()
    assert "The teacher was trained on simulated nights" in svg
    assert "SQI" not in svg
    capsys.readouterr()
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).normal(size=20_000))
    assert run(*how, f"--ecg={tmp_path / 'noise.npy'}") == 2
    assert "--rate" in capsys.readouterr().err
    outputs._network.cache_clear()


def test_mne_reads_the_hypnogram(staged):
    mne = pytest.importorskip("mne")
    folder, night = staged
    read = mne.read_annotations(folder / "a_night-hypnogram.edf")
    stages = [text for text in read.description if text.startswith("Sleep stage")]
    assert stages == [EDF_TEXTS[stage] for stage in night.stages.tolist()]


def test_yasa_reads_the_hypnogram(staged):
    yasa, pandas = pytest.importorskip("yasa"), pytest.importorskip("pandas")
    folder, night = staged
    stages = pandas.read_csv(folder / "a_night-hypnogram.csv")["stage"]
    names = {"Wake": "WAKE", "REM": "REM", "Light": "LIGHT", "Deep": "DEEP", "Unscored": "UNS"}
    hypnogram = yasa.Hypnogram(stages.map(names), n_stages=4, freq="30s", start=START)
    assert len(hypnogram.hypno) == len(night)
    statistics = hypnogram.sleep_statistics()
    assert statistics["TST"] == night.summary()["tst_min"]


def test_sleepecg_takes_the_hypnogram(staged):
    sleepecg = pytest.importorskip("sleepecg")
    folder, night = staged
    with open(folder / "a_night-hypnogram.csv", newline="", encoding="utf-8") as file:
        stages = [row["stage"] for row in csv.DictReader(file)]
    theirs = {
        "Wake": sleepecg.SleepStage.WAKE,
        "REM": sleepecg.SleepStage.REM,
        "Light": sleepecg.SleepStage.N2,
        "Deep": sleepecg.SleepStage.N3,
        "Unscored": sleepecg.SleepStage.UNDEFINED,
    }
    record = sleepecg.SleepRecord(
        sleep_stages=np.array([theirs[stage] for stage in stages]), sleep_stage_duration=30
    )
    assert len(record.sleep_stages) == len(night)
    assert (record.sleep_stages == sleepecg.SleepStage.UNDEFINED).sum() == (~night.staged).sum()
