"""BCG in CSV: layouts, delimiters, clocks and gaps; damage named by its line."""

import datetime

import numpy as np
import pytest

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import bcg_csv
from kd_sleep.recordings.paired_bcg import read_bcg

RATE = 60
ROWS = 330 * RATE
COUNTS = np.random.default_rng(3).integers(-3000, 9000, ROWS)
TIMES = np.arange(ROWS) / RATE


def write(tmp_path, header, *columns, delimiter=",", end="\n", encoding="utf-8"):
    rows = [delimiter.join(cells) for cells in zip(*columns, strict=True)]
    path = tmp_path / "night.csv"
    path.write_bytes(end.join([header, *rows, ""]).encode(encoding))
    return path


def texts(values, form="{}"):
    return [form.format(value) for value in values]


def same(bcg, values=COUNTS, rate_hz=RATE):
    assert bcg.signal.rate_hz == rate_hz
    np.testing.assert_array_equal(bcg.signal.values, np.asarray(values, np.float32))


def test_a_genuine_file_of_the_dataset(real_data):
    """Breathing at 20 Hz in the BCG's layout: its columns read, and refused as a BCG."""
    path = real_data / "overnight_rr" / "07_20231116_resp.csv"
    contents = bcg_csv.csv_contents(path)
    assert [column.label for column in contents.columns] == ["Resp"]
    assert contents.start.isoformat() == "2023-11-15T15:13:44.065000+00:00"
    assert float(contents.rate) == 20
    (values,) = contents.load(contents.columns)
    oracle = [float(line.split(",")[0]) for line in path.read_text().split()[1:]]
    np.testing.assert_array_equal(values, oracle)
    with pytest.raises(RecordingError, match="'Resp' has 20 Hz"):
        read_bcg(path, "Resp")


@pytest.mark.parametrize("trailing", ["", ",,"])
def test_the_datasets_layout_at_its_rate(tmp_path, trailing):
    counts = np.resize(COUNTS, 140 * 301)
    path = tmp_path / "07_20231116_BCG.csv"
    rows = [f"{counts[0]},1700061224065,140", *(f"{count}{trailing}" for count in counts[1:])]
    path.write_text("\n".join(["BCG,Timestamp,fs", *rows]))
    same(read_bcg(path), counts, 140)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_delimiters_line_ends_and_marks(tmp_path, delimiter, end, encoding):
    header = delimiter.join(["time (s)", "BCG [µV]", "comment"])
    cells = [texts(TIMES, "{:.4f}"), texts(COUNTS / 4), ["", "moved"] * (ROWS // 2)]
    if delimiter != ",":
        cells[:2] = [[cell.replace(".", ",") for cell in column] for column in cells[:2]]
    path = write(tmp_path, header, *cells, delimiter=delimiter, end=end, encoding=encoding)
    path.write_bytes(path.read_bytes() + (end * 2).encode())
    bcg = read_bcg(path)
    same(bcg, COUNTS / 4)
    assert (bcg.signal.label, bcg.signal.unit) == ("BCG [µV]", "µV")


def test_quoted_cells(tmp_path):
    path = write(tmp_path, '"note, long","BCG"', ['"a, ""b"""'] * ROWS, texts(COUNTS, '"{}"'))
    same(read_bcg(path, rate_hz=RATE))


CLOCK = np.datetime64("2023-11-03T22:39:15") + np.rint(1e6 * TIMES).astype("m8[us]")
S = texts(TIMES, "{:.5f}")
STAMPS = {
    "s": ("time_s", texts(TIMES, "{:.5f}")),
    "t": ("t", texts(TIMES + 12.0, "{:.5f}")),
    "epoch s": ("timestamp", texts(1_700_061_224 + TIMES, "{:.4f}")),
    "epoch ms": ("Timestamp", texts(np.rint(1_700_061_224_065 + 1e3 * TIMES).astype(int))),
    "epoch µs": ("Timestamp", texts(np.rint(1_700_061_224_065_000 + 1e6 * TIMES).astype(int))),
    "relative ms": ("time", texts(np.rint(1e3 * TIMES).astype(int))),
    "named ms": ("Time (ms)", texts(1e3 * TIMES, "{:.3f}")),
    "ISO": ("time", texts(CLOCK)),
    "ISO in UTC": ("time", texts(CLOCK, "{}Z")),
    "ISO in a zone": ("time", texts(CLOCK, "{}+01:00")),
    "slashes": ("Timestamp", [f"2023/11/3 22:{int(30 + t // 60)}:{t % 60:06.3f}" for t in TIMES]),
}  # fmt: skip
STARTS = {
    "ISO": datetime.datetime(2023, 11, 3, 22, 39, 15),
    "ISO in a zone": datetime.datetime(2023, 11, 3, 22, 39, 15),
    "slashes": datetime.datetime(2023, 11, 3, 22, 30),
}


@pytest.mark.parametrize("kind", STAMPS)
def test_the_rate_and_the_gaps_come_from_the_stamps(tmp_path, kind):
    name, stamps = STAMPS[kind]
    same(read_bcg(write(tmp_path, f"{name},BCG", stamps, texts(COUNTS))))
    lost = np.zeros(ROWS, bool)
    lost[[700, 900, 901, 903]] = True  # single samples, one row between two gaps
    lost[5000:5077] = True
    kept = [np.asarray(column)[~lost] for column in (stamps, texts(COUNTS))]
    bcg = read_bcg(write(tmp_path, f"{name},BCG", *kept))
    same(bcg, np.where(lost, np.nan, COUNTS))
    assert kind not in STARTS or bcg.start == STARTS[kind]
    assert bcg.start is None or (bcg.start.tzinfo is None) == (kind in STARTS)
    assert "4 gaps" in " ".join(bcg.notes)
    assert "0.41% of the samples are missing" in " ".join(bcg.notes)


def test_missing_cells_are_gaps_and_blank_rows_take_their_time(tmp_path):
    cells = texts(COUNTS)
    for row, missing in ((10, ""), (11, "NaN"), (500, "NA"), (ROWS - 5, "null")):
        cells[row] = missing
    expected = np.where(np.isin(np.arange(ROWS), [10, 11, 500, ROWS - 5]), np.nan, COUNTS)
    same(read_bcg(write(tmp_path, "BCG", cells), rate_hz=RATE), expected)
    same(read_bcg(write(tmp_path, "time,BCG,note", texts(TIMES), cells, [""] * ROWS)), expected)


def test_several_columns_and_a_rate_column(tmp_path):
    beats = np.sin(2 * np.pi * 3 * TIMES) + 0.1 * np.sin(2 * np.pi * 15 * TIMES)
    path = write(
        tmp_path, ",Left,Right,Stage,rate_hz", texts(range(ROWS)), texts(COUNTS), texts(beats),
        texts(TIMES // 30), [str(RATE)] + [""] * (ROWS - 1),
    )  # fmt: skip
    bcg = read_bcg(path)
    same(bcg, beats)
    assert bcg.signal.label == "Right"
    same(read_bcg(path, "LEFT"))
    with pytest.raises(RecordingError, match="has 60 Hz, not the 70 Hz"):
        read_bcg(path, rate_hz=70.0)


TEXTS = {
    "comments": "# sensor 7\n% 60 Hz\n// bed\n; left\ntime,BCG\n",
    "names in a comment": "# made by x\n# time,BCG\n",
    "separator": "sep=;\r\ntime;BCG\r\n",
    "units": "time,BCG\ns,mV\n",
    "blanks": "time   BCG\n",
    "row names": '"time" "BCG"\n',
    "blank lines": "\n\ntime\tBCG\n",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_recorders_texts(tmp_path, kind):
    head = TEXTS[kind]
    between = {"separator": ";", "blanks": "   ", "row names": " ", "blank lines": "\t"}.get(
        kind, ","
    )
    rows = [between.join(row) for row in zip(texts(TIMES, "{:.4f}"), texts(COUNTS), strict=True)]
    if kind == "row names":
        rows = [f'"{number}" {row}' for number, row in enumerate(rows, start=1)]
    (tmp_path / "night.txt").write_text(head + "\n".join(rows))
    bcg = read_bcg(tmp_path / "night.txt")
    same(bcg)
    assert bcg.signal.unit == ("mV" if kind == "units" else "")


@pytest.mark.parametrize(
    ("head", "problem"),
    [("Interval=\t0.01 s\nExcelDateTime=\t45361\nTitle=\tBCG\nRange=\t10 V\n", "lines 1, 3, 4"),
     ("# EndOfHeader\n", "no header line: line 2 begins with numbers"),
     ("rec\n10 msec/sample\nBCG\n", "text in lines 1, 2, 3 above the numbers of line 4")],
)  # fmt: skip
def test_headers_that_cannot_be_read_are_named_by_line(tmp_path, head, problem):
    rows = "".join(f"{time:.4f}\t{count}\n" for time, count in zip(TIMES, COUNTS, strict=True))
    (tmp_path / "night.txt").write_text(head + rows)
    with pytest.raises(RecordingError, match=problem):
        read_bcg(tmp_path / "night.txt", rate_hz=RATE)


@pytest.mark.parametrize("name", ["Date/Time", "_time", "at", "ms", "x", "Zeit [s]", "seq"])
def test_a_clock_of_any_name_keeps_its_gap(tmp_path, name):
    lost = (TIMES >= 20) & (TIMES < 50)
    stamps = {"ms": texts(1e3 * TIMES, "{:.2f}"), "x": S, "Zeit [s]": S, "seq": texts(range(ROWS))}
    cells = np.asarray(stamps.get(name, texts(CLOCK)))[~lost]
    path = write(tmp_path, f"{name},adc", cells, np.asarray(texts(COUNTS))[~lost])
    same(read_bcg(path, rate_hz=RATE), np.where(lost, np.nan, COUNTS))


def test_a_doubled_stamp_is_late_and_a_count_without_rate_is_no_clock(tmp_path):
    same(read_bcg(write(tmp_path, "time,BCG", damaged(S, 9077, S[9076]), texts(COUNTS))))
    with pytest.raises(RecordingError, match="'seq' may be its clock, but it counts by ones"):
        read_bcg(write(tmp_path, "seq,BCG", texts(range(ROWS)), texts(COUNTS)))
    with pytest.raises(RecordingError, match="line 2 has '3/11/2023"):
        read_bcg(
            write(tmp_path, "Date,BCG", texts(TIMES, "3/11/2023 22:39:{:06.3f}"), texts(COUNTS))
        )


def damaged(column, row, cell):
    changed = list(column)
    changed[row] = cell
    return changed


DAMAGE = {
    "text": (["time,BCG", S, damaged(texts(COUNTS), 4321, "oops")], r"line 4323 has 'oops'"),
    "backward": (["time,BCG", damaged(S, 277, S[70]), texts(COUNTS)], "back by .* at line 279"),
    "no stamp": (["time,BCG", damaged(S, 77, ""), texts(COUNTS)], "line 79 has '' in"),
    "few stamps": (
        ["BCG,time,fs", texts(COUNTS), [S[k] if k % 60 == 0 else "" for k in range(ROWS)],
         ["60"] * ROWS],
        "line 3 has '' in it",
    ),
    "longer time": (
        ["time,BCG", damaged(STAMPS["ISO"][1], 77, STAMPS["ISO"][1][77] + "123456789123"),
         texts(COUNTS)],
        "line 79 has '2023",
    ),
    "thousands": (["time,BCG", S, texts(COUNTS, '"1,{}"')], "no channel of numbers"),
    "lone CR": (["time,BCG", S, damaged(texts(COUNTS), 99, "1\r2")], "line 101 is no CSV"),
    "no time": (
        ["time,BCG", damaged(STAMPS["ISO"][1], 77, "yesterday"), texts(COUNTS)],
        "line 79 has 'yesterday'",
    ),
    "years": (
        ["time,BCG", [*S[:-9], *texts(TIMES[-9:] + 1e8)], texts(COUNTS)],
        r"span 2\.778e\+04 h|uniform",
    ),
    "counter": (["t,BCG", texts(range(ROWS)), texts(COUNTS)], "counts by ones"),
    "random": (
        ["t,BCG", texts(np.cumsum(np.random.default_rng(0).exponential(1 / RATE, ROWS))),
         texts(COUNTS)],
        "no uniform rate",
    ),
    "two rates": (["time,BCG,fs", S, texts(COUNTS), ["50"] * ROWS], "tell 60 Hz, what it says"),
    "bad rate": (["BCG,fs", texts(COUNTS), ["fast"] * ROWS], "tells 'fast' as the rate"),
    "no header": (["12,13", S, texts(COUNTS)], "no header line"),
    "decimal comma": (["time,BCG", texts(TIMES), texts(COUNTS, "{},5")], "3 cells under 2 names"),
    "header only": (["time,BCG", [], []], "no text of a header line and rows"),
    "no numbers": (["time,BCG", S, ["x"] * ROWS], "no channel of numbers"),
    "quote": (
        ["BCG,fs", damaged(texts(COUNTS), 99, '"7'), ["60"] * ROWS],
        r"has an open quot|is no CSV",
    ),
    "NUL": (["time,BCG", S, damaged(texts(COUNTS), 9999, "\0")], "no text"),
    "minutes": (["time,BCG", texts((TIMES // 60).astype(int) * 60), texts(COUNTS)], "too coarse"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(tmp_path, damage):
    columns, problem = DAMAGE[damage]
    with pytest.raises(RecordingError, match=problem):
        read_bcg(write(tmp_path, *columns))


def test_utf_16_and_endless_lines_are_refused(tmp_path):
    with pytest.raises(RecordingError, match="UTF-16"):
        read_bcg(write(tmp_path, "time,BCG", S, texts(COUNTS), encoding="utf-16"))
    (tmp_path / "night.csv").write_bytes(b"BCG\n1\n" + b"7" * (2**24 + 2**17))
    with pytest.raises(RecordingError, match="never ends"):
        read_bcg(tmp_path / "night.csv", rate_hz=RATE)
    (tmp_path / "night.csv").write_bytes(b"7" * 2**18)
    with pytest.raises(RecordingError, match="no header line"):
        read_bcg(tmp_path / "night.csv", rate_hz=RATE)


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    path = write(tmp_path, "time,BCG", S, texts(COUNTS))
    for size in (1000, 1017):
        monkeypatch.setattr(bcg_csv, "_BLOCK_BYTES", size)
        same(read_bcg(path))
