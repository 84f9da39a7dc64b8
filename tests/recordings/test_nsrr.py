"""NSRR annotations: every way a stage or a beat is written is read, or refused by name."""

import datetime

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import nsrr
from kd_sleep.stages import UNSCORED

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
        "<EventConcept>SRO:RemSleep</EventConcept></ScoredEvent>",
    )
    assert read_text(text).tolist() == [2, 2, 1]


def test_encoding_line_ends_and_comments_do_not_matter(read_text):
    head = '<?xml version="1.0" encoding="ISO-8859-1"?>\r\n<!-- Müller -->\r\n'
    text = document(event("Wake|0", 0, 30), "\r\n", head=head)
    assert read_text(text.encode("latin-1")).tolist() == [0]


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
        (document(event("Stage 7 sleep|7", 0, 30)), "unknown stage code 7"),
        (document(event("Dreaming", 0, 30)), "unknown stage 'Dreaming'"),
        (document(event("SRO:Stage9Sleep", 0, 30, kind="")), "unknown stage"),
        (document(event("Wake|0", 4351.0, 30)), "off the grid"),
        (document(event("Wake|0", 0, 45)), "off the grid"),
        (document(event("Wake|0", 0, 0)), "outside any night"),
        (document(event("Wake|0", 60, -30)), "outside any night"),
        (document(event("Wake|0", -30, 60)), "outside any night"),
        (document(event("Wake|0", 0, 3e12)), "outside any night"),
        (document(event("Wake|0", 86400, 30)), "outside any night"),
        (document(event("Wake|0", 0, "inf")), "outside any night"),
        (document(event("Wake|0", "nan", 30)), "outside any night"),
        (document(event("Wake|0", "soon", 30)), "could not convert"),
        (document(event("Wake|0", "", 30)), "could not convert"),
        (document(event("Wake|0", 0, 60), event("REM sleep|5", 30, 30)), "overlaps"),
        (document(event("REM sleep|5", 0, 30), event("Unscored|9", 0, 30)), "overlaps"),
    ],
)
def test_bad_stages_are_refused_by_name(read_text, text, problem):
    with pytest.raises(RecordingError, match=problem) as caught:
        read_text(text)
    assert "shhs1-200001-nsrr.xml" in str(caught.value)


def test_entities_are_refused(read_text, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("Wake|0")
    laughs = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
    bomb = f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]>'
    external = f'<!DOCTYPE x [<!ENTITY l9 SYSTEM "{secret.as_uri()}">]>'
    for head in (bomb, external):
        with pytest.raises(RecordingError, match="EntitiesForbidden"):
            read_text(document(event("&l9;", 0, 30), head=head))


@pytest.mark.parametrize(
    ("concepts", "expected"),
    [
        (("Wake|0", "Stage 2 sleep|2", "Unscored|9"), True),
        (("Wake|0", "Stage 1 sleep|1", "Stage 2 sleep|2"), False),
        (("Wake|0", "Stage 2 sleep|2", "REM sleep|5"), False),
        (("Wake|0",), False),
    ],
)
def test_sleep_wake_only(read_text, concepts, expected):
    text = document(*(event(concept, 30 * i, 30) for i, concept in enumerate(concepts)))
    assert read_text(text, nsrr.is_sleep_wake_only) is expected


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
    ],
)
def test_bad_rpoints_are_refused_by_line(tmp_path, text, problem):
    path = tmp_path / "beats.csv"
    path.write_text(text)
    with pytest.raises(RecordingError, match=problem):
        nsrr.read_rpoints(path)


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
