"""One table: every field of a night record, its shape, dtype and unit.

Shape suffixes used all over the package (models, losses, features):

  B  batch, a number of sequences        L  windows in a sequence
  S  BCG samples in a window             T  tachogram samples in a window
  K  classes (Wake, REM, Light, Deep)    F  HRV features
  N  windows in a night                  C  channels of a network

So `logits_BLK` is [batch, windows, classes].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_sleep.stages import NUM_STAGES, UNSCORED

SCHEMA_VERSION = "1.3.0"  # the version of the TFDS dataset, too

WINDOW_S = 30.0  # the unit that a scorer gives one stage
TACHOGRAM_HZ = 4.0  # Task Force 1996: resample RR at 2-4 Hz for spectra up to 0.4 Hz
TACHOGRAM_SAMPLES = int(WINDOW_S * TACHOGRAM_HZ)
SERIES_HZ = TACHOGRAM_HZ  # of a BCG's beats and breath: the teacher's grid
SERIES_SAMPLES = TACHOGRAM_SAMPLES
MOVEMENT_SAMPLES = int(WINDOW_S)  # once a second
BCG_HZ = 50.0  # keeps the SQI's 10-20 Hz noise band; a SHHS-sized dataset is 24 GB
BCG_SAMPLES = int(WINDOW_S * BCG_HZ)
LOWEST_BCG_HZ = 40.0  # of a sensor: with less there is no 10-20 Hz to tell noise by

HRV_FEATURES = (
    "mean_nn_s",
    "sdnn_s",
    "rmssd_s",
    "pnn50",
    "log_vlf",  # natural log of power in s^2, 0.0033-0.04 Hz
    "log_lf",  # 0.04-0.15 Hz
    "log_hf",  # 0.15-0.4 Hz
    "log_lf_hf",
)

SPLITS = ("train", "validation", "test")
BCG_SOURCES = ("simulated", "paired", "none")
RECORDED = "recorded"  # the cohort of a recorded night whose dataset has no name
SIMULATOR = "kd_sleep simulator"  # how a simulated night's cohort, and its files' own texts, begin


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a night record. `shape` holds sizes.

    "N" is the night's number of windows; "M" is N too, or 0 where samples are left out.
    """

    shape: tuple[int | str, ...]
    dtype: type
    unit: str
    text: str


NIGHT_FIELDS: dict[str, Field] = {
    "recording_id": Field((), str, "", "file stem of the night, such as shhs1-200001"),
    "subject_id": Field((), str, "", "one per person; both visits share it"),
    "visit": Field((), np.int32, "", "1 or 2"),
    "cohort": Field(
        (), str, "", "recorded, its dataset's name, or the simulator that made the night's files"
    ),
    "bcg_source": Field(
        (), str, "", "simulated (forward model), paired (a file of its own) or none (for a teacher)"
    ),
    "simulator": Field((), str, "", "what simulated the night or its BCG, with version; or none"),
    "label": Field(
        ("N",), np.int8, "class", "scored stage: Wake 0, REM 1, Light 2, Deep 3, none -1"
    ),
    "tachogram": Field(
        ("N", TACHOGRAM_SAMPLES), np.float32, "s", "NN interval on a 4 Hz grid; NaN where missing"
    ),
    "hrv": Field(
        ("N", len(HRV_FEATURES)), np.float32, "mixed", "HRV over a stated span; NaN where missing"
    ),
    "rr_missing": Field(("N",), np.float32, "1", "fraction of the window without NN intervals"),
    "ecg_quality": Field(
        ("N",), np.float32, "1", "share of the window whose ECG is usable; NaN if no ECG was read"
    ),
    "jj": Field(
        ("N", SERIES_SAMPLES), np.float32, "s", "NN interval of J peaks at 4 Hz; NaN where missing"
    ),
    "jj_hrv": Field(
        ("N", len(HRV_FEATURES)), np.float32, "mixed", "HRV of the J peaks; NaN where missing"
    ),
    "beat_confidence": Field(
        ("N", SERIES_SAMPLES), np.float16, "1", "the last J peak's correlation with its template"
    ),
    "breath": Field(
        ("N", SERIES_SAMPLES), np.float16, "1", "chest movement in its local RMS; NaN where missing"
    ),
    "breath_depth": Field(
        ("N",), np.float32, "1", "log of the breath's RMS over the median level above 1 Hz"
    ),
    "movement": Field(
        ("N", MOVEMENT_SAMPLES), np.float16, "1", "log of each second's level above 1 Hz"
    ),
    "bcg": Field(
        ("M", BCG_SAMPLES), np.int16, "counts", "BCG at 50 Hz; times bcg_scale: beats ~ 1"
    ),
    "bcg_scale": Field((), np.float32, "1/count", "robust heartbeat amplitudes per count"),
    "bcg_digest": Field((), str, "", "SHA-256 of bcg, bcg_scale and the series, unread"),
    "bcg_missing": Field(("N",), np.float32, "1", "fraction of the window without BCG"),
    "bcg_snr_db": Field(("N",), np.float32, "dB", "power in 1-8 Hz over power in 10-20 Hz"),
    "rj": Field(("N",), np.float32, "s", "R-to-J delay of a paired BCG; NaN where not known"),
    "clock_offset": Field((), np.float32, "s", "ECG time at which a paired BCG's clock reads 0"),
    "clock_drift": Field((), np.float32, "1", "rate error of that clock, 50e-6 is 50 ppm"),
    "clock_residual": Field((), np.float32, "s", "RMS of heartbeats about it; NaN if not paired"),
    "clock_confidence": Field((), np.float32, "1", "in that clock, 0 to 1; NaN if not paired"),
}

NightRecord = Mapping[str, Any]  # keys and values as NIGHT_FIELDS says; `validate` holds it to that


def validate(record: NightRecord) -> None:
    """Raises ValueError unless `record` has exactly the fields, shapes and dtypes of the table."""
    if set(record) != set(NIGHT_FIELDS):
        missing, extra = set(NIGHT_FIELDS) - set(record), set(record) - set(NIGHT_FIELDS)
        raise ValueError(f"night record: missing fields {missing or '{}'}, unknown {extra or '{}'}")
    windows = len(record["label"])
    sizes = {"N": windows, "M": min(len(record["bcg"]), 1) * windows}
    for name, spec in NIGHT_FIELDS.items():
        value = record[name]
        if spec.dtype is str:
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name}: expected a non-empty string, got {value!r}")
            continue
        value = np.asarray(value)
        shape = tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)
        if value.shape != shape or value.dtype != spec.dtype:
            raise ValueError(
                f"{name}: expected {np.dtype(spec.dtype)}{list(shape)},"
                f" got {value.dtype}{list(value.shape)}"
            )
    label = np.asarray(record["label"])
    if windows == 0 or label.min() < UNSCORED or label.max() >= NUM_STAGES:
        raise ValueError(
            f"label: expected classes {UNSCORED}..{NUM_STAGES - 1}, at least one window"
        )
