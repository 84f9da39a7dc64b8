"""Results of a made-up study: noise about invented stages, measured by the real functions."""

import numpy as np

from kd_sleep.config import EvaluationConfig
from kd_sleep.datasets.nights import Nights
from kd_sleep.evaluation import report, scores, selective
from kd_sleep.evaluation.calibration import calibration
from kd_sleep.evaluation.information import Ladder
from kd_sleep.evaluation.sleep_measures import agreement
from kd_sleep.features.inputs import SCOPES

CONFIG = EvaluationConfig(bootstrap_draws=50)
NONE = {"value": None, "low": None, "high": None}
SKILLS = {"teacher": 0.9, "student_distilled": 0.6, "student_hard_labels": 0.3}
AMOUNTS = [(41, "all"), (20, "50 %"), (6, "a handful"), (0, "none")]


def hypnogram(rng, windows, stages=4):
    """Bouts that last some minutes."""
    found = []
    while len(found) < windows:
        found += [int(rng.integers(stages))] * int(rng.geometric(0.08))
    return np.array(found[:windows])


def probabilities(rng, labels, skill):
    """[N, K] that know the stage by so much, subject by subject a little different."""
    flat = rng.dirichlet(np.ones(4), size=len(labels))
    skill = np.clip(skill + rng.normal(0, 0.1), 0.02, 0.95)
    truth = np.where(rng.random(len(labels)) < 0.4 + 0.6 * skill, labels, rng.integers(0, 4))
    mixed = flat * (1 - skill) + np.eye(4)[truth] * skill
    return mixed / mixed.sum(-1, keepdims=True)


def study(subjects=6, stages=4, windows=60, seeds=(0, 1, 2)):
    """(nights, systems, results): results with everything that a report can show."""
    rng = np.random.default_rng(1)
    labels = [hypnogram(rng, windows, stages) for _ in range(subjects)]
    nights = scores.ScoredNights(
        [f"n{n}" for n in range(subjects)], [f"s{n}" for n in range(subjects)], labels
    )
    systems = {
        name: [probabilities(rng, n, skill) for n in labels] for name, skill in SKILLS.items()
    }
    systems["time_of_night"] = scores.time_of_night_probs(labels, nights)
    systems["majority"] = scores.majority_probs(labels, nights)
    results = scores.score(nights, systems, CONFIG)
    logits = {name: [np.log(p) for p in probs] for name, probs in systems.items()}
    results["sleep_measures"] = agreement(nights, systems, CONFIG)
    results["calibration"] = calibration(nights, logits, CONFIG, (nights, logits))
    results["data"] = {
        "split": "test",
        "subjects": subjects,
        "recordings": subjects,
        "windows": windows * subjects,
        "cohort": "a cohort of numbers",
        "bcg_source": "simulated",
        "simulated": True,
        "labelled_nights": 6,
        "seeds": list(seeds),
        "validation_nights": 4,
        "training_nights": 41,
    }
    results["provenance"] = {"versions": {"kd_sleep": "0.1"}, "seed": 5}
    return nights, systems, results


def study_of(nights, results, seeds=(0, 1, 2), shapes=("context", "single_window")):
    """results["study"]."""
    rng = np.random.default_rng(2)
    cells, gains = [], []
    for shape in shapes:
        for number, (labelled_nights, labelled) in enumerate(AMOUNTS):
            pair = {
                "student_distilled": 0.65 - 0.02 * number - 0.15 * (shape == "single_window"),
                "student_hard_labels": 0.6 - 0.17 * number - 0.15 * (shape == "single_window"),
                "teacher": 0.9,
            }
            systems = {
                name: [probabilities(rng, n, skill) for n in nights.labels]
                for name, skill in pair.items()
            }
            scored = scores.score(nights, systems, CONFIG)
            for loss in (scores.DISTILLED, scores.HARD_LABELS)[: 2 if labelled_nights else 1]:
                pooled = scored["systems"][loss]["pooled"]
                cells.append(
                    {
                        "student": shape,
                        "labelled": labelled,
                        "labelled_nights": labelled_nights,
                        "loss": loss,
                        "alpha": 0.3 if loss == scores.DISTILLED else 1.0,
                        "temperature": 4.0,
                        "learning_rate": 0.003,
                        "label_smoothing": 0.1,
                        "tried": 12,
                        "validation_kappa": 0.31,
                        "scores": pooled,
                        "by_seed": [
                            {
                                "seed": seed,
                                "accuracy": pooled["accuracy"]["value"] + rng.normal(0, 0.02),
                                "kappa": pooled["kappa"]["value"] + rng.normal(0, 0.02),
                                "validation_kappa": 0.3,
                                "step": 400,
                            }
                            for seed in seeds
                        ],
                    }
                )
            if labelled_nights:
                gains.append(
                    {
                        "student": shape,
                        "labelled": labelled,
                        "labelled_nights": labelled_nights,
                        **{
                            key: scored["distillation"][key]
                            for key in ("differences", "teacher_lead_recovered", "conclusion")
                        },
                    }
                )
    of = results["systems"]
    rows = [
        {
            "name": name,
            "text": text,
            "scores": of["student_distilled"]["pooled"],
            "difference": {
                key: {"value": value, "low": value - 0.02, "high": value + 0.02}
                for key in ("accuracy", "kappa")
            },
            "conclusion": scores.verdict(
                {"value": value, "low": value - 0.02, "high": value + 0.02}
            ),
        }
        for name, text, value in (
            ("without T²", "the soft term not multiplied by T²", -0.03),
            ("reverse KL", "KL(student ‖ teacher), as the article's argument order reads", 0.01),
            ("T = 1", "the teacher's probabilities as they are", -0.014),
            ("soft labels only (alpha = 0)", "no scored stage at all", 0.004),
        )
    ]
    return {
        "seeds": list(seeds),
        "conclusions": [
            f"On simulated nights of {len(set(nights.subject_ids))} people, a student that sees"
            " the BCG alone reaches an accuracy of 61.2 % with six labelled nights when the ECG's"
            " teacher helps it, and 38.0 % when it does not.",
            "The gain is 23.2 points where six nights carry labels and is not shown where all do.",
            "The teacher, who sees the ECG, reaches 83.1 %; the time of night alone 48.9 %.",
            "REM gains 12.0 [2.0, 21.0] points, and is not the stage that gains most.",
        ],
        "article": [
            {
                "claim": "BCG alone 71 %",
                "here": "35.8 % [28.6, 42.1] with 6 labelled nights",
                "verdict": "lower",
            },
            {
                "claim": "distilled 79 %: a gain of 8 points",
                "here": "gain 16.0 [8.7, 24.5] points",
                "verdict": "the direction is confirmed, where labels are scarce",
            },
            {
                "claim": "REM gains most",
                "here": "REM gains 12.0 [2.0, 21.0] points, Light 21.0 [15.0, 28.2]",
                "verdict": "not confirmed",
            },
        ],
        "cells": cells,
        "gains": gains,
        "teacher": of["teacher"]["pooled"],
        "floors": {name: of[name]["pooled"] for name in ("time_of_night", "majority")},
        "ablations": {
            "student": "context",
            "labelled": "a handful",
            "labelled_nights": 6,
            "alpha": 0.3,
            "temperature": 4.0,
            "rows": rows,
        },
    }


def ladder_of(nights, seeds=(0, 1, 2)):
    """results["ladder"]."""
    rng = np.random.default_rng(3)
    labels = np.concatenate(nights.labels)
    subjects = np.repeat(nights.subject_ids, [len(n) for n in nights.labels])
    names = {
        "time of night": 0.15,
        "RR from ECG": 0.7,
        "JJ, every beat": 0.65,
        "JJ found, BCG noise-free": 0.55,
        "JJ found in the BCG": 0.35,
        "+ breath and movement": 0.5,
    }
    rungs = {
        name: np.log(np.concatenate([soft(rng, n, skill) for n in nights.labels]))
        for name, skill in names.items()
    }
    ladder = Ladder(
        labels, subjects, np.log(np.full(4, 0.25)), rungs, "RR from ECG", ["+ breath and movement"]
    )
    measured = ladder.measure(CONFIG)
    return measured | {
        "parts": {"sensor": measured["gap"]["change"], "network": None},
        "inferred": False,
        "losses": [
            {
                "name": name,
                "text": text,
                "change": step["change"],
                "by_stage": step["by_stage"],
            }
            for (name, text), step in zip(
                (
                    ("sensor timing", "the delay from R to J wanders with the night"),
                    ("detector", "no J peak is found where there is a heartbeat"),
                    ("noise", "of sensor, bed and room"),
                    ("breath and movement", "given back"),
                ),
                measured["steps"][2:],
                strict=True,
            )
        ],
        "seeds": list(seeds),
        "about": ["Simulated: the sensor's noise can be switched off here, as no real one can."],
    }


def soft(rng, labels, skill):
    """[N, K] calibrated by construction: the stage gets `skill` in so many windows."""
    sure = np.clip(skill + rng.normal(0, 0.03), 0.05, 0.9)
    right = rng.random(len(labels)) < sure + (1 - sure) / 4
    said = np.where(right, labels, (labels + rng.integers(1, 4, len(labels))) % 4)
    return np.eye(4)[said] * sure + (1 - sure) / 4


def sqi_of(nights, systems):
    """(results["sqi"], learned SQI of each night)."""
    rng = np.random.default_rng(4)
    student = np.concatenate(systems["student_distilled"])
    teacher = np.concatenate(systems["teacher"])
    labels = np.concatenate(nights.labels)
    subjects = np.repeat(nights.subject_ids, [len(n) for n in nights.labels])
    gap = np.sum(teacher * np.log2((teacher + 1e-9) / (student + 1e-9)), -1)
    kept = 2.0**-gap
    learned = 1 / (1 + np.exp(-(2.5 * kept - 0.6 + rng.normal(0, 0.7, len(kept)))))
    quiet = rng.normal(0, 1, len(kept)) - (labels == 0)
    found = {
        "learned": learned,
        "best_feature": quiet + 0.3 * kept,
        "signal": quiet + 0.6 * kept,
        "max_probability": student.max(-1),
        "entropy": np.sum(student * np.log(student + 1e-12), -1),
    }
    losses = {"gap": gap, "error": (student.argmax(-1) != labels).astype(float)}
    judged, curves = {}, {}
    for kind, loss in losses.items():
        windows = selective.JudgedWindows(loss, subjects, labels)
        judged[kind] = selective.judge(windows, found, CONFIG, baseline="entropy")
        curves[kind] = {}
        for name, score in {**found, "random": np.zeros(len(loss)), "oracle": -loss}.items():
            curve = selective.risk_coverage(loss, score)
            at = np.linspace(0, len(loss) - 1, 100).astype(int)
            curves[kind][name] = {
                "coverage": curve.coverage[at].tolist(),
                "risk": curve.risk[at].tolist(),
            }
    windows = {k: selective.JudgedWindows(each, subjects, labels) for k, each in losses.items()}

    def rejected(kind, name):
        return selective.rejection(
            windows[kind], found[name], np.quantile(found[name], 0.2), CONFIG
        )

    edges = np.linspace(0, 1, 11)
    place = np.clip(np.digitize(learned, edges) - 1, 0, 9)
    sqi = {
        "student": "student_distilled",
        "flag_below": float(np.quantile(learned, 0.2)),
        "best_feature": "beat confidence",
        "coverage": 0.8,
        "judged": judged,
        "curves": curves,
        "rejection": {
            name: rejected("error", name) | {"bits": rejected("gap", name)["risk"]}
            for name in ("learned", "best_feature", "entropy")
        },
        "reliability": [
            {
                "from": edges[n],
                "to": edges[n + 1],
                "windows": int((place == n).sum()),
                "sqi": float(learned[place == n].mean()) if (place == n).any() else None,
                "kept": {
                    "value": float(kept[place == n].mean()),
                    "low": float(kept[place == n].mean()) - 0.05,
                    "high": float(kept[place == n].mean()) + 0.05,
                }
                if (place == n).any()
                else NONE,
            }
            for n in range(10)
        ],
        "conclusions": ["The learned SQI comes nearer to the oracle than entropy does."],
    }
    return sqi, np.split(learned, np.cumsum([len(n) for n in nights.labels])[:-1])


def dataset_of(nights, bcg=True):
    """The same nights as a dataset has them, with a BCG of heartbeats and noise."""
    rng = np.random.default_rng(5)
    windows = np.array([len(n) for n in nights.labels])
    total = int(windows.sum())
    time = np.arange(1500) / 50
    beats = np.exp(-(((time % 1.0) - 0.3) ** 2) / 0.002) * np.cos(30 * ((time % 1.0) - 0.3))
    loud = rng.choice([0.1, 0.3, 3.0], size=(total, 1), p=[0.5, 0.3, 0.2])
    noisy = beats + loud * rng.normal(size=(total, 1500))
    missing = np.zeros(total, np.float32)
    missing[10:13] = 1
    snr = np.where(missing > 0, np.nan, 6 - 8 * np.log10(loud[:, 0]) + rng.normal(0, 1, total))
    empty = np.zeros((total, 0), np.float32)
    ids = tuple(nights.recording_ids)
    return Nights(
        recording_ids=ids,
        subject_ids=tuple(nights.subject_ids),
        windows=windows,
        label=np.concatenate(nights.labels).astype(np.int8),
        tachogram=empty,
        tachogram_valid=empty.astype(bool),
        hrv=empty,
        **dict.fromkeys(("jj", "beat_confidence", "breath", "movement"), empty),
        **{f"summary_{scope}": empty for scope in SCOPES},
        rr_missing=missing,
        bcg=(1000 * noisy).clip(-32000, 32000).astype(np.int16) if bcg else None,
        bcg_scale=np.full(total, 1e-3, np.float32),
        bcg_missing=missing,
        bcg_snr_db=snr.astype(np.float32),
        teacher_digest=ids,
        bcg_digest=ids,
        places=(None,) * len(ids),
        cohort="a cohort of numbers",
        bcg_source="simulated",
    )


def curves():
    """What training logged."""
    rows = [{"step": s, "loss": 2.0 / (s + 1), "validation_kappa": None} for s in range(5)]
    rows.append({"step": 4, "validation_kappa": 0.4})
    return {"teacher": rows, "student_distilled": rows}


def everything(subjects=6, stages=4, windows=60, seeds=(0, 1, 2)):
    """(results, nights, curves) as `write_report` takes them, with a study, a ladder and an SQI."""
    nights, systems, results = study(subjects, stages, windows, seeds)
    results["study"] = study_of(nights, results, seeds)
    results["ladder"] = ladder_of(nights, seeds)
    results["sqi"], sqi = sqi_of(nights, systems)
    flag_below = results["sqi"]["flag_below"]
    drawn = report.report_nights(results, dataset_of(nights), systems, sqi, flag_below)
    return results, drawn, curves()
