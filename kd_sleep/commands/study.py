"""Answers the article on a dataset: who gains how much by distillation, where, and what is lost.

    kd-sleep study --data_dir=DIR --shhs_dir=DIR --workdir=DIR

Trains a teacher and those of --folds that label its training nights, then students with and
without them, that see one window or many, on ever fewer labelled nights; each is tuned on
validation and trained from several seeds, each with its own draw of the labelled nights. Then
ablations of the loss, the learned SQI, and, where --shhs_dir names the dataset's recordings, the
information ladder from ECG to BCG. Ends with report.html and results.json. The same command goes on
where a stopped one was; an hour or two on two cores, minutes on an accelerator.
"""

from pathlib import Path

from kd_sleep.commands.flags import FOLDER, FOLDERS, Flags, number
from kd_sleep.config import Preset

flags = Flags(__doc__)
flags.shared("data_dir")
flags.define(
    "Input", "shhs_dir", FOLDER, "The recordings that the dataset was built from, for the ladder.",
    None, shown="no ladder",
)  # fmt: skip
flags.define(
    "Input", "teacher", FOLDERS, "Work folder of a trained teacher; several are mixed.", (),
    shown="trains a new one",
)  # fmt: skip
flags.define("Output", "workdir", FOLDER, "Folder of the study.")
for name, text, values in (
    ("alphas", "Of the distilled student, to try.", (0.0, 0.3, 0.6)),
    ("temperatures", "Likewise.", (2.0, 4.0)),
    ("rates", "Of the student on hard labels: multiples of --learning_rate.", (0.3, 1.0)),
    ("smoothings", "Likewise: label smoothing.", (0.0, 0.1, 0.2)),
):
    flags.define("Grid", name, number(float, many=True), text, values)
flags.define(
    "Grid", "labelled", number(int, low=1, many=True),
    "More amounts of labelled nights, besides none, --handful and all.", (17, 100),
)  # fmt: skip
flags.config(
    "study", "study_soft_labels", "student", "student_train", "execution", "evaluation",
    leave_out=("seed",),
)  # fmt: skip
flags.platform()


def main(
    preset: Preset, data_dir: list[Path], shhs_dir: Path | None, teacher: list[Path], workdir: Path,
    **grid: list,
) -> None:  # fmt: skip
    from kd_sleep.evaluation.report import table
    from kd_sleep.study.cells import Grid
    from kd_sleep.study.experiment import run_study

    results = run_study(data_dir, workdir, preset, Grid(**grid), shhs_dir, teacher)
    print(table(results))
    assert results.study is not None
    for sentence in results.study.conclusions:
        print(f"- {sentence}")
    print(f"\nReport: {workdir / 'report.html'}")


if __name__ == "__main__":
    flags.run(main)
