"""Who may import whom, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Lower never imports higher; rooms on one line do not import each other.
LAYERS = (
    {"version", "stages", "errors", "losses", "metrics"},
    {"extras"},
    {"schema", "config", "provenance", "parallel", "pages"},
    {"signals"},
    {"recordings"},
    {"simulation"},
    {"features"},
    {"datasets"},
    {"models"},
    {"training"},
    {"evaluation"},
    {"study"},
    {"inference"},
    {"library"},
    {"benchmark"},
    {"commands"},
)
# A machine with an accelerator need not have the libraries that read files.
HEAVY = {
    "tensorflow",
    "tensorflow_datasets",
    "array_record",
    "grain",
    "sleepecg",
    "edfio",
    "wfdb",
    "pandas",
}
LIGHT = [
    "kd_sleep.losses", "kd_sleep.metrics", "kd_sleep.models.teacher", "kd_sleep.models.student",
    "kd_sleep.training.steps", "kd_sleep.simulation.physiology", "kd_sleep.simulation.sensors",
    "kd_sleep.library", "kd_sleep.inference.ecg_staging",
]  # fmt: skip


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def rank(room: str) -> int:
    return next(n for n, layer in enumerate(LAYERS) if room in layer)


def test_lower_never_imports_higher():
    for path in (ROOT / "kd_sleep").rglob("*.py"):
        room = path.relative_to(ROOT / "kd_sleep").with_suffix("").parts[0]
        if room in ("__init__", "__main__"):
            continue
        for name in imports(path):
            package, _, rest = name.partition(".")
            assert package != "launch", f"{path} imports what only a clone has"
            if package == "kd_sleep" and rest:
                other = rest.split(".")[0]
                assert other == room or rank(other) < rank(room), f"{path} imports {other}"


def test_every_room_is_in_the_map():
    rooms = {p.stem for p in (ROOT / "kd_sleep").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert rooms - {"__init__", "__main__", "__pycache__"} == set().union(*LAYERS)


def test_flags_are_read_in_one_place():
    for path in (ROOT / "kd_sleep").rglob("*.py"):
        reads = "absl" in {name.split(".")[0] for name in imports(path)}
        assert reads == (path.relative_to(ROOT / "kd_sleep").as_posix() == "commands/flags.py"), (
            path
        )


def test_launch_is_commands_under_another_name():
    """A clone runs `launch.X`; the wheel has no `launch`, which is a package of ROS."""
    assert [path.name for path in (ROOT / "launch").glob("*.py")] == ["__init__.py"]
    assert imports(ROOT / "launch" / "__init__.py") == {"kd_sleep", "kd_sleep.commands"}


def test_nothing_unpickles_or_evaluates():
    for path in [*(ROOT / "kd_sleep").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip  # noqa: E501
        assert not called & {"eval", "exec", "compile", "__import__"}, path
        assert not imports(path) & {"pickle", "marshal", "shelve", "dill", "joblib"}, path
        assert "allow_pickle=True" not in path.read_text(), path


@pytest.mark.parametrize("module", LIGHT)
def test_the_training_path_needs_no_file_readers(module):
    code = f"import sys, {module}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(out.stdout.split())


def test_losses_training_steps_and_staging_need_no_extra():
    """Of setup.cfg; flax brings Orbax."""
    code = (
        "import sys\nfrom kd_sleep.extras import EXTRAS\n"
        "names = {name for packages in EXTRAS.values() for name in packages} - {'orbax'}\n"
        "sys.modules.update(dict.fromkeys(names))\n"
        "import kd_sleep.losses, kd_sleep.training.steps, kd_sleep.models.student\n"
        "import kd_sleep.inference.outputs, kd_sleep.inference.export, kd_sleep.inference.streaming"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_inputs_of_a_student_need_numpy_and_scipy_alone():
    code = (
        "import sys, kd_sleep.features.bcg, kd_sleep.features.inputs, kd_sleep.features.series\n"
        "import kd_sleep.features.running_series, kd_sleep.models.kept_share\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "flax", *HEAVY} & set(out.stdout.split())


def test_the_loss_costs_jax_and_optax_alone():
    code = (
        "import sys, jax.numpy as jnp\n"
        "from kd_sleep import distillation_loss\n"
        "loss, _ = distillation_loss(jnp.zeros((2, 4)), jnp.ones((2, 4)), jnp.array([0, -1]))\n"
        "assert loss > 0\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split())
    assert not loaded & (HEAVY | {"flax", "orbax", "matplotlib", "tensorboard", "absl.flags"})
