"""Heartbeats in files of their own: read whatever wrote them, or refused by row."""

import numpy as np
import pytest

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.beat_files import read_beats, write_rpoints


def write(folder, *lines):
    path = folder / "beats.csv"
    path.write_text("\n".join(lines))
    return path


def test_rpoints_round_trip(tmp_path):
    path = tmp_path / "shhs1-200001-rpoint.csv"
    times_s = np.cumsum(np.random.default_rng(0).uniform(0.7, 1.2, 500))
    types = np.arange(500) % 4
    write_rpoints(path, times_s, types, "200001", 125)
    beats = read_beats(path)
    assert beats.times_s.dtype == np.float64
    np.testing.assert_allclose(beats.times_s, times_s, atol=1 / 512)
    np.testing.assert_array_equal(beats.times_s % (1 / 256), 0)
    np.testing.assert_array_equal(beats.normal, types == 1)


def test_written_rpoints_agree_with_nsrrs_definitions(tmp_path):
    path = tmp_path / "shhs2-200001-rpoint.csv"
    write_rpoints(path, [100.0], [2], "200001", 250)
    header, row, end = path.read_text().split("\n")
    assert header == (
        "RPoint,Start,End,STLevel1,STSlope1,STLevel2,STSlope2,Manual,Type,Class,PPoint,PStart,PEnd,"
        "TPoint,TStart,TEnd,TemplateID,nsrrid,samplingrate,seconds,epoch,rpointadj"
    )
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert end == ""
    assert (values["RPoint"], values["Type"], values["nsrrid"]) == ("25600", "2", "200001")
    assert (values["samplingrate"], values["epoch"], values["PPoint"]) == ("250", "4", "-1")
    assert float(values["seconds"]) == 100
    assert float(values["rpointadj"]) == 25000


@pytest.mark.parametrize(("times_s", "types"), [([1.0], [4]), ([-1.0], [1]), ([1.0, 2.0], [1])])
def test_rpoint_writer_refuses_what_is_no_beat(tmp_path, times_s, types):
    with pytest.raises(ValueError):
        write_rpoints(tmp_path / "no.csv", times_s, types, "200001", 125)


def test_rpoints_are_sorted_and_doubles_are_normal_only_if_all_are(tmp_path):
    path = tmp_path / "beats.csv"
    path.write_bytes(b'"Seconds",Note,TYPE\r\n3.0,\x96,1\r\n1.0,,1\r\n\r\n3.0,,2\r\n2.0,\x81,0\r\n')
    beats = read_beats(path)
    assert beats.times_s.tolist() == [1, 2, 3]
    assert beats.normal.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no row below a header"),
        ("RPoint,Type\n1,1\n", "no column time_s, nor seconds"),
        ("seconds,Type\n", "no row below a header"),
        ("seconds,Type\n1.0,1\nnan,1\n", "row 3"),
        ("seconds,Type\n-1.0,1\n", "row 2"),
        ("seconds,Type\n1e9,1\n", "row 2"),
        ("seconds,Type\n1.0,7\n", "row 2"),
        ("seconds,Type\n1.0,1\n\n2.0\n", "row 4"),
        ("seconds,Type\n1.0,x\n", "row 2"),
        ("seconds,Type\n1.0,1,7\n", "row 2 has 3 cells under 2 names"),
        ('seconds,Type\n1.0,1\n2.0,"1\n3.0,1\n', "is no CSV"),
        ("RPoint,seconds,Type\n256,1.0,1\n512,3.0,1\n", "row 3 contradicts itself"),
        ("RPoint,seconds,Type\n256,1.008,1\n", "row 2 contradicts itself"),
        ("seconds,epoch,Type\n1.0,1,1\n90.0,1,1\n", "row 3 contradicts itself: .* epoch '1'"),
    ],
)
def test_bad_rpoints_are_refused_by_row(tmp_path, text, problem):
    path = tmp_path / "beats.csv"
    path.write_text(text)
    with pytest.raises(RecordingError, match=problem):
        read_beats(path)


def test_huge_tables_are_refused(tmp_path):
    huge = tmp_path / "huge.csv"
    for filling in (2_000_000 * "\n", 11_500_000 * ","):
        huge.write_text(f"seconds,Type\n{filling}\n1.0,1\n")
        with pytest.raises(RecordingError, match="too many cells"):
            read_beats(huge)


def test_every_contradiction_in_a_written_row_is_found(tmp_path):
    path = tmp_path / "beats.csv"
    write_rpoints(path, np.arange(300) + 0.5, np.ones(300, int), "200001", 125)
    header, *rows = path.read_text().splitlines()
    names = header.split(",")
    for column, value in (("RPoint", "999999"), ("seconds", "250.75"), ("epoch", "9")):
        cells = rows[40].split(",")
        cells[names.index(column)] = value
        path.write_text("\n".join([header, *rows[:40], ",".join(cells), *rows[41:], ""]))
        with pytest.raises(RecordingError, match="row 42 contradicts itself"):
            read_beats(path)


def test_epochs_may_count_from_0_or_1(tmp_path):
    path = tmp_path / "beats.csv"
    for first in (0, 1):
        rows = (f"{i},{i // 30 + first},1" for i in range(0, 300, 3))
        path.write_text("\n".join(["seconds,epoch,Type", *rows]))
        assert read_beats(path).times_s.size == 100


def test_quotes_order_of_columns_and_a_mark_at_the_front_do_not_matter(tmp_path):
    path = tmp_path / "beats.csv"
    path.write_bytes(
        b'\xef\xbb\xbf"Type","note, of \x93any\x94 kind","rpoint","seconds","Epoch"\r\n'
        b'"1","a ""beat"", here","256","1.0","1"\r\n"2",,512,2.0,\r\n\r\n'
    )
    beats = read_beats(path)
    assert beats.times_s.tolist() == [1, 2]
    assert beats.normal.tolist() == [True, False]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.arange(1000) * 125, "beat 693 is at 86500 s"),
        (np.arange(100) * 0.001, "0.001 apart: these are no seconds"),
        (np.array([1.0, np.nan, 3.0]), "beat 2 is at nan s"),
        (np.ones((3, 3)), "no list of numbers"),
        (np.array(["a"]), "no list of numbers"),
        (np.zeros(0), "0 apart"),
    ],
)
def test_beats_that_are_no_seconds_are_refused(tmp_path, values, problem):
    np.save(tmp_path / "beats.npy", values)
    with pytest.raises(RecordingError, match=problem):
        read_beats(tmp_path / "beats.npy")


def test_beats_from_csv(tmp_path):
    path = write(tmp_path, "time_s", "2", "1.25", "3", "1.25")
    assert read_beats(path).times_s.tolist() == [1.25, 2.0, 3.0]
    typed = write(tmp_path, "seconds;Type", "1,5;1", "2,5;2")
    assert read_beats(typed).normal.tolist() == [True, False]
    with pytest.raises(RecordingError, match="no column time_s, nor seconds"):
        read_beats(write(tmp_path, "rr", "0.8"))
