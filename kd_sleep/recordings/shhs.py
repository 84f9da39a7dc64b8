"""The Sleep Heart Health Study as NSRR hands it out: its folders, its channels, its nights.

    polysomnography/edfs/shhs1/shhs1-200001.edf
    polysomnography/annotations-events-nsrr/shhs1/shhs1-200001-nsrr.xml
    polysomnography/annotations-events-profusion/shhs1/shhs1-200001-profusion.xml
    polysomnography/annotations-rpoints/shhs1/shhs1-200001-rpoint.csv    not every night has one

Stages are in both kinds of XML; NSRR's is read where it exists, and Profusion's else. Where both
exist they have to agree: NSRR's is made from Profusion's. The digit
after `shhs` is the visit; a subject with two visits bears one number in both.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.recordings.beat_files import read_beats
from kd_sleep.recordings.edf import Channel, EdfContents, read_signals
from kd_sleep.recordings.files import hidden
from kd_sleep.recordings.night_files import BCG_SUFFIXES, Listing, NightFiles
from kd_sleep.recordings.recording import Recording, Signal
from kd_sleep.recordings.scored_windows import Scoring, disagreement, labels_of_night
from kd_sleep.recordings.stage_files import read_scoring
from kd_sleep.schema import RECORDED, SIMULATOR, WINDOW_S

SIMULATION_CARD = "simulation.json"  # stands beside polysomnography/ in a simulated cohort

MAX_DISAGREEMENT = 0.1  # share of a night's windows that NSRR's and Profusion's stages differ in
_RECORDING_ID = re.compile(r"shhs([12])-(\d{6})", re.ASCII)
_NSRR_DATE = datetime.date(1985, 1, 1)  # stands in SHHS's headers for every night's own

# Each kind of file, by its name in ShhsFiles: its folder, and its name after the recording id.
_LAYOUT = {
    "edf": ("edfs", ".edf"),
    "stages_xml": ("annotations-events-nsrr", "-nsrr.xml"),
    "profusion_xml": ("annotations-events-profusion", "-profusion.xml"),
    "rpoints_csv": ("annotations-rpoints", "-rpoint.csv"),
}
_UNFINISHED = (".part", ".partial")  # downloads under way

# Labels under which NSRR's cohorts carry the signals, SHHS's own first.
ECG_LABELS = (
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
_VISIT_1_LABEL = {
    "SaO2": "SaO2", "PR": "H.R.", "EEG(sec)": "EEG(sec)", "ECG": "ECG", "EMG": "EMG",
    "EOG(L)": "EOG(L)", "EOG(R)": "EOG(R)", "EEG": "EEG", "AIRFLOW": "NEW AIR",
    "THOR RES": "THOR RES", "ABDO RES": "ABDO RES", "POSITION": "POSITION", "LIGHT": "LIGHT",
    "OX STAT": "OX stat",
}  # fmt: skip
_CHANNEL = {channel.label: channel for channel in _VISIT_1}
_VISIT_2 = tuple(
    dataclasses.replace(
        _CHANNEL[same], label=label, rate_hz=250 if label == "ECG" else _CHANNEL[same].rate_hz
    )
    for label, same in _VISIT_1_LABEL.items()
)

_NEURAL = ("EEG(sec)", "EMG", "EOG(L)", "EOG(R)", "EEG")  # three quarters of a file's bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShhsFiles(NightFiles):
    """The files of one of SHHS's nights.

    Attributes:
      edf: signals.
      stages_xml: scored stages, from NSRR.
      profusion_xml: the same from Profusion, read where NSRR's is absent; None where it is, too.
      rpoints_csv: heartbeats; None where the night has none.
    """

    edf: Path
    stages_xml: Path
    profusion_xml: Path | None
    rpoints_csv: Path | None

    @property
    def parts(self) -> dict[str, Path | None]:
        return {
            "ecg": self.edf,
            "stages": self.stages_xml,
            "profusion": self.profusion_xml,
            "beats": self.rpoints_csv,
        }

    def read(self, *, signals: bool = True) -> Recording:
        """Reads the night's signals, stages and, where there are any, R points.

        The signals set the number of windows. Scoring that ends earlier leaves windows unscored;
        one window more than there are is cut off, since scorers stage the last, incomplete one as
        well. Stages are NSRR's where that file exists, and Profusion's else.

        Args:
          signals: False opens no EDF: no ECG, no effort, a duration of the scored windows, and the
            start's time of day on SHHS's made-up date.

        Raises:
          RecordingError: for a file that is missing or unusable, signals without an ECG, less than
            one window of them, stages that outlast them by more than one window, two files of
            stages that disagree, a night whose scorer separated sleep from wake only, or one
            without R points where they are all there is to read.
        """
        edf = read_polysomnogram(self.edf) if signals else None
        beats = self.rpoints_csv
        if edf is None and (beats is None or not beats.exists()):
            raise RecordingError(
                beats or paths_of(self._shhs_dir, self.recording_id).rpoints_csv or self.edf,
                "is missing: the night has no R points.",
                "Download it (nsrr download shhs/polysomnography/annotations-rpoints), or build"
                " with --recordings=edf.",
            )
        path, scoring = self._read_scoring()
        windows = int(edf.duration_s // WINDOW_S) if edf else None
        labels = labels_of_night(path, scoring, windows)
        start = edf.start if edf else None
        if start is None and scoring.start_time is not None:
            start = datetime.datetime.combine(_NSRR_DATE, scoring.start_time)
        return Recording(
            recording_id=self.recording_id,
            subject_id=self.subject_id,
            visit=self.visit,
            cohort=self._cohort(edf.recording_text if edf else "", scoring.software),
            start=start,
            duration_s=edf.duration_s if edf else len(labels) * WINDOW_S,
            ecg=edf.signals["ecg"] if edf else None,
            effort=effort_of(edf) if edf else (),
            labels=labels,
            rpoints=None if beats is None else read_beats(beats),
        )

    @property
    def _shhs_dir(self) -> Path:
        return self.stages_xml.parents[3]

    def _read_scoring(self) -> tuple[Path, Scoring]:
        """The night's stages, and the file that they are from.

        Profusion's are a witness beside NSRR's, unless they cannot be read.
        """
        second = self.profusion_xml
        if second is None or not second.exists():
            return self.stages_xml, read_scoring(self.stages_xml)
        if not self.stages_xml.exists():
            return second, read_scoring(second)
        scoring = read_scoring(self.stages_xml)
        labels = labels_of_night(self.stages_xml, scoring)
        try:
            share, late = disagreement(labels, read_scoring(second).labels)
        except RecordingError:
            return self.stages_xml, scoring
        if late or share > MAX_DISAGREEMENT:
            way = "later" if late > 0 else "earlier"
            shift = f"; its stages come {abs(late) * WINDOW_S:g} s {way}" if late else ""
            raise RecordingError(
                self.stages_xml,
                f"disagrees with {second} on {share:.1%} of the windows{shift}.",
                "Fetch both again; if one is known to be wrong, remove it.",
            )
        return self.stages_xml, scoring

    def _cohort(self, *texts: str) -> str:
        """`recorded`, or the simulator that one of the files' texts, or the cohort's card, names.

        The card names the seed, too: subjects of two cohorts have the same ids.
        """
        card = self._shhs_dir / SIMULATION_CARD
        simulator = next((text for text in texts if text.startswith(SIMULATOR)), None)
        if not card.exists():
            return simulator or RECORDED
        try:
            seed = json.loads(card.read_bytes())["settings"]["cohort_seed"]
        except (OSError, ValueError, LookupError, TypeError):  # another simulator's
            return simulator or SIMULATOR
        return f"{simulator or SIMULATOR}, seed {seed}"


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
) -> ShhsFiles:
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
    paths: dict[str, Any] = {
        kind: root / folder / f"shhs{visit}" / f"{recording_id}{suffix}"
        for kind, (folder, suffix) in _LAYOUT.items()
    }
    return ShhsFiles(
        recording_id=recording_id,
        subject_id=subject_id,
        visit=int(visit),
        bcg=None if bcg_dir is None else Path(bcg_dir) / f"{recording_id}.edf",
        **paths,
    )


def find_nights(
    shhs_dir: str | os.PathLike,
    bcg_dir: str | os.PathLike | None = None,
    recordings: str = "edf",
) -> Listing[ShhsFiles]:
    """All nights that have stages, or what they are read from.

    A night that lacks one of the two is listed: reading it says what is missing, so that no night
    gets lost in silence. Upper and lower case make no difference in a file's name; where two names
    differ in nothing else, the one in lower case counts and the other is a stray.

    Args:
      shhs_dir: the folder that holds `polysomnography/`.
      bcg_dir: folder of BCG files, named by recording id with one of `BCG_SUFFIXES`.
      recordings: what nights are read from: `edf`, or `rpoints`, which needs no EDF.

    Raises:
      DatasetError: where there is no night, or a folder cannot be listed.
    """
    source = {"edf": "edf", "rpoints": "rpoints_csv"}[recordings]
    found, strays = _find_files(Path(shhs_dir) / "polysomnography")
    listed = sorted(
        recording_id
        for recording_id, kinds in found.items()
        if kinds.keys() & {source, "stages_xml", "profusion_xml"}
    )
    if not listed:
        folder, _ = _LAYOUT[source]
        raise DatasetError(
            f"{os.fspath(shhs_dir)}: no night of SHHS here; expected files such as"
            f" {getattr(paths_of(shhs_dir, 'shhs1-200001'), source)}.",
            f"Download them with `nsrr download shhs/polysomnography/{folder}` and likewise"
            " annotations-events-nsrr (https://sleepdata.org/datasets/shhs), or simulate a cohort"
            " in the same layout.",
        )
    bcg_files: dict[str, list[Path]] = {}  # by their names in lower case
    for file in [] if bcg_dir is None else _files(Path(bcg_dir)):
        bcg_files.setdefault(file.name.lower(), []).append(file)
    nights = []
    for recording_id in listed:
        night = paths_of(shhs_dir, recording_id, bcg_dir)
        kinds: dict[str, Any] = {"profusion_xml": None, "rpoints_csv": None, **found[recording_id]}
        names = [recording_id + suffix for suffix in BCG_SUFFIXES]
        bcg = [file for name in names for file in bcg_files.get(name, [])]
        nights.append(
            dataclasses.replace(
                night,
                bcg=bcg[0] if bcg else night.bcg,
                more_bcg=tuple(bcg[1:]),
                **kinds,
            )
        )
    return Listing(shhs_dir, nights, strays)


def _find_files(root: Path) -> tuple[dict[str, dict[str, Path]], list[Path]]:
    """The files of each recording by their kind, and the strays."""
    found: dict[str, dict[str, Path]] = {}
    strays = []
    for kind, (folder, suffix) in _LAYOUT.items():
        for tranche in ("shhs1", "shhs2"):
            for file in _files(root / folder / tranche):
                name = file.name.lower()
                recording_id = name.removesuffix(suffix)
                if (
                    recording_id == name
                    or not recording_id.startswith(tranche)
                    or not _RECORDING_ID.fullmatch(recording_id)
                    or kind in found.get(recording_id, {})
                ):
                    strays.append(file)
                else:
                    found.setdefault(recording_id, {})[kind] = file
    return found, sorted(strays)


def _files(folder: Path) -> list[Path]:
    """The folder's files, names in lower case first; none where there is no such folder.

    Hidden files and unfinished downloads are left out.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not os.path.isdir(entry)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot be listed ({error.strerror}).", "Check its permissions."
        ) from error
    names = [n for n in names if not hidden(n) and not n.lower().endswith(_UNFINISHED)]
    return [folder / name for name in sorted(names, key=lambda n: (n != n.lower(), n))]


def read_polysomnogram(path: Path, ecg_labels: Sequence[str] = ECG_LABELS) -> EdfContents:
    """The EDF's `ecg`, and `thorax` and `abdomen` where they were recorded.

    Raises:
      RecordingError: as `read_signals`; no ECG, or less than one window.
    """
    wanted = {"ecg": ecg_labels, "thorax": _THORAX_LABELS, "abdomen": _ABDOMEN_LABELS}
    edf = read_signals(path, wanted)
    if "ecg" not in edf.signals:
        raise RecordingError(
            path, f"has no ECG among {', '.join(edf.labels)}.", "Leave this night out."
        )
    if edf.duration_s < WINDOW_S:
        raise RecordingError(
            path, f"lasts {edf.duration_s:g} s, less than one window.", "Leave this night out."
        )
    return edf


def effort_of(edf: EdfContents) -> tuple[Signal, ...]:
    """The breathing effort of thorax and abdomen."""
    return tuple(edf.signals[name] for name in ("thorax", "abdomen") if name in edf.signals)
