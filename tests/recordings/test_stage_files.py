"""Stages from every kind of file: each way a stage is written is read, or refused by name."""

import datetime

import edfio
import hypothesis
import pytest
from hypothesis import strategies as st

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.stage_files import read_scoring, write_nsrr_stages
from kd_sleep.stages import UNSCORED, class_of_rk_code

START = datetime.datetime(2024, 3, 7, 22, 30)
QUICK = hypothesis.settings(
    max_examples=100,
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


def profusion(*codes, length="<EpochLength>30</EpochLength>", tail=""):
    """As Profusion writes it: settings and respiratory events around the stages."""
    stages = "".join(f"<SleepStage>{code}</SleepStage>" for code in codes)
    return (
        f"<CMPStudyConfig>{length}<StepChannels><StepChannel><Input>LIGHT</Input>"
        "</StepChannel></StepChannels><ScoredEvents><ScoredEvent><Name>Hypopnea</Name>"
        "<Start>2423.8</Start><Duration>27.5</Duration><Input>ABDO RES</Input></ScoredEvent>"
        f"</ScoredEvents><SleepStages>{stages}</SleepStages>{tail}<Montage/></CMPStudyConfig>"
    )


@pytest.fixture
def scoring(tmp_path):
    """Reads stages from a text or bytes."""

    def read(text, suffix=".xml"):
        path = tmp_path / f"shhs1-200001-stages{suffix}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_scoring(path)

    return read


@pytest.fixture
def labels(scoring):
    return lambda *args: scoring(*args).labels.tolist()


@QUICK
@hypothesis.given(labels=st.lists(st.integers(-1, 3), min_size=1, max_size=60))
def test_stages_round_trip(tmp_path, labels):
    path = tmp_path / "stages.xml"
    write_nsrr_stages(path, labels, START.time(), 30.0 * len(labels))
    assert read_scoring(path).labels.tolist() == labels


def test_written_stages_have_nsrrs_layout(tmp_path):
    path = tmp_path / "stages.xml"
    write_nsrr_stages(path, [2, 2, -1, 1], START.time(), 125.0, software="<simulator> & co")
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
    found = read_scoring(path)
    assert (found.software, found.start_time) == ("<simulator> & co", START.time())
    for none in ([], [4], [-2]):
        with pytest.raises(ValueError, match="labels"):
            write_nsrr_stages(path, none, START.time(), 30.0)
    assert path.read_text() == text


def test_every_stage_code_and_the_gaps(labels):
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
    assert labels(text) == [-1, 2, 3, 3, -1, 0, -1, 1]


def test_ontology_terms_without_type_in_any_child_order(labels):
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
    assert labels(text) == [2, 2, 1, -1, 3, 1, 0]


def test_a_stage_is_known_by_its_type_or_its_concept(labels):
    damaged = event("REM sleep|5", 30, 30, "<EventType>Stbges|Stbges</EventType>")
    assert labels(document(event("Wake|0", 0, 30), damaged)) == [0, 1]
    with pytest.raises(RecordingError, match="unknown stage 'REM slefp"):
        labels(document(event("Wake|0", 0, 30), event("REM slefp|5", 30, 30)))


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("ISO-8859-1", b""), ("UTF-8", b"\xef\xbb\xbf"), ("windows-1252", b""), ("UTF-16", b"")],
)
def test_encoding_line_ends_and_comments_do_not_matter(labels, encoding, mark):
    head = f'<?xml version="1.0" encoding="{encoding}"?>\r\n<!-- Müller -->\r\n'
    text = document(event("Wake|0", 0, 30), "\r\n", head=head)
    assert labels(mark + text.encode(encoding)) == [0]


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
def test_a_window_has_the_stage_of_its_greater_part(labels, runs, expected):
    text = document(*(event(concept, start, duration) for start, duration, concept in runs))
    assert labels(text) == expected


@QUICK
@hypothesis.given(
    runs=st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 700), st.sampled_from([0, 1, 2, 3, 5, 6])),
        min_size=1,
        max_size=12,
    )
)
def test_windows_of_any_runs_are_those_of_counted_tenths_of_seconds(labels, runs):
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
        assert labels(document(*events)) == expected[:decided]
    else:
        with pytest.raises(RecordingError, match="none covers a window"):
            labels(document(*events))


DECLARED = '<?xml version="1.0" encoding="UTF-8"?>'


def test_joined_documents_are_read_where_they_agree(labels):
    night = document(event("Wake|0", 0, 60), event("REM sleep|5", 60, 30), head=DECLARED)
    split = document(
        event("Wake|0", 30, 30), event("Wake|0", 0, 30), event("REM sleep|5", 60, 30), head=DECLARED
    )
    other = document(event("Wake|0", 0, 90), head=DECLARED)
    for text in (night + night, night + "\r\n\ufeff" + split, document(head=DECLARED) + night):
        assert labels(text) == [0, 0, 1]
    with pytest.raises(RecordingError, match="holds 2 scorings that disagree"):
        labels(night + other)
    with pytest.raises(RecordingError, match="holds 9 XML documents"):
        labels(9 * night)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no readable XML"),
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
        (document(event("", 0, 30)), "unknown stage ''"),
        (document(event("Wake|" + 99 * "0|" + "0", 0, 30)), "unknown stage"),
        (document(event("SDO:NonRapidEyeMovementSleep-N5", 0, 30, kind="")), "unknown stage"),
        (document(event("Wake|0", 0, 10)), "none covers a window"),
        (document(event("Wake|0", 0, 0)), "lasts 0 s"),
        (document(event("Wake|0", 60, -30)), "no number of seconds"),
        (document(event("Wake|0", 86400, 30)), "outside any night"),
        (document(event("Wake|0", 0, "inf")), "no number of seconds"),
        (document(event("Wake|0", "0</Start><Start>30", 30)), "2 different Start"),
        (document(event("Wake|0", 0, 60), event("REM sleep|5", 30, 30)), "overlaps"),
        (document(event("Wake|0", 0, 30.5), event("REM sleep|5", 30, 30)), "overlaps"),
        (document(event("REM sleep|5", 0, 30), event("Unscored|9", 0, 30)), "overlaps"),
    ],
)
def test_bad_stages_are_refused_by_name(labels, text, problem):
    with pytest.raises(RecordingError, match=rf"shhs1-200001-stages\.xml.*{problem}"):
        labels(text)


def test_entities_and_document_types_are_refused(labels, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("Wake|0")
    laughs = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
    bomb = f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]>'
    external = f'<!DOCTYPE x [<!ENTITY l9 SYSTEM "{secret.as_uri()}">]>'
    elsewhere = f'<!DOCTYPE x SYSTEM "{secret.as_uri()}">'
    preset = '<!DOCTYPE x [<!ATTLIST ScoredEvent kind CDATA "stage">]>'
    for head in (bomb, external, elsewhere, preset):
        with pytest.raises(RecordingError, match="declares a document type or entities"):
            labels(document(event("&l9;", 0, 30), head=head))


def test_deep_files_are_read_and_huge_ones_refused(labels):
    stage = event("Wake|0", 0, 30)
    deep = 50_000 * "<a>" + stage + 50_000 * "</a>"
    assert labels(f"<PSGAnnotation>{deep}</PSGAnnotation>") == [0]
    with pytest.raises(RecordingError, match="too many tags"):
        labels(document(stage, 1_000_000 * "<a/>"))
    with pytest.raises(RecordingError, match="has 50 MB"):
        labels(50_000_001 * " ")


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
def test_sleep_wake_only(scoring, concepts, expected):
    text = document(*(event(concept, 30 * i, 30) for i, concept in enumerate(concepts)))
    assert scoring(text).sleep_wake_only is expected


@pytest.mark.parametrize("clock", ["", "25.00.00", "00.00.00 22.30", "soon", "00.00.00 22.61.00"])
def test_a_start_without_a_clock_is_none(scoring, clock):
    start = event(f"Recording Start Time</EventConcept><ClockTime>{clock}</ClockTime>", 0, 30, "")
    start = start.replace("</ClockTime></EventConcept>", "</ClockTime>")
    found = scoring(document(start, event("Wake|0", 0, 30)))
    assert (found.software, found.start_time) == ("", None)


def test_profusions_codes(scoring, labels, tmp_path):
    found = scoring(profusion(9, 0, 1, 2, 3, 4, 5, 6, 9))
    assert found.labels.tolist() == [-1, 0, 2, 2, 3, 3, 1, -1, -1]
    assert (found.sleep_wake_only, found.timed, found.software) == (False, False, "")
    assert scoring(profusion(0, 2, 2, 9)).sleep_wake_only
    head = '<?xml version="1.0" encoding="utf-8"?>\r\n'
    assert labels(2 * (head + profusion(0, 5))) == [0, 1]
    with pytest.raises(RecordingError, match="disagree"):
        labels(head + profusion(0, 5) + head + profusion(0, 5, 5))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (profusion(0)[:-9], "no readable XML"),
        (profusion(), "has no sleep stages"),
        (profusion(0, 7), "sleep stage 2: unknown stage code 7"),
        (profusion(0, ""), "sleep stage 2: 'SleepStage None' is no sleep stage"),
        (profusion(0, "2.0"), "sleep stage 2"),
        (profusion(0, "-1"), "sleep stage 2"),
        (profusion(0, "٢"), "sleep stage 2"),
        (profusion(0, tail="<SleepStages/>"), "several lists"),
        (profusion(0).replace("SleepStage>", "Stage>"), "is no sleep stage"),
        (profusion(0, length="<EpochLength>20</EpochLength>"), "epochs of 20 s instead of 30"),
        (profusion(0, length=""), "epochs of unknown s instead of 30"),
        (profusion(*2881 * [0]), "scores 2881 windows, more than 24 hours"),
    ],
)
def test_bad_profusion_is_refused(labels, text, problem):
    with pytest.raises(RecordingError, match=problem):
        labels(text)


CSV = {
    "names": (
        ["n,stage", "1,W", "2,N1", "3,N2", "4,N3", "5,R", "6,?", "7,", "8,W"],
        [0, 2, 2, 3, 1, -1, -1, 0],
    ),
    "our own words": (
        ["stage", "Wake", "Light", "Deep", "REM", "Unscored", "W"], [0, 2, 3, 1, -1, 0],
    ),
    "as EDF+ has them": (["stage", "Sleep stage 4", "Sleep stage R", "Stage 1"], [3, 1, 2]),
    "codes": (["rk_code", "0", "2", "4", "5", "9", "1"], [0, 2, 3, 1, -1, 2]),
    "times": (["start_s,duration_s,stage", "60,60,R", "0,30,W"], [0, -1, 1, 1]),
    "decimal commas": (["start_s;stage", "0,5;W", "30,5;N3"], [0, 3]),
}  # fmt: skip


@pytest.mark.parametrize("kind", CSV)
def test_stages_from_csv(scoring, kind):
    lines, expected = CSV[kind]
    found = scoring("\n".join(lines), ".csv")
    assert found.labels.tolist() == expected
    assert found.timed == ("start_s" in lines[0])


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["stage", "W", "2"], "row 3: stage '2' is a number"),
        (["stage", "W", "NREM"], "row 3: unknown stage 'nrem'"),
        (["rk_code", "0", "7"], "row 3: unknown stage code 7"),
        (["rk_code", "0", "W"], "row 3: 'W' is no code"),
        (["hypnogram", "W"], "no column stage among hypnogram"),
        (["start_s,stage", "x,W"], "row 2: it starts at nan s"),
        (["start_s,stage", "0,W", "10,R"], "overlaps"),
        (["stage", "W", "", "R"], "a blank line between its stages, above row 4"),
    ],
)
def test_unclear_stages_of_a_csv_are_refused_by_row(scoring, lines, problem):
    with pytest.raises(RecordingError, match=problem):
        scoring("\n".join(lines), ".csv")


def test_stages_from_edf_plus_count_from_their_own_start(tmp_path):
    texts = ["Sleep stage W", "Sleep stage N2", "Movement time", "Sleep stage R", "Arousal"]
    path = tmp_path / "h.edf"
    edfio.Edf(
        [],
        recording=edfio.Recording(startdate=START.date()),
        starttime=START.time(),
        annotations=[edfio.EdfAnnotation(30.0 * n, 30.0, text) for n, text in enumerate(texts)],
    ).write(path)
    assert read_scoring(path).labels.tolist() == [0, 2, -1, 1]
    early, late = (START + datetime.timedelta(seconds=s) for s in (-60, 30))
    assert read_scoring(path, early).labels.tolist() == [-1, -1, 0, 2, -1, 1]
    assert read_scoring(path, late).labels.tolist() == [2, -1, 1]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecordingError, match="cut short"):
        read_scoring(path)


def test_missing_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(RecordingError, match="is missing"):
        read_scoring(tmp_path / "none.xml")
    with pytest.raises(RecordingError, match=r"'\.mat', which is no known format of stages"):
        read_scoring(tmp_path / "none.mat")
