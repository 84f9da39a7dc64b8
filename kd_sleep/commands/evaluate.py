"""Scores a teacher, students and floors on held-out subjects: results.json and report.html.

    kd-sleep evaluate --data_dir=DIR --teacher=WORKDIR --out=DIR \\
        --student=student_hard_labels=WORKDIR --student=student_distilled=WORKDIR

A teacher can be scored alone. Under those two names students are compared with each other: what did
distillation bring? A name given several times has several runs: scores are their means, and
intervals cover their seeds and draws of the labelled nights, too.
"""

from pathlib import Path

from kd_sleep.commands.flags import FOLDER, FOLDERS, TEXT, Flags
from kd_sleep.config import Preset
from kd_sleep.errors import ConfigError

flags = Flags(__doc__)
flags.define("Input", "data_dir", FOLDERS, "Folder of the dataset; several are read together.")
flags.define(
    "Input", "teacher", FOLDERS, "Work folder of a trained teacher; several are mixed.", (),
    shown="none",
)  # fmt: skip
flags.define(
    "Input", "student", TEXT,
    "NAME=WORKDIR of a trained student; repeat for several, also for several runs of one name.",
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

    students: dict[str, list[Path]] = {}
    for value in student:
        name, _, workdir = value.partition("=")
        folder = Path(workdir).expanduser()
        if not (name and workdir) or folder in students.get(name, []):
            raise ConfigError(f"--student={value}: expected NAME=WORKDIR, each folder once.")
        students.setdefault(name, []).append(folder)
    results = evaluate_folders(data_dir, teacher, students, out, preset.evaluation)
    print(table(results))
    print(f"\nReport: {out / 'report.html'}")


if __name__ == "__main__":
    flags.run(main)
