"""A uniformly sampled signal with its gaps: what every step between reader and features takes.

NaN, infinities, masks, and values beyond any sensor become one mask here, once, and the gaps are
bridged, since filters need finite samples. `stuck` is the one detector of stretches in which a
sensor shows nothing although it gives numbers.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from kd_sleep.errors import SamplesError

FLAT_S = 1.0  # a signal that does not change for this long has dropped out
RAIL_S = 0.25  # nor is there one where it rests this long at its largest or smallest value
_LARGEST = np.finfo(np.float32).max  # beyond it is damage, as are infinities


@dataclasses.dataclass(frozen=True)
class Series:
    """Samples at a constant rate: number n was taken at start_s + n / rate_hz.

    Attributes:
      values: [n] float32 or float64, finite; straight lines across gaps, all 0 without a sample.
      missing: [n] where these are no samples of the sensor.
      rate_hz: samples per second; any real number.
      start_s: time of the first sample on the clock in use.
    """

    values: NDArray[np.floating]
    missing: NDArray[np.bool_]
    rate_hz: float
    start_s: float = 0.0

    @classmethod
    def of(
        cls, samples: ArrayLike, rate_hz: float, missing: NDArray[np.bool_] | None = None
    ) -> Series:
        """Samples from outside: what is masked, NaN, infinite or beyond float32 is missing.

        Args:
          samples: [n] real numbers, or a masked array of them.
          rate_hz: samples per second.
          missing: [n] samples that are missing besides.

        Raises:
          SamplesError: several channels, or something else than real numbers.
        """
        try:
            array = np.asanyarray(samples)
        except (TypeError, ValueError):
            array = np.empty(0, object)  # rows of unequal length
        if array.dtype.kind not in "iuf":
            raise SamplesError(
                f"Expected samples as real numbers, got an array of {array.dtype}.",
                "Convert them to floats, with NaN where one is missing.",
            )
        if array.ndim != 1:
            raise SamplesError(
                f"Expected one channel [n], got an array {list(array.shape)}.",
                "Pass one channel's samples in order of time.",
            )
        single = array.dtype in (np.float16, np.float32)
        values = np.asarray(array, np.float32 if single else np.float64)
        with np.errstate(invalid="ignore"):
            gone = ~(np.abs(values) <= _LARGEST)
        if isinstance(array, np.ma.MaskedArray):
            gone |= np.ma.getmaskarray(array)
        if missing is not None:
            gone |= missing
        return cls(bridged(values, gone), gone, float(rate_hz))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, which: slice | NDArray[np.bool_]) -> Series:
        """Some of the samples, end to end, from 0 s on."""
        return Series(self.values[which], self.missing[which], self.rate_hz)

    @property
    def constant(self) -> bool:
        """Whether all samples are the same, or there are none."""
        return bool(self.missing.all() or self.values.min() == self.values.max())

    @property
    def duration_s(self) -> float:
        """Length of the signal, a sample for each 1 / rate_hz."""
        return len(self.values) / self.rate_hz

    def samples_at(self, rate_hz: float) -> int:
        """How many samples of another rate, the first at the series' first, it has time for."""
        return math.ceil(round(self.duration_s * rate_hz, 6))

    def without(self, more: NDArray[np.bool_]) -> Series:
        """The series with more samples missing."""
        if not more.any():
            return self
        missing = self.missing | more
        return dataclasses.replace(self, values=bridged(self.values, missing), missing=missing)

    def without_flat(self) -> Series:
        """The series with what is flat for FLAT_S missing."""
        return self.without(stuck(self)[0])

    @property
    def dead(self) -> NDArray[np.bool_]:
        """[n] samples that show nothing: missing, flat, or resting at a rail, as `stuck` has it."""
        return np.any([self.missing, *stuck(self)], axis=0)

    def near_missing(self, reach_s: float) -> NDArray[np.bool_]:
        """[n] what is missing, and `reach_s` around it."""
        if not self.missing.any():
            return self.missing
        return ndimage.maximum_filter1d(self.missing, 2 * int(reach_s * self.rate_hz) + 1)


def bridged(values: NDArray, missing: NDArray[np.bool_]) -> NDArray:
    """[n] values with straight lines across what is missing; all 0 where everything is."""
    if not missing.any():
        return values
    if missing.all():
        return np.zeros_like(values)
    start, stop = runs(missing)
    # At the ends there is a sample on one side alone.
    left = values[np.where(start > 0, start - 1, stop.clip(max=len(values) - 1))].astype(float)
    right = values[np.where(stop < len(values), stop, start - 1)]
    length = stop - start
    step = np.flatnonzero(missing) - np.repeat(start - 1, length)
    share = step / np.repeat(length + 1, length)
    values = values.copy()
    values[missing] = np.repeat(left, length) + share * np.repeat(right - left, length)
    return values


def runs(where: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First sample of each stretch that is True, and the one behind its last."""
    edges = np.flatnonzero(np.diff(where, prepend=False, append=False))
    return edges[::2], edges[1::2]


def stuck(series: Series) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[n] samples in a run of FLAT_S without any change; [n] resting at a rail for RAIL_S.

    A rail is the largest or smallest value there is. Missing samples are neither.
    """
    values, missing, rate_hz = series.values, series.missing, series.rate_hz
    flat, saturated = np.zeros(len(values), bool), np.zeros(len(values), bool)
    if missing.all():
        return flat, saturated
    start, stop = runs((values[1:] == values[:-1]) & ~(missing[1:] | missing[:-1]))
    stop = stop + 1
    long = stop - start >= max(2, RAIL_S * rate_hz)
    rails = (
        np.min(values, where=~missing, initial=np.inf),
        np.max(values, where=~missing, initial=-np.inf),
    )
    for first, end in zip(start[long], stop[long], strict=True):
        flat[first:end] = end - first >= max(2, FLAT_S * rate_hz)
        saturated[first:end] = rails[0] < rails[1] and values[first] in rails
    return flat, saturated
