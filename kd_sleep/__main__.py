"""`python -m kd_sleep`: what there is to run."""

from kd_sleep.version import __version__

COMMANDS = {
    "quickstart": "the whole mission on a simulated cohort, in minutes",
    "simulate_cohort": "write a cohort in SHHS's own folder layout",
    "fetch_slpdb": "PhysioNet's sleepers with beats and stages, 16 people",
    "build_dataset": "SHHS, slpdb or a table of your own nights -> TFDS dataset shhs_bcg",
    "show_night": "a night's files -> a page to look at",
    "train_teacher": "RR intervals -> sleep stage, and soft labels for every night",
    "distill_student": "BCG -> sleep stage, taught by the teacher",
    "sweep": "a grid of alpha, T and seed in one program -> sweep.json, sweep.html, a student",
    "evaluate": "scores on held-out subjects -> results.json, report.html",
    "study": "the article's claims against this dataset, with and without a teacher -> report.html",
    "export_student": "a trained student -> one file that runs with jax alone, or ONNX",
    "stage_night": "a bed sensor's recording -> hypnogram, EDF+, summary, picture",
    "benchmark": "speed and memory as ratios to named peers",
}


def main() -> None:
    print(f"kd_sleep {__version__}: sleep staging from a ballistocardiogram, taught by an ECG.\n")
    for name, text in COMMANDS.items():
        print(f"  python -m launch.{name:<16} {text}")
    print("\nEach explains its flags with --help. Start with:")
    print("  python -m launch.quickstart --workdir=quickstart")


if __name__ == "__main__":
    main()
