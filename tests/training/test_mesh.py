"""Meshes: eight devices are as one, and a platform that is absent is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_sleep.errors import ConfigError
from kd_sleep.training import mesh as mesh_module
from kd_sleep.training.mesh import data_mesh, local_rows


def test_eight_devices_are_one():
    """Columns and batches are sharded, no device holds a complete column, training agrees."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    program = Path(__file__).with_name("eight_devices.py")
    out = subprocess.run(
        [sys.executable, program], env=os.environ | flags, capture_output=True, text=True
    )
    assert out.stdout.strip() == "equal", out.stderr[-3000:]


def test_one_device_takes_every_batch():
    mesh = data_mesh()
    if mesh.size > 1:
        pytest.skip("needs a machine with one device")
    for size in (1, 7):
        assert local_rows(mesh, size) == slice(0, size)


def test_a_platform_that_is_absent_is_named_with_its_variable(monkeypatch):
    for failure in (RuntimeError("Unable to initialize backend"), AssertionError()):

        def fail(failure=failure):
            raise failure

        monkeypatch.setattr(mesh_module.jax, "default_backend", fail)
        with pytest.raises(ConfigError, match=r"JAX_PLATFORMS=.* no such device") as caught:
            mesh_module.default_platform()
        assert "Unset JAX_PLATFORMS" in caught.value.remedy
