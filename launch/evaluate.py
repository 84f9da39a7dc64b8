"""Scores a teacher, students and floors on held-out subjects: results.json and report.html.

    python -m launch.evaluate --data_dir=DIR --teacher=WORKDIR --out=DIR \\
        --student=student_hard_labels=WORKDIR --student=student_distilled=WORKDIR

A teacher can be scored alone. Under those two names students are compared with each other: what did
distillation bring?
"""

from pathlib import Path

from absl import flags as absl_flags

from kd_sleep.errors import ConfigError
from kd_sleep.evaluation.evaluate import evaluate_folders
from kd_sleep.evaluation.report import table
from launch import flags

_DATA_DIRS = flags.define_data_dirs()
_TEACHERS = flags.define_paths(
    "teacher",
    "Work folder of the trained teacher; of several, separated by commas, if mixed.",
    required=False,
)
_STUDENTS = absl_flags.DEFINE_multi_string(
    "student", [], "NAME=WORKDIR of a trained student; repeat for several."
)
_OUT = flags.define_path("out", "Folder of results.json and report.html.")
flags.define_platform()
flags.define_config("evaluation")


def main() -> None:
    students: dict[str, Path] = {}
    for value in _STUDENTS.value:
        name, equals, workdir = value.partition("=")
        if not (name and equals and workdir) or name in students:
            raise ConfigError(f"--student={value}: expected NAME=WORKDIR, each name once.")
        students[name] = Path(workdir).expanduser()
    out = flags.path(_OUT)
    data_dirs, teachers = flags.paths(_DATA_DIRS), flags.paths(_TEACHERS)
    results = evaluate_folders(data_dirs, teachers, students, out, flags.preset().evaluation)
    print(table(results))
    print(f"\nReport: {out / 'report.html'}")


if __name__ == "__main__":
    flags.run(main)
