"""The report: one page, complete, self-contained, and honest about what it shows."""

import copy
import dataclasses
import json
import re
from html.parser import HTMLParser

import made_up
import numpy as np
import pytest

from kd_sleep.evaluation import report
from kd_sleep.evaluation.report.systems import SYSTEM_LABELS

HOSTILE = "<script>alert('&\"')</script>$x^$"
VOID = {"meta", "br", "hr", "img", "link", "input"}
SECTIONS = [
    "The article’s claims",
    "How many nights need labels",
    "What distillation changed",
    "What each part of the loss is worth",
    "What is lost from ECG to BCG",
    "Which windows to trust",
    "Nights",
    "Calibration",
    "From subject to subject",
    "Each stage",
    "What is taken for what",
    "Sleep measures",
    "Training",
    "How it was made",
]


class _Page(HTMLParser):
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


def _write(tmp_path, results, nights, curves):
    path = tmp_path / "report.html"
    report.write_report(path, results, nights, curves)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study():
    return made_up.everything()


@pytest.fixture(scope="module")
def html(study, tmp_path_factory):
    return _write(tmp_path_factory.mktemp("report"), *study)


@pytest.fixture(scope="module")
def evaluation(study):
    """Without a study: what `evaluate` alone leaves."""
    results, nights, curves = copy.deepcopy(study)
    for key in ("study", "ladder", "sqi"):
        del results[key]
    nights = [dataclasses.replace(n, sqi=None, flag_below=None, snippets=()) for n in nights[1:2]]
    return results, nights, curves


@pytest.fixture(scope="module")
def plain(evaluation, tmp_path_factory):
    return _write(tmp_path_factory.mktemp("plain"), *evaluation)


@pytest.fixture(params=["study", "evaluation"])
def either(request, html, plain):
    return {"study": html, "evaluation": plain}[request.param]


def test_the_page_is_whole_and_needs_no_other_file(either):
    page = _Page(either)
    assert {tag for tag, _ in page.tags} >= {"html", "title", "style", "main", "table", "svg"}
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    links = page.values("src", "href", "xlink:href")
    assert links
    assert all(link.startswith("#") for link in links)
    assert "http" not in either
    assert "@import" not in either


def test_ids_are_unique_and_every_reference_finds_its_own(either):
    page = _Page(either)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    references = [link[1:] for link in page.values("href", "xlink:href")]
    references += re.findall(r"url\(#([^)]+)\)", either)
    assert references
    assert set(references) <= set(ids)


def test_every_picture_has_words_and_wears_the_pages_colours(html, plain):
    for text, count in ((html, 19), (plain, 7)):
        pictures = [attrs for tag, attrs in _Page(text).tags if tag == "svg"]
        assert len(pictures) == count
        for attrs in pictures:
            assert attrs["role"] == "img"
            assert len(attrs["aria-label"]) > 40
        assert "currentColor" in text
        assert not re.search(r"#0[1-9]0[1-9]0[1-9]", text)  # a stand-in that was not replaced
        assert "prefers-color-scheme: dark" in text


def test_sections_come_in_order_and_each_says_that_it_is_simulated(html, plain):
    titles = _Page(html).titles
    assert titles == SECTIONS
    assert html.count('<span class="tag">simulated</span>') == len(SECTIONS)
    absent = {*SECTIONS[:2], *SECTIONS[3:6]}
    assert _Page(plain).titles == [title for title in SECTIONS if title not in absent]
    contents = html[html.index("<nav") : html.index("</nav>")]
    assert re.findall(r">([^<]+)</a>", contents) == SECTIONS


def test_the_first_screen_of_an_evaluation_says_what_was_found_on_what(evaluation, plain):
    results = evaluation[0]
    text = _Page(plain).text
    assert "Simulated data: 6 nights of 6 subjects (test split), 360 scored" in text
    assert text.index("Simulated data:") < text.index("Kappa")
    assert results["distillation"]["conclusion"] in text
    assert "6 of 41 training nights" in text
    for name in SYSTEM_LABELS.values():
        assert name in text
    value = results["systems"]["student_distilled"]["pooled"]["accuracy"]["value"]
    assert f"accuracy of {100 * value:.1f} %" in text


def test_the_first_screen_of_a_study_has_its_first_three_sentences(study, html):
    said = study[0]["study"]["conclusions"]
    lead = html[html.index('class="lead"') : html.index("<table")]
    assert lead.count("<p>") == 3
    text = _Page(html).text
    places = [text.index(sentence) for sentence in said]
    assert places == sorted(places)
    assert places[2] < text.index("Macro F1") < places[3]


def test_published_figures_stand_apart_and_the_articles_are_claims(either):
    block = either[either.index("<aside>") : either.index("</aside>")]
    for figure in ("84.2", ">85<", ">71<", ">79<"):
        assert figure in block
    assert block.count("Claim of the article") == 3
    assert "Teacher (ECG)" not in block
    assert "Claim of the article" not in either.replace(block, "")


def test_nights_are_drawn_with_their_reasons_and_windows(study, html):
    nights = study[1]
    assert len(nights) == 3
    text = _Page(html).text
    for night in nights:
        assert night.why[0].upper() + night.why[1:] in text
    spoken = [label for label in _Page(html).values("aria-label") if label.startswith("BCG of")]
    assert len(spoken) == 3
    for night, words in zip(nights, spoken, strict=True):
        assert night.recording_id in words
        for snippet in night.snippets:
            assert f"{snippet.title}: SQI {snippet.sqi:.2f}, scored {snippet.scored}" in words


def test_recorded_data_and_unclear_changes_get_no_big_words(evaluation, tmp_path):
    results, _, curves = copy.deepcopy(evaluation)
    results["data"] |= {"simulated": False, "bcg_source": "paired"}
    recall = results["distillation"]["differences"]["recall"]
    for stage in recall:
        recall[stage] = {"value": 0.1, "low": -0.1, "high": 0.3}
    recall["REM"] = {"value": -0.2, "low": -0.3, "high": -0.1}
    page = _Page(_write(tmp_path, results, [], curves))
    text = page.text
    assert "clear changes of recall: REM loss 20.0 [10.0, 30.0] points." in text
    assert "Recorded data: 6 nights of 6 subjects" in text
    assert "Nights" not in page.titles
    assert "simulated" not in text[: text.rindex("How it was made")].lower()


def test_hostile_names_are_text(study, tmp_path):
    results, nights, curves = copy.deepcopy(study)
    results["systems"][HOSTILE] = results["systems"]["majority"]
    results["unscored_recordings"] = [HOSTILE]
    for part in ("sleep_measures", "calibration"):
        results[part]["systems"][HOSTILE] = results[part]["systems"]["majority"]
    results["data"] |= {"cohort": HOSTILE, "bcg_source": HOSTILE, "split": HOSTILE}
    results["provenance"][HOSTILE] = HOSTILE
    for system in results["systems"].values():
        system["per_recording"][0] |= {"recording_id": HOSTILE, "subject_id": HOSTILE}
    found = results["study"]
    found["conclusions"] = [HOSTILE] * 5
    found["article"][0] = dict.fromkeys(found["article"][0], HOSTILE)
    for row in [*found["cells"], *found["gains"], found["ablations"]]:
        row |= {"student": HOSTILE, "labelled": HOSTILE}
    for row in found["ablations"]["rows"]:
        row |= {"name": HOSTILE, "text": HOSTILE, "conclusion": HOSTILE}
    for row in found["gains"]:
        row["conclusion"] = HOSTILE
        row["teacher_lead_recovered"] |= made_up.NONE | {"reason": HOSTILE}
    ladder, sqi = results["ladder"], results["sqi"]
    ladder["about"] = [HOSTILE]
    for row in ladder["losses"]:
        row |= {"name": HOSTILE, "text": HOSTILE}
    for row in ladder["rungs"]:
        row["name"] = HOSTILE
    for row in ladder["steps"]:
        row |= {"to": HOSTILE, "note": HOSTILE}
    ladder["top"] = HOSTILE
    ladder["gap"] |= {"from": HOSTILE, "to": HOSTILE}
    sqi |= {"student": HOSTILE, "conclusions": [HOSTILE]}
    words = dict.fromkeys(("title", "scored", "said"), HOSTILE)
    snippets = [dataclasses.replace(s, **words) for s in nights[0].snippets]
    night = dataclasses.replace(nights[0], recording_id=HOSTILE, why=HOSTILE, snippets=snippets)
    html = _write(tmp_path, results, [night], curves | {HOSTILE: curves["teacher"]})
    page = _Page(html)
    assert "<script" not in html
    assert page.text.count(HOSTILE) >= 60
    assert sum(HOSTILE.replace("_", " ") in label for label in page.values("aria-label")) >= 8


def test_what_is_not_defined_is_a_dash(tmp_path):
    # One subject has no interval, Deep never occurs, one run has no spread.
    results, nights, curves = made_up.everything(subjects=1, stages=3, windows=200, seeds=(0,))
    results["study"] |= {"teacher": None}
    assert [night.why[:21] for night in nights] == ["best, median and worst"[:21]]
    page = _Page(_write(tmp_path, results, nights, curves))
    assert "None" not in page.text.replace("None of this was computed", "")
    assert "nan" not in page.text.lower().split()
    assert "One subject" in page.text
    assert "Deep not defined" in " ".join(page.values("aria-label")).replace(" recall", "")
    assert "lead over the baseline is not clear" in page.text
    table = report.table(results)
    assert re.search(r"teacher +\d+\.\d – +\d\.\d\d – +\d\.\d\d –", table)
    assert re.search(r"– –\n", table)
    assert "None" not in table


def test_no_students_no_curves_no_claim(evaluation, tmp_path):
    results, nights, _ = copy.deepcopy(evaluation)
    results["systems"] = {"majority": results["systems"]["majority"]}
    results["distillation"] = None
    del results["sleep_measures"], results["calibration"]
    majority = {"majority": nights[0].probs["majority"]}
    night = dataclasses.replace(nights[0], labels=np.full(60, -1), probs=majority)
    page = _Page(_write(tmp_path, results, [night], {}))
    assert "there is no difference to show" in page.text
    assert not {"Training", "Sleep measures", "Calibration"} & set(page.titles)
    assert " gain" not in page.text
    assert "no labels" in page.text


def test_same_numbers_same_bytes_also_from_a_sorted_json_file(evaluation, plain, tmp_path):
    results, nights, curves = evaluation
    stored = json.loads(json.dumps(results, sort_keys=True))
    again = _write(tmp_path, stored, nights, curves)
    assert again[: again.index("<pre>")] == plain[: plain.index("<pre>")]


def test_the_terminal_table_says_simulated_and_which_seed(study):
    results = study[0] | {"data": study[0]["data"] | {"seeds": [0]}}
    assert report.table(results).startswith("Simulated data: ")
    assert "(seed 0)" in " ".join(report.table(results).split())
    recorded = results | {"data": results["data"] | {"simulated": False, "seeds": [0, 3]}}
    assert report.table(recorded).startswith("Data: ")
    assert "(seeds 0, 3)" in " ".join(report.table(recorded).split())


def test_the_terminal_table_fits_and_shows_every_system(study):
    results = study[0]
    table = report.table(results)
    assert max(map(len, table.splitlines())) <= 100
    for name in results["systems"]:
        assert table.count(f"\n{name} ") == 2
    kappa = results["systems"]["teacher"]["pooled"]["kappa"]
    assert "{value:.2f} [{low:.2f}, {high:.2f}]".format(**kappa) in table
    assert results["distillation"]["conclusion"] in table
