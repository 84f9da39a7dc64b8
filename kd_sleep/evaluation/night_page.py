"""One night as its files have it: stages, heart rate, signal quality, and the two clocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from kd_sleep import schema
from kd_sleep.config import DatasetConfig
from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.evaluation.report.drawings import hypnogram, stairs
from kd_sleep.evaluation.report.night_gallery import RELIABLE_SNR_DB
from kd_sleep.features import night
from kd_sleep.features.night import Exclusion
from kd_sleep.pages import INK, MUTED, WIDE, drawing, figure_of, page, section
from kd_sleep.recordings.night_files import NightFiles
from kd_sleep.recordings.shhs import find_nights
from kd_sleep.signals.alignment import RJ_S, Alignment


def write_night_pages(
    out: Path, shhs_dir: Path, bcg_dir: Path, wanted: Sequence[str], config: DatasetConfig
) -> Iterator[str]:
    """Writes pages of nights into `out`; yields the path of each, or why there is none.

    Args:
      out: folder, made where it is not.
      shhs_dir, bcg_dir: as for a build.
      wanted: recording ids, or `all`.
      config: settings of a build.

    Raises:
      DatasetError: no nights there, or not the wanted ones.
    """
    paired = config.bcg_source == "paired"
    nights = find_nights(shhs_dir, bcg_dir if paired else None, config.recordings).nights
    if list(wanted) != ["all"]:
        unknown = sorted(set(wanted) - {files.recording_id for files in nights})
        if unknown:
            raise DatasetError(f"{shhs_dir}: no night {', '.join(unknown)}.", "Or name all.")
        nights = [files for files in nights if files.recording_id in wanted]
    for files in tqdm(nights, desc="Drawing", unit="night", disable=len(nights) == 1):
        path = out / f"{files.recording_id}.html"
        try:
            record, clock = read_night(files, config)
        except RecordingError as error:
            yield f"no page of {files.recording_id}: {error}"
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        title = f"Night {files.recording_id}"
        path.write_text(page(title, _body(title, record, clock)), encoding="utf-8")
        yield str(path)


def read_night(
    files: NightFiles, config: DatasetConfig
) -> tuple[schema.NightRecord, Alignment | None]:
    """A night's record, and how its BCG's clock was found, where it has a file of its own.

    Raises:
      RecordingError: for a night that a build would leave out.
    """
    record = night.process_night(files, config)
    if isinstance(record, Exclusion):
        raise RecordingError(record.path, record.reason, record.remedy)
    if not np.isfinite(record["clock_confidence"]):
        return record, None
    recording = files.read(signals=config.recordings == "edf")
    beats, _, _ = night.heartbeats(files, recording)
    return record, night.aligned_bcg(files, config, recording, beats)[1]


def _body(title: str, record: schema.NightRecord, clock: Alignment | None) -> str:
    simulator = record["simulator"]
    badge = f'<p class="badge">Simulated: {escape(simulator)}.</p>' if simulator != "none" else ""
    text = (
        f"{len(record['label'])} windows; RR intervals missing in"
        f" {100 * np.mean(record['rr_missing']):.1f} %, BCG ({record['bcg_source']}) in"
        f" {100 * np.mean(record['bcg_missing']):.1f} % of the time."
    )
    strips = section("Through the night", figure_of(night_strips(record), text, "wide"))
    if clock is None:
        return f"<h1>{escape(title)}</h1>{badge}{strips}"
    drawn = section("Two clocks", figure_of(clocks(clock), _clock_text(clock), "wide"))
    return f"<h1>{escape(title)}</h1>{badge}{strips}{drawn}"


def _clock_text(clock: Alignment) -> str:
    return (
        f"The BCG's clock reads 0 at {clock.offset_s:.2f} s of the ECG's and runs"
        f" {1e6 * clock.drift:+.1f} ppm off. {100 * clock.agreeing:.0f} % of the five-minute"
        f" segments agree, with {1e3 * clock.residual_s:.0f} ms RMS about the line; confidence"
        f" {clock.confidence:.2f}. The delay from R to J is relative to a mean of"
        f" {1e3 * RJ_S:.0f} ms, which the offset hides."
    )


@drawing
def night_strips(record: schema.NightRecord) -> tuple[Figure, str]:
    """Hypnogram, heart rate, ECG quality and BCG quality, window by window."""
    hours = np.arange(len(record["label"]) + 1) * schema.WINDOW_S / 3600.0
    figure = Figure((WIDE, 6.4), layout="constrained")
    panels = figure.subplots(4, sharex=True)
    hypnogram(panels[0], hours, np.asarray(record["label"]), "Scored stages")
    heart = 60.0 / _mean_of_known(np.asarray(record["tachogram"], np.float64))
    stairs(panels[1], hours, heart, "Heart rate", "Beats/min")
    stairs(panels[2], hours, 100.0 * record["ecg_quality"], "Usable ECG", "%")
    stairs(panels[3], hours, np.asarray(record["bcg_snr_db"]), "BCG quality", "SNR, dB")
    panels[2].set_ylim(-5, 105)
    panels[3].axhline(RELIABLE_SNR_DB, color=MUTED, linestyle=":", linewidth=1)
    panels[3].set_xlim(0, hours[-1])
    panels[3].set_xlabel("Hours since the start of the recording")
    known = heart[np.isfinite(heart)]
    text = f"Night {record['recording_id']}, {hours[-1]:.1f} hours: scored stages"
    if len(known):
        text += f"; heart rate {known.min():.0f} to {known.max():.0f} a minute"
    return figure, f"{text}; quality of ECG and BCG."


def _mean_of_known(values_NT: NDArray) -> NDArray[np.float64]:
    """[N] mean over T of what is there; NaN where nothing is."""
    known = np.isfinite(values_NT)
    total = np.where(known, values_NT, 0.0).sum(1)
    return np.divide(total, known.sum(1), out=np.full(len(total), np.nan), where=known.any(1))


@drawing
def clocks(clock: Alignment) -> tuple[Figure, str]:
    """Lags of the segments about the line, and the R-to-J delay over the night."""
    figure = Figure((WIDE, 3.8), layout="constrained")
    lags, delays = figure.subplots(2, sharex=True)
    hours = clock.segment_times_s / 3600.0
    apart_ms = 1e3 * (clock.segment_lags_s - clock.lag_s(clock.segment_times_s))
    agrees = clock.segment_agrees
    lags.axhline(0.0, color=MUTED, linewidth=1)
    lags.plot(hours[agrees], apart_ms[agrees], "o", color=INK, ms=3)
    lags.plot(hours[~agrees], apart_ms[~agrees], "x", color=MUTED, ms=4)
    reach_ms = max(60.0, 1.2 * np.abs(apart_ms[agrees]).max(initial=0.0))
    lags.set_ylim(-reach_ms, reach_ms)  # a segment of another clock may lie minutes off
    lags.set_title("Five-minute segments about the line: dots agree, crosses do not")
    lags.set_ylabel("ms")
    delays.plot(clock.rj_times_s / 3600.0, 1e3 * clock.rj_s, color=INK)
    delays.set_title("Delay from R to J")
    delays.set_ylabel("ms")
    delays.set_xlabel("Hours since the start of the recording")
    text = f"{agrees.sum()} of {len(agrees)} segments agree on one clock. {_clock_text(clock)}"
    return figure, text
