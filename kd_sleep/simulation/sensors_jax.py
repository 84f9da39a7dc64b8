"""The BCG of `sensors` in JAX: whole batches of nights on an accelerator, without any file.

Drawing and rendering are `sensors`' own code, given JAX's arrays and random numbers, so that
rendered from the same draws both agree to float32 tolerance. What stays on the host is `pad`: a few
milliseconds a night, and once only, since a night can be drawn again with every epoch.

    bodies = pad(drives, rate_hz=100.0)
    values, inside, _ = bcg_batch(jax.random.key(0), bodies, "film", 100.0)

A night of 8 h at 100 Hz takes 12 MB as a result, and several times that while it is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kd_sleep.simulation.physiology import Drive
from kd_sleep.simulation.sensors import (
    SENSORS,
    Backend,
    BcgDraws,
    Body,
    Clock,
    draw_bcg,
    prepare,
    render_bcg,
    rj_delay_s,
)

for _pytree in (Body, BcgDraws):
    jax.tree_util.register_dataclass(
        _pytree, [field.name for field in dataclasses.fields(_pytree)], []
    )


def _add_at(size: int, index: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.zeros(size, jnp.float32).at[index].add(values, mode="drop")


# An accelerator's default would be bfloat16 or TF32: off by whole heartbeats where a load cell
# carries a body's weight.
_exact = functools.partial(jnp.matmul, precision="highest")
JAX = Backend(jnp, _add_at, jnp.fft.rfft, jnp.fft.irfft, _exact)


class JaxSource:
    """Random numbers of a JAX key: each call splits off its own."""

    def __init__(self, key: jax.Array) -> None:
        self._key = key

    def _next(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key

    def normal(self, *shape: int) -> jax.Array:
        return jax.random.normal(self._next(), shape, jnp.float32)

    def uniform(self, *shape: int) -> jax.Array:
        return jax.random.uniform(self._next(), shape, jnp.float32)


def pad(drives: Sequence[Drive], rate_hz: float, clocks: Sequence[Clock] | None = None) -> Body:
    """Nights of different lengths as one `Body` of NumPy arrays with a leading axis.

    Args:
      drives: the nights.
      rate_hz: of the BCG, a multiple of DRIVE_HZ.
      clocks: one a night; None for true ones.
    """
    clocks = clocks or [Clock()] * len(drives)
    single = [
        prepare(*night) for night in zip(drives, [rate_hz] * len(drives), clocks, strict=True)
    ]
    beats = max(len(body.beat_sample) for body in single)
    steps = max(max(len(body.breathing), len(body.step)) for body in single)
    padded = [
        prepare(drive, rate_hz, clock, beats, steps)
        for drive, clock in zip(drives, clocks, strict=True)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


@contextlib.contextmanager
def _numpy_promotion() -> Iterator[None]:
    """Ranks and dtypes are promoted as NumPy does, which the code of `sensors` is written for."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@functools.partial(jax.jit, static_argnames="rate_hz")
@_numpy_promotion()
def render(draws: BcgDraws, body: Body, rate_hz: float = 100.0) -> jax.Array:
    """`sensors.render_bcg` for one night, in JAX."""
    return render_bcg(draws, body, rate_hz, JAX)


@functools.partial(jax.jit, static_argnames=("sensor", "rate_hz"))
@_numpy_promotion()
def bcg_batch(
    key: jax.Array, bodies: Body, sensor: str = "mix", rate_hz: float = 100.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One BCG for each of a batch of nights, every chance drawn anew from `key`.

    Args:
      key: a typed key of jax.random.
      bodies: of `pad`, B nights.
      sensor: a name in `SENSORS`; each night draws its own of that kind.
      rate_hz: as in `pad`.

    Returns:
      values: [B, n] float32, 0 beyond a night's end.
      inside: [B, n] bool, which samples are of the night.
      rj_s: [B, M] RJ intervals, for who wants the truth; anything for padded beats.
    """

    def night(key: jax.Array, body: Body) -> tuple[jax.Array, jax.Array, jax.Array]:
        draws = draw_bcg(JaxSource(key), body, SENSORS[sensor], rate_hz, JAX)
        values = render_bcg(draws, body, rate_hz, JAX)
        inside = jnp.arange(len(values)) < body.samples
        return jnp.where(inside, values, 0.0), inside, rj_delay_s(draws, body, JAX)

    return jax.vmap(night)(jax.random.split(key, len(bodies.samples)), bodies)
