"""The report's sections, one by one: what each says of its numbers."""

import copy
import dataclasses
import re
from html import escape

import made_up
import numpy as np
import pytest

from kd_sleep.evaluation import report, scores
from kd_sleep.evaluation.report import marks
from kd_sleep.evaluation.report.ablations import ablations
from kd_sleep.evaluation.report.amounts import amount_curves, amounts
from kd_sleep.evaluation.report.calibration import calibration_section
from kd_sleep.evaluation.report.claims import claims
from kd_sleep.evaluation.report.gains import gains, recovered_lead, stage_gains
from kd_sleep.evaluation.report.ladder import ladder_section
from kd_sleep.evaluation.report.sleep import sleep_section
from kd_sleep.evaluation.report.sqi import risk_curves, sqi_section
from kd_sleep.evaluation.report.words import points, real, show, with_interval
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.stages import STAGE_NAMES


@pytest.fixture(scope="module")
def made():
    """(nights, systems, results) without a study."""
    return made_up.study()


@pytest.fixture(scope="module")
def study(made):
    return made_up.study_of(made[0], made[2])


@pytest.fixture(scope="module")
def ladder(made):
    return made_up.ladder_of(made[0])


@pytest.fixture(scope="module")
def sqi(made):
    return made_up.sqi_of(made[0], made[1])


def spoken(html, start):
    return next(x for x in re.findall(r'aria-label="([^"]*)"', html) if x.startswith(start))


def percent(interval):
    return "{:.1f} ({:.1f} to {:.1f})".format(
        *(100 * interval[key] for key in ("value", "low", "high"))
    )


# --- Words and marks ---


def test_numbers_read_as_numbers():
    assert real(-0.0001, 2) == "0.00"
    assert real(-1.25, 1, sign=True) == "−1.2"
    assert real(None, 3) == "–"
    assert show({"value": 1.0, "low": 0.5, "high": None} | {"low": None}) == ("100", "–")
    assert points({"value": 0.031, "low": -0.019, "high": 0.044}) == ("+3.1", "[−1.9, 4.4]")


def test_labels_that_would_collide_move_apart_and_no_further():
    assert marks.spread([0.1, 0.5, 0.9], 0.2) == pytest.approx([0.1, 0.5, 0.9])
    assert marks.spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    close = marks.spread([0.4, 0.45, 0.5, 0.9], 0.1)
    assert np.diff(close).min() >= 0.1 - 1e-9
    assert close == pytest.approx([0.35, 0.45, 0.55, 0.9])


# --- The study ---


def test_the_articles_claims_stand_beside_what_was_found(study):
    html = claims(study, simulated=True)
    assert "Found here, simulated" in html
    for row in study["article"]:
        cells = [row["claim"], row["here"], row["verdict"]]
        assert re.search(".*".join(map(re.escape, cells)), html)
    assert "simulated" not in claims(study, simulated=False)
    assert claims(None, simulated=True) == ""


def test_the_curve_speaks_of_every_cell_and_the_levels(study):
    words = spoken(amount_curves(study), "Accuracy in percent by labelled nights")
    for cell in study["cells"]:
        shape = "With context" if cell["student"] == "context" else "Single window"
        loss = "distilled" if cell["loss"] == scores.DISTILLED else "hard labels"
        value = percent(cell["scores"]["accuracy"])
        assert f"{shape}, {loss}, {cell['labelled_nights']} nights: {value}" in words
    assert f"Teacher (ECG) {percent(study['teacher']['accuracy'])}" in words
    assert f"Floor: time of night {percent(study['floors']['time_of_night']['accuracy'])}" in words
    assert "hard labels, 0 nights" not in words


def test_every_cell_has_its_settings_and_runs(study):
    html = amounts(study)
    assert html.count("<tr>") == 2 + 2 * len(study["cells"]) + 3  # heads, cells, and the levels
    cell = study["cells"][0]
    run = cell["by_seed"][1]
    assert f"<small>{100 * run['accuracy']:.1f}; {run['kappa']:.2f}; 1; 400</small>" in html
    assert "<td>0.3</td><td>4</td><td>0.003</td><td>0.1</td><td>12</td><td>0.310</td>" in html
    assert "0: none; 6: a handful; 20: 50 %; 41: all" in html


def test_a_study_of_one_shape_one_seed_and_no_teacher(made):
    study = made_up.study_of(made[0], made[2], seeds=(0,), shapes=("single_window",))
    study["teacher"] = None
    for cell in study["cells"]:
        cell["by_seed"][0]["kappa"] = None
    study["cells"][0]["scores"] = study["cells"][0]["scores"] | {"accuracy": made_up.NONE}
    html = amounts(study)
    assert "one training run of a cell" in html
    assert "Teacher" not in html
    assert "With context" not in html
    assert "41 nights: not defined" in html
    assert "None" not in html


def test_gains_of_a_study_by_stage_and_of_the_lead(study):
    rows = study["gains"]
    words = spoken(stage_gains(rows), "Change of recall")
    for row in rows:
        for stage, gain in row["differences"]["recall"].items():
            assert f"{row['labelled_nights']} nights {percent(gain)}" in words, stage
    html = gains({"study": study, "distillation": None})
    for row in rows:
        assert row["conclusion"] in html
    clear = points(rows[2]["differences"]["accuracy"])[0]
    assert f"<b>{clear}</b>" in html


def test_a_share_of_an_unclear_lead_is_not_drawn_and_says_why(study):
    rows = copy.deepcopy(study["gains"])
    rows[0]["teacher_lead_recovered"] = made_up.NONE | {"reason": "The lead is not clear."}
    svg = recovered_lead(rows)
    assert "With context, 41 labelled nights not defined" in spoken(svg, "Share of the")
    assert svg.count("> not defined</text>") == 1
    assert "The lead is not clear." in gains({"study": study | {"gains": rows}})


def test_gains_of_one_evaluation(made):
    results = made[2]
    html = gains(results)
    change = percent(results["distillation"]["differences"]["recall"]["REM"])
    assert f"REM recall {change}" in spoken(html, "Distilled minus hard labels")


def test_an_ablation_is_clear_where_its_interval_is(study):
    html = ablations(study)
    assert "<b>−3.0</b>" in html  # [-5, -1]
    assert "<b>+1.0</b>" not in html  # [-1, 3]
    assert "without T²: accuracy -3.0 (-5.0 to -1.0)" in spoken(html, "Difference to the default")
    assert ablations(study | {"ablations": None}) == ""
    assert ablations(None) == ""


# --- Ladder and SQI ---


def test_the_ladder_names_its_losses(ladder):
    html = ladder_section(ladder)
    words = spoken(html, "Usable information in bits")
    for loss in ladder["losses"]:
        value = real(loss["change"]["value"], 3, sign=True)
        assert f"({loss['name']} {value}" in words
        assert loss["text"] in html
    assert f"found in the BCG {with_interval(ladder['parts']['sensor'], 3, sign=True)}" in html
    assert escape(ladder["about"][0]) in html
    assert "3 training runs" in html
    assert ladder_section(None) == ""


def test_a_ladder_alone_without_intervals(ladder):
    ladder = copy.deepcopy(ladder)
    for row in (*ladder["steps"], ladder["gap"]):
        row["change"] |= {"low": None, "high": None}
    ladder["losses"][0] |= {"change": made_up.NONE}
    html = ladder_section(ladder)
    assert "None" not in html
    for key in ("losses", "about", "seeds", "parts"):
        del ladder[key]
    assert "Changed by" in html
    assert "Changed by" not in ladder_section(ladder)


def test_the_sqis_curves_tell_the_risk_at_the_coverage():
    curve = {"coverage": [0.1, 0.8, 1.0], "risk": [0.05, 0.2, 0.4]}
    svg = risk_curves({"error": {"learned": curve, "random": curve}}, 0.8)
    words = spoken(svg, "Loss when 20 % of the windows are dropped")
    assert "Wrong stage, % of the kept windows: learned SQI 20.0, chance 20.0" in words
    assert "Lost against the teacher" not in words


def test_the_sqi_is_judged_in_tables(sqi):
    found, _ = sqi
    html = sqi_section(found)
    assert found["conclusions"][0] in html
    for kind, scale, digits in (("gap", 1, 3), ("error", 100, 1)):
        area = found["judged"][kind]["pooled"]["scores"]["learned"]["augrc"]
        assert f"{scale * area['area']['value']:.{digits}f}<small>[" in html
        way = f"{100 * area['way_to_oracle']['value']:.1f}".replace("-", "−")
        assert f">{way}<" in html
    dropped = found["rejection"]["best_feature"]
    change = dropped["tst_min"]["scaled_up"]["value"]
    assert real(change, 1, sign=True) in html
    wake = percent(dropped["flagged_by_stage"]["Wake"])
    assert f"best feature: Wake {wake}" in spoken(html, "Share of each stage")
    kept = next(row for row in found["reliability"] if row["windows"] >= 10)
    assert f"SQI {kept['sqi']:.2f}: {kept['kept']['value']:.2f}" in spoken(html, "Share of the tea")
    assert f"SQI below {found['flag_below']:.2f}" in html
    assert sqi_section(None) == ""


def test_an_sqi_of_one_subject_and_a_stage_that_never_occurs():
    nights, systems, _ = made_up.study(subjects=1, stages=3)
    found, _ = made_up.sqi_of(nights, systems)
    found |= {"reliability": [], "flag_below": None}
    html = sqi_section(found)
    assert "None" not in html
    assert "no threshold was chosen" in html
    assert "Does the SQI mean what it says?" not in html
    assert "Deep not defined" in spoken(html, "Share of each stage")


# --- Nights ---


def test_nights_are_best_median_and_worst_by_rule(made, sqi):
    nights, systems, results = made
    drawn = report.report_nights(results, made_up.dataset_of(nights), systems, sqi[1], 0.5)
    rows = results["systems"]["student_distilled"]["per_recording"]
    accuracy = {row["recording_id"]: row["accuracy"] for row in rows}
    ranked = sorted(accuracy.values())
    found = [accuracy[night.recording_id] for night in drawn]
    assert found == [ranked[-1], ranked[2], ranked[0]]
    assert [night.why.split()[0] for night in drawn] == ["best", "median", "worst"]
    assert drawn[0].why == "best night by accuracy of Student, distilled (BCG)"


def test_snippets_are_the_middle_of_the_flagged_and_of_the_kept(made, sqi):
    nights, systems, results = made
    data = made_up.dataset_of(nights)
    (night, *_) = report.report_nights(results, data, systems, sqi[1], 0.5)
    row = data.recording_ids.index(night.recording_id)
    there = data.split(data.bcg_missing)[row] < MOST_MISSING
    for snippet, kind in zip(night.snippets, (night.sqi < 0.5, night.sqi >= 0.5), strict=True):
        of_kind = np.sort(night.sqi[kind & there])
        assert snippet.sqi == of_kind[len(of_kind) // 2]
        window = snippet.start_window
        assert night.sqi[window] == snippet.sqi
        expected = data.split(data.bcg)[row][window] * 1e-3
        np.testing.assert_allclose(snippet.bcg, expected, rtol=1e-6)
        assert snippet.scored == STAGE_NAMES[nights.labels[row][window]]
        said = systems["student_distilled"][row][window].argmax()
        assert snippet.said == STAGE_NAMES[said]


def test_nights_without_what_snippets_need(made, sqi):
    nights, systems, results = made
    plain = report.report_nights(results, made_up.dataset_of(nights), systems)
    assert all(night.sqi is None and not night.snippets for night in plain)
    unread = made_up.dataset_of(nights, bcg=False)
    for data, flag in ((unread, 0.5), (made_up.dataset_of(nights), None)):
        drawn = report.report_nights(results, data, systems, sqi[1], flag)
        assert all(night.sqi is not None and not night.snippets for night in drawn)
    # Where nothing is flagged there is a good window alone.
    drawn = report.report_nights(results, made_up.dataset_of(nights), systems, sqi[1], 0.0)
    assert [s.title for s in drawn[0].snippets] == ["a good window"]


def test_nights_of_whatever_was_scored(made):
    nights, systems, results = made
    results = copy.deepcopy(results)
    for name in ("student_distilled", "teacher"):
        del results["systems"][name]
    left = {name: probs for name, probs in systems.items() if name in results["systems"]}
    drawn = report.report_nights(results, made_up.dataset_of(nights), left)
    assert drawn[0].why == "best night by accuracy of Student, hard labels (BCG)"


def test_an_unscored_night_is_never_drawn(made):
    nights, systems, results = made
    results = copy.deepcopy(results)
    for row in results["systems"]["student_distilled"]["per_recording"][1:]:
        row["accuracy"] = None
    drawn = report.report_nights(results, made_up.dataset_of(nights), systems)
    assert [night.recording_id for night in drawn] == ["n0"]
    assert drawn[0].why.startswith("best, median and worst night")
    assert dataclasses.replace(drawn[0], why="").why == ""


# --- Sleep measures and calibration ---


def test_sleep_measures_show_bias_and_limits(made):
    results = made[2]
    found = results["sleep_measures"]["systems"]["time_of_night"]["tst_min"]
    numbers = [f"{found[k]['value']:.1f}".replace("-", "−") for k in ("bias", "lower", "upper")]
    html = sleep_section(results)
    assert "{}<small>[{}, {}]</small>".format(*numbers) in html
    for measure in results["sleep_measures"]["definitions"].values():
        assert f"{measure['label']}<small>{measure['unit']}</small></th><td>" in html
        assert measure["definition"] in html
    words = spoken(html, "Agreement")
    assert "Total sleep time, min, Teacher (ECG): mean difference" in words
    assert "limits of agreement" in words


def test_nights_without_a_measure_are_counted_in_the_table(made):
    results = copy.deepcopy(made[2])
    found = results["sleep_measures"]["systems"]["teacher"]["rem_latency_min"]
    found |= {"nights": 2, "undefined": 4}
    none = made_up.NONE
    results["sleep_measures"]["systems"]["student_distilled"]["waso_min"] |= {
        "bias": none, "lower": none, "upper": none, "nights": 0,
    }  # fmt: skip
    for row in results["sleep_measures"]["per_recording"]:
        row["systems"]["student_distilled"]["waso_min"] = None
    html = sleep_section(results)
    assert "<small>2 of 6 nights</small>" in html
    assert "–<small>–</small><small>0 of 6 nights</small>" in html
    assert "no night has it" in html


def test_calibration_shows_before_and_after(made):
    results = made[2]
    systems = results["calibration"]["systems"]
    html = calibration_section(results)
    for name in ("teacher", "student_distilled", "student_hard_labels", "majority"):
        assert f"{systems[name]['temperature']:.2f}" in html
        for when in ("before", "after"):
            assert f"{systems[name][when]['nll']['value']:.3f}" in html
    ece = 100 * systems["teacher"]["before"]["ece"]["value"]
    assert f"Teacher (ECG): {ece:.1f} before and" in spoken(html, "Accuracy against")


def test_without_a_temperature_there_is_no_after(made):
    results = copy.deepcopy(made[2])
    for system in results["calibration"]["systems"].values():
        system |= {"temperature": None, "after": None, "note": "none for <it>"}
    results["calibration"] |= {"validation": None}
    results["calibration"]["distillation"]["after"] = None
    html = calibration_section(results)
    assert "No temperature was fitted." in html
    assert "before the temperature: NLL" in html.replace("\n", " ")
    assert "none for &lt;it&gt;" in html
