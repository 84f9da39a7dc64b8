"""Profusion's stages: the same night as NSRR's file tells, or refused by name."""

import datetime

import pytest

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import nsrr, profusion


def stages(*codes):
    return "<SleepStages>" + "".join(f"<SleepStage>{c}</SleepStage>" for c in codes)


def document(*codes, length="<EpochLength>30</EpochLength>", head="", tail=""):
    """As Profusion writes it: settings and respiratory events around the stages."""
    return (
        f"{head}<CMPStudyConfig>{length}<StepChannels><StepChannel><Input>LIGHT</Input>"
        "</StepChannel></StepChannels><ScoredEvents><ScoredEvent><Name>Hypopnea</Name>"
        "<Start>2423.8</Start><Duration>27.5</Duration><Input>ABDO RES</Input></ScoredEvent>"
        f"</ScoredEvents>{stages(*codes)}</SleepStages>{tail}<Montage/></CMPStudyConfig>"
    )


@pytest.fixture
def read_text(tmp_path):
    def read(text):
        path = tmp_path / "shhs1-200001-profusion.xml"
        path.write_text(text)
        return profusion.read_scoring(path)

    return read


def test_every_code(read_text):
    scoring = read_text(document(0, 1, 2, 3, 4, 5, 6, 9, 0))
    assert scoring.labels.tolist() == [0, 2, 2, 3, 3, 1, -1, -1, 0]
    assert (scoring.sleep_wake_only, scoring.software, scoring.start_time) == (False, "", None)


def test_unscored_windows_at_either_end_stay(read_text):
    assert read_text(document(9, 0, 9, 9)).labels.tolist() == [-1, 0, -1, -1]


def test_a_night_reads_as_its_translation_does(read_text, tmp_path):
    codes = [9, 0, 0, 1, 2, 2, 3, 4, 2, 5, 5, 0, 9]
    scoring = read_text(document(*codes))
    nsrr.write_stages(tmp_path / "n.xml", scoring.labels, datetime.time(22), 30.0 * len(codes))
    assert nsrr.read_stages(tmp_path / "n.xml").tolist() == scoring.labels.tolist()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 2, 2, 9), True), ((0, 2, 1), False), ((0, 2, 5), False), ((0, 0), False)],
)
def test_sleep_wake_only(read_text, codes, expected):
    assert read_text(document(*codes)).sleep_wake_only is expected


def test_joined_documents_are_read_where_they_agree(read_text):
    head = '<?xml version="1.0" encoding="utf-8"?>\r\n'
    assert read_text(2 * document(0, 5, head=head)).labels.tolist() == [0, 1]
    with pytest.raises(RecordingError, match="disagree"):
        read_text(document(0, 5, head=head) + document(0, 5, 5, head=head))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no readable XML"),
        (document(0)[:-9], "no readable XML"),
        (document(0, head="<!DOCTYPE x>"), "declares a document type"),
        ("<PSGAnnotation/>", "no Profusion file: its root is <PSGAnnotation>"),
        (document(), "has no sleep stages"),
        (document(0, 7), "sleep stage 2: unknown stage code 7"),
        (document(0, ""), "sleep stage 2: <SleepStage> ''"),
        (document(0, "2.0"), "sleep stage 2"),
        (document(0, "-1"), "sleep stage 2"),
        (document(0, "٢"), "sleep stage 2"),
        (document(0, tail="<SleepStages/>"), "several lists"),
        (document(0).replace("SleepStage>", "Stage>"), "is no sleep stage"),
        (document(0, length="<EpochLength>20</EpochLength>"), "epochs of 20 s instead of 30"),
        (document(0, length="<EpochLength/>"), "epochs of unknown s instead of 30"),
        (document(0, length=""), "epochs of unknown s instead of 30"),
        (document(*2881 * [0]), "scores 2881 windows, more than 24 hours"),
    ],
)
def test_bad_stages_are_refused_by_name(read_text, text, problem):
    with pytest.raises(RecordingError, match=problem) as caught:
        read_text(text)
    assert "shhs1-200001-profusion.xml" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RecordingError, match="is missing"):
        profusion.read_scoring(tmp_path / "none")
