"""Speed and memory, as ratios to named peers measured in turns in the same run.

    kd-sleep benchmark --out=DIR

Training is measured on nights of noise, the way of recordings on simulated files. Takes minutes;
leave the machine alone.
"""

from pathlib import Path

from kd_sleep.commands.flags import FOLDER, TEXTS, Flags, number
from kd_sleep.config import Preset

flags = Flags(__doc__)
flags.define("Output", "out", FOLDER, "Folder for benchmark.json.", None, shown="writes none")
flags.define("Measurement", "what", TEXTS, "Parts to measure.", (), shown="all")
flags.define("Measurement", "repeats", number(int, low=1), "Turns that each peer takes.", 11)
flags.define(
    "Measurement", "nights", number(int, low=0), "Nights that the part device puts there;"
    " a CPU needs a small number.", 0, shown="SHHS's number, or what fits",
)  # fmt: skip
flags.config("student", "student_train")
flags.platform()


def main(preset: Preset, out: Path | None, what: list[str], repeats: int, nights: int) -> None:
    from kd_sleep.benchmark.report import PARTS, benchmark
    from kd_sleep.benchmark.timing import table

    print(table(benchmark(preset, what or PARTS, repeats, nights, out)))
    if out:
        print(f"\nAll of it: {out / 'benchmark.json'}")


if __name__ == "__main__":
    flags.run(main)
