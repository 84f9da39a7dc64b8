"""One training run: its typed settings, and `settings.json`, their record in a work folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_sleep.config import (
    DistillConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from kd_sleep.errors import TrainingError
from kd_sleep.models import student as student_model
from kd_sleep.models import teacher as teacher_model
from kd_sleep.provenance import provenance, read_json, write_json
from kd_sleep.training.checkpoints import COPY_AGAIN, Progress, start_of
from kd_sleep.training.seen_subjects import TRAINED_ON
from kd_sleep.training.steps import (
    Batch,
    Objective,
    Scalars,
    create_state,
    distillation_objective,
    hard_label_objective,
    loss_settings,
)

_LAUNCHERS = {"teacher": "train_teacher", "student": "distill_student", "sweep": "sweep"}


@dataclasses.dataclass(frozen=True)
class Run:
    """The training of a teacher, of a student, or of several students in one program.

    Attributes:
      model: the network; its type says which of the two is trained.
      train: steps, batch, optimiser.
      distill: a student's loss; None for a teacher, which learns from labels alone.
      members: loss and seed of each student of a sweep; the losses differ in alpha, temperature and
        label smoothing alone. Empty for a run of one.
      other_loss: name and function of a loss that no setting makes, for ablations.
    """

    model: TeacherConfig | StudentConfig
    train: TrainConfig
    distill: DistillConfig | None = None
    members: tuple[tuple[DistillConfig, int], ...] = ()
    other_loss: tuple[str, Objective] | None = None

    @property
    def kind(self) -> str:
        """teacher, student or sweep."""
        if self.members:
            return "sweep"
        return "teacher" if isinstance(self.model, TeacherConfig) else "student"

    @property
    def module(self) -> student_model.Student | teacher_model.Teacher:
        """The network."""
        dtype = jnp.dtype(self.train.compute_dtype)
        if isinstance(self.model, TeacherConfig):
            return teacher_model.Teacher(self.model, dtype)
        return student_model.Student(self.model, dtype)

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields of `Nights` that the network reads at use, and those that weigh its windows."""
        if isinstance(self.model, TeacherConfig):
            return (*teacher_model.COLUMNS, "rr_missing")
        return (*student_model.columns(self.model), "bcg_missing", "rr_missing")

    @property
    def objective(self) -> Objective:
        """The loss on a batch."""
        if self.other_loss is not None:
            return self.other_loss[1]
        if self.distill is None:
            return hard_label_objective()
        return distillation_objective(self.distill)

    @property
    def loss_settings(self) -> Scalars:
        """Scalars that the objective reads from the state; of M members [M] each."""
        if self.members:
            return {name: jnp.array(x, jnp.float32) for name, x in self._varied().items()}
        return {} if self.distill is None else loss_settings(self.distill)

    def _varied(self) -> dict[str, list[float]]:
        names = ("alpha", "temperature", "label_smoothing")
        found = {name: [getattr(loss, name) for loss, _ in self.members] for name in names}
        if not any(found["label_smoothing"]):  # as in a run of one: it would only cost arithmetic
            del found["label_smoothing"]
        return found

    def described_members(self) -> list[dict[str, Any]]:
        """What each member differs in, as plain JSON."""
        varied = self._varied()
        return [
            {name: values[number] for name, values in varied.items()} | {"seed": seed}
            for number, (_, seed) in enumerate(self.members)
        ]

    def begin(self, batch: Batch, start: Any = None) -> Progress:
        """The progress before the first step, to be jitted or looked at by shape.

        Args:
          batch: any, for shapes.
          start: parameters to begin from; None draws them.
        """

        def member(settings: Scalars, seed: Any) -> Progress:
            return start_of(create_state(self.module, self.train, batch, settings, seed, start))

        if not self.members:
            return member(self.loss_settings, self.train.seed)
        return jax.vmap(member)(self.loss_settings, np.array([seed for _, seed in self.members]))

    def to_json(self) -> dict[str, Any]:
        """The record of these settings."""
        found: dict[str, Any] = {"model": to_dict(self.model), "train": to_dict(self.train)}
        if self.distill is not None:
            found["distill"] = to_dict(self.distill)
        if self.members:
            found["members"] = self.described_members()
        if self.other_loss is not None:
            found["objective"] = self.other_loss[0]
        return found

    @classmethod
    def from_json(cls, kind: str, found: Mapping[str, Any]) -> Run:
        """The run of one network that `to_json` recorded; `kind` is teacher or student."""
        train = from_dict(TrainConfig, found["train"])
        if kind == "teacher":
            return cls(from_dict(TeacherConfig, found["model"]), train)
        model = from_dict(StudentConfig, found["model"])
        return cls(model, train, from_dict(DistillConfig, found["distill"]))


def reads_samples(model: TeacherConfig | StudentConfig) -> bool:
    """Whether a network reads the BCG's samples."""
    return isinstance(model, StudentConfig) and "bcg" in student_model.columns(model)


def write_settings(workdir: Path, kind: str, settings: dict[str, Any]) -> None:
    """Writes a run's settings.json, or makes sure that the one in the folder is the same.

    Raises:
      TrainingError: a run of another kind or with other settings, which it names.
    """
    path = workdir / "settings.json"
    if not path.exists():
        if jax.process_index() == 0:
            write_json(path, {"kind": kind, "settings": settings, **provenance()})
        return
    found = _read(path)
    if found["kind"] != kind:
        raise TrainingError(f"{workdir} holds a {found['kind']}.", "Name another --workdir.")
    there, here = _flat(found["settings"]), _flat(settings)
    differing = [
        f"{name} ({_shown(there.get(name))} there, {_shown(here.get(name))} here)"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise TrainingError(
            f"{workdir} holds a {found['kind']} with other settings: {', '.join(differing)}.",
            "Go on with the same flags, or name another --workdir.",
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by the names of their flags, without the description of the data."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name != TRAINED_ON:
            flat |= value if isinstance(value, dict) else {name: value}
    return flat


def _shown(value: Any) -> str:
    """A setting in an error: the first 8 characters of a digest, members of a sweep in brief."""
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    if isinstance(value, dict):
        return "/".join(map(str, value.values()))
    return value[:8] if isinstance(value, str) else str(value)


def record_of(workdir: Path, *kinds: str) -> dict[str, Any]:
    """settings.json of a trained run: "kind", "settings", and the versions that made it.

    Raises:
      TrainingError: no run of one of these kinds in the folder, or damaged settings.
    """
    path = workdir / "settings.json"
    nothing: dict[str, Any] = {"kind": "nothing trained"}
    record = _read(path) if path.exists() else nothing
    if record["kind"] not in kinds:
        raise TrainingError(
            f"{workdir}: expected a trained {' or '.join(kinds)}, found {record['kind']}.",
            f"Train one with `kd-sleep {_LAUNCHERS[kinds[0]]}`.",
        )
    for part in ("model", "train"):
        if not isinstance(record["settings"].get(part), dict):
            raise TrainingError(f"{path}: is damaged, it has no {part}.", COPY_AGAIN)
    return record


def _read(path: Path) -> dict[str, Any]:
    """A settings.json."""
    found = read_json(path, COPY_AGAIN)
    if not isinstance(found.get("kind"), str) or not isinstance(found.get("settings"), dict):
        raise TrainingError(f"{path}: is damaged, it has no kind or no settings.", COPY_AGAIN)
    return found
