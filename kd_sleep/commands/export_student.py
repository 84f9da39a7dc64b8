"""Writes a trained student as one file: program, weights, preprocessing, training data, checksum.

    kd-sleep export_student --student=WORKDIR --out=student.kdsleep

The file runs on cpu, cuda or tpu and stages nights of any length. `pip install kd_sleep` is enough
for arrays, EDF, CSV, NPY and NPZ; HDF5 files need kd_sleep[data], pictures kd_sleep[report].
--onnx=FILE also writes the student for onnxruntime, which needs kd_sleep[onnx].
"""

from pathlib import Path

from kd_sleep.commands.flags import FILE, FOLDER, Flags

flags = Flags(__doc__)
flags.define("Input", "student", FOLDER, "Work folder of the trained student.")
flags.define("Output", "out", FILE, "The file to write.")
flags.define("Output", "onnx", FILE, "ONNX file to write as well, in float32.", None)
flags.platform()


def main(student: Path, out: Path, onnx: Path | None) -> None:
    from kd_sleep.inference.export import export_student
    from kd_sleep.inference.onnx import assert_installed, export_onnx
    from kd_sleep.inference.program import Program
    from kd_sleep.training.trained import load_trained

    if onnx:
        assert_installed()
    program = Program.of_trained(load_trained(student, "student"))
    print(export_student(program, out))
    if onnx:
        difference = export_onnx(program, onnx)
        print(f"{onnx}: ONNX, float32; its logits are the student's to {difference:.0e}.")


if __name__ == "__main__":
    flags.run(main)
