"""The Colab notebook, top to bottom on a CPU with the tiny preset; and where it must refuse."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from kd_sleep.config import PRESETS

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "launch" / "colab_tpu.ipynb"


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(notebook: nbformat.NotebookNode, folder: Path, **parameters: str) -> str:
    """Runs all its cells with other parameters; what they printed."""
    assert sys.platform != "win32"
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    names = [line.split(" = ")[0] for line in cells[0].source.splitlines()]
    assert names == ["PLATFORM", "PRESET", "WORKDIR", "SHHS_DIR"]
    cells[0].source += "\n" + "\n".join(f"{k} = {v!r}" for k, v in parameters.items())
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    asyncio.run(client.async_execute())
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )


@pytest.fixture(scope="module")
def environment():
    """Kernels and their launchers find this checkout, wherever they are started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


def test_it_goes_on_after_a_disconnect(environment, quickstart, tmp_path):
    """Its steps are the quickstart's: here, in that folder, before the second student had begun."""
    workdir = tmp_path / "drive" / "kd_sleep"
    shutil.copytree(quickstart, workdir)
    for name in ("student_distilled", "report"):
        shutil.rmtree(workdir / name)
    kept = [p for name in ("data", "teacher", "student_hard_labels") for p in files(workdir / name)]
    before = {path: path.read_bytes() for path in kept}
    assert len(before) >= 3
    notebook = read()
    printed = execute(notebook, tmp_path, PLATFORM="cpu", PRESET="tiny", WORKDIR=str(workdir))
    assert "cpu: 1 cpu" in printed.lower()
    assert "student_distilled" in printed
    assert before == {path: path.read_bytes() for path in kept}
    shown = notebook.cells[-1].outputs[-1]["data"]["text/html"]
    assert shown.startswith("<iframe srcdoc=")
    assert "imulated" in shown
    systems = json.loads((workdir / "report" / "results.json").read_text())["systems"]
    assert {"teacher", "student_hard_labels", "student_distilled"} <= set(systems)


def files(folder: Path) -> list[Path]:
    """Datasets and logs, which a command that has nothing left to do leaves alone."""
    return [*folder.rglob("*.array_record*"), *folder.rglob("metrics.jsonl")]


def test_it_refuses_a_runtime_without_a_tpu(environment, tmp_path):
    with pytest.raises(CellExecutionError, match="Runtime → Change") as refused:
        execute(read(), tmp_path, PLATFORM="tpu", WORKDIR=str(tmp_path / "drive"))
    assert "PLATFORM is 'tpu', but this runtime has 'cpu'" in str(refused.value)
    assert not list((tmp_path / "drive").iterdir()), "it began all the same"


def test_a_failing_step_stops_it(environment, tmp_path):
    """A launcher's own error stands above, and nothing runs after it."""
    notebook = read()
    with pytest.raises(CellExecutionError, match="failed with status 2"):
        execute(
            notebook, tmp_path, PLATFORM="cpu", PRESET="tiny", WORKDIR=str(tmp_path / "drive"),
            SHHS_DIR="nowhere",
        )  # fmt: skip
    nights = next(cell for cell in notebook.cells if cell.get("id") == "nights")
    assert "no night of SHHS here" in nights.outputs[0]["text"]


def test_it_is_committed_without_outputs_and_opens_on_a_tpu():
    notebook = read()
    nbformat.validate(notebook)
    assert notebook.metadata.accelerator == "TPU"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) == 7
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
    parameters = {}
    exec(code[0].source, parameters)
    assert parameters["PLATFORM"] == "tpu"
    assert parameters["PRESET"] in PRESETS
    assert parameters["WORKDIR"].startswith("/content/drive/")
