"""Scores a teacher, students and floors on held-out subjects: results.json and report.html.

    kd-sleep evaluate --data_dir=DIR --teacher=WORKDIR --out=DIR \\
        --student=student_hard_labels=WORKDIR --student=student_distilled=WORKDIR

A teacher can be scored alone. Under those two names students are compared with each other: what did
distillation bring? A name given several times has several runs: scores are their means, and
intervals cover their seeds and draws of the labelled nights, too.
"""

from pathlib import Path

from kd_sleep.commands.flags import FOLDER, TEXT, Flags
from kd_sleep.config import Preset
from kd_sleep.errors import ConfigError

flags = Flags(__doc__)
flags.shared("data_dir", "teacher")
flags.define(
    "Input", "student", TEXT, "NAME=WORKDIR or NAME=FILE of a student; repeat for several, also for"
    " several runs of one name.",
    (), shown="none", repeated=True,
)  # fmt: skip
flags.define("Output", "out", FOLDER, "Folder of results.json and report.html.")
flags.config("evaluation")
flags.platform()


def main(
    preset: Preset, data_dir: list[Path], teacher: list[Path], student: list[str], out: Path
) -> None:
    from kd_sleep.evaluation.held_out import evaluate_folders
    from kd_sleep.evaluation.report import table
    from kd_sleep.inference.saved import load_network

    students: dict[str, list[Path]] = {}
    for value in student:
        name, _, workdir = value.partition("=")
        path = Path(workdir).expanduser()
        if not (name and workdir) or path in students.get(name, []):
            raise ConfigError(f"--student={value}: expected NAME=WORKDIR, each folder once.")
        students.setdefault(name, []).append(path)
    trained = {
        name: [load_network(path, "student") for path in paths] for name, paths in students.items()
    }
    teachers = [load_network(path, "teacher") for path in teacher]
    results = evaluate_folders(data_dir, teachers, trained, out, preset.evaluation)
    print(table(results))
    print(f"\nReport: {out / 'report.html'}")


if __name__ == "__main__":
    flags.run(main)
