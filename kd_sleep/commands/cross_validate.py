"""Scores a teacher and a student on recorded people, leaving one out at a time.

    kd-sleep cross_validate --data_dir=DIR --teacher=WORKDIR --workdir=DIR

For each person of the dataset, networks are trained on the others: from drawn parameters, and from
the given networks, which may be of simulated people. Beside them stand the given networks as they
are, gradient boosting on HRV, time of night and the majority. The same command goes on where a
stopped one was.
"""

from pathlib import Path

from kd_sleep.commands.flags import FILE, FOLDER, Flags
from kd_sleep.config import Preset

flags = Flags(__doc__)
flags.define("Input", "data_dir", FOLDER, "Folder of the dataset; all its splits are used.")
flags.define("Input", "teacher", FILE, "Work folder or file of the teacher.")
flags.define(
    "Input", "student", FILE, "Work folder or file of a student.", None, shown="no students"
)
flags.shared("workdir")
flags.config("student_train", "distill", "evaluation")
flags.platform()


def main(
    preset: Preset, data_dir: Path, teacher: Path, student: Path | None, workdir: Path
) -> None:
    from kd_sleep.datasets.nights import joined, read_split
    from kd_sleep.evaluation.plain_json import to_json
    from kd_sleep.evaluation.report import table
    from kd_sleep.evaluation.scores import verdict
    from kd_sleep.inference.saved import load_network
    from kd_sleep.provenance import write_json
    from kd_sleep.schema import SPLITS
    from kd_sleep.study import leave_one_out

    nights = joined([read_split(data_dir, split) for split in SPLITS])
    probs = leave_one_out.leave_one_out(
        nights,
        load_network(teacher, "teacher").trained,
        load_network(student, "student").trained if student else None,
        workdir / "people",
        preset.student_train,
        preset.distill,
    )
    results = leave_one_out.evaluated(nights, probs, preset.evaluation, preset.student_train.seed)
    gains = leave_one_out.gains(nights, probs, preset.evaluation)
    path = workdir / "results.json"
    write_json(path, to_json({"results": results, "gains": gains}))
    print(table(results))
    for name, changes in gains.items():
        print(f"{name}, accuracy: {verdict(changes.accuracy)}")
    print(f"\nResults: {path}")


if __name__ == "__main__":
    flags.run(main)
