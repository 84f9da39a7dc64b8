"""One night's files to one night record: a pure function, the same under every engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep import schema
from kd_sleep.config import DatasetConfig
from kd_sleep.errors import RecordingError
from kd_sleep.features import fields
from kd_sleep.features.bcg import NoHeartbeatBand
from kd_sleep.features.fields import MIN_ECG_HZ
from kd_sleep.recordings.night_files import NightFiles
from kd_sleep.recordings.paired_bcg import BcgRecording, read_bcg
from kd_sleep.recordings.recording import Recording
from kd_sleep.signals import alignment, quality
from kd_sleep.signals.timeseries import Series
from kd_sleep.simulation.physiology import SIMULATOR_VERSION
from kd_sleep.simulation.recorded_drive import inferred, simulated_bcg

SEARCH_S = 600.0  # on either side of where the headers have the BCG's clock
WIDE_SEARCH_S = 2400.0  # of the ECG's start, where that fails: two zones may be 30 minutes apart
LEAVE_OUT = "Look at the BCG; the night is left out."


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """A night that is not used: which, by which file, why, and what to do about it."""

    recording_id: str
    path: str
    reason: str
    remedy: str

    def __post_init__(self) -> None:
        # Names of files, and of what is in them, need be no text: they are listed in UTF-8.
        for field in dataclasses.fields(self):
            text = getattr(self, field.name).encode(errors="backslashreplace").decode()
            object.__setattr__(self, field.name, text)


def process_night(files: NightFiles, config: DatasetConfig) -> schema.NightRecord | Exclusion:
    """Reads a night and computes every field of `schema.NIGHT_FIELDS`.

    Returns:
      The record, or an Exclusion where a file cannot be used. One night never stops the others: an
      error that nobody foresaw is an exclusion, too, and says so.
    """
    try:
        return _record(files, config)
    except RecordingError as error:
        return Exclusion(files.recording_id, error.path, error.problem, error.remedy)
    except Exception as error:
        reason = f"unforeseen {type(error).__name__}: {error}"
        remedy = "Please report this with the file's header; the night is left out."
        return Exclusion(files.recording_id, str(files.part()), reason, remedy)


def _record(files: NightFiles, config: DatasetConfig) -> schema.NightRecord:
    recording = files.read(signals=config.recordings == "edf")
    windows = len(recording.labels)
    beats, normal, ecg_quality = heartbeats(files, recording)
    source = _bcg_source(files, config, beats)
    record = {
        "recording_id": recording.recording_id,
        "subject_id": recording.subject_id,
        "visit": np.int32(recording.visit),
        "cohort": recording.cohort,
        "bcg_source": source,
        "simulator": _simulator(recording, source),
        "label": recording.labels.astype(np.int8),
        **fields.heart_fields(beats, normal, windows),
        "ecg_quality": ecg_quality,
        **_bcg_fields(files, recording, config, source, beats, normal),
    }
    schema.validate(record)
    return record


def _bcg_source(files: NightFiles, config: DatasetConfig, beats: NDArray) -> str:
    """Where this night's BCG comes from: in a paired dataset some nights may have none."""
    source = config.bcg_source
    if source == "paired" and files.bcg is None:
        source = "none"
    if source != "paired" and len(beats) == 0:
        raise RecordingError(
            files.part(),
            f"the night has neither ECG nor beats, and --bcg_source={source} reads no BCG file.",
            "Build with --bcg_source=paired, or leave the night out.",
        )
    return source


def _simulator(recording: Recording, source: str) -> str:
    """What simulated the night or only its BCG, and what of the body that was not recorded."""
    names = [recording.cohort] if recording.cohort.startswith(schema.SIMULATOR) else []
    if source == "simulated":
        names = [*(names or [f"{schema.SIMULATOR} {SIMULATOR_VERSION}"]), *inferred(recording)]
    return ", ".join(names) or "none"


def heartbeats(
    files: NightFiles, recording: Recording
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float32]]:
    """A night's beats: R points where given, else the detector's.

    Returns:
      [M] times in s; [M] whether each is a normal beat: as the R points tell, or, of the
      detector's, as `typed_beats` has it; [N] the windows' ECG quality, NaN if no ECG.
      No beats for a night of a BCG alone.

    Raises:
      RecordingError: R points of another night, an ECG too slow, or no heart to be seen.
    """
    windows, ecg = len(recording.labels), recording.ecg
    quality_N = np.full(windows, np.nan, np.float32)
    if recording.rpoints is not None:
        times, normal = recording.rpoints.times_s, recording.rpoints.normal
        source = files.part("beats", "ecg")
        try:
            fields.check_given_beats(times, recording.duration_s)
        except fields.NoHeartbeat as error:
            raise RecordingError(
                source,
                f"{error}.",
                "Remove the file to have beats detected in the ECG, or fetch it again.",
            ) from error
        if ecg is not None and ecg.rate_hz >= MIN_ECG_HZ:
            quality_N = quality.ecg_quality(ecg.values, ecg.rate_hz, times, windows)
    elif ecg is None:
        return np.empty(0), np.empty(0, bool), quality_N  # its BCG is all there is
    else:
        if ecg.rate_hz < MIN_ECG_HZ:
            raise RecordingError(
                files.part("ecg"),
                f"its ECG has {ecg.rate_hz:g} Hz, too few to see a heartbeat.",
                "Give an R-point CSV, or leave the night out.",
            )
        source = files.part("ecg")
        times, normal, usable = fields.detected_beats(ecg.values, ecg.rate_hz)
        quality_N = quality.usable_share(usable, windows)
    try:
        fields.check_heart(normal, recording.duration_s)
    except fields.NoHeartbeat as error:
        remedy = "Look at the ECG; the night is left out."
        raise RecordingError(source, f"{error}.", remedy) from error
    return times, normal, quality_N


def aligned_bcg(
    files: NightFiles, config: DatasetConfig, recording: Recording, beats: NDArray
) -> tuple[Series, alignment.Alignment]:
    """The night's BCG without flat stretches, and where its clock lies in the ECG's.

    Raises:
      RecordingError: no BCG file, an unusable one, or one whose beats do not fit the ECG's.
    """
    path = files.bcg_file()
    bcg = read_bcg(
        path,
        files.bcg_channel or config.bcg_channel,
        files.bcg_rate_hz or config.bcg_rate_hz,
        spelt=files.bcg_spelt,
    )
    series = bcg.signal.series.without_flat()
    if len(beats) == 0:
        return series, alignment.UNALIGNED
    failed = None
    # A start may be of another zone or wrong: the heartbeats decide, in a wider search without it.
    for guess_s, search_s in ((_header_offset_s(recording, bcg), SEARCH_S), (0.0, WIDE_SEARCH_S)):
        try:
            return series, alignment.align(beats, series, guess_s=guess_s, search_s=search_s)
        except alignment.NoAlignment as error:
            failed = failed or error
    raise RecordingError(
        path,
        f"the BCG's clock cannot be told from its heartbeats: {failed}.",
        "Is it of this night and this sleeper? Look at --bcg_dir.",
    ) from failed


def _header_offset_s(recording: Recording, bcg: BcgRecording) -> float:
    """Seconds from the ECG's start to the BCG's by the files' headers; 0 where one has no clock.

    SHHS's dates are made up (1985), so that only the time of day counts where the days differ.
    Where a BCG tells UTC, and nobody the zone, whole hours between the two are taken for it; zones
    off the full hour are left to the wider search.
    """
    if recording.start is None or bcg.start is None:
        return 0.0
    day, hour = 24 * 3600.0, 3600.0
    seconds = (bcg.start.replace(tzinfo=None) - recording.start).total_seconds()
    if bcg.start.tzinfo is not None:
        return (seconds + hour / 2) % hour - hour / 2
    return seconds if abs(seconds) < day else (seconds + day / 2) % day - day / 2


def _bcg_fields(
    files: NightFiles,
    recording: Recording,
    config: DatasetConfig,
    source: str,
    beats: NDArray,
    normal: NDArray,
) -> dict[str, Any]:
    """All of the record's fields about the BCG and its clock."""
    windows = len(recording.labels)
    clock = {
        "rj": np.full(windows, np.nan, np.float32),
        **dict.fromkeys(("clock_offset", "clock_drift"), np.float32(0.0)),
        **dict.fromkeys(("clock_residual", "clock_confidence"), np.float32(np.nan)),
    }
    if source == "none":
        return clock | fields.no_bcg_fields(windows)
    if source == "simulated":
        made = simulated_bcg(recording, beats, normal, config.simulated_sensor)
        return clock | _sampled(files, made, windows, config)
    bcg, found = aligned_bcg(files, config, recording, beats)
    return {
        "rj": _by_window(found.rj_times_s, found.rj_s, windows),
        "clock_offset": np.float32(found.offset_s),
        "clock_drift": np.float32(found.drift),
        "clock_residual": np.float32(found.residual_s),
        "clock_confidence": np.float32(found.confidence),
        **_sampled(files, found.corrected(bcg), windows, config),
    }


def _by_window(times_s: NDArray, values: NDArray, windows: int) -> NDArray[np.float32]:
    """A slow track at the windows' centres; NaN before its first and after its last value."""
    known = np.isfinite(values)
    if not known.any():
        return np.full(windows, np.nan, np.float32)
    centre_s = (np.arange(windows) + 0.5) * schema.WINDOW_S
    track = np.interp(centre_s, times_s[known], values[known], left=np.nan, right=np.nan)
    return track.astype(np.float32)


def _sampled(files: NightFiles, bcg: Series, windows: int, config: DatasetConfig) -> dict[str, Any]:
    """The BCG's series, samples, scale and quality, from a BCG on the ECG's clock."""
    try:
        return fields.bcg_fields(bcg, windows, config.bcg_samples)
    except NoHeartbeatBand as error:
        raise RecordingError(files.bcg or files.part("ecg"), str(error), LEAVE_OUT) from error
