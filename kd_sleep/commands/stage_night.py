"""Stages nights: a BCG by a student, without ECG or scorer; or an ECG by a teacher.

    kd-sleep stage_night --student=WORKDIR --bcg=night.edf --out=DIR
    kd-sleep stage_night --student=student.kdsleep --bcg=folder,other.csv --out=DIR
    kd-sleep stage_night --teacher=WORKDIR --ecg=night.edf --out=DIR

Reads EDF, CSV, NPY, NPZ and HDF5, 5 minutes to 24 hours: a BCG at 40 Hz or more, an ECG at 50 Hz or
more, or in its place a file of beats (CSV with a column time_s, NSRR's R points, NPY of seconds).
For each recording --out gets a hypnogram as CSV and as EDF+, a summary as JSON and a picture.
--stages compares the night with a scorer's stages. A recording that cannot be staged is named with
the reason and does not stop the others; the exit status is 2 then.
"""

import datetime
import importlib.util
import sys
from pathlib import Path

from kd_sleep.commands.flags import FILE, FILES, FOLDER, TEXT, Flags, Kind, choice, number
from kd_sleep.config import PICTURES
from kd_sleep.errors import ConfigError


def _time(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("not a time; write it as 2026-01-31T22:30") from None


flags = Flags(__doc__)
flags.define(
    "Input", "student", FILE, "Work folder of a trained student, or a file of export_student.", None
)
flags.define("Input", "bcg", FILES, "Recordings, or folders of them.", None)
flags.define("Input", "teacher", FILE, "Work folder of a trained teacher, or its file.", None)
flags.define("Input", "ecg", FILES, "Recordings of an ECG or of beats, or folders of them.", None)
flags.define(
    "Input", "channel", TEXT, "Channel of the files.", "", shown="the only one, or the best"
)
flags.define(
    "Input", "rate", number(float, low=0),
    "Sampling rate in Hz of files that do not tell their own.", 0.0, shown="refuses such files",
)  # fmt: skip
flags.define(
    "Input", "start", Kind("TIME", _time), "When a lone recording began, such as"
    " 2026-01-31T22:30.", None, shown="what its file says",
)  # fmt: skip
flags.define(
    "Input", "stages", FILE, "A scorer's stages of a lone recording, to compare with: CSV, EDF+, or"
    " XML of NSRR or Profusion.", None,
)  # fmt: skip
flags.define("Output", "out", FOLDER, "Folder for the results.")
flags.define(
    "Output", "picture", choice(*PICTURES), "What is drawn.", None,
    shown="png where Matplotlib is installed",
)  # fmt: skip
flags.define(
    "Execution", "workers", number(int, low=0), "Processes that stage nights.", 0, shown="all cores"
)


def main(
    student: Path | None, bcg: list[Path] | None, teacher: Path | None, ecg: list[Path] | None,
    channel: str, rate: float, start: datetime.datetime | None, stages: Path | None,
    out: Path, picture: str | None, workers: int,
) -> int:  # fmt: skip
    from kd_sleep.inference.outputs import Reading, stage_files

    given = {"student": (student, bcg), "teacher": (teacher, ecg)}
    kinds = [kind for kind, values in given.items() if any(values)]
    network, recordings = given[kinds[0]] if len(kinds) == 1 else (None, None)
    if not (network and recordings):
        raise ConfigError("Give --student with --bcg, or --teacher with --ecg.")
    if picture is None:
        picture = "png" if importlib.util.find_spec("matplotlib") else "none"
    reading = Reading(channel, rate, start, stages, picture)
    refused = []
    for outcome in stage_files(network, recordings, out, reading, kind=kinds[0], workers=workers):
        if outcome.problem:
            refused.append(outcome)
        else:
            print(f"{outcome.path}: {outcome.report}")
    for outcome in refused:
        print(f"not staged: {outcome.path}: {outcome.problem}", file=sys.stderr)
    return 2 if refused else 0


if __name__ == "__main__":
    flags.run(main)
