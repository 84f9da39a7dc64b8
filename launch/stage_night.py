"""Stages BCG recordings of nights: no ECG, no scorer.

    python -m launch.stage_night --student=WORKDIR --bcg=night.edf --out=DIR
    python -m launch.stage_night --student=student.kdsleep --bcg=folder,other.csv --out=DIR

Reads EDF, CSV, NPY, NPZ and HDF5 at 40 Hz or more, 5 minutes to 24 hours. For each recording --out
gets a hypnogram as CSV and as EDF+, a summary as JSON and a picture. A recording that cannot be
staged is named with the reason and does not stop the others; the exit status is 2 then.
"""

import datetime
import sys
from pathlib import Path

from absl import flags as absl_flags

from kd_sleep.errors import ConfigError
from kd_sleep.inference.outputs import PICTURES, stage_files
from launch import flags

_STUDENT = absl_flags.DEFINE_string(
    "student",
    None,
    "Work folder of a trained student, or a file of launch.export_student.",
    required=True,
)
_BCG = absl_flags.DEFINE_list(
    "bcg", None, "Recordings, or folders of them, separated by commas.", required=True
)
_OUT = flags.define_path("out", "Folder for the results.")
_CHANNEL = absl_flags.DEFINE_string(
    "channel", "", "Channel of the files; empty takes the only one, or the best of several."
)
_RATE = absl_flags.DEFINE_float(
    "rate", 0.0, "Sampling rate in Hz of files that do not tell their own.", lower_bound=0.0
)
_START = absl_flags.DEFINE_string(
    "start",
    None,
    "When a lone recording began, such as 2026-01-31T22:30, in place of what its file says.",
)
_PICTURE = absl_flags.DEFINE_enum("picture", "png", PICTURES, "What is drawn.")
_WORKERS = absl_flags.DEFINE_integer(
    "workers", 0, "Processes that stage nights; 0 takes all cores.", lower_bound=0
)


def main() -> None:
    refused = []
    for outcome in stage_files(
        Path(_STUDENT.value or "").expanduser(),
        [Path(name).expanduser() for name in _BCG.value or []],
        flags.path(_OUT),
        channel=_CHANNEL.value or "",
        rate_hz=_RATE.value or 0.0,
        start=_start(),
        picture=_PICTURE.value or "png",
        workers=_WORKERS.value or 0,
    ):
        if outcome.problem:
            refused.append(outcome)
        else:
            print(f"{outcome.path}: {outcome.said}")
    for outcome in refused:
        print(f"not staged: {outcome.path}: {outcome.problem}", file=sys.stderr)
    if refused:
        sys.exit(2)


def _start() -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(_START.value) if _START.value else None
    except ValueError as error:
        raise ConfigError(
            f"--start={_START.value}: not a time.", "Write it as 2026-01-31T22:30."
        ) from error


if __name__ == "__main__":
    flags.run(main)
