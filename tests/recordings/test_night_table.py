"""A table of one's own nights: read whatever wrote it, or refused by row and column."""

import datetime
from pathlib import Path

import numpy as np
import pytest

from kd_sleep.config import DatasetConfig
from kd_sleep.errors import DatasetError
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.recordings import edf, night_table
from kd_sleep.simulation import sensors
from kd_sleep.simulation.physiology import draw_subject, simulate_night
from kd_sleep.stages import UNSCORED

NONE, PAIRED = DatasetConfig(bcg_source="none"), DatasetConfig(bcg_source="paired")
SIMULATED = DatasetConfig(bcg_source="simulated")
START = datetime.datetime(2024, 3, 7, 22, 30)
NAMES = np.array(["?", "W", "R", "N2", "N3"])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """An hour and a half of one simulated sleeper in files of several formats."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(3)
    night = simulate_night(rng, draw_subject(rng), hours=1.5)
    ecg = sensors.ecg(rng, night.drive, 125.0)
    belt = edf.Channel("Chest", "", 10, (-9.0, 9.0), (-32768, 32767))
    channel = edf.Channel("My lead", "mV", 125, (-9.0, 9.0), (-32768, 32767))
    signals = [(channel, ecg), (belt, edf.saturated(belt, night.drive.breathing))]
    edf.write_signals(root / "psg.edf", signals, START, "a study")
    np.save(root / "ecg.npy", ecg)
    np.save(root / "bcg.npy", sensors.bcg(rng, night.drive, 100.0).values)
    np.save(root / "beats.npy", night.drive.beat_times_s)
    write(root / "stages.csv", "stage", *NAMES[night.scored + 1])
    np.save(root / "scored.npy", night.scored)
    return root


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def table(home: Path, *lines: str, **how: str) -> Path:
    return write(home / "nights.csv", *lines, **how)


def nights_of(path: Path, config: DatasetConfig = NONE):
    return night_table.find_nights(path, config).nights


def test_parts_may_be_missing_and_formats_differ(home):
    path = table(
        home,
        "id,subject,ecg,beats,stages,bcg,ecg_channel,ecg_rate_hz,bcg_rate_hz,start,cohort,visit",
        "b,eve,psg.edf,,stages.csv,,My lead,,,,,",
        "a,adam,ecg.npy,,,,,125,,2024-03-07 22:30,lab,2",
        f"c,cain,,{home / 'beats.npy'},,bcg.npy,,,100,,lab,",
        "d,dan,,,,sub/../bcg.npy,,,100.0,,,",
    )
    (home / "sub").mkdir(exist_ok=True)
    records = {n.recording_id: process_night(n, PAIRED) for n in nights_of(path, PAIRED)}
    assert not [r for r in records.values() if isinstance(r, Exclusion)]
    a, b, c, d = (records[name] for name in "abcd")  # sorted by id
    assert list(records) == ["a", "b", "c", "d"]
    assert (b["subject_id"], b["cohort"], b["bcg_source"]) == ("eve", "recorded", "none")
    assert (a["visit"], a["cohort"], a["bcg_missing"].min()) == (2, "lab", 1.0)
    np.testing.assert_array_equal(b["label"], np.load(home / "scored.npy"))
    assert all((r["label"] == UNSCORED).all() for r in (a, c, d))  # unlabelled
    assert all(r["ecg_quality"].mean() > 0.9 for r in (a, b))
    assert np.isnan(c["ecg_quality"]).all()
    assert all(r["rr_missing"].mean() < 0.1 for r in (a, b, c))
    assert c["clock_confidence"] > 0.5
    assert all(r["bcg_source"] == "paired" and r["bcg_missing"].mean() < 0.1 for r in (c, d))
    assert (len(d["label"]), d["rr_missing"].min()) == (180, 1.0)  # a BCG alone, on its own clock
    assert np.isnan(d["clock_confidence"])
    assert {r["simulator"] for r in records.values()} == {"none"}


def test_breathing_that_nobody_recorded_is_said_to_be_the_heartbeats(home):
    path = table(
        home,
        "id;subject;ecg;beats;ecg_channel;ecg_rate_hz",
        "belt;eve;psg.edf;;My lead;",
        "bare;adam;ecg.npy;;;125,0",  # a decimal comma
        "beats;cain;;beats.npy;;",
    )
    found = {
        n.recording_id: process_night(n, SIMULATED)["simulator"].split(", ")[1:]
        for n in nights_of(path, SIMULATED)
    }
    bare = ["breathing from the heartbeats"]
    assert found == {"belt": [], "bare": bare, "beats": [*bare, "no movement"]}


def test_a_bcg_alone_needs_a_build_that_reads_it(home):
    (night,) = nights_of(table(home, "id,subject,bcg,bcg_rate_hz", "a,eve,bcg.npy,100"))
    result = process_night(night, NONE)
    assert isinstance(result, Exclusion)
    assert "neither ECG nor beats" in result.reason
    assert result.path.endswith("bcg.npy")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "windows-1252"])
def test_separators_and_encodings_of_other_programs(home, delimiter, encoding):
    (home / "Bär").mkdir(exist_ok=True)
    np.save(home / "Bär" / "beats.npy", np.load(home / "beats.npy"))
    rows = ["ID, Subject ,BEATS", "", '1,Jürgen,"Bär/beats.npy"']
    lines = [row.replace(",", delimiter) for row in rows]
    (night,) = nights_of(table(home, *lines, encoding=encoding))
    assert (night.recording_id, night.subject_id) == ("1", "Jürgen")
    assert night.beats == home / "Bär" / "beats.npy"


HEAD = "id,subject,beats,split"
WRONG = {
    "a missing column": (["id,beats", "a,beats.npy"], "no column subject among id, beats"),
    "a column of another name": (
        ["id,subject,beats,stage", "a,eve,beats.npy,"], "unknown column stage",
    ),
    "a column twice": (["id,subject,beats,id", "a,eve,beats.npy,b"], "column id twice"),
    "no row": ([HEAD], "no row below"),
    "too many cells": ([HEAD, "a,eve,beats.npy,,more"], "row 2 has 5 cells under 4 names"),
    "an id twice": (
        [HEAD, "a,eve,beats.npy,", "A,eve,psg.edf,"], "row 3, column id: 'A' stands in row 2, too",
    ),
    "an id that is no file's name": ([HEAD, "../a,eve,beats.npy,"], "row 2, column id: '../a'"),
    "no subject": ([HEAD, "a,,beats.npy,"], "row 2, column subject: is empty"),
    "a file that is not there": (
        [HEAD, "a,eve,beats.npy,", "", "b,eve,gone.npy,"],
        "row 4, column beats: no file .*gone.npy",
    ),
    "a folder": ([HEAD, "a,eve,.,"], "row 2, column beats: no file"),
    "nothing to read": ([HEAD, "a,eve,,"], "row 2, column ecg: the night has no ECG, no beats"),
    "a file of two nights": (
        [HEAD, "a,eve,beats.npy,", "b,adam,beats.npy,"],
        "row 3, column beats: 'beats.npy' stands in row 2",
    ),
    "an unknown split": ([HEAD, "a,eve,beats.npy,dev"], "row 2, column split: 'dev' is none of"),
    "a subject in two splits": (
        [HEAD, "a,eve,beats.npy,train", "b,eve,ecg.npy,test"],
        "row 3, column split: subject eve is in test here, in train in row 2",
    ),
    "a start in words": (
        ["id,subject,beats,start", "a,eve,beats.npy,evening"], "row 2, column start: 'evening'",
    ),
    "a start with a zone": (
        ["id,subject,beats,start", "a,eve,beats.npy,2024-03-07T22:30:00Z"],
        "column start: .* local",
    ),
    "a rate in words": (
        ["id,subject,ecg,ecg_rate_hz", "a,eve,ecg.npy,fast"], "row 2, column ecg_rate_hz: 'fast'",
    ),
    "a rate of nothing": (
        ["id,subject,ecg,ecg_rate_hz", "a,eve,ecg.npy,0"], "row 2, column ecg_rate_hz: '0'",
    ),
    "a visit in words": (
        ["id,subject,beats,visit", "a,eve,beats.npy,first"], "row 2, column visit: 'first'",
    ),
    "an open quote": ([HEAD, 'a,"eve,beats.npy,'], "is no CSV"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_table_that_cannot_be_is_refused_by_row_and_column(home, wrong):
    lines, reason = WRONG[wrong]
    path = table(home, *lines)
    with pytest.raises(DatasetError, match=f"^{path}: .*{reason}") as error:
        nights_of(path)
    assert error.value.remedy or "column" in reason


def test_bytes_that_are_no_table_are_refused(home, tmp_path):
    (tmp_path / "x.csv").write_bytes(b"id,subject\0\x81")
    with pytest.raises(DatasetError, match="no text in UTF-8, UTF-16 or Windows-1252"):
        nights_of(tmp_path / "x.csv")
    with pytest.raises(DatasetError, match=r"gone\.csv: is missing"):
        nights_of(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("lines", "config", "reason"),
    [
        (["id,subject,bcg", "a,eve,bcg.npy"], SIMULATED, "names 1 BCG files, which .*simulated"),
        (["id,subject,beats", "a,eve,beats.npy"], PAIRED, "names no BCG file"),
    ],
)
def test_a_bcg_that_would_not_be_read_is_no_silence(home, lines, config, reason):
    with pytest.raises(DatasetError, match=reason):
        nights_of(table(home, *lines), config)


def test_stages_in_order_that_are_too_few_are_refused(home):
    write(home / "few.csv", "stage", *["W"] * 50)
    (night,) = nights_of(table(home, "id,subject,beats,stages", "a,eve,beats.npy,few.csv"))
    assert "lists 50 stages where the night has 179" in process_night(night, NONE).reason


def test_an_ecg_among_several_channels_has_to_be_named(home):
    rng = np.random.default_rng(0)
    rows = [f"{a:.4f},{b:.4f}" for a, b in rng.normal(size=(100 * 400, 2))]
    write(home / "two.csv", "lead,mat", *rows)
    (night,) = nights_of(table(home, "id,subject,ecg,ecg_rate_hz", "a,eve,two.csv,100"))
    assert "several channels" in process_night(night, NONE).reason


def test_options_and_files_make_another_night(home):
    from kd_sleep.datasets.shhs_bcg.planned import _fingerprint as fingerprint

    head = "id,subject,ecg,ecg_rate_hz,beats"
    found = [
        fingerprint(nights_of(table(home, head, line))[0], NONE)
        for line in (
            "a,eve,ecg.npy,125,", "a,eve,ecg.npy,125,", "a,eve,ecg.npy,124.9,",
            "a,adam,ecg.npy,125,",
            "a,eve,ecg.npy,125,beats.npy",
        )
    ]  # fmt: skip
    assert found[0] == found[1]
    assert len({*found}) == 4
