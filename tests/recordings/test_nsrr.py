"""NSRR annotations: every way a stage or a beat is written is read, or refused by name."""

import datetime

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import nsrr
from kd_sleep.stages import UNSCORED, class_of_rk_code

START = datetime.time(22, 30)
QUICK = hypothesis.settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def event(concept, start, duration, kind="<EventType>Stages|Stages</EventType>"):
    return (
        f"<ScoredEvent>{kind}<EventConcept>{concept}</EventConcept>"
        f"<Start>{start}</Start><Duration>{duration}</Duration></ScoredEvent>"
    )


def document(*events, head=""):
    return f"{head}<PSGAnnotation><ScoredEvents>{''.join(events)}</ScoredEvents></PSGAnnotation>"


@pytest.fixture
def read_text(tmp_path):
    """Reads stages from a text or bytes."""

    def read(text, reader=nsrr.read_stages):
        path = tmp_path / "shhs1-200001-nsrr.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return reader(path)

    return read


@QUICK
@hypothesis.given(labels=st.lists(st.integers(-1, 3), min_size=1, max_size=60))
def test_stages_round_trip(tmp_path, labels):
    path = tmp_path / "stages.xml"
    nsrr.write_stages(path, labels, START, 30.0 * len(labels))
    read = nsrr.read_stages(path)
    assert read.dtype == np.int8
    assert read.tolist() == labels


def test_written_stages_have_nsrrs_layout(tmp_path):
    path = tmp_path / "stages.xml"
    nsrr.write_stages(path, [2, 2, -1, 1], START, 125.0)
    text = path.read_text()
    assert "<EpochLength>30</EpochLength>" in text
    assert "<ClockTime>00.00.00 22.30.00</ClockTime>" in text
    assert text.count("Stages|Stages") == 3
    run = (
        "<EventConcept>Stage 2 sleep|2</EventConcept>\n"
        "<Start>0.0</Start>\n"
        "<Duration>60.0</Duration>\n"
    )
    assert run in text
    nsrr.write_stages(path, [2, 2, -1, 1], START, 125.0)
    assert path.read_text() == text


@pytest.mark.parametrize("labels", [[], [4], [-2]])
def test_writer_refuses_what_is_no_class(tmp_path, labels):
    with pytest.raises(ValueError, match="labels"):
        nsrr.write_stages(tmp_path / "no.xml", labels, START, 30.0)


def test_every_stage_code_and_the_gaps(read_text):
    text = document(
        "<ScoredEvent><EventType/><EventConcept>Recording Start Time</EventConcept>"
        "<Start>0</Start><Duration>300.5</Duration></ScoredEvent>",
        event("Hypopnea|Hypopnea", 33.3, 12.1, "<EventType>Respiratory|Respiratory</EventType>"),
        event("REM sleep|5", 210, 30),  # order does not matter
        event("Stage 1 sleep|1", 30, 30),
        event("Stage 4 sleep|4", 60, "60.0"),
        event("Movement|6", 120, 30),
        event("Wake|0", 150, 30),
        event("Wake|0", 150, 30),  # the same said twice
    )
    assert read_text(text).tolist() == [-1, 2, 3, 3, -1, 0, -1, 1]


def test_ontology_terms_without_type_in_any_child_order(read_text):
    text = document(
        event("SRO:Stage2Sleep", 0, 60, kind=""),
        event("SRO:ObstructiveApnea", 10, 12.5, kind=""),
        "<ScoredEvent><Duration>30</Duration><Start>60</Start>"
        "<EventConcept>SRO:RapidEyeMovement</EventConcept></ScoredEvent>",
        event("SRO:MovementTime", 90, 30, kind=""),
        event("SRO:MovementArousal", 95, 3.5, kind=""),
        event("SDO:NonRapidEyeMovementSleep-N3", 120, 30, kind=""),
        event("SDO:RapidEyeMovementSleep", 150, 30, kind="<EventType>Sleep Staging</EventType>"),
        event("SDO:WakeState", 180, 30, kind="<EventType/>"),
    )
    assert read_text(text).tolist() == [2, 2, 1, -1, 3, 1, 0]


def test_a_stage_is_known_by_its_type_or_its_concept(read_text):
    damaged = event("REM sleep|5", 30, 30, "<EventType>Stbges|Stbges</EventType>")
    assert read_text(document(event("Wake|0", 0, 30), damaged)).tolist() == [0, 1]
    with pytest.raises(RecordingError, match="unknown stage 'REM slefp"):
        read_text(document(event("Wake|0", 0, 30), event("REM slefp|5", 30, 30)))


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("ISO-8859-1", b""), ("UTF-8", b"\xef\xbb\xbf"), ("windows-1252", b""), ("UTF-16", b"")],
)
def test_encoding_line_ends_and_comments_do_not_matter(read_text, encoding, mark):
    head = f'<?xml version="1.0" encoding="{encoding}"?>\r\n<!-- Müller -->\r\n'
    text = document(event("Wake|0", 0, 30), "\r\n", head=head)
    assert read_text(mark + text.encode(encoding)).tolist() == [0]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([(90, 60, "Wake|0")], [-1, -1, -1, 0, 0]),  # the first stage is not at 0
        ([(0, 30, "Wake|0"), (90, 30, "Wake|0")], [0, -1, -1, 0]),
        ([(0, 14.999, "Wake|0"), (15, 45, "REM sleep|5")], [-1, 1]),  # half is no majority
        ([(0, 14.998, "Wake|0"), (14.998, 15.002, "REM sleep|5")], [1]),
        ([(0, 45, "Wake|0")], [0]),
        ([(0, 45.001, "Wake|0")], [0, 0]),
        ([(0, 29.999, "Wake|0"), (29.999, 30.001, "REM sleep|5")], [0, 1]),
        ([(0, "29.999999999999996", "Wake|0")], [0]),
        ([(5, 20, "Wake|0")], [0]),
        # Two stages of one class cover a window together.
        ([(0, 10, "Stage 1 sleep|1"), (10, 10, "Stage 2 sleep|2")], [2]),
        # Off the grid by 1 s: it is the recording's own.
        ([(4321, 30, "Wake|0"), (4351.0, 30, "REM sleep|5")], [*144 * [-1], 0, 1]),
        # Rounded times overlap by less than half a second: the later run begins later.
        ([(0, 30.4, "Wake|0"), (30, 30, "REM sleep|5")], [0, 1]),
        ([(0, 60, "Wake|0"), (30, 60, "Wake|0")], [0, 0, 0]),
        ([(0, 90, "Wake|0"), (30, 30, "Wake|0")], [0, 0, 0]),
    ],
)
def test_a_window_has_the_stage_of_its_greater_part(read_text, runs, expected):
    text = document(*(event(concept, start, duration) for start, duration, concept in runs))
    assert read_text(text).tolist() == expected


@QUICK
@hypothesis.given(
    runs=st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 700), st.sampled_from([0, 1, 2, 3, 5, 6])),
        min_size=1,
        max_size=12,
    )
)
def test_windows_of_any_runs_are_those_of_counted_tenths_of_seconds(read_text, runs):
    names = {0: "Wake|0", 1: "Stage 1 sleep|1", 2: "Stage 2 sleep|2", 3: "Stage 3 sleep|3"}
    names |= {5: "REM sleep|5", 6: "Movement|6"}
    tenths, events = [], []
    for gap, length, code in runs:
        tenths += gap * [None]
        events.append(event(names[code], f"{len(tenths) / 10:.1f}", f"{length / 10:.1f}"))
        tenths += length * [class_of_rk_code(code)]
    expected, decided = [], 0
    for first in range(0, len(tenths), 300):
        window = tenths[first : first + 300]
        most = max([None, -1, 0, 1, 2, 3], key=lambda c: window.count(c) if c is not None else 0)
        settled = most is not None and window.count(most) > 150
        expected.append(most if settled else UNSCORED)
        decided = len(expected) if settled else decided
    if decided:
        assert read_text(document(*events)).tolist() == expected[:decided]
    else:
        with pytest.raises(RecordingError, match="none covers a window"):
            read_text(document(*events))


DECLARED = '<?xml version="1.0" encoding="UTF-8"?>'


def test_joined_documents_are_read_where_they_agree(read_text):
    night = document(event("Wake|0", 0, 60), event("REM sleep|5", 60, 30), head=DECLARED)
    split = document(
        event("Wake|0", 30, 30), event("Wake|0", 0, 30), event("REM sleep|5", 60, 30), head=DECLARED
    )
    other = document(event("Wake|0", 0, 90), head=DECLARED)
    for text in (night + night, night + "\r\n\ufeff" + split, document(head=DECLARED) + night):
        assert read_text(text).tolist() == [0, 0, 1]
    with pytest.raises(RecordingError, match="holds 2 scorings that disagree"):
        read_text(night + other)
    with pytest.raises(RecordingError, match="holds 9 XML documents"):
        read_text(9 * night)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no readable XML"),
        ("RPoint,Start\n1,2\n", "no readable XML"),
        (document(event("Wake|0", 0, 30))[:-9], "no readable XML"),
        (document(event("Wake|0", 0, 30)) * 2, "junk after document"),
        ('<?xml version="1.0" encoding="klingon"?>' + document(), "no readable XML"),
        (document(), "has no sleep stages"),
        (
            document(event("Hypopnea|Hypopnea", 0, 30, "<EventType>Respiratory</EventType>")),
            "has no",
        ),
        (document(event("Stage 7 sleep|7", 0, 30)), "unknown stage 'Stage 7 sleep"),
        (document(event("Wake|7", 0, 30)), "unknown stage code 7"),
        (document(event("Stage 2 sleep|3", 0, 30)), "name and code disagree"),
        (document(event("Dreaming", 0, 30)), "unknown stage 'Dreaming'"),
        (document(event("Dreaming", 0, 30, "<EventType>Staging</EventType>")), "unknown stage"),
        (document(event("", 0, 30)), "unknown stage ''"),
        (document(event("Wake|" + 99 * "0|" + "0", 0, 30)), "unknown stage"),
        (document(event("SRO:Stage9Sleep", 0, 30, kind="")), "unknown stage"),
        (document(event("SDO:NonRapidEyeMovementSleep-N5", 0, 30, kind="")), "unknown stage"),
        (document(event("Wake|0", 0, 10)), "none covers a window"),
        (document(event("Wake|0", 0, 0)), "outside any night"),
        (document(event("Wake|0", 60, -30)), "no number of seconds"),
        (document(event("Wake|0", -30, 60)), "no number of seconds"),
        (document(event("Wake|0", 0, 3e12)), "no number of seconds"),
        (document(event("Wake|0", 86400, 30)), "outside any night"),
        (document(event("Wake|0", 0, "inf")), "no number of seconds"),
        (document(event("Wake|0", "nan", 30)), "no number of seconds"),
        (document(event("Wake|0", "soon", 30)), "no number of seconds"),
        (document(event("Wake|0", "3_0", 30)), "no number of seconds"),
        (document(event("Wake|0", "", 30)), "no number of seconds"),
        (document(event("Wake|0", "0</Start><Start>30", 30)), "2 different Start"),
        (document(event("Wake|0", 0, 60), event("REM sleep|5", 30, 30)), "overlaps"),
        (document(event("Wake|0", 0, 30.5), event("REM sleep|5", 30, 30)), "overlaps"),
        (document(event("Stage 1 sleep|1", 0, 60), event("Stage 2 sleep|2", 30, 30)), "overlaps"),
        (document(event("REM sleep|5", 0, 30), event("Unscored|9", 0, 30)), "overlaps"),
    ],
)
def test_bad_stages_are_refused_by_name(read_text, text, problem):
    with pytest.raises(RecordingError, match=problem) as caught:
        read_text(text)
    assert "shhs1-200001-nsrr.xml" in str(caught.value)


def test_entities_and_document_types_are_refused(read_text, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("Wake|0")
    laughs = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
    bomb = f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]>'
    external = f'<!DOCTYPE x [<!ENTITY l9 SYSTEM "{secret.as_uri()}">]>'
    elsewhere = f'<!DOCTYPE x SYSTEM "{secret.as_uri()}">'
    preset = '<!DOCTYPE x [<!ATTLIST ScoredEvent kind CDATA "stage">]>'
    for head in (bomb, external, elsewhere, preset):
        with pytest.raises(RecordingError, match="declares a document type or entities"):
            read_text(document(event("&l9;", 0, 30), head=head))


def test_huge_and_deep_files_are_refused_or_read(read_text, tmp_path):
    stage = event("Wake|0", 0, 30)
    deep = 50_000 * "<a>" + stage + 50_000 * "</a>"
    assert read_text(f"<PSGAnnotation>{deep}</PSGAnnotation>").tolist() == [0]
    with pytest.raises(RecordingError, match="too many tags"):
        read_text(document(stage, 1_000_000 * "<a/>"))
    huge = tmp_path / "huge"
    for filling in (1_000_000 * "\n", 10_500_000 * ","):
        huge.write_text(f"seconds,Type\n{filling}\n1.0,1\n")
        with pytest.raises(RecordingError, match="too many cells"):
            nsrr.read_rpoints(huge)
    with huge.open("wb") as file:
        file.truncate(50_000_001)
    for reader in (nsrr.read_stages, nsrr.read_rpoints):
        with pytest.raises(RecordingError, match="has 50 MB"):
            reader(huge)


@pytest.mark.parametrize(
    ("concepts", "expected"),
    [
        (("Wake|0", "Stage 2 sleep|2", "Unscored|9"), True),
        (("Wake|0", "Stage 2 sleep|2", "SRO:Stage2Sleep"), True),
        (("Wake|0", "Stage 1 sleep|1", "Stage 2 sleep|2"), False),
        (("Wake|0", "Stage 2 sleep|2", "REM sleep|5"), False),
        (("Wake|0",), False),
    ],
)
def test_sleep_wake_only(read_text, concepts, expected):
    text = document(*(event(concept, 30 * i, 30) for i, concept in enumerate(concepts)))
    assert read_text(text, nsrr.read_scoring).sleep_wake_only is expected


def test_software_and_start_are_read_back(tmp_path):
    path = tmp_path / "stages.xml"
    nsrr.write_stages(path, [0], START, 30.0)
    assert nsrr.read_scoring(path).software == "Compumedics"
    nsrr.write_stages(path, [0], START, 30.0, software="<simulator> & co")
    scoring = nsrr.read_scoring(path)
    assert (scoring.software, scoring.start_time) == ("<simulator> & co", START)


@pytest.mark.parametrize("clock", ["", "25.00.00", "00.00.00 22.30", "soon", "00.00.00 22.61.00"])
def test_a_start_without_a_clock_is_none(read_text, clock):
    start = event(f"Recording Start Time</EventConcept><ClockTime>{clock}</ClockTime>", 0, 30, "")
    start = start.replace("</ClockTime></EventConcept>", "</ClockTime>")
    scoring = read_text(document(start, event("Wake|0", 0, 30)), nsrr.read_scoring)
    assert (scoring.software, scoring.start_time) == ("", None)


XML = document(event("Wake|0", 0, 30), event("Stage 2 sleep|2", 30, 90)).encode()
EDITS = st.lists(
    st.tuples(st.integers(0, len(XML)), st.integers(0, 9), st.binary(max_size=9)), max_size=4
)


def edited(data, edits):
    for offset, length, insert in edits:
        data = data[:offset] + insert + data[offset + length :]
    return data


@QUICK
@hypothesis.given(edits=EDITS)
def test_any_xml_is_read_or_refused(read_text, edits):
    try:
        labels = read_text(edited(XML, edits))
    except RecordingError:
        return
    assert 1 <= labels.size <= 2880
    assert set(labels.tolist()) <= {UNSCORED, 0, 1, 2, 3}


def test_rpoints_round_trip(tmp_path):
    path = tmp_path / "shhs1-200001-rpoint.csv"
    times_s = np.cumsum(np.random.default_rng(0).uniform(0.7, 1.2, 500))
    types = np.arange(500) % 4
    nsrr.write_rpoints(path, times_s, types, "200001", 125)
    beats = nsrr.read_rpoints(path)
    assert beats.times_s.dtype == np.float64
    np.testing.assert_allclose(beats.times_s, times_s, atol=1 / 512)
    np.testing.assert_array_equal(beats.times_s % (1 / 256), 0)
    np.testing.assert_array_equal(beats.normal, types == 1)


def test_written_rpoints_agree_with_nsrrs_definitions(tmp_path):
    path = tmp_path / "shhs2-200001-rpoint.csv"
    nsrr.write_rpoints(path, [100.0], [2], "200001", 250)
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
        nsrr.write_rpoints(tmp_path / "no.csv", times_s, types, "200001", 125)


def test_rpoints_are_sorted_and_doubles_are_normal_only_if_all_are(tmp_path):
    path = tmp_path / "beats.csv"
    path.write_bytes(b'"Seconds",Note,TYPE\r\n3.0,\x96,1\r\n1.0,,1\r\n\r\n3.0,,2\r\n2.0,\x81,0\r\n')
    beats = nsrr.read_rpoints(path)
    assert beats.times_s.tolist() == [1, 2, 3]
    assert beats.normal.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no columns"),
        ("RPoint,Type\n1,1\n", "no columns"),
        ("seconds,Type\n", "no beats"),
        ("seconds,Type\n1.0,1\nnan,1\n", "line 3"),
        ("seconds,Type\n-1.0,1\n", "line 2"),
        ("seconds,Type\n1e9,1\n", "line 2"),
        ("seconds,Type\n1.0,7\n", "line 2"),
        ("seconds,Type\n1.0,1\n\n2.0\n", "line 4"),
        ("seconds,Type\n1.0,x\n", "line 2"),
        ("seconds,Type\n1.0,1,\n", "line 2 is no beat: 3 cells under 2 names"),
        ('seconds,Type\n1.0,1\n2.0,"1\n3.0,1\n', "is no CSV"),
        ("seconds;Type\n1.0;1\n", "no columns"),
        ("RPoint,seconds,Type\n256,1.0,1\n512,3.0,1\n", "line 3 contradicts itself"),
        ("RPoint,seconds,Type\n256,1.008,1\n", "line 2 contradicts itself"),
        ("seconds,epoch,Type\n1.0,1,1\n90.0,1,1\n", "line 3 contradicts itself: .* epoch '1'"),
    ],
)
def test_bad_rpoints_are_refused_by_line(tmp_path, text, problem):
    path = tmp_path / "beats.csv"
    path.write_text(text)
    with pytest.raises(RecordingError, match=problem):
        nsrr.read_rpoints(path)


def test_every_contradiction_in_a_written_row_is_found(tmp_path):
    path = tmp_path / "beats.csv"
    nsrr.write_rpoints(path, np.arange(300) + 0.5, np.ones(300, int), "200001", 125)
    header, *rows = path.read_text().splitlines()
    names = header.split(",")
    for column, value in (("RPoint", "999999"), ("seconds", "250.75"), ("epoch", "9")):
        cells = rows[40].split(",")
        cells[names.index(column)] = value
        path.write_text("\n".join([header, *rows[:40], ",".join(cells), *rows[41:], ""]))
        with pytest.raises(RecordingError, match="line 42 contradicts itself"):
            nsrr.read_rpoints(path)


def test_epochs_may_count_from_0_or_1(tmp_path):
    path = tmp_path / "beats.csv"
    for first in (0, 1):
        rows = (f"{i},{i // 30 + first},1" for i in range(0, 300, 3))
        path.write_text("\n".join(["seconds,epoch,Type", *rows]))
        assert nsrr.read_rpoints(path).times_s.size == 100


def test_quotes_order_of_columns_and_a_mark_at_the_front_do_not_matter(tmp_path):
    path = tmp_path / "beats.csv"
    path.write_bytes(
        b'\xef\xbb\xbf"Type","note, of \x93any\x94 kind","rpoint","seconds","Epoch"\r\n'
        b'"1","a ""beat"", here","256","1.0","1"\r\n"2",,512,2.0,\r\n\r\n'
    )
    beats = nsrr.read_rpoints(path)
    assert beats.times_s.tolist() == [1, 2]
    assert beats.normal.tolist() == [True, False]


def test_missing_annotations_are_refused(tmp_path):
    for reader in (nsrr.read_stages, nsrr.read_rpoints):
        with pytest.raises(RecordingError, match="is missing"):
            reader(tmp_path / "none")


@QUICK
@hypothesis.given(edits=EDITS)
def test_any_csv_is_read_or_refused(tmp_path, edits):
    path = tmp_path / "beats.csv"
    path.write_bytes(edited(b"seconds,Type\r\n" + b"1.5,1\r\n2.25,0\r\n" * 9, edits))
    try:
        beats = nsrr.read_rpoints(path)
    except RecordingError:
        return
    assert beats.times_s.size == beats.normal.size > 0
    assert (np.diff(beats.times_s) > 0).all()
