"""Where arrays lie: one mesh over all devices of all hosts, batches sharded along it.

Every device has a copy of the parameters; a batch [B, ...] and a dataset [W, ...] are sharded along
their first axis. In a sweep the members [M, ...] are sharded. One device is a mesh of one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kd_sleep.errors import ConfigError, TrainingError

AXIS = "data"


def default_platform() -> str:
    """The platform that JAX computes on.

    Raises:
      ConfigError: JAX_PLATFORMS names one that this machine does not have.
    """
    try:
        return jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter of a plugin without its library
        raise ConfigError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: JAX finds no such device on this"
            " machine; cpu is there.",
            "Unset JAX_PLATFORMS, which takes the best there is, or set it to cpu.",
        ) from error


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over these devices, by default all there are, ordered by host."""
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """A part of the first axis to each device."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def by_members(mesh: Mesh, members: int) -> bool:
    """Whether a sweep's members are sharded, and every device sees complete batches.

    Where their number is no multiple of the devices, every device holds all members and a part of
    the batch.
    """
    return members > 0 and members % mesh.size == 0


def local_rows(mesh: Mesh, batch_size: int, members: int = 0) -> slice:
    """The rows of a global batch that this host's devices hold.

    Raises:
      TrainingError: a batch that does not divide by the devices.
    """
    if by_members(mesh, members):
        return slice(None)
    if batch_size % mesh.size:
        raise TrainingError(
            f"--batch_size={batch_size} does not divide by {mesh.size} devices.",
            f"Take a multiple of {mesh.size}.",
        )
    per_host = batch_size // jax.process_count()
    return slice(jax.process_index() * per_host, (jax.process_index() + 1) * per_host)


def put(batch: Mapping[str, Any], mesh: Mesh, members: int = 0) -> dict[str, jax.Array]:
    """A global batch on the devices, from the rows of it that this host holds."""
    sharding = replicated(mesh) if by_members(mesh, members) else sharded(mesh)
    with jax.transfer_guard("allow"):  # the transfer that is meant
        return {
            name: jax.make_array_from_process_local_data(sharding, np.asarray(array))
            for name, array in batch.items()
        }
