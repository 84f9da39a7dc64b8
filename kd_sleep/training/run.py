"""What one training run is: typed settings, and `settings.json`, their record in a work folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import (
    AugmentConfig,
    DistillConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from kd_sleep.errors import ConfigError, TrainingError
from kd_sleep.models import student as student_model
from kd_sleep.models import teacher as teacher_model
from kd_sleep.models.student import Student
from kd_sleep.models.teacher import Teacher
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

MEMBER_SETTINGS = ("alpha", "temperature", "label_smoothing")  # that members may differ in
_LAUNCHERS = {"teacher": "train_teacher", "student": "distill_student", "sweep": "sweep"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A teacher's training, a student's, or that of several students in one program.

    Attributes:
      model: the network; it says which of the two is trained.
      train: steps, batch, optimiser.
      distill: a student's loss; None for a teacher, which learns from labels alone.
      augment: what is done to the BCG of training batches.
      members: loss and seed of each student of a sweep; the losses differ from `distill` in
        `MEMBER_SETTINGS` alone. None of them for a run of one.
      other_loss: name and function of a loss that no setting makes, for ablations.

    Raises:
      ConfigError: augmentation, which changes samples, of a student that reads series.
    """

    model: TeacherConfig | StudentConfig
    train: TrainConfig
    distill: DistillConfig | None = None
    augment: AugmentConfig = AugmentConfig()  # noqa: RUF009 - frozen
    members: tuple[tuple[DistillConfig, int], ...] = ()
    other_loss: tuple[str, Objective] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, StudentConfig):
            assert self.distill is not None
            if self.augment != AugmentConfig() and not reads_samples(self.model):
                raise ConfigError(
                    f"--front_end={self.model.front_end}: augmentation changes the BCG's samples,"
                    " and this front end reads series.",
                    "Leave the --augment flags out, or take --front_end=autocorrelation.",
                )

    @property
    def kind(self) -> str:
        """teacher, student or sweep."""
        if self.members:
            return "sweep"
        return "teacher" if isinstance(self.model, TeacherConfig) else "student"

    @property
    def module(self) -> Student | Teacher:
        """The network."""
        dtype = jnp.dtype(self.train.compute_dtype)
        if isinstance(self.model, TeacherConfig):
            return Teacher(self.model, dtype)
        return Student(self.model, dtype)

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields of `Nights` that the network reads at use, and those that weigh its windows."""
        if isinstance(self.model, TeacherConfig):
            return (*teacher_model.COLUMNS, "rr_missing")
        return (*student_model.columns(self.model), "bcg_missing", "rr_missing")

    def objective(self, stage_weights: NDArray | None = None) -> Objective:
        """The loss on a batch; `stage_weights` [K] are what a label of each stage weighs."""
        if self.other_loss is not None:
            return self.other_loss[1]
        if self.distill is None:
            return hard_label_objective()
        return distillation_objective(self.distill, stage_weights)

    @property
    def loss_settings(self) -> Scalars:
        """Scalars that the objective reads from the state; of members [M] each."""
        if not self.members:
            return {} if self.distill is None else loss_settings(self.distill)
        return {
            name: jnp.array(values, jnp.float32) for name, values in self._member_settings().items()
        }

    def _member_settings(self) -> dict[str, list[float]]:
        varied = {
            name: [getattr(loss, name) for loss, _ in self.members] for name in MEMBER_SETTINGS
        }
        if not any(varied["label_smoothing"]):  # as in a run of one: it would only cost arithmetic
            del varied["label_smoothing"]
        return varied

    def described_members(self) -> list[dict[str, Any]]:
        """What each member differs in, as plain JSON."""
        varied = self._member_settings()
        return [
            {name: values[number] for name, values in varied.items()} | {"seed": seed}
            for number, (_, seed) in enumerate(self.members)
        ]

    def begin(self, batch: Batch, start: Any = None) -> Progress:
        """The progress before the first step, to be jitted or looked at by shape.

        Args:
          batch: any, for shapes.
          start: parameters to begin from (`started_from`); None draws them.
        """

        def member(settings: Scalars, seed: Any) -> Progress:
            state = create_state(self.module, self.train, batch, settings, seed, start)
            return start_of(state)

        if not self.members:
            return member(self.loss_settings, self.train.seed)
        return jax.vmap(member)(self.loss_settings, np.array([seed for _, seed in self.members]))

    def to_json(self) -> dict[str, Any]:
        """The record of these settings."""
        found: dict[str, Any] = {"model": to_dict(self.model), "train": to_dict(self.train)}
        if self.distill is not None:
            found |= {"distill": to_dict(self.distill), "augment": to_dict(self.augment)}
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
        return cls(
            from_dict(StudentConfig, found["model"]),
            train,
            from_dict(DistillConfig, found["distill"]),
            from_dict(AugmentConfig, found["augment"]),
        )


def reads_samples(model: StudentConfig) -> bool:
    """Whether a student reads the BCG's samples, and not its series."""
    return "bcg" in student_model.columns(model)


def claim(workdir: Path, kind: str, settings: dict[str, Any]) -> None:
    """Writes a run's settings, or makes sure that those in the folder are the same.

    What only describes the data is brought up to date: older runs say less of it.
    """
    path = workdir / "settings.json"
    if path.exists():
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
        if found["settings"] != settings and jax.process_index() == 0:  # words on the same data
            write_json(path, found | {"settings": settings})
    elif jax.process_index() == 0:
        write_json(path, {"kind": kind, "settings": settings, **provenance()})


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by the names of their flags, but for what only describes the data."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name != TRAINED_ON:
            flat |= value if isinstance(value, dict) else {name: value}
    return flat


def _shown(value: Any) -> str:
    """A setting as a person can compare it: digests cut short, members of a sweep in brief."""
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    if isinstance(value, dict):
        return "/".join(map(str, value.values()))
    return value[:8] if isinstance(value, str) else str(value)


def kind_of(workdir: Path) -> str:
    """teacher, student, sweep, or "nothing trained": what a work folder holds."""
    path = workdir / "settings.json"
    return _read(path)["kind"] if path.exists() else "nothing trained"


def record_of(workdir: Path, kind: str) -> dict[str, Any]:
    """settings.json of a trained run: "kind", "settings", and what made it.

    Raises:
      TrainingError: no run of that kind in the folder, or damaged settings.
    """
    found = kind_of(workdir)
    if found != kind:
        raise TrainingError(
            f"{workdir}: expected a trained {kind}, found {found}.",
            f"Train one with `kd-sleep {_LAUNCHERS[kind]}`.",
        )
    path = workdir / "settings.json"
    record = _read(path)
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
