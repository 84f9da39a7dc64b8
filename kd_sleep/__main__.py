"""`kd-sleep COMMAND --flags`, and what there is to run."""

import difflib
import importlib
import sys

from kd_sleep.version import __version__

COMMANDS = {
    "Start": {"quickstart": "the whole mission on a simulated cohort, in minutes"},
    "Data": {
        "simulate_cohort": "write a cohort in SHHS's own folder layout",
        "fetch_slpdb": "PhysioNet's sleepers with beats and stages, 16 people",
        "build_dataset": "SHHS, slpdb or a table of your own nights -> TFDS dataset shhs_bcg",
        "show_night": "a night's files -> a page to look at",
    },
    "Training": {
        "train_teacher": "RR intervals -> sleep stage, and soft labels for every night",
        "distill_student": "BCG -> sleep stage, taught by the teacher",
        "sweep": "a grid of alpha, T and seed in one program -> a table, a page, a student",
    },
    "Evaluation": {
        "evaluate": "scores on held-out subjects -> results.json, report.html",
        "cross_validate": "recorded people, each scored by networks that never saw them",
        "study": "the article's claims against this dataset -> report.html",
        "benchmark": "speed and memory as ratios to named peers",
    },
    "Use": {
        "stage_night": "a bed sensor's recording -> hypnogram, EDF+, summary, picture",
        "export_student": "a trained student -> one file that runs with jax alone, or ONNX",
    },
}


def overview() -> str:
    """The commands in groups, a line each."""
    lines = [f"kd-sleep {__version__}: sleep staging from a ballistocardiogram, taught by an ECG."]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {name:<18}{text}" for name, text in commands.items())]
    start = "kd-sleep quickstart --workdir=quickstart"
    return "\n".join([*lines, "", f"`kd-sleep COMMAND --help` has its flags. Start with: {start}"])


def main() -> None:
    """Runs the command that the command line names; its hyphens may be underscores."""
    name, *arguments = sys.argv[1:] or ["--help"]
    commands = [command for group in COMMANDS.values() for command in group]
    if (command := name.replace("-", "_")) in commands:
        module = importlib.import_module(f"kd_sleep.commands.{command}")
        module.flags.run(module.main, arguments)
    elif name in ("--help", "-h", "help"):
        print(overview())
    elif name == "--version":
        print(__version__)
    else:
        near = difflib.get_close_matches(command, commands, 1)
        guess = f" Did you mean {near[0]}?" if near else ""
        print(f"Error: {name}: no such command.{guess} --help lists them.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
