"""The report: one page, complete, self-contained, and honest about what it shows."""

import copy
import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from kd_sleep.config import EvaluationConfig
from kd_sleep.evaluation import report, scores
from kd_sleep.evaluation.calibration import calibration
from kd_sleep.evaluation.sleep_measures import agreement

HOSTILE = "<script>alert('&\"')</script>$x^$"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class _Page(HTMLParser):
    """Reads a page, fails where tags do not match, and keeps what the tests ask about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
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

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def values(self, *names):
        return [attrs[name] for _, attrs in self.tags for name in names if name in attrs]


def _study(subjects=6, stages=4):
    rng = np.random.default_rng(1)
    labels = [rng.integers(0, stages, size=60) for _ in range(subjects)]
    nights = scores.ScoredNights(
        [f"n{n}" for n in range(subjects)], [f"s{n}" for n in range(subjects)], labels
    )
    systems = {
        name: [
            rng.dirichlet(np.ones(4), size=60) * 0.5 + np.eye(4)[n] * 0.5 * skill for n in labels
        ]
        for name, skill in [
            ("teacher", 0.9),
            ("student_distilled", 0.6),
            ("student_hard_labels", 0.3),
        ]
    }
    systems = {name: [p / p.sum(-1, keepdims=True) for p in s] for name, s in systems.items()}
    systems["time_of_night"] = scores.time_of_night_probs(labels, nights)
    systems["majority"] = scores.majority_probs(labels, nights)
    config = EvaluationConfig(bootstrap_draws=50)
    results = scores.score(nights, systems, config)
    logits = {name: [np.log(p) for p in probs] for name, probs in systems.items()}
    results["sleep_measures"] = agreement(nights, systems, config)
    results["calibration"] = calibration(nights, logits, config, (nights, logits))
    results["data"] = {
        "split": "test",
        "subjects": subjects,
        "recordings": subjects,
        "windows": 60 * subjects,
        "cohort": "a cohort of numbers",
        "bcg_source": "simulated",
        "simulated": True,
        "labelled_nights": 6,
        "seeds": [0],
        "validation_nights": 4,
        "training_nights": 42,
    }
    results["provenance"] = {"versions": {"kd_sleep": "0.1"}, "seed": 5}
    missing = np.zeros(60)
    missing[10:13] = 1
    snr = np.where(missing > 0, np.nan, rng.normal(8, 2, 60))
    at = nights.recording_ids.index(scores.median_recording(results))
    night = report.ReportNight(
        f"n{at}", labels[at], {k: v[at] for k, v in systems.items()}, snr, missing
    )
    rows = [{"step": s, "loss": 2.0 / (s + 1), "validation_kappa": None} for s in range(5)] + [
        {"step": 4, "validation_kappa": 0.4}
    ]
    return results, night, {"teacher": rows, "student_distilled": rows}


def _write(tmp_path, results, night, curves):
    path = tmp_path / "report.html"
    report.write_report(path, results, night, curves)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study():
    return _study()


@pytest.fixture(scope="module")
def html(study, tmp_path_factory):
    return _write(tmp_path_factory.mktemp("report"), *study)


def test_the_page_is_whole_and_needs_no_other_file(html):
    page = _Page(html)
    assert {tag for tag, _ in page.tags} >= {"html", "title", "style", "main", "table", "svg"}
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    links = page.values("src", "href", "xlink:href")
    assert links
    assert all(link.startswith("#") for link in links)
    assert "http" not in html
    assert "@import" not in html


def test_ids_are_unique_and_every_reference_finds_its_own(html):
    page = _Page(html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    references = [link[1:] for link in page.values("href", "xlink:href")]
    references += re.findall(r"url\(#([^)]+)\)", html)
    assert references
    assert set(references) <= set(ids)


def test_the_first_screen_says_what_was_found_on_what(study, html):
    results = study[0]
    text = _Page(html).text
    assert "Simulated data." in text
    assert "<strong>simulated</strong>" in html
    assert text.index("Simulated data.") < text.index("Kappa")
    assert results["distillation"]["conclusion"] in text
    assert "6 of 42 training nights" in text
    for name in report.SYSTEM_LABELS.values():
        assert name in text
    value = results["systems"]["student_distilled"]["pooled"]["accuracy"]["value"]
    assert f"accuracy of {100 * value:.1f} %" in text


def test_published_figures_stand_apart_and_the_articles_are_claims(html):
    block = html[html.index("<aside>") : html.index("</aside>")]
    for figure in ("84.2", ">85<", ">71<", ">79<"):
        assert figure in block
    assert block.count("Claim of the article") == 3
    assert "Teacher (ECG)" not in block
    assert "Claim of the article" not in html.replace(block, "")


def test_every_picture_has_words_and_wears_the_pages_colours(html):
    pictures = [attrs for tag, attrs in _Page(html).tags if tag == "svg"]
    assert len(pictures) == 7
    for attrs in pictures:
        assert attrs["role"] == "img"
        assert len(attrs["aria-label"]) > 40
    assert "currentColor" in html
    assert not re.search(r"#0[1-9]0[1-9]0[1-9]", html)  # a stand-in colour that was not replaced
    assert "prefers-color-scheme: dark" in html


def test_recorded_data_and_unclear_changes_get_no_big_words(study, tmp_path):
    results, night, curves = copy.deepcopy(study)
    results["data"] |= {"simulated": False, "bcg_source": "paired"}
    recall = results["distillation"]["differences"]["recall"]
    for stage in recall:
        recall[stage] = {"value": 0.1, "low": -0.1, "high": 0.3}
    recall["REM"] = {"value": -0.2, "low": -0.3, "high": -0.1}
    night = dataclasses.replace(night, recording_id="favourite")
    text = _Page(_write(tmp_path, results, night, curves)).text
    assert "clear changes of recall: REM loss 20.0 [10.0, 30.0] points." in text
    assert "favourite, chosen by hand" in text
    assert "simulated" not in text[: text.index("How it was made")].lower()


def test_the_night_says_how_it_was_chosen(study, html):
    night = study[1]
    assert f"{night.recording_id}, median in accuracy of Student, distilled" in _Page(html).text


def test_sleep_measures_show_bias_and_limits(study, html):
    found = study[0]["sleep_measures"]["systems"]["time_of_night"]["tst_min"]
    numbers = [f"{found[k]['value']:.1f}".replace("-", "−") for k in ("bias", "lower", "upper")]
    block = html[html.index("<h2>Sleep measures") : html.index("<h2>Calibration")]
    assert "{}<small>[{}, {}]</small>".format(*numbers) in block
    for measure in study[0]["sleep_measures"]["definitions"].values():
        assert f"{measure['label']}<small>{measure['unit']}</small></th><td>" in block
        assert measure["definition"] in block
    spoken = next(x for x in _Page(html).values("aria-label") if x.startswith("Agreement"))
    assert "Total sleep time, min, Teacher (ECG): mean difference" in spoken
    assert "limits of agreement" in spoken


def test_calibration_shows_before_and_after(study, html):
    systems = study[0]["calibration"]["systems"]
    block = html[html.index("<h2>Calibration") :]
    for name in ("teacher", "student_distilled", "student_hard_labels", "majority"):
        assert f"{systems[name]['temperature']:.2f}" in block
        for when in ("before", "after"):
            assert f"{systems[name][when]['nll']['value']:.3f}" in block
    spoken = next(x for x in _Page(html).values("aria-label") if x.startswith("Accuracy against"))
    ece = 100 * systems["teacher"]["before"]["ece"]["value"]
    assert f"Teacher (ECG): {ece:.1f} before and" in spoken


def test_nights_without_a_measure_are_counted_in_the_table(study, tmp_path):
    results, night, curves = copy.deepcopy(study)
    found = results["sleep_measures"]["systems"]["teacher"]["rem_latency_min"]
    found |= {"nights": 2, "undefined": 4}
    none = {"value": None, "low": None, "high": None}
    results["sleep_measures"]["systems"]["student_distilled"]["waso_min"] |= {
        "bias": none, "lower": none, "upper": none, "nights": 0,
    }  # fmt: skip
    for row in results["sleep_measures"]["per_recording"]:
        row["systems"]["student_distilled"]["waso_min"] = None
    text = _write(tmp_path, results, night, curves)
    assert "<small>2 of 6 nights</small>" in text
    assert "–<small>–</small><small>0 of 6 nights</small>" in text
    assert "no night has it" in text


def test_without_a_temperature_there_is_no_after(study, tmp_path):
    results, night, curves = copy.deepcopy(study)
    for system in results["calibration"]["systems"].values():
        system |= {"temperature": None, "after": None, "note": f"none for {HOSTILE}"}
    results["calibration"] |= {"validation": None}
    results["calibration"]["distillation"]["after"] = None
    text = _write(tmp_path, results, night, curves)
    page = _Page(text)
    assert "No temperature was fitted." in page.text
    assert "before the temperature: NLL" in page.text
    assert "<script" not in text


def test_results_of_scores_alone_make_a_page(study, tmp_path):
    results, night, curves = copy.deepcopy(study)
    del results["sleep_measures"], results["calibration"]
    text = _Page(_write(tmp_path, results, night, curves)).text
    assert "Sleep measures" not in text
    assert "Calibration" not in text


def test_hostile_names_are_text(study, tmp_path):
    results, night, curves = copy.deepcopy(study)
    results["systems"][HOSTILE] = results["systems"]["majority"]
    results["unscored_recordings"] = [HOSTILE]
    for part in ("sleep_measures", "calibration"):
        results[part]["systems"][HOSTILE] = results[part]["systems"]["majority"]
    results["data"] |= {"cohort": HOSTILE, "bcg_source": HOSTILE, "split": HOSTILE}
    results["provenance"][HOSTILE] = HOSTILE
    for system in results["systems"].values():
        system["per_recording"][0] |= {"recording_id": HOSTILE, "subject_id": HOSTILE}
    night = dataclasses.replace(night, recording_id=HOSTILE)
    html = _write(tmp_path, results, night, curves | {HOSTILE: curves["teacher"]})
    page = _Page(html)
    assert "<script" not in html
    assert page.text.count(HOSTILE) >= 10
    assert any(HOSTILE.replace("_", " ") in label for label in page.values("aria-label"))


def test_what_is_not_defined_is_a_dash(tmp_path):
    results, night, curves = _study(subjects=1, stages=3)  # no interval, and Deep never occurs
    page = _Page(_write(tmp_path, results, night, curves))
    assert "None" not in page.text.replace("None of this was computed", "")
    assert "nan" not in page.text.lower().split()
    assert "One subject" in page.text
    assert "Deep not defined" in " ".join(page.values("aria-label")).replace(" recall", "")
    table = report.table(results)
    assert re.search(r"teacher +\d+\.\d – +\d\.\d\d – +\d\.\d\d –", table)
    assert re.search(r"– –\n", table)
    assert "None" not in table


def test_no_students_no_curves_no_claim(study, tmp_path):
    results, night, _ = copy.deepcopy(study)
    results["systems"] = {"majority": results["systems"]["majority"]}
    results["distillation"] = None
    majority = {"majority": night.probs["majority"]}
    night = dataclasses.replace(night, labels=np.full(60, -1), probs=majority)
    text = _Page(_write(tmp_path, results, night, {})).text
    assert "there is no difference to show" in text
    assert "Training" not in text
    assert " gain" not in text
    assert "no labels" in text


def test_same_numbers_same_bytes_also_from_a_sorted_json_file(study, html, tmp_path):
    results, night, curves = study
    stored = json.loads(json.dumps(results, sort_keys=True))
    again = _write(tmp_path, stored, night, curves)
    assert again[: again.index("<pre>")] == html[: html.index("<pre>")]


def test_the_terminal_table_says_simulated_and_which_seed(study):
    results = study[0]
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
