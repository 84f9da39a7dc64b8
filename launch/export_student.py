"""Writes a trained student as one file: program, weights, preprocessing, training data, checksum.

    python -m launch.export_student --student=WORKDIR --out=student.kdsleep

The file runs with jax, NumPy and SciPy on cpu, cuda or tpu, for nights of any length.
--onnx=FILE also writes the student for onnxruntime, which needs `pip install -e '.[onnx]'`.
"""

from pathlib import Path

from absl import flags as absl_flags

from kd_sleep.inference.export import export_student, summary
from kd_sleep.inference.onnx import assert_installed, export_onnx
from launch import flags

_STUDENT = flags.define_path("student", "Work folder of the trained student.")
_OUT = absl_flags.DEFINE_string("out", None, "The file to write.", required=True)
_ONNX = absl_flags.DEFINE_string("onnx", None, "ONNX file to write as well, in float32.")
flags.define_platform()


def main() -> None:
    student, out = flags.path(_STUDENT), Path(_OUT.value).expanduser()
    if _ONNX.value:
        assert_installed()
    print(summary(export_student(student, out)))
    if _ONNX.value:
        difference = export_onnx(student, Path(_ONNX.value).expanduser())
        print(f"{_ONNX.value}: ONNX, float32; its logits are the student's to {difference:.0e}.")


if __name__ == "__main__":
    flags.run(main)
