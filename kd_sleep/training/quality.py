"""Trains the learned SQI: what of the teacher a window's BCG keeps, told from the BCG alone.

A student knows the nights that it was trained on, so what it loses there says little of what it
loses elsewhere. The training nights are therefore dealt into folds by subject; for each fold a
student like the given one is trained on the others, and the gap

    KL(teacher || student of the other folds)        in bits, both calibrated on validation

is measured on nights that this student never saw. The head (`models.quality`) learns to tell its
kept share 2 ** -gap from what the *given* student makes of the same window, by cross-entropy, whose
best answer is the expected share. Validation nights, on which the given student itself can be
measured, choose the head's best step and fit the curve that its logits are read by.

Where a window is missing, or the teacher had no heartbeats, nothing is learned.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, logsumexp, xlogy
from tqdm import tqdm

from kd_sleep.config import DistillConfig, ExecutionConfig, from_dict
from kd_sleep.datasets.batches import whole_nights
from kd_sleep.datasets.nights import Nights
from kd_sleep.datasets.splits import folds_of
from kd_sleep.errors import TrainingError
from kd_sleep.metrics import best_temperature
from kd_sleep.models.quality import Quality, QualityHead, embed
from kd_sleep.models.student import Student
from kd_sleep.provenance import write_json
from kd_sleep.training import soft_labels
from kd_sleep.training.distill import (
    STUDENT_COLUMNS,
    load_student,
    load_teacher,
    read_material,
    student_run,
)
from kd_sleep.training.loop import predict

FOLDS = 3
FLAGGED = 0.2  # share of the validation windows that lie below the flag
STEPS, BATCH, RATE, WEIGHT_DECAY = 600, 2048, 3e-3, 1e-3  # of the head
LOOK_EVERY = 50  # steps
CLIP = 1e-3  # shares are kept this far from 0 and 1 where their logit is taken


def train_sqi(
    data_dir: Path,
    teachers: Sequence[Path],
    student: Path,
    execution: ExecutionConfig | None = None,
    folds: int = FOLDS,
) -> dict[str, Any]:
    """Gives a trained student its SQI: `quality.npz` and `quality.json` in its folder.

    The students of the folds stay in `quality/`: the same command goes on with them.

    Args:
      data_dir: folder of the dataset.
      teachers: work folders of the student's own teachers, in order.
      student: work folder.
      execution: how the students of the folds are trained.
      folds: at least 2.

    Returns:
      What quality.json holds: "student" and "teacher", fingerprints; "folds"; "temperature" and
      "teacher_temperature", fitted on validation; "flag_below", under which the share "flagged" of
      the validation windows lies; the mean "kept_share" there; "windows".

    Raises:
      DatasetError: fewer subjects than folds.
      TrainingError: a student of another teacher; no scored validation night.
    """
    execution = execution or ExecutionConfig()
    material = read_material(data_dir, teachers, execution)
    module, params, settings = load_student(student, material.nights)
    name = soft_labels.fingerprint(params)
    if settings["teacher"] != material.teacher:
        raise TrainingError(
            f"{student}: this student learned from another teacher than"
            f" {', '.join(map(str, teachers))}.",
            "Give its own, all of them in order.",
        )
    validation = material.validation
    teacher_V = _mixed(_soft_labels_of(teachers, "validation", validation))
    heat = _temperature(validation, teacher_V)
    seen_V = _weights(validation)

    lesson = material.lesson(from_dict(DistillConfig, settings["distill"]))
    nights = lesson.nights
    teacher_W = _mixed(lesson.columns["teacher_logits"])
    fold_R = folds_of(nights.subject_ids, folds)
    fold_W = np.repeat(fold_R, nights.windows)
    kept_W = np.empty(len(nights.label))
    for fold in range(folds):
        run = student_run(settings | {"fold": f"{fold} of {folds}"}, lesson.stage_weights)
        others = lesson.select(np.flatnonzero(fold_R != fold))
        best = others.teach(run, student / "quality" / f"fold_{fold}", execution).best
        heat_of_fold = _temperature(validation, _said(module, best, validation))
        said = _said(module, best, nights.select(np.flatnonzero(fold_R == fold)))
        here = fold_W == fold
        kept_W[here] = kept_share(teacher_W[here] / heat, said / heat_of_fold)

    said_V = _said(module, params, validation)
    temperature = _temperature(validation, said_V)
    kept_V = kept_share(teacher_V / heat, said_V / temperature)
    head, logit_V = fit_head(
        (_features(module, params, nights), kept_W, _weights(nights)),
        (_features(module, params, validation), kept_V, seen_V),
    )
    scale, shift = fit_curve(logit_V, kept_V, seen_V)
    sqi_V = expit(scale * logit_V + shift)[seen_V > 0]
    quality = Quality(head, jnp.float32(scale), jnp.float32(shift))
    about = {
        "student": name,
        "teacher": material.teacher,
        "folds": folds,
        "temperature": temperature,
        "teacher_temperature": heat,
        "flag_below": float(np.quantile(sqi_V, FLAGGED)),
        "flagged": FLAGGED,
        "kept_share": float(np.average(kept_V, weights=seen_V)),
        "windows": {"training": int((_weights(nights) > 0).sum()), "validation": len(sqi_V)},
    }
    save_quality(student, quality, about)
    return about


def kept_share(teacher_logits_NK: NDArray, student_logits_NK: NDArray) -> NDArray[np.float64]:
    """[N] 2 ** -KL(teacher || student), in (0, 1]."""
    return np.exp2(-gap_bits(teacher_logits_NK, student_logits_NK))


def gap_bits(teacher_logits_NK: NDArray, student_logits_NK: NDArray) -> NDArray[np.float64]:
    """[N] KL(teacher || student) in bits: what of the teacher's answer the student lost."""
    p = np.exp(log_softmax(np.asarray(teacher_logits_NK, np.float64), -1))
    log_q = log_softmax(np.asarray(student_logits_NK, np.float64), -1)
    nats = (xlogy(p, p) - p * log_q).sum(-1)
    return np.maximum(nats, 0.0) / np.log(2.0)


Told = tuple[tuple[NDArray, NDArray], NDArray, NDArray]  # features of windows, shares, weights


def fit_head(train: Told, validation: Told) -> tuple[Any, NDArray[np.float64]]:
    """Parameters of the head with the least loss on validation, and its logits there.

    The loss is the cross-entropy between share and prediction, whose least is at the expected
    share. AdamW, cosine decay; batches and initial parameters of one fixed seed.
    """
    head = QualityHead()
    (embedding_WC, logits_WK), share_W, weight_W = train
    rows = np.flatnonzero(weight_W > 0)
    key = jax.random.PRNGKey(0)
    params = head.init(key, embedding_WC[:1], logits_WK[:1])["params"]
    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, STEPS), weight_decay=WEIGHT_DECAY)
    state = optimizer.init(params)

    def loss(params: Any, features: tuple, share: jax.Array, weight: jax.Array) -> jax.Array:
        logit_N = head.apply({"params": params}, *features)
        losses = optax.sigmoid_binary_cross_entropy(logit_N, share)
        return jnp.sum(losses * weight) / jnp.maximum(jnp.sum(weight), 1e-6)

    @jax.jit
    def step(params: Any, state: Any, features: tuple, share: jax.Array, weight: jax.Array):
        gradient = jax.grad(loss)(params, features, share, weight)
        changes, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, changes), state

    judge = jax.jit(loss)
    rng = np.random.default_rng(0)
    best, least = params, np.inf
    for number in tqdm(range(STEPS), desc="Training the SQI", unit="step"):
        taken = rng.choice(rows, min(BATCH, len(rows)), replace=False)
        features = embedding_WC[taken], logits_WK[taken]
        params, state = step(params, state, features, share_W[taken], weight_W[taken])
        if (number + 1) % LOOK_EVERY == 0 and (now := float(judge(params, *validation))) < least:
            best, least = params, now
    if not np.isfinite(least):
        raise TrainingError("The SQI's loss is not finite.", "Look at the student's logits.")
    return jax.device_get(best), np.asarray(
        jax.jit(head.apply)({"params": best}, *validation[0]), np.float64
    )


def fit_curve(logits_N: NDArray, share_N: NDArray, weight_N: NDArray) -> tuple[float, float]:
    """Scale > 0 and shift of sigmoid(scale * logit + shift) nearest to the shares (Platt 1999)."""
    weight = weight_N / max(weight_N.sum(), 1e-12)

    def loss(x: NDArray) -> tuple[float, NDArray]:
        scale = np.exp(x[0])
        z = scale * logits_N + x[1]
        error = weight * (expit(z) - share_N)
        value = float(weight @ (np.logaddexp(0.0, z) - share_N * z))
        return value, np.array([error @ (scale * logits_N), error.sum()])

    mean = np.clip(weight @ share_N, CLIP, 1.0 - CLIP)
    start = np.array([0.0, 0.0 if np.ptp(logits_N) else logit(mean)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-3.0, 3.0), (-20.0, 20.0)])
    return float(np.exp(found.x[0])), float(found.x[1])


def save_quality(workdir: Path, quality: Quality, about: dict[str, Any]) -> None:
    """Writes `quality.npz`, then `quality.json` that names its student."""
    (workdir / "quality.json").unlink(missing_ok=True)
    leaves = jax.tree_util.tree_leaves_with_path(quality.params)
    arrays = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}
    curve = {"scale": quality.scale, "shift": quality.shift}
    np.savez(workdir / "quality.npz", **{**arrays, **curve})
    write_json(workdir / "quality.json", about)


def load_quality(workdir: Path, student: str) -> tuple[Quality, dict[str, Any]] | None:
    """The SQI in a student's folder, and what quality.json says; None where there is none.

    Args:
      workdir: the folder.
      student: fingerprint of the student's parameters.

    Raises:
      TrainingError: the SQI of another student.
    """
    path = workdir / "quality.json"
    if not path.exists():
        return None
    about = json.loads(path.read_text())
    if about["student"] != student:
        raise TrainingError(
            f"{path}: the SQI of another student.", "Run `python -m launch.train_sqi` again."
        )
    params: dict[str, Any] = {}
    with np.load(workdir / "quality.npz", allow_pickle=False) as arrays:
        for name in set(arrays) - {"scale", "shift"}:
            layer, leaf = name.split("/")
            params.setdefault(layer, {})[leaf] = arrays[name]
        return Quality(params, arrays["scale"], arrays["shift"]), about


def _soft_labels_of(teachers: Sequence[Path], split: str, nights: Nights) -> NDArray:
    """[W, M, K] of M teachers."""
    said = [
        soft_labels.load(teacher / "soft_labels", split, load_teacher(teacher, nights)[2], nights)
        for teacher in teachers
    ]
    return np.stack(said, axis=1)


def _mixed(teacher_logits_WMK: NDArray) -> NDArray[np.float64]:
    """[W, K] logarithm of the teachers' mean."""
    log_probs = log_softmax(teacher_logits_WMK.astype(np.float64), -1)
    return logsumexp(log_probs, axis=1) - np.log(log_probs.shape[1])


def _said(module: Student, params: Any, nights: Nights) -> NDArray[np.float32]:
    """Logits [W, K] of all windows."""
    return np.concatenate(predict(module, params, nights, STUDENT_COLUMNS))


def _temperature(nights: Nights, logits_WK: NDArray) -> float:
    """Of the least NLL on the scored windows."""
    scored = nights.label >= 0
    return best_temperature(logits_WK[scored].T, nights.label[scored])


def _weights(nights: Nights) -> NDArray[np.float64]:
    """[W] how much of each window both the student and the teacher saw."""
    return (1.0 - nights.bcg_missing) * (1.0 - nights.rr_missing)


def _features(module: Student, params: Any, nights: Nights) -> tuple[NDArray, NDArray]:
    """What the student makes of every window: embedding [W, C] and logits [W, K]."""
    told = jax.jit(functools.partial(embed, module))
    embedded, said = [], []
    for batch in whole_nights(nights, STUDENT_COLUMNS):
        logits_BLK, embedding_BLC = told(params, batch)
        embedded.append(np.asarray(embedding_BLC)[batch["valid_BL"]])
        said.append(np.asarray(logits_BLK)[batch["valid_BL"]])
    return np.concatenate(embedded), np.concatenate(said)


def sqi_of(
    module: Student, params: Any, quality: Quality, nights: Nights
) -> list[NDArray[np.float64]]:
    """The learned SQI [N] of each night's windows, in [0, 1], higher is better."""
    features = _features(module, params, nights)
    logit_W = np.asarray(QualityHead().apply({"params": quality.params}, *features), np.float64)
    return nights.split(expit(float(quality.scale) * logit_W + float(quality.shift)))
