"""The report: one page, complete, self-contained, and honest about what it shows."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import made_up
import numpy as np
import pytest

from kd_sleep.evaluation import report
from kd_sleep.evaluation.plain_json import from_json, to_json
from kd_sleep.evaluation.report import wording
from kd_sleep.evaluation.report.sqi_section import sqi_section
from kd_sleep.evaluation.report.study_sections import (
    ablations_section,
    amounts_section,
    gains_section,
)
from kd_sleep.evaluation.report.system_sections import calibration_section, sleep_section
from kd_sleep.evaluation.results import Interval, Recovered, Results, RunScore
from kd_sleep.pages import STAGE_COLOURS

HOSTILE = "<script>alert('&\"')</script>$x^$"
VOID = {"meta", "br", "hr", "img", "link", "input"}
SECTIONS = [
    "The article’s claims", "Nights", "Sleep measures", "What distillation changed",
    "How many nights need labels", "What each part of the loss is worth",
    "What is lost from ECG to BCG", "Each stage", "From subject to subject",
    "Which windows to trust", "Calibration", "Training", "Published by others", "How it was made",
]  # fmt: skip
OF_A_STUDY = {SECTIONS[0], *SECTIONS[4:7], SECTIONS[9]}


class Page(HTMLParser):
    """Reads a page, fails where tags do not match, and keeps what the tests ask about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.titles = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words.append(data)
        if self.open[-2:] == ["section", "h2"]:
            self.titles.append(data.strip())

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def values(self, *names):
        return [attrs[name] for _, attrs in self.tags for name in names if name in attrs]


def write(tmp_path, results, nights, curves):
    path = tmp_path / "report.html"
    report.write_report(path, results, nights, curves)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made():
    """(nights, systems, results) without a study."""
    return made_up.evaluated()


@pytest.fixture(scope="module")
def study():
    return made_up.everything()


@pytest.fixture(scope="module")
def html(study, tmp_path_factory):
    return write(tmp_path_factory.mktemp("report"), *study)


@pytest.fixture(scope="module")
def alone(study):
    """Without a study: what `evaluate` alone finds."""
    results, nights, curves = study
    results = dataclasses.replace(results, study=None, ladder=None, sqi=None)
    night = dataclasses.replace(nights[1], sqi=None, flag_below=None)
    return results, [night], curves


@pytest.fixture(scope="module")
def plain(alone, tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain"), *alone)


def test_the_page_is_whole_needs_no_other_file_and_finds_its_own(html, plain):
    for text in (html, plain):
        page = Page(text)
        tags = {tag for tag, _ in page.tags}
        assert tags >= {"html", "title", "style", "main", "table", "svg"}
        assert not tags & {"script", "link", "img", "iframe", "object"}
        assert "@import" not in text
        ids = page.values("id")
        assert len(ids) == len(set(ids))
        links = page.values("src", "href", "xlink:href")
        outside = {link for link in links if not link.startswith("#")}
        assert outside
        assert all(link.startswith("https://doi.org/10.") for link in outside)
        references = {link[1:] for link in links if link not in outside}
        references |= set(re.findall(r"url\(#([^)]+)\)", text))
        assert references <= set(ids)


def test_every_picture_has_words_and_the_pages_colours(html, plain):
    for text in (html, plain):
        pictures = [attrs for tag, attrs in Page(text).tags if tag == "svg"]
        assert pictures
        for attrs in pictures:
            assert attrs["role"] == "img"
            assert len(attrs["aria-label"]) > 40
            assert not re.search(r"\b(None|nan)\b", attrs["aria-label"])
        assert not re.search(r"#0[1-9]0[1-9]0[1-9]", text)  # a stand-in that was not replaced
        assert "prefers-color-scheme: dark" in text


def test_stages_colours_stand_for_stages_alone(study, html):
    """In the drawings without stages none of their colours occurs."""
    for name in ("line_chart", "interval_plot"):
        pictures = [p for p in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if f"{name}-" in p]
        assert pictures
        for colour in STAGE_COLOURS.values():
            assert not any(colour.lower() in picture.lower() for picture in pictures), colour


def test_sections_come_in_order_and_each_says_that_it_is_simulated(html, plain):
    assert Page(html).titles == SECTIONS
    assert html.count('<span class="tag">simulated</span>') == len(SECTIONS) - 1
    assert Page(plain).titles == [title for title in SECTIONS if title not in OF_A_STUDY]
    contents = html[html.index("<nav") : html.index("</nav>")]
    assert re.findall(r">([^<]+)</a>", contents) == SECTIONS


def test_the_first_screen_says_what_was_found_on_what(alone, plain, study, html):
    results, text = alone[0], Page(plain).text
    assert "Simulated data: 6 nights of 6 subjects (test split), 360 scored" in text
    assert text.index("Simulated data:") < text.index("Kappa")
    assert results.distillation.conclusion in text
    assert "6 of 41 training nights" in text
    assert all(name in text for name in wording.SYSTEM_LABELS.values())
    value = results.systems["student_distilled"].pooled.accuracy.value
    assert f"accuracy of {100 * value:.1f} %" in text
    conclusions, text = study[0].study.conclusions, Page(html).text
    places = [text.index(sentence) for sentence in conclusions]
    assert places == sorted(places)
    assert places[2] < text.index("Macro F1") < places[3]


def test_a_collapsed_student_is_named_in_the_first_sentence(alone, tmp_path):
    results, nights, curves = alone
    system = results.systems["student_distilled"]
    recall = system.pooled.recall | {"REM": Interval(0.0, 0.0, 0.0)}
    pooled = dataclasses.replace(system.pooled, recall=recall)
    systems = results.systems | {
        "student_distilled": dataclasses.replace(system, pooled=pooled),
        "student_hard_labels": results.systems["majority"],
    }
    page = write(tmp_path, dataclasses.replace(results, systems=systems), nights, curves)
    lead = page[page.index('class="lead"') :]
    first = lead[: lead.index("</p>")]
    assert "but misses REM" in first
    assert "no better than the majority stage" in lead[: lead.index("<table")]


def test_published_figures_stand_apart_and_the_articles_are_claims(html):
    block = html[html.index('id="published-by-others"') : html.index('id="how-it-was-made"')]
    for figure in ("84.2", ">85<", ">71<", ">79<", "10.1038/s41746-020-0291-x"):
        assert figure in block
    assert block.count("Claim of the article") == 3
    assert "Claim of the article" not in html.replace(block, "")


def test_hostile_names_are_text(tmp_path):
    results, nights, curves = made_up.everything()
    text = json.dumps(to_json(results)).replace("a cohort of numbers", "HOSTILE")
    text = text.replace("without T²", "HOSTILE").replace("JJ, every beat", "HOSTILE")
    text = text.replace('"majority"', '"HOSTILE"').replace('"n0"', '"HOSTILE"')
    results = from_json(Results, json.loads(text.replace("HOSTILE", json.dumps(HOSTILE)[1:-1])))
    nights = [dataclasses.replace(night, recording_id=HOSTILE) for night in nights]
    page = write(tmp_path, results, nights, curves)
    Page(page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_what_is_not_defined_is_a_dash(tmp_path):
    page = write(tmp_path, *made_up.everything(subjects=1, stages=3))
    text = Page(page).text
    assert not re.search(r"\b(None|nan)\b", text)
    assert "not defined" in text
    assert "One subject" in text


def test_sections_without_results_are_left_out(alone, tmp_path):
    results, nights, _ = alone
    results = dataclasses.replace(
        results, systems={"majority": results.systems["majority"]}, distillation=None,
        sleep_measures=None, calibration=None,
    )  # fmt: skip
    probs = {"majority": nights[0].probs["majority"]}
    night = dataclasses.replace(nights[0], labels=np.full(60, -1), probs=probs)
    page = Page(write(tmp_path, results, [night], {}))
    assert "there is no difference to show" in page.text
    assert not {"Training", "Sleep measures", "Calibration"} & set(page.titles)
    assert " gain" not in page.text


def test_the_same_numbers_make_the_same_page(study, html, tmp_path):
    results, nights, curves = study
    stored = from_json(Results, json.loads(json.dumps(to_json(results), sort_keys=True)))
    again = write(tmp_path, stored, nights, curves)
    assert again[: again.index("<pre>")] == html[: html.index("<pre>")]


def test_the_terminal_table_fits_and_says_what_the_intervals_cover(made):
    results = made[2]
    table = report.table(results)
    assert table.startswith("Simulated data: ")
    assert max(map(len, table.splitlines())) <= 100
    assert all(table.count(f"\n{name} ") == 2 for name in results.systems)
    kappa = results.systems["teacher"].pooled.kappa
    assert f"{kappa.value:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]" in table
    assert results.distillation.conclusion in table
    assert "one training run (seed 0), whose luck" in " ".join(table.split())
    runs = [RunScore(seed, seed, 0.5, 0.3) for seed in range(5)]
    several = {
        name: dataclasses.replace(system, runs=runs) for name, system in results.systems.items()
    }
    table = report.table(dataclasses.replace(results, systems=several))
    assert "over 5 seeds and 5 draws of the labelled nights" in " ".join(table.split())


# --- Sections ---


def test_numbers_read_as_numbers():
    assert wording.real(-0.0001, 2) == "0.00"
    assert wording.real(-1.25, 1, sign=True) == "−1.2"
    assert wording.real(None, 3) == "–"
    assert wording.share(Interval(1.0)) == ("100.0", "–")
    assert wording.pair(Interval(0.031, -0.019, 0.044), 1, 100, sign=True) == (
        "+3.1", "[−1.9, 4.4]",
    )  # fmt: skip
    assert wording.joined(["a", "b", "c"]) == "a, b and c"
    assert wording.joined(["a"]) == "a"


def spoken(html):
    return " ".join(re.findall(r'aria-label="([^"]*)"', html))


def test_the_curve_speaks_of_every_cell(study):
    found = study[0].study
    html = amounts_section(found)
    words = spoken(html)
    for cell in found.cells:
        assert f"{cell.labelled_nights} nights {wording.aloud(cell.scores.accuracy)}" in words
    run = found.cells[0].runs[1]
    assert f"<small>{100 * run.accuracy:.1f}; {run.kappa:.2f}; 1; 1</small>" in html
    assert amounts_section(None) == ""


def test_gains_and_ablations_are_bold_where_clear(study, made):
    results = study[0]
    html = gains_section(results)
    for gain in results.study.gains:
        assert gain.conclusion in html
        for recall in gain.differences.recall.values():
            assert wording.aloud(recall) in spoken(html)
    gains = [
        dataclasses.replace(
            results.study.gains[0],
            teacher_lead_recovered=Recovered(reason="The lead is not clear."),
        )
    ]
    unclear = dataclasses.replace(results.study, gains=gains)
    assert "The lead is not clear." in gains_section(dataclasses.replace(results, study=unclear))
    rem = made[2].distillation.differences.recall["REM"]
    assert f"REM recall: {wording.aloud(rem)}" in spoken(gains_section(made[2]))
    html = ablations_section(results.study)
    assert "<b>−3.0</b>" in html  # [-5, -1]
    assert "<b>+1.0</b>" not in html  # [-1, 3]


def test_the_sqi_is_judged_in_tables(study):
    sqi = study[0].sqi
    html = sqi_section(sqi)
    for kind, scale, digits in (("gap", 1, 3), ("error", 100, 1)):
        learned = sqi.judged[kind].augrc["learned"]
        assert f"{scale * learned.area.value:.{digits}f}<small>[" in html
        assert wording.change(learned.way_to_oracle) in html
    wake = wording.aloud(sqi.flagged.by_stage["Wake"])
    assert f"Wake: {wake}" in spoken(html)
    assert f"below {sqi.flag_below:.2f}" in html
    assert sqi_section(None) == ""


def test_nights_are_best_median_and_worst_by_rule(made):
    nights, systems, results = made
    drawn = report.report_nights(results, made_up.dataset_of(nights), systems)
    rows = results.systems["student_distilled"].per_recording
    accuracy = {row.recording_id: row.accuracy for row in rows}
    ranked = sorted(accuracy.values())
    assert [accuracy[n.recording_id] for n in drawn] == [ranked[-1], ranked[2], ranked[0]]
    assert [night.why.split()[0] for night in drawn] == ["best", "median", "worst"]


def test_sleep_measures_show_bias_limits_and_missing_nights(made):
    results = made[2]
    found = results.sleep_measures.systems["time_of_night"]["tst_min"]
    numbers = [wording.real(getattr(found, k).value, 1) for k in ("bias", "lower", "upper")]
    html = sleep_section(results)
    assert "{}<small>[{}, {}]</small>".format(*numbers) in html
    assert "Total sleep time, Teacher (ECG): Total sleep time" in spoken(html)
    latency = results.sleep_measures.systems["teacher"]["rem_latency_min"]
    few = dataclasses.replace(latency, nights=2, undefined=4)
    teacher = results.sleep_measures.systems["teacher"] | {"rem_latency_min": few}
    measures = dataclasses.replace(
        results.sleep_measures, systems=results.sleep_measures.systems | {"teacher": teacher}
    )
    html = sleep_section(dataclasses.replace(results, sleep_measures=measures))
    assert "<small>2 of 6 nights</small>" in html


def test_calibration_shows_before_and_after(made):
    results = made[2]
    html = calibration_section(results)
    for name in ("teacher", "student_distilled", "majority"):
        system = results.calibration.systems[name]
        assert f"{system.temperature:.2f}" in html
        for scores in (system.before, system.after):
            assert f"{scores.nll.value:.3f}" in html
    systems = {
        name: dataclasses.replace(system, temperature=None, after=None, note="none for <it>")
        for name, system in results.calibration.systems.items()
    }
    none = dataclasses.replace(results.calibration, systems=systems, validation_nights=0)
    html = calibration_section(dataclasses.replace(results, calibration=none))
    assert "No temperature was fitted." in html
    assert "none for &lt;it&gt;" in html
