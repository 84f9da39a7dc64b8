"""Stages BCG recordings of nights: no ECG, no scorer.

    kd-sleep stage_night --student=WORKDIR --bcg=night.edf --out=DIR
    kd-sleep stage_night --student=student.kdsleep --bcg=folder,other.csv --out=DIR

Reads EDF, CSV, NPY, NPZ and HDF5 at 40 Hz or more, 5 minutes to 24 hours. For each recording --out
gets a hypnogram as CSV and as EDF+, a summary as JSON and a picture. A recording that cannot be
staged is named with the reason and does not stop the others; the exit status is 2 then.
"""

import datetime
import importlib.util
import sys
from pathlib import Path
from typing import Any

from kd_sleep.commands.flags import FILE, FILES, FOLDER, TEXT, Flags, Kind, choice, number
from kd_sleep.config import PICTURES


def _time(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("not a time; write it as 2026-01-31T22:30") from None


flags = Flags(__doc__)
flags.define(
    "Input", "student", FILE, "Work folder of a trained student, or a file of export_student."
)
flags.define("Input", "bcg", FILES, "Recordings, or folders of them.")
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
flags.define("Output", "out", FOLDER, "Folder for the results.")
flags.define(
    "Output", "picture", choice(*PICTURES), "What is drawn.", None,
    shown="png where Matplotlib is installed",
)  # fmt: skip
flags.define(
    "Execution", "workers", number(int, low=0), "Processes that stage nights.", 0, shown="all cores"
)


def main(
    student: Path, bcg: list[Path], channel: str, rate: float, start: datetime.datetime | None,
    out: Path, picture: str | None, workers: int,
) -> int:  # fmt: skip
    from kd_sleep.inference.outputs import stage_files

    refused = []
    if picture is None:
        picture = "png" if importlib.util.find_spec("matplotlib") else "none"
    how: dict[str, Any] = {"channel": channel, "rate_hz": rate, "start": start, "picture": picture}
    for outcome in stage_files(student, bcg, out, workers=workers, **how):
        if outcome.problem:
            refused.append(outcome)
        else:
            print(f"{outcome.path}: {outcome.said}")
    for outcome in refused:
        print(f"not staged: {outcome.path}: {outcome.problem}", file=sys.stderr)
    return 2 if refused else 0


if __name__ == "__main__":
    flags.run(main)
