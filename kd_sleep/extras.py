"""Packages that only some uses need: the extras of setup.cfg."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kd_sleep.errors import KdSleepError

EXTRAS = {
    "data": (
        "array_record", "defusedxml", "h5py", "sleepecg", "tensorflow_datasets", "wfdb",
    ),
    "train": ("orbax", "tensorboard"),
    "report": ("matplotlib",),
    "frame": ("pandas",),
    "onnx": ("onnx", "onnxruntime"),
}  # fmt: skip


class MissingPackage(KdSleepError, ImportError):
    """A package of an extra that is not installed."""


@contextlib.contextmanager
def optional_packages() -> Iterator[None]:
    """Surrounds imports of `EXTRAS`, so that an absent package's error says what to install.

    Raises:
      MissingPackage: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                raise MissingPackage(
                    f"{package} is not installed.", f"Run `pip install 'kd_sleep[{extra}]'`."
                ) from error
        raise
