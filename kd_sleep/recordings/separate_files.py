"""A night whose ECG, beats, stages and BCG are files of their own, in any of the known formats.

Time counts from the ECG's first sample. Where there is no ECG it counts from the 0 of the beats'
times, and where there are no beats either from the BCG's first sample.
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import ClassVar

import numpy as np

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import shhs
from kd_sleep.recordings.beat_files import read_beats
from kd_sleep.recordings.night_files import NightFiles
from kd_sleep.recordings.paired_bcg import BcgRecording, read_bcg
from kd_sleep.recordings.recording import Recording, Signal
from kd_sleep.recordings.scoring import fitted, refuse_one_kind
from kd_sleep.recordings.stage_files import read_stages_of
from kd_sleep.schema import RECORDED, SIMULATOR, WINDOW_S
from kd_sleep.stages import UNSCORED

_RATE_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class _Heart:
    """What sets a night's time: ECG and effort where read, start, duration in s, an EDF's text."""

    ecg: Signal | None
    effort: tuple[Signal, ...]
    start: datetime.datetime | None
    duration_s: float
    text: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeparateFiles(NightFiles):
    """The files of one night; at least one of ECG, beats and BCG.

    Attributes:
      ecg: EDF, whose breathing effort is read, too; or any format that a BCG may have.
      beats: as `beat_files.read_beats` takes them; preferred to those of the ECG.
      stages: as `stage_files.read_stages_of` takes them; None leaves the night unscored.
      ecg_channel: empty takes the channel with an ECG's usual name, or the only one.
      ecg_rate_hz: for a file that does not tell; 0 for one that does.
      start: local clock at the first sample, in place of the header's.
      cohort: the dataset's name; a simulator that a file names goes first.
    """

    ecg: Path | None = None
    beats: Path | None = None
    stages: Path | None = None
    ecg_channel: str = ""
    ecg_rate_hz: float = 0.0
    start: datetime.datetime | None = None
    cohort: str = RECORDED

    bcg_spelt: ClassVar = ("column bcg_channel", "column bcg_rate_hz")

    @property
    def parts(self) -> dict[str, Path | None]:
        return {"ecg": self.ecg, "beats": self.beats, "stages": self.stages}

    def options(self) -> str:
        told = (self.recording_id, self.subject_id, self.visit, self.cohort, self.start)
        read = (self.ecg_channel, self.ecg_rate_hz, self.bcg_channel, self.bcg_rate_hz)
        return repr((told, read))

    def read(self, *, signals: bool = True) -> Recording:
        rpoints = None if self.beats is None else read_beats(self.beats)
        if self.ecg is not None and signals:
            heart = self._read_ecg(self.ecg)
        elif rpoints is not None:  # which tell no length: the last beat's, or the stages', below
            heart = _Heart(None, (), None, float(rpoints.times_s[-1]))
        else:
            heart = self._clock_of_bcg()
        start, duration_s, scored = self.start or heart.start, heart.duration_s, None
        if self.stages is not None:
            scored = read_stages_of(self.stages, start)
            refuse_one_kind(self.stages, scored.scoring)
            if heart.ecg is None and rpoints is not None:
                duration_s = max(duration_s, len(scored.scoring.labels) * WINDOW_S)
        windows = int(duration_s / WINDOW_S + 1e-9)
        if windows == 0:
            raise RecordingError(
                self.part(), f"lasts {duration_s:g} s, less than one window.", "Leave it out."
            )
        labels = np.full(windows, UNSCORED, np.int8)
        if self.stages is not None and scored is not None:
            labels = fitted(self.stages, scored.scoring.labels, windows, timed=scored.timed)
        texts = (heart.text, "" if scored is None else scored.scoring.software, self.cohort)
        return Recording(
            recording_id=self.recording_id,
            subject_id=self.subject_id,
            visit=self.visit,
            cohort=next((text for text in texts if text.startswith(SIMULATOR)), self.cohort),
            start=start,
            duration_s=duration_s,
            ecg=heart.ecg,
            effort=heart.effort,
            labels=labels,
            rpoints=rpoints,
        )

    def _read_ecg(self, path: Path) -> _Heart:
        if path.suffix.lower() == ".edf":
            labels = (self.ecg_channel,) if self.ecg_channel else shhs.ECG_LABELS
            edf = shhs.read_polysomnogram(path, labels)
            ecg, given = edf.signals["ecg"], self.ecg_rate_hz
            if given and abs(ecg.rate_hz / given - 1.0) > _RATE_TOLERANCE:
                raise RecordingError(
                    path,
                    f"its ECG has {ecg.rate_hz:g} Hz, not the {given:g} Hz that were given.",
                    "Give no rate, or correct it.",
                )
            return _Heart(ecg, shhs.effort_of(edf), edf.start, edf.duration_s, edf.recording_text)
        spelt = ("column ecg_channel", "column ecg_rate_hz")
        found = read_bcg(path, self.ecg_channel, self.ecg_rate_hz, spelt=spelt)
        if found.other_channels and not self.ecg_channel:
            raise RecordingError(
                path,
                f"has several channels: {', '.join((found.signal.label, *found.other_channels))}.",
                "Say which one is the ECG (column ecg_channel).",
            )
        return dataclasses.replace(_clock_of(found), ecg=found.signal)

    def _clock_of_bcg(self) -> _Heart:
        if self.bcg is None:
            raise RecordingError(
                self.part("ecg"),
                "the night has no heartbeats beside its ECG.",
                "Give a file of beats, or build with --recordings=edf.",
            )
        return _clock_of(
            read_bcg(self.bcg, self.bcg_channel, self.bcg_rate_hz, spelt=self.bcg_spelt)
        )


def _clock_of(found: BcgRecording) -> _Heart:
    start = None if found.start is None else found.start.replace(tzinfo=None)
    return _Heart(None, (), start, len(found.signal.values) / found.signal.rate_hz)
