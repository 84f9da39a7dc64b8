"""The Sleep Heart Health Study as NSRR hands it out: its folders, its channels, its nights.

    polysomnography/edfs/shhs1/shhs1-200001.edf
    polysomnography/annotations-events-nsrr/shhs1/shhs1-200001-nsrr.xml
    polysomnography/annotations-rpoints/shhs1/shhs1-200001-rpoint.csv    not every night has one

The digit after `shhs` is the visit; a subject with two visits bears one number in both.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.recordings import nsrr
from kd_sleep.recordings.edf import Channel, read_signals
from kd_sleep.recordings.recording import Recording
from kd_sleep.schema import RECORDED, WINDOW_S
from kd_sleep.stages import UNSCORED

SIMULATOR = "kd_sleep simulator"  # how the recording text of a simulated night's EDF begins

MIN_ONE_KIND_WINDOWS = 120  # an hour of sleep all of one kind: nobody told the kinds apart
_RECORDING_ID = re.compile(r"shhs([12])-(\d{6})", re.ASCII)

# Labels under which NSRR's cohorts carry the signals, SHHS's own first.
_ECG_LABELS = (
    "ECG", "EKG", "ECG1", "EKG1", "ECG L-R", "EKG L-R", "ECG1-ECG2", "EKG1-EKG2", "ECG (LL-RA)",
)  # fmt: skip
_THORAX_LABELS = ("THOR RES", "Thor", "Thorax", "Thoracic", "Chest")
_ABDOMEN_LABELS = ("ABDO RES", "Abdo", "Abdomen", "Abdominal", "Abd")

# The header of a genuine visit-1 file, field by field (spec/support/zero-data-records.edf of
# https://github.com/nsrr/edfize). Effort is inverted: its physical minimum is the larger number.
_VISIT_1 = (
    Channel("SaO2", "", 1, (0, 100), (-32768, 32767)),
    Channel("H.R.", "", 1, (0, 250), (-32768, 32767)),
    Channel("EEG(sec)", "uV", 125, (-125, 125), (-128, 127)),
    Channel("ECG", "mV", 125, (-1.25, 1.25), (-128, 127)),
    Channel("EMG", "uV", 125, (-31.25, 31.25), (-128, 127)),
    Channel("EOG(L)", "uV", 50, (-125, 125), (-128, 127)),
    Channel("EOG(R)", "uV", 50, (-125, 125), (-128, 127)),
    Channel("EEG", "uV", 125, (-125, 125), (-128, 127)),
    Channel("THOR RES", "", 10, (1, -1), (-128, 127)),
    Channel("ABDO RES", "", 10, (1, -1), (-128, 127)),
    Channel("POSITION", "", 1, (0, 3), (0, 3)),
    Channel("LIGHT", "", 1, (0, 1), (0, 1)),
    Channel("NEW AIR", "uV", 10, (-125, 125), (-128, 127)),
    Channel("OX stat", "", 1, (0, 3), (0, 3)),
)

# Labels and rates of visit 2 are those that NSRR documents for most units (montage SHHS2v3). Its
# genuine header was not at hand, so units and ranges are those of the same signal at visit 1.
_VISIT_2 = (
    Channel("SaO2", "", 1, (0, 100), (-32768, 32767)),
    Channel("PR", "", 1, (0, 250), (-32768, 32767)),
    Channel("EEG(sec)", "uV", 125, (-125, 125), (-128, 127)),
    Channel("ECG", "mV", 250, (-1.25, 1.25), (-128, 127)),
    Channel("EMG", "uV", 125, (-31.25, 31.25), (-128, 127)),
    Channel("EOG(L)", "uV", 50, (-125, 125), (-128, 127)),
    Channel("EOG(R)", "uV", 50, (-125, 125), (-128, 127)),
    Channel("EEG", "uV", 125, (-125, 125), (-128, 127)),
    Channel("AIRFLOW", "uV", 10, (-125, 125), (-128, 127)),
    Channel("THOR RES", "", 10, (1, -1), (-128, 127)),
    Channel("ABDO RES", "", 10, (1, -1), (-128, 127)),
    Channel("POSITION", "", 1, (0, 3), (0, 3)),
    Channel("LIGHT", "", 1, (0, 1), (0, 1)),
    Channel("OX STAT", "", 1, (0, 3), (0, 3)),
)

_NEURAL = ("EEG(sec)", "EMG", "EOG(L)", "EOG(R)", "EEG")  # three quarters of a file's bytes


@dataclasses.dataclass(frozen=True)
class NightFiles:
    """The files of one night, which need not exist before they are read.

    Attributes:
      recording_id: such as `shhs1-200001`.
      subject_id: NSRR's number of the person, such as `200001`.
      visit: 1 or 2.
      edf: signals.
      stages_xml: scored stages.
      rpoints_csv: heartbeats; None where the night has none.
      bcg: a BCG recording of the same night; None where no folder of them was named.
    """

    recording_id: str
    subject_id: str
    visit: int
    edf: Path
    stages_xml: Path
    rpoints_csv: Path | None
    bcg: Path | None


def channels(visit: int, signals: str) -> tuple[Channel, ...]:
    """The EDF channels of SHHS's recorder, in the file's order.

    Args:
      visit: 1 or 2 (where the ECG runs at 250 Hz).
      signals: `all` 14 of them, or `cardiac`: without EEG, EOG and EMG.
    """
    montage = {1: _VISIT_1, 2: _VISIT_2}[visit]
    neural = {"all": (), "cardiac": _NEURAL}[signals]
    return tuple(channel for channel in montage if channel.label not in neural)


def paths_of(
    shhs_dir: str | os.PathLike, recording_id: str, bcg_dir: str | os.PathLike | None = None
) -> NightFiles:
    """Where each file of a night lies, whether it exists or not.

    Raises:
      DatasetError: for an id that is none of SHHS's.
    """
    match = _RECORDING_ID.fullmatch(recording_id)
    if match is None:
        raise DatasetError(
            f"{recording_id!r} is no recording of SHHS.", "Expected an id such as shhs1-200001."
        )
    visit, subject_id = match.groups()
    root = Path(shhs_dir) / "polysomnography"
    tranche = f"shhs{visit}"
    events, rpoints = root / "annotations-events-nsrr", root / "annotations-rpoints"
    return NightFiles(
        recording_id=recording_id,
        subject_id=subject_id,
        visit=int(visit),
        edf=root / "edfs" / tranche / f"{recording_id}.edf",
        stages_xml=events / tranche / f"{recording_id}-nsrr.xml",
        rpoints_csv=rpoints / tranche / f"{recording_id}-rpoint.csv",
        bcg=None if bcg_dir is None else Path(bcg_dir) / f"{recording_id}.edf",
    )


def find_nights(
    shhs_dir: str | os.PathLike, bcg_dir: str | os.PathLike | None = None
) -> list[NightFiles]:
    """All nights that have signals or stages, in order of their ids.

    A night that lacks one of the two is listed: reading it says what is missing, so that no night
    gets lost in silence. Files with any other name are none of SHHS's and are passed over.

    Raises:
      DatasetError: where there is no night.
    """
    root = Path(shhs_dir) / "polysomnography"
    ids = {
        file.name.removesuffix(suffix)
        for folder, suffix in (("edfs", ".edf"), ("annotations-events-nsrr", "-nsrr.xml"))
        for tranche in ("shhs1", "shhs2")
        for file in (root / folder / tranche).glob(f"{tranche}-*{suffix}")
    }
    nights = [
        paths_of(shhs_dir, recording_id, bcg_dir)
        for recording_id in sorted(ids)
        if _RECORDING_ID.fullmatch(recording_id)
    ]
    if not nights:
        raise DatasetError(
            f"{os.fspath(shhs_dir)}: no night of SHHS here; expected files such as"
            f" {paths_of(shhs_dir, 'shhs1-200001').edf}.",
            "Download them with `nsrr download shhs/polysomnography/edfs` and likewise"
            " annotations-events-nsrr (https://sleepdata.org/datasets/shhs), or simulate a cohort"
            " in the same layout.",
        )
    return [
        night
        if night.rpoints_csv is not None and night.rpoints_csv.exists()
        else dataclasses.replace(night, rpoints_csv=None)
        for night in nights
    ]


def read_recording(night: NightFiles) -> Recording:
    """Reads one night's signals, stages and, where there are any, R points.

    The signals set the number of windows. Scoring that ends earlier leaves windows unscored; one
    window more than there are is cut off, since scorers stage the last, incomplete one as well.

    Raises:
      RecordingError: for a file that is missing or unusable, signals without an ECG, less than one
        window of them, stages that outlast them by more than one window, or a night whose scorer
        told sleep from wake only.
    """
    edf = read_signals(
        night.edf, {"ecg": _ECG_LABELS, "thorax": _THORAX_LABELS, "abdomen": _ABDOMEN_LABELS}
    )
    if "ecg" not in edf.signals:
        raise RecordingError(
            night.edf, f"has no ECG among {', '.join(edf.labels)}.", "Leave this night out."
        )
    windows = int(edf.duration_s // WINDOW_S)
    if windows == 0:
        raise RecordingError(
            night.edf, f"lasts {edf.duration_s:g} s, less than one window.", "Leave this night out."
        )
    labels = nsrr.read_stages(night.stages_xml)
    asleep = np.count_nonzero(labels > 0)
    if asleep >= MIN_ONE_KIND_WINDOWS and nsrr.is_sleep_wake_only(night.stages_xml):
        raise RecordingError(
            night.stages_xml,
            "scores sleep and wake only, one kind of sleep.",
            "Leave this night out: its one code for sleep would be taken for Light.",
        )
    text = edf.recording_text
    return Recording(
        recording_id=night.recording_id,
        subject_id=night.subject_id,
        visit=night.visit,
        cohort=text if text.startswith(SIMULATOR) else RECORDED,
        start=edf.start,
        duration_s=edf.duration_s,
        ecg=edf.signals["ecg"],
        effort=tuple(edf.signals[name] for name in ("thorax", "abdomen") if name in edf.signals),
        labels=_fitted(night, labels, windows),
        rpoints=None if night.rpoints_csv is None else nsrr.read_rpoints(night.rpoints_csv),
    )


def _fitted(night: NightFiles, labels: NDArray[np.int8], windows: int) -> NDArray[np.int8]:
    """Labels, cut or padded to the number of windows that the signals have."""
    if labels.size > windows + 1:
        raise RecordingError(
            night.stages_xml,
            f"stages {labels.size} windows where {night.edf.name} has {windows}.",
            "Check that both files are whole and of the same night.",
        )
    kept = labels[:windows]
    return np.pad(kept, (0, windows - kept.size), constant_values=UNSCORED)
