"""Answers the article on a dataset: who gains how much by distillation, where, and what is lost.

    python -m launch.study --data_dir=DIR --shhs_dir=DIR --workdir=DIR

Trains a teacher and those of --folds that label its training nights, then students with and
without them, that see one window or many, on ever fewer labelled nights; each is tuned on
validation and trained from several seeds. Then ablations of the loss, the learned SQI, and, where
--shhs_dir names the dataset's recordings, the information ladder from ECG to BCG. Ends with
report.html and results.json. The same command goes on where a stopped one was; an hour or two on
two cores, minutes on an accelerator.
"""

from kd_sleep.evaluation.report import table
from kd_sleep.study.plan import Grid
from kd_sleep.study.study import run_study
from launch import flags

_DATA_DIRS = flags.define_data_dirs()
_WORKDIR = flags.define_path("workdir", "Folder of the study.")
_SHHS_DIR = flags.define_path(
    "shhs_dir", "The recordings that the dataset was built from, for the ladder.", required=False
)
_TEACHERS = flags.define_paths(
    "teacher",
    "Work folder of a trained teacher; several, by commas, are mixed. Default: trains a new one.",
    required=False,
)
_ALPHAS = flags.define_numbers("alphas", (0.0, 0.3, 0.6), "Of the distilled student, to try.")
_TEMPERATURES = flags.define_numbers("temperatures", (2.0, 4.0), "Likewise.")
_RATES = flags.define_numbers(
    "rates", (0.3, 1.0), "Of the student on hard labels, to try: multiples of --learning_rate."
)
_SMOOTHINGS = flags.define_numbers("smoothings", (0.0, 0.1, 0.2), "Likewise: label smoothing.")
flags.define_platform()
flags.define_config(
    "study", "study_soft_labels", "student", "student_train", "execution", "evaluation",
    leave_out=("seed",),
)  # fmt: skip


def main() -> None:
    workdir = flags.path(_WORKDIR)
    axes = (flags.numbers(axis) for axis in (_ALPHAS, _TEMPERATURES, _RATES, _SMOOTHINGS))
    results = run_study(
        flags.paths(_DATA_DIRS),
        workdir,
        flags.preset(),
        Grid(*axes),
        flags.path(_SHHS_DIR) if _SHHS_DIR.value else None,
        flags.paths(_TEACHERS),
    )
    print(table(results))
    for sentence in results["study"]["conclusions"]:
        print(f"- {sentence}")
    print(f"\nReport: {workdir / 'report.html'}")


if __name__ == "__main__":
    flags.run(main)
