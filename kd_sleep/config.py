"""Every setting, as frozen dataclasses: validated, documented, with named presets.

Launchers derive their flags from these fields (`commands/flags.py`), so a setting that exists here
has a flag, a default and a help text, and none is defined twice. Constants of physiology and of
file formats are no settings: they stand with their sources in the module that uses them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from kd_sleep.errors import ConfigError


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple | None = None,
) -> Any:
    """A dataclass field with a help text and bounds: low <= value <= high, value > above."""
    metadata = {"help": text, "low": low, "high": high, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


class Config:
    """Base of all configs: checks every field's type and bounds when one is made."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, bounds = getattr(self, field.name), field.metadata
            where = f"{type(self).__name__}.{field.name}={value!r}:"
            kind = type(field.default)
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, field.name, float(value))
            elif field.default is not dataclasses.MISSING and type(value) is not kind:
                raise ConfigError(f"{where} expected {kind.__name__}.")
            if bounds.get("choices") is not None and value not in bounds["choices"]:
                raise ConfigError(
                    f"{where} expected one of {', '.join(map(str, bounds['choices']))}."
                )
            if bounds.get("low") is not None and not value >= bounds["low"]:
                raise ConfigError(f"{where} expected at least {bounds['low']}.")
            if bounds.get("high") is not None and not value <= bounds["high"]:
                raise ConfigError(f"{where} expected at most {bounds['high']}.")
            if bounds.get("above") is not None and not value > bounds["above"]:
                raise ConfigError(f"{where} expected more than {bounds['above']}.")
            if kind is float and not math.isfinite(value):
                raise ConfigError(f"{where} expected a finite number.")


# The student's two shapes: the article's to the letter, and one that sees its neighbours.
STUDENTS = ("single_window", "context")
PICTURES = ("png", "svg", "none")  # of a staged night

_CONTEXTS = tuple(
    2**n - 1 for n in range(8)
)  # what a stack of dilated convolutions 1, 2, 4, … reaches


@dataclasses.dataclass(frozen=True)
class CohortConfig(Config):
    """A simulated cohort on disk, in SHHS's folder layout."""

    subjects: int = setting(60, "Subjects to simulate.", low=1, high=99_999)
    cohort_seed: int = setting(0, "Seed of the cohort: the same seed gives the same bytes.", low=0)
    hours: float = setting(7.5, "Mean length of a night in hours.", low=0.5, high=14.0)
    second_visit_share: float = setting(
        0.15, "Share of subjects with a second visit (ECG at 250 Hz).", low=0.0, high=1.0
    )
    rpoints_share: float = setting(
        0.8, "Share of nights with an R-point CSV; the others leave beats to the detector.",
        low=0.0, high=1.0,
    )  # fmt: skip
    signals: str = setting(
        "cardiac",
        "EDF channels to write: cardiac leaves out EEG, EOG and EMG (9 MB a night),"
        " all writes the 14 of SHHS (36 MB a night).",
        choices=("cardiac", "all"),
    )
    sensor: str = setting(
        "mix",
        "Bed sensor: film under the mattress, load_cell under the posts, or a mix: every night"
        " another one between the two.",
        choices=("film", "load_cell", "mix"),
    )
    null: bool = setting(
        False,
        "Draw beats, breathing and movement as in Light sleep all night, whatever the stages: a"
        " control, from which nothing but time of night can be learnt.",
    )


@dataclasses.dataclass(frozen=True)
class DatasetConfig(Config):
    """How files become night records."""

    recordings: str = setting(
        "edf",
        "What nights are read from: edf takes signals, stages and, where there are any, R points;"
        " rpoints takes stages and R points alone: a fraction of the bytes, enough for a teacher.",
        choices=("edf", "rpoints"),
    )
    bcg_source: str = setting(
        "simulated",
        "Where BCG comes from: simulated runs the forward model on the night's recorded beats,"
        " breathing and movement; paired reads a BCG file of its own from --bcg_dir; none leaves"
        " it out, which is enough for a teacher.",
        choices=("simulated", "paired", "none"),
    )
    simulated_sensor: str = setting(
        "mix",
        "Bed sensor that a simulated BCG comes from: film, load_cell, or a mix of the two.",
        choices=("film", "load_cell", "mix"),
    )
    bcg_channel: str = setting(
        "", "Channel of the paired BCG files; empty takes the only one, or the best of several."
    )
    bcg_rate_hz: float = setting(
        0.0,
        "Sampling rate of paired BCG files that do not tell their own; 0 refuses such files.",
        low=0.0,
        high=1000.0,
    )
    bcg_samples: bool = setting(
        True,
        "Keep the BCG's samples beside its beats, breath and movement: for front ends that read"
        " them. Without, a night takes a megabyte.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recordings == "rpoints" and self.bcg_source == "simulated":
            raise ConfigError(
                "DatasetConfig.recordings='rpoints': R points hold no breathing and no movement to"
                " simulate a BCG from.",
                "Choose bcg_source none (a teacher needs no BCG) or paired.",
            )


@dataclasses.dataclass(frozen=True)
class BuildConfig(Config):
    """How a build runs. Nothing here changes a night's record."""

    max_excluded_fraction: float = setting(
        0.2,
        "Share of the nights that may be left out; with more the build ends in an error and"
        " exclusions.csv says why.",
        low=0.0,
        high=1.0,
    )
    workers: int = setting(0, "Processes that read nights; 0 takes all cores.", low=0)


@dataclasses.dataclass(frozen=True)
class TeacherConfig(Config):
    """The teacher: a 1-D CNN on the tachogram and HRV of a window and its neighbours."""

    width: int = setting(64, "Channels of the network.", low=4)
    context_windows: int = setting(
        127, "Windows that it sees on each side; 2**n - 1, 0 for none.", choices=_CONTEXTS
    )
    dropout: float = setting(0.1, "Dropout rate on a window's embedding.", low=0.0, high=0.9)


@dataclasses.dataclass(frozen=True)
class SoftLabelConfig(Config):
    """Who labels a teacher's own training nights softly."""

    folds: int = setting(
        0,
        "Folds of the training subjects: each training night is labelled by a teacher that was"
        " trained on the other folds. 0 takes the teacher itself, which knows these nights.",
        low=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds == 1:
            raise ConfigError(
                "SoftLabelConfig.folds=1: one fold leaves no other to train on.",
                "Take 0, or 2 and more.",
            )


@dataclasses.dataclass(frozen=True)
class StudentConfig(Config):
    """The student: BCG windows in, stage logits out."""

    front_end: str = setting(
        "beats",
        "What it reads of the BCG: beats are the series of heartbeats, breath and movement;"
        " autocorrelation reads the samples.",
        choices=("beats", "autocorrelation"),
    )
    width: int = setting(64, "Channels of the network.", low=4)
    context_windows: int = setting(
        127,
        "Windows that it sees on each side, 2**n - 1; a causal student sees twice as many before"
        " it. 0 is the article's single-window student.",
        choices=_CONTEXTS,
    )
    dropout: float = setting(0.1, "Dropout rate on a window's embedding.", low=0.0, high=0.9)
    causal: bool = setting(
        False, "See windows of the past alone: such a student stages a night while it is recorded."
    )


@dataclasses.dataclass(frozen=True)
class DistillConfig(Config):
    """The loss: alpha * CE + (1 - alpha) * T^2 * KL(teacher || student)."""

    alpha: float = setting(
        0.3, "Weight of the hard labels; 1 is the hard-label baseline.", low=0.0, high=1.0
    )
    temperature: float = setting(
        4.0, "T, applied to the logits of both before softmax.", above=0.0, high=1000.0
    )
    labelled_nights: int = setting(
        0, "Training nights whose scored stages the student may see; 0 means all.", low=0
    )
    label_seed: int = setting(
        0, "Chooses which nights are the labelled ones; the sets nest.", low=0
    )
    direction: str = setting(
        "forward",
        "Of the divergence: forward is KL(teacher || student), reverse KL(student || teacher),"
        " js Jensen-Shannon.",
        choices=("forward", "reverse", "js"),
    )
    label_smoothing: float = setting(
        0.0, "Share of each hard label spread over all stages.", low=0.0, high=0.5
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """Optimisation, counted in steps."""

    steps: int = setting(400, "Optimiser steps.", low=1)
    batch_size: int = setting(8, "Sequences in a batch.", low=1)
    sequence_windows: int = setting(256, "Windows in a training sequence.", low=1)
    learning_rate: float = setting(2e-3, "Peak learning rate of AdamW.", above=0.0)
    warmup_share: float = setting(
        0.1, "Share of the steps that warm up; cosine decay to 0 after.", low=0.0, high=0.9
    )
    weight_decay: float = setting(1e-2, "AdamW weight decay.", low=0.0)
    clip_norm: float = setting(1.0, "Clip the gradient to this global norm.", above=0.0)
    evaluate_every: int = setting(
        100, "Steps between evaluations on validation; each one is a checkpoint.", low=1
    )
    seed: int = setting(0, "Seed of initial parameters and dropout.", low=0)
    batch_seed: int = setting(0, "Seed of the order of batches.", low=0)
    ema_decay: float = setting(
        0.0,
        "Decay per step of the moving average of parameters that is evaluated and kept; 0 keeps"
        " the parameters themselves.",
        low=0.0,
        high=0.9999,
    )
    accumulate: int = setting(
        1, "Parts that a batch is computed in, one after another, to save memory.", low=1
    )
    compute_dtype: str = setting(
        "float32",
        "Arithmetic of the network; parameters, loss and sums stay float32.",
        choices=("float32", "bfloat16"),
    )


@dataclasses.dataclass(frozen=True)
class ExecutionConfig(Config):
    """How a run is executed. Nothing here changes its results."""

    dataset_in: str = setting(
        "auto",
        "Where the training nights lie: device (the accelerators' memory), host (main memory) or"
        " disk (their BCG is streamed). auto takes the devices where they have room, else the"
        " host. The batches are the same.",
        choices=("auto", "device", "host", "disk"),
    )
    profile: bool = setting(
        False, "Trace some steps into WORKDIR/profile, to look at in TensorBoard or Perfetto."
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Config):
    """Scores and their intervals."""

    bootstrap_draws: int = setting(2000, "Bootstrap draws over subjects.", low=10)
    confidence: float = setting(0.95, "Coverage of the intervals.", above=0.0, high=0.999)
    bootstrap_seed: int = setting(0, "Seed of the bootstrap.", low=0)


@dataclasses.dataclass(frozen=True)
class StudyConfig(Config):
    """How much a study trains."""

    study_seeds: int = setting(
        5, "Seeds that every student is trained from, 0 and up.", low=1, high=1000
    )
    handful: int = setting(
        6, "Labelled nights of the students that the report looks at most closely.", low=1
    )
    ladder_seeds: int = setting(
        3, "Seeds of every rung of the information ladder; 0 leaves the ladder out.", low=0
    )


# Many small batches: BUILD_NOTES.md, choices on validation.
CPU_TRAIN = TrainConfig(steps=1600, batch_size=2, evaluate_every=400, ema_decay=0.99)


@dataclasses.dataclass(frozen=True)
class Preset:
    """One size of the whole mission. `student_train` serves every student alike.

    `soft_labels` is of a teacher alone and the quickstart's, `study_soft_labels` of a study's.
    """

    cohort: CohortConfig = CohortConfig()
    dataset: DatasetConfig = DatasetConfig()
    build: BuildConfig = BuildConfig()
    teacher: TeacherConfig = TeacherConfig()
    teacher_train: TrainConfig = CPU_TRAIN
    soft_labels: SoftLabelConfig = SoftLabelConfig()
    study_soft_labels: SoftLabelConfig = SoftLabelConfig(folds=5)
    student: StudentConfig = StudentConfig()
    student_train: TrainConfig = CPU_TRAIN
    distill: DistillConfig = DistillConfig()
    execution: ExecutionConfig = ExecutionConfig()
    study: StudyConfig = StudyConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


TINY_TRAIN = TrainConfig(
    steps=20, batch_size=4, sequence_windows=16, learning_rate=3e-3, evaluate_every=10
)

ACCELERATOR_TRAIN = TrainConfig(
    steps=3000, batch_size=32, sequence_windows=256, evaluate_every=250, ema_decay=0.99
)

PRESETS: dict[str, Preset] = {
    # For tests: every part runs, no number means anything.
    "tiny": Preset(
        cohort=CohortConfig(
            subjects=12, cohort_seed=4, hours=1.5, second_visit_share=0.25, rpoints_share=0.65
        ),
        build=BuildConfig(workers=2),
        teacher=TeacherConfig(width=8, context_windows=3),
        teacher_train=TINY_TRAIN,
        study_soft_labels=SoftLabelConfig(folds=2),
        student=StudentConfig(width=8, context_windows=3),
        student_train=TINY_TRAIN,
        distill=DistillConfig(labelled_nights=2),
        study=StudyConfig(study_seeds=2, handful=2, ladder_seeds=1),
        evaluation=EvaluationConfig(bootstrap_draws=100),
    ),
    # For the quickstart: minutes on two cores.
    "cpu": Preset(distill=DistillConfig(labelled_nights=6)),
    # For SHHS on a GPU or TPU.
    "accelerator": Preset(
        cohort=CohortConfig(subjects=1000),
        teacher=TeacherConfig(width=96),
        teacher_train=ACCELERATOR_TRAIN,
        student=StudentConfig(width=96),
        student_train=ACCELERATOR_TRAIN,
    ),
}


def student_of(name: str, config: StudentConfig) -> StudentConfig:
    """`config` in one of the shapes of `STUDENTS`: `single_window` sees one window and no other."""
    if name == "single_window":
        return dataclasses.replace(config, context_windows=0)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """A config, or a preset of configs, as plain JSON types."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: Mapping[str, Any]) -> Any:
    """The inverse of `to_dict` for one config class.

    Raises:
      ConfigError: for a field that the class does not have, or lacks here.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    if set(values) != known:
        raise ConfigError(
            f"{kind.__name__}: unknown fields {sorted(set(values) - known)},"
            f" missing fields {sorted(known - set(values))}.",
            "The file was written by another version of kd_sleep.",
        )
    return kind(**values)
