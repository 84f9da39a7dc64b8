"""Files of BCG -> files of stages: a CSV, an EDF+, a JSON summary and a picture each.

| file | holds |
|---|---|
| `<name>-hypnogram.csv` | under a header, a line a window: start, stage, probabilities, SQI, flag |
| `<name>-hypnogram.edf` | the stages as EDF+ annotations, and spans whose stages are doubtful |
| `<name>-summary.json` | sleep measures, share flagged, warnings, the student, versions |
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
from typing import Any

import edfio
import jax
import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import ConfigError, KdSleepError, RecordingError
from kd_sleep.extras import optional_packages
from kd_sleep.inference.staging import Staging, StagingStudent, load_student
from kd_sleep.parallel import map_nights
from kd_sleep.provenance import versions, write_json
from kd_sleep.recordings.bcg_formats import SUFFIXES
from kd_sleep.recordings.files import hidden
from kd_sleep.recordings.paired_bcg import BcgRecording, read_bcg
from kd_sleep.schema import WINDOW_S
from kd_sleep.signals.timeseries import runs
from kd_sleep.stages import UNSCORED, Stage

# The names of AASM, which EDFbrowser and MNE know. Light is N1 or N2, and N2 the more common.
EDF_TEXTS = {
    Stage.WAKE: "Sleep stage W",
    Stage.REM: "Sleep stage R",
    Stage.LIGHT: "Sleep stage N2",
    Stage.DEEP: "Sleep stage N3",
    UNSCORED: "Sleep stage ?",
}
EDF_NOTE = "N2 stands for Light, N1 or N2"
DOUBTFUL = "doubtful"
_OWN = ("-hypnogram.edf", "-hypnogram.csv")
_LONGEST_NAME = 100
_DIGITS = 4


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
      path: the recording.
      said: sentences for its reader; empty where it could not be staged.
      problem: why it could not be, and what to do; empty where it was.
    """

    path: str
    said: str
    problem: str


def stage_files(
    student: Path,
    recordings: Sequence[Path],
    out: Path,
    *,
    channel: str = "",
    rate_hz: float = 0.0,
    start: datetime.datetime | None = None,
    picture: str = "png",
    workers: int = 0,
) -> Iterator[Outcome]:
    """Stages BCG recordings into `out`; one that cannot be staged does not stop the others.

    Args:
      student: its work folder or exported file.
      recordings: files, and folders whose files of a known suffix are taken, but no hidden ones.
      out: folder, made where it is not.
      channel, rate_hz: as for `read_bcg`.
      start: of a lone recording's first sample, in place of what its file says.
      picture: of `config.PICTURES`.
      workers: processes; 0 takes one per core.

    Raises:
      ConfigError: no recording there, or one start for several.
      ExportError, TrainingError: no student there.
      MissingPackage: Matplotlib is not installed.
    """
    paths = found(recordings)
    if start is not None and len(paths) > 1:
        raise ConfigError(
            f"--start={start.isoformat()}: one start for {len(paths)} recordings.",
            "Stage them one by one.",
        )
    # What is wrong with these is said before any work is done.
    _student(os.fspath(student))
    if picture != "none":
        with optional_packages():
            import matplotlib  # noqa: F401
    out.mkdir(parents=True, exist_ok=True)
    stage_one = functools.partial(
        _outcome,
        student=os.fspath(student),
        out=out,
        channel=channel,
        rate_hz=rate_hz,
        start=start,
        picture=picture,
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
            raise ConfigError(f"{place}: no such file or folder.", "Look at --bcg.")
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
            raise ConfigError(f"{place}: no BCG in it ({', '.join(SUFFIXES)}).", "Look at --bcg.")
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
    student: StagingStudent,
    path: Path,
    name: str,
    out: Path,
    *,
    channel: str = "",
    rate_hz: float = 0.0,
    start: datetime.datetime | None = None,
    picture: str = "png",
) -> Staging:
    """Stages one recording and writes its files.

    Raises:
      RecordingError: a file that cannot be read.
      StagingError: a BCG whose stages would be noise.
    """
    recording = read_bcg(path, channel, rate_hz, spelt=("--channel", "--rate"))
    began = start or recording.start
    staging = student.stage(recording.signal.values, recording.signal.rate_hz)
    stem = out / name
    write_csv(stem.with_name(f"{name}-hypnogram.csv"), staging, began)
    write_edf(stem.with_name(f"{name}-hypnogram.edf"), staging, began)
    write_json(stem.with_name(f"{name}-summary.json"), summary(staging, path, recording, began))
    if picture != "none":
        from kd_sleep.inference.picture import write_picture  # Matplotlib takes half a second

        write_picture(stem.with_name(f"{name}-night.{picture}"), staging, name, began)
    return staging


def summary(
    staging: Staging, path: Path, recording: BcgRecording, start: datetime.datetime | None
) -> dict[str, Any]:
    """The JSON beside a hypnogram."""
    signal = recording.signal
    return {
        "recording": path.name.encode(errors="backslashreplace").decode(),
        "channel": signal.label,
        "rate_hz": signal.rate_hz,
        "duration_s": len(signal.values) / signal.rate_hz,
        "start": start.isoformat() if start else None,
        "other_channels": list(recording.other_channels),
        "notes": list(recording.notes),
        **staging.summary(),
        "edf_texts": {Stage(stage).name.title(): EDF_TEXTS[stage] for stage in Stage},
        "versions": _versions(),
    }


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
        edfio.EdfAnnotation(0.0, None, f"unlike the training data: {warning.reason}")
        for warning in staging.warnings
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
def _student(path: str) -> StagingStudent:
    """Loaded once in each process, to run on the CPU: an accelerator takes longer to start.

    What is compiled is kept in the user's cache folder, unless JAX is told of another.
    """
    if jax.config.values["jax_platforms"] is None:
        jax.config.update("jax_platforms", "cpu")
    if jax.config.values["jax_compilation_cache_dir"] is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "kd_sleep"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return load_student(path)


def _outcome(job: tuple[Path, str], *, student: str, **how: Any) -> Outcome:
    """Stages one file; whatever is wrong with it is an outcome, so that the others go on."""
    path, name = job
    shown = os.fspath(path).encode(errors="backslashreplace").decode()
    try:
        staging = stage_file(_student(student), path, name, **how)
    except RecordingError as error:  # which names the file itself
        return Outcome(shown, "", f"{error.problem} {error.remedy}".strip())
    except (KdSleepError, OSError) as error:
        return Outcome(shown, "", str(error))
    except Exception as error:
        remedy = "Please report this with the file's header."
        return Outcome(shown, "", f"unforeseen {type(error).__name__}: {error}. {remedy}")
    said = [staging.said(), *(f"Warning: {warned.text}." for warned in staging.warnings)]
    return Outcome(shown, " ".join(said).replace("?.", "?"), "")
