"""Speed and memory, as ratios to named peers measured in turns in the same run.

    python -m launch.benchmark --out=DIR

Training is measured on nights of noise, the way of recordings on simulated files. Takes minutes;
leave the machine alone.
"""

from absl import flags as absl_flags

from kd_sleep.benchmark.report import PARTS, benchmark
from kd_sleep.benchmark.timing import table
from launch import flags

_OUT = flags.define_path(
    "out", "Folder for benchmark.json; without it none is written.", required=False
)
_WHAT = absl_flags.DEFINE_list("what", list(PARTS), "Parts to measure, separated by commas.")
_REPEATS = absl_flags.DEFINE_integer("repeats", 11, "Turns that each peer takes.", lower_bound=1)
_NIGHTS = absl_flags.DEFINE_integer(
    "nights",
    0,
    "Nights that the part scale puts on the device; 0 is SHHS's number, or what fits. On a CPU"
    " that part needs a small number here.",
    lower_bound=0,
)
flags.define_platform()
flags.define_config("student", "student_train")


def main() -> None:
    out = flags.path(_OUT) if _OUT.value else None
    rows = benchmark(flags.preset(), _WHAT.value or (), _REPEATS.value, _NIGHTS.value, out)
    print(table(rows))
    if out:
        print(f"\nAll of it: {out / 'benchmark.json'}")


if __name__ == "__main__":
    flags.run(main)
