"""Files of BCG or ECG -> files of stages: a CSV, an EDF+, a JSON summary and a picture each.

| file | holds |
|---|---|
| `<name>-hypnogram.csv` | under a header, a line a window: start, stage, probabilities, SQI, flag |
| `<name>-hypnogram.edf` | the stages as EDF+ annotations, and spans whose stages are doubtful |
| `<name>-summary.json` | sleep measures, agreement, share flagged, warnings, network, versions |
| `<name>-night.png` or `.svg` | the night on one page |

`<name>` is the recording's file name without suffix and without what is no plain character: nothing
inside a file says where anything is written.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import edfio
import jax
import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import ConfigError, KdSleepError, RecordingError
from kd_sleep.extras import optional_packages
from kd_sleep.inference.staged_night import Staging
from kd_sleep.inference.staging import StagingStudent, load_student
from kd_sleep.parallel import map_nights
from kd_sleep.provenance import versions, write_json
from kd_sleep.recordings.bcg_formats import SUFFIXES
from kd_sleep.recordings.files import hidden
from kd_sleep.recordings.paired_bcg import read_bcg
from kd_sleep.schema import WINDOW_S
from kd_sleep.signals.timeseries import runs
from kd_sleep.stages import UNSCORED, Stage

if TYPE_CHECKING:  # flax is for teachers alone
    from kd_sleep.inference.ecg_staging import StagingTeacher

# The names of AASM, which EDFbrowser and MNE know. Light is N1 or N2, and N2 the more common.
EDF_TEXTS = {
    Stage.WAKE: "Sleep stage W",
    Stage.REM: "Sleep stage R",
    Stage.LIGHT: "Sleep stage N2",
    Stage.DEEP: "Sleep stage N3",
    UNSCORED: "Sleep stage ?",
}
EDF_NOTE = "N2 stands for Light, N1 or N2"
_HALF_DAY_S = 43_200
DOUBTFUL = "doubtful"
_OWN = ("-hypnogram.edf", "-hypnogram.csv")
_LONGEST_NAME = 100
_DIGITS = 4
_LOOK = "Look at --bcg or --ecg."


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
      path: the recording.
      report: sentences for its reader; empty where it could not be staged.
      problem: why it could not be, and what to do; empty where it was.
    """

    path: str
    report: str
    problem: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """How recordings are read and what is written of them.

    Attributes:
      channel: as `read_bcg` takes it; empty for the only one, or the best.
      rate_hz: of files that do not state theirs; 0 refuses these.
      start: of a lone recording's first sample, in place of what its file states.
      stages: a scorer's stages of a lone recording, as `stage_files.read_scoring` takes them.
      picture: of `config.PICTURES`.
    """

    channel: str = ""
    rate_hz: float = 0.0
    start: datetime.datetime | None = None
    stages: Path | None = None
    picture: str = "png"


def stage_files(
    network: Path,
    recordings: Sequence[Path],
    out: Path,
    reading: Reading = Reading(),
    *,
    kind: str = "student",
    workers: int = 0,
) -> Iterator[Outcome]:
    """Stages recordings into `out`; one that cannot be staged does not stop the others.

    Args:
      network: work folder or file of a student or a teacher.
      recordings: files, and folders whose files of a known suffix are taken, but no hidden ones:
        BCGs for a student; for a teacher ECGs, or beats as `beat_files.read_beats` takes them.
      out: folder, made where it is not.
      reading: how they are read, and what is written.
      kind: of `network`: student or teacher.
      workers: processes; 0 takes one per core.

    Raises:
      ConfigError: no recording there, or one start or one scoring for several.
      ExportError, TrainingError: no such network there.
      MissingPackage: Matplotlib is not installed.
    """
    paths = found(recordings)
    for name, value in (("start", reading.start), ("stages", reading.stages)):
        if value is not None and len(paths) > 1:
            raise ConfigError(
                f"--{name}={value}: one for {len(paths)} recordings.", "Stage them one by one."
            )
    # What is wrong with these is reported before any work is done.
    _network(os.fspath(network), kind)
    if reading.picture != "none":
        with optional_packages():
            import matplotlib  # noqa: F401
    out.mkdir(parents=True, exist_ok=True)
    stage_one = functools.partial(
        _outcome, network=os.fspath(network), kind=kind, out=out, reading=reading
    )
    yield from map_nights(stage_one, names(paths), workers, "Staging")


def found(recordings: Sequence[Path]) -> list[Path]:
    """The files that are meant, in order of their names within each folder.

    Raises:
      ConfigError: something that is not there, or no file in a folder.
    """
    paths = []
    for place in recordings:
        if not place.exists():
            raise ConfigError(f"{place}: no such file or folder.", _LOOK)
        inside = [place]
        if place.is_dir():
            inside = sorted(
                path
                for path in place.iterdir()
                if path.suffix.lower() in SUFFIXES
                and not path.name.endswith(_OWN)
                and not (hidden(path.name) or path.is_dir())
            )
        if not inside:
            raise ConfigError(f"{place}: no recording in it ({', '.join(SUFFIXES)}).", _LOOK)
        paths += inside
    return list(dict.fromkeys(paths))


def names(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Each recording with a name for its outputs: plain characters, and no two alike."""
    taken: set[str] = set()
    named = []
    for path in paths:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem)[:_LONGEST_NAME].strip("._") or "night"
        name, number = plain, 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.lower())
        named.append((path, name))
    return named


def stage_file(
    network: StagingStudent | StagingTeacher,
    path: Path,
    name: str,
    out: Path,
    reading: Reading = Reading(),
) -> Staging:
    """Stages one recording and writes its files.

    Raises:
      RecordingError: a file that cannot be read, or stages of another night.
      StagingError: a BCG whose stages would be noise.
    """
    if isinstance(network, StagingStudent):
        staging, start, about = _stage_bcg(network, path, reading)
    else:
        staging, start, about = _stage_ecg(network, path, reading)
    if reading.stages is not None:
        staging = staging.against(_labels(reading.stages, start, len(staging)))
    write_csv(out / f"{name}-hypnogram.csv", staging, start)
    write_edf(out / f"{name}-hypnogram.edf", staging, start)
    summary = {
        "recording": path.name.encode(errors="backslashreplace").decode(),
        "start": start.isoformat() if start else None,
        **about,
        **staging.summary(),
        "edf_texts": {Stage(stage).name.title(): EDF_TEXTS[stage] for stage in Stage},
        "versions": _versions(),
    }
    write_json(out / f"{name}-summary.json", summary)
    if reading.picture != "none":
        from kd_sleep.inference.picture import write_picture  # Matplotlib takes half a second

        write_picture(out / f"{name}-night.{reading.picture}", staging, name, start)
    return staging


_Staged = tuple[Staging, datetime.datetime | None, dict[str, Any]]


def _stage_bcg(student: StagingStudent, path: Path, reading: Reading) -> _Staged:
    """A BCG's staging, its start, and what the summary has of the recording."""
    found = read_bcg(path, reading.channel, reading.rate_hz, spelt=("--channel", "--rate"))
    signal = found.signal
    about = {
        "channel": signal.label,
        "rate_hz": signal.rate_hz,
        "duration_s": len(signal.values) / signal.rate_hz,
        "other_channels": list(found.other_channels),
        "notes": list(found.notes),
    }
    return student.stage(signal.values, signal.rate_hz), reading.start or found.start, about


def _stage_ecg(teacher: StagingTeacher, path: Path, reading: Reading) -> _Staged:
    """The same of an ECG, or of a file with its beats."""
    from kd_sleep.features.night import heartbeats  # these need kd_sleep[data]
    from kd_sleep.recordings.beat_files import holds_beats
    from kd_sleep.recordings.night_table import SeparateFiles

    class Night(SeparateFiles):
        ecg_spelt: ClassVar = ("--channel", "--rate")

    beats_alone = holds_beats(path)
    files = Night(
        recording_id="night",
        subject_id="night",
        ecg_channel=reading.channel,
        ecg_rate_hz=reading.rate_hz,
        start=reading.start,
        beats=path if beats_alone else None,
        ecg=None if beats_alone else path,
    )
    night = files.read()
    beats, normal, _ = heartbeats(files, night)
    about = {
        "channel": night.ecg.label if night.ecg else "beats",
        "rate_hz": night.ecg.rate_hz if night.ecg else None,
        "duration_s": night.duration_s,
    }
    return teacher.stage_beats(beats, normal, len(night.labels)), night.start, about


def _labels(path: Path, start: datetime.datetime | None, windows: int) -> NDArray[np.int8]:
    """A scorer's stages of the night's windows, placed by the clocks where both are known.

    A scoring without a clock is taken to begin with the recording.
    """
    from kd_sleep.recordings.scored_windows import labels_of_night
    from kd_sleep.recordings.stage_files import read_scoring  # needs kd_sleep[data]

    scoring = read_scoring(path, start)
    if start is None or scoring.start_time is None:
        return labels_of_night(path, scoring, windows)
    began = datetime.datetime.combine(start.date(), scoring.start_time)
    late_s = (start.replace(tzinfo=None) - began).total_seconds()  # of the recording
    late = round(((late_s + _HALF_DAY_S) % (2 * _HALF_DAY_S) - _HALF_DAY_S) / WINDOW_S)
    labels = np.full(windows, UNSCORED, np.int8)
    scored = labels_of_night(path, scoring)
    first, last = max(late, 0), min(late + windows, len(scored))
    if first < last:
        labels[first - late : last - late] = scored[first:last]
    return labels


def write_csv(path: Path, staging: Staging, start: datetime.datetime | None) -> None:
    """A header line, then a line a window; empty where a number is not known."""
    columns: dict[str, Sequence[str]] = {
        name: _cells(values) for name, values in staging.columns().items()
    }
    clock = [_clock(start, number) for number in range(len(staging))]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["window", "start", *columns])
    table.writerows(zip(range(len(staging)), clock, *columns.values(), strict=True))
    path.write_text(text.getvalue(), encoding="utf-8")


def _cells(values: Sequence[str] | NDArray) -> Sequence[str]:
    if not isinstance(values, np.ndarray):
        return values
    rounded = np.round(values.astype(np.float64), _DIGITS)
    return ["" if value != value else f"{value:g}" for value in rounded.tolist()]


def _clock(start: datetime.datetime | None, window: int) -> str:
    if start is None:
        return ""
    return (start + datetime.timedelta(seconds=window * WINDOW_S)).isoformat(timespec="seconds")


def write_edf(path: Path, staging: Staging, start: datetime.datetime | None) -> None:
    """An EDF+ file without signals: an annotation a window, and one for each doubtful span."""
    stages = [
        edfio.EdfAnnotation(number * WINDOW_S, WINDOW_S, EDF_TEXTS[stage])
        for number, stage in enumerate(staging.stages.tolist())
    ]
    first_doubtful, behind_last = runs(staging.flagged)
    spans = [
        edfio.EdfAnnotation(first * WINDOW_S, (last - first) * WINDOW_S, DOUBTFUL)
        for first, last in zip(first_doubtful.tolist(), behind_last.tolist(), strict=True)
    ]
    warned = [
        edfio.EdfAnnotation(0.0, None, f"warning: {warning.reason}") for warning in staging.warnings
    ]
    note = edfio.EdfAnnotation(0.0, None, EDF_NOTE)
    # The header holds the years 1985 to 2084.
    dated = start if start is not None and 1985 <= start.year <= 2084 else None
    edfio.Edf(
        [],
        recording=edfio.Recording(
            startdate=dated.date() if dated else None, equipment_code="kd_sleep"
        ),
        starttime=start.time().replace(tzinfo=None) if start else None,
        annotations=[note, *warned, *stages, *spans],
    ).write(path)


@functools.cache
def _versions() -> dict[str, str]:
    """Asked once: a tenth of a second of reading."""
    return versions()


@functools.lru_cache(maxsize=1)
def _network(path: str, kind: str) -> StagingStudent | StagingTeacher:
    """Loaded once in each process, to run on the CPU: an accelerator takes longer to start.

    What is compiled is kept in the user's cache folder, unless JAX is told of another.
    """
    if jax.config.values["jax_platforms"] is None:
        jax.config.update("jax_platforms", "cpu")
    if jax.config.values["jax_compilation_cache_dir"] is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "kd_sleep"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if kind == "student":
        return load_student(path)
    from kd_sleep.inference.ecg_staging import load_teacher  # and with it, flax

    return load_teacher(path)


def _outcome(
    job: tuple[Path, str], *, network: str, kind: str, out: Path, reading: Reading
) -> Outcome:
    """Stages one file; whatever is wrong with it is an outcome, so that the others go on."""
    path, name = job
    shown = os.fspath(path).encode(errors="backslashreplace").decode()
    try:
        staging = stage_file(_network(network, kind), path, name, out, reading)
    except RecordingError as error:  # which names the file itself
        same = error.path == os.fspath(path)
        problem = f"{error.problem} {error.remedy}".strip() if same else str(error)
        return Outcome(shown, "", problem)
    except (KdSleepError, OSError) as error:
        return Outcome(shown, "", str(error))
    except Exception as error:
        remedy = "Please report this with the file's header."
        return Outcome(shown, "", f"unforeseen {type(error).__name__}: {error}. {remedy}")
    report = [staging.reliability(), *(f"Warning: {one.text}." for one in staging.warnings)]
    if found := staging.agreement:
        report.append(f"{found.sentence()}\n{found.table()}")
    return Outcome(shown, " ".join(report).replace("?.", "?"), "")
