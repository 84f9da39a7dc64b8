"""A BCG as a student is shown it: windows at 50 Hz in heartbeat amplitudes.

One piece of code for training and for use, and light to import: NumPy and SciPy alone.

`prepared` sees the whole night, as a student is trained: its filters have no phase shift, and one
heartbeat amplitude is the night's median, over windows, of the RMS in the heartbeat band.
`RunningBcg` sees the past alone, and so does `RunningRate`, which brings samples to 50 Hz.
"""

from __future__ import annotations

import bisect
import dataclasses
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from kd_sleep.features.windows import to_windows
from kd_sleep.schema import BCG_HZ, BCG_SAMPLES
from kd_sleep.signals.filters import bandpass, bridged, resample
from kd_sleep.signals.quality import runs_of_equals

FLAT_S = 1.0  # a BCG that does not change for this long has dropped out
HIGHPASS_HZ = 0.05  # keeps breathing, drops the mattress's creep
HEART_HZ = (2.0, 10.0)  # the band that tells a heartbeat's amplitude
LARGEST = 500.0  # in heartbeat amplitudes; larger movements saturate, and say as much
MOST_MISSING = 0.5  # of a window: with this much it tells nothing about amplitude or stage


class NoHeartbeatBand(ValueError):
    """A BCG that gives no heartbeat amplitude to measure it by."""


@dataclasses.dataclass(frozen=True)
class PreparedBcg:
    """A night's BCG, N windows.

    Attributes:
      values_NS: in heartbeat amplitudes at `BCG_HZ`; 0 where missing.
      missing_N: share of each window that is missing.
      heart_N: RMS of each window in the heartbeat band, in heartbeat amplitudes.
      unit: one heartbeat amplitude, of the last window if it changes, in the sensor's own unit.
    """

    values_NS: NDArray[np.float64]
    missing_N: NDArray[np.float64]
    heart_N: NDArray[np.float64]
    unit: float

    @property
    def usable_N(self) -> NDArray[np.bool_]:
        """Windows of which more than half is there."""
        return self.missing_N < MOST_MISSING


def prepared(bcg: NDArray, windows: int) -> PreparedBcg:
    """A BCG at `BCG_HZ` as a student is shown it.

    Args:
      bcg: [n] samples in any unit; NaN where missing, and beyond its end.
      windows: how many there are, N.

    Raises:
      NoHeartbeatBand: all of it is missing, or it holds nothing between 2 and 10 Hz.
    """
    filled, missing = bridged(to_windows(bcg, BCG_HZ, windows).ravel())
    if missing.all():
        raise NoHeartbeatBand("no BCG lies within the night.")
    filled = bandpass(filled, BCG_HZ, HIGHPASS_HZ, None)
    heart_NS = bandpass(filled, BCG_HZ, *HEART_HZ).reshape(windows, -1)
    missing_N = missing.reshape(windows, -1).mean(1)
    usable = missing_N < MOST_MISSING
    rms_N = np.sqrt(np.mean(heart_NS**2, axis=1))
    unit = float(np.median(rms_N[usable])) if usable.any() else 0.0
    if unit <= 0:
        raise NoHeartbeatBand("the BCG shows no heartbeat band at all.")
    values = np.where(missing, 0.0, np.clip(filled / unit, -LARGEST, LARGEST))
    return PreparedBcg(values.reshape(windows, -1), missing_N, rms_N / unit, unit)


def flat(values: NDArray, rate_hz: float) -> NDArray[np.bool_]:
    """Samples in a run of FLAT_S or more without any change: a dropout, or a saturated sensor."""
    _, lengths = runs_of_equals(values)
    return np.repeat(lengths >= max(2, round(FLAT_S * rate_hz)), lengths)


def at_bcg_rate(values: NDArray, rate_hz: float) -> NDArray[np.float64]:
    """A BCG at `BCG_HZ`, NaN where it is missing or flat; gaps do not grow by it.

    Args:
      values: [n] samples; NaN where missing.
      rate_hz: sampling rate.
    """
    filled, missing = bridged(np.where(flat(values, rate_hz), np.nan, values))
    out = resample(filled, rate_hz, BCG_HZ)
    if missing.any():
        place = np.arange(len(out)) * (rate_hz / BCG_HZ)
        below = place.astype(np.int64).clip(max=len(missing) - 1)
        out[missing[below] | missing[np.minimum(below + 1, len(missing) - 1)]] = np.nan
    return out


class RunningRate:
    """A BCG brought to `BCG_HZ` while it is recorded: what `at_bcg_rate` does, from the past alone.

    Departures from `at_bcg_rate`:

      - a gap is bridged with the last sample before it, not with a straight line to the one behind;
      - a run without change is missing from its second `FLAT_S` on.

    A change of rate looks 0.2 s ahead. The output is the same however the samples are cut into
    pieces.
    """

    def __init__(self, rate_hz: float):
        ratio = Fraction(BCG_HZ / rate_hz).limit_denominator(1000)
        self._up, self._down = ratio.numerator, ratio.denominator
        # The filter of `scipy.signal.resample_poly`, with zeros before it so that an output lies at
        # its middle.
        self._side = 10 * max(self._up, self._down) if ratio != 1 else 0
        taps = np.ones(1)
        if self._side:
            taps = self._up * signal.firwin(
                2 * self._side + 1, 1.0 / max(self._up, self._down), window=("kaiser", 5.0)
            )
        before = -self._side % self._down
        self._taps, self._delay = np.pad(taps, (before, 0)), (self._side + before) // self._down
        self._run = max(2, round(FLAT_S * rate_hz))  # equal samples that are a dropout
        self._first = np.nan  # sample there was; all are relative to it
        self._last, self._equal = np.nan, 0  # sample, and how long it has not changed
        self._samples, self._missing = np.empty(0), np.empty(0, bool)  # not yet at the new rate
        self._begin = 0  # number of the first of these
        self._made = 0  # samples at the new rate so far

    def push(self, samples: NDArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The samples at `BCG_HZ` that are known by now, and which of them are missing.

        Args:
          samples: [n] the next ones, in any unit; NaN where missing.

        Returns:
          [m] relative to the first sample there was, gaps bridged; [m].
        """
        filled, missing = self._bridged(np.asarray(samples, np.float64).ravel())
        self._samples = np.concatenate([self._samples, filled])
        self._missing = np.concatenate([self._missing, missing])
        return self._at_bcg_rate()

    def finish(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The samples that only wanted for what a change of rate looks ahead."""
        last = self._samples[-1] if len(self._samples) else 0.0
        ahead = -(-self._side // self._up) + 1
        self._samples = np.concatenate([self._samples, np.full(ahead, last)])
        self._missing = np.concatenate([self._missing, np.ones(ahead, bool)])
        return self._at_bcg_rate()

    def _bridged(self, samples: NDArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Samples relative to the first, gaps filled with the last before them; and the gaps."""
        there = np.isfinite(samples)
        if not len(samples) or not (there.any() or np.isfinite(self._last)):
            return np.zeros(len(samples)), ~there
        if not np.isfinite(self._first):
            self._first = self._last = samples[there.argmax()]
        number = np.arange(len(samples))
        place = np.maximum.accumulate(np.where(there, number, -1))
        filled = np.where(place >= 0, samples[place], self._last)
        # How long each sample has been what it is; a gap goes on with the run before it.
        changed = np.diff(filled, prepend=self._last) != 0
        since = np.maximum.accumulate(np.where(changed, number, -1))
        equal = np.where(since >= 0, number - since + 1, number + 1 + self._equal)
        self._last, self._equal = filled[-1], int(equal[-1])
        return filled - self._first, ~there | (equal > self._run)

    def _at_bcg_rate(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The samples at `BCG_HZ` that can be told by now, and which of them are missing."""
        end = self._begin + len(self._samples)
        # The last of them, and where its filter ends: (made - 1) * down + side <= (end - 1) * up.
        made = max(self._made, ((end - 1) * self._up - self._side) // self._down + 1)
        if made == self._made:
            return np.empty(0), np.empty(0, bool)
        number = np.arange(self._made, made)
        values = signal.upfirdn(self._taps, self._samples, self._up, self._down)
        values = values[number - self._begin * self._up // self._down + self._delay]
        below = number * self._down // self._up - self._begin
        above = below + (number * self._down % self._up > 0)
        missing = self._missing[below] | self._missing[above]
        # What the next ones need, from a sample on that lies at one of the new rate.
        needed = max(0, (made * self._down - self._side) // self._up) // self._down * self._down
        needed = max(self._begin, needed)
        self._samples = self._samples[needed - self._begin :]
        self._missing = self._missing[needed - self._begin :]
        self._begin, self._made = needed, made
        return values, missing


class RunningBcg:
    """A BCG prepared while it is recorded: what `prepared` does, from the past alone.

    Departures from `prepared`, which a student was trained on, beside those of `RunningRate`:

      - the filters run forwards alone, twice: the same gain at every frequency, another phase;
      - one heartbeat amplitude is the median over the windows finished so far, this one included.

    The windows are the same however the samples are cut into pieces.
    """

    def __init__(self) -> None:
        highpass = signal.butter(2, HIGHPASS_HZ, "highpass", fs=BCG_HZ, output="sos")
        heart = signal.butter(2, HEART_HZ, "bandpass", fs=BCG_HZ, output="sos")
        self._highpass, self._heart = (np.tile(sos, (2, 1)) for sos in (highpass, heart))
        self._highpass_state = np.zeros((len(self._highpass), 2))
        self._heart_state = np.zeros((len(self._heart), 2))
        self._rest = np.empty((3, 0))  # of a window that is not finished
        self._rms: list[float] = []  # of the usable windows so far, in order of size

    def push(self, values: NDArray, missing: NDArray[np.bool_]) -> PreparedBcg:
        """The windows that these samples finish; often none.

        Args:
          values, missing: [n] the next ones, as `RunningRate` has them.
        """
        if len(values):
            values, self._highpass_state = signal.sosfilt(
                self._highpass, values, zi=self._highpass_state
            )
            heart, self._heart_state = signal.sosfilt(self._heart, values, zi=self._heart_state)
            self._rest = np.concatenate([self._rest, np.stack([values, heart, missing])], axis=1)
        windows = self._rest.shape[1] // BCG_SAMPLES
        whole = self._rest[:, : windows * BCG_SAMPLES].reshape(3, windows, BCG_SAMPLES)
        self._rest = self._rest[:, windows * BCG_SAMPLES :]
        return self._measured(*whole)

    def _measured(self, values_NS: NDArray, heart_NS: NDArray, missing_NS: NDArray) -> PreparedBcg:
        """Windows in heartbeat amplitudes of their own time."""
        missing_N = missing_NS.mean(1)
        rms_N = np.sqrt(np.mean(heart_NS**2, axis=1))
        unit_N = np.empty(len(rms_N))
        for number, (rms, missing) in enumerate(zip(rms_N, missing_N, strict=True)):
            if missing < MOST_MISSING and rms > 0:
                bisect.insort(self._rms, float(rms))
            middle = len(self._rms) // 2
            around = self._rms[middle - (len(self._rms) % 2 == 0) : middle + 1]
            unit_N[number] = np.mean(around) if around else np.inf
        values_NS = np.clip(values_NS / unit_N[:, None], -LARGEST, LARGEST)
        return PreparedBcg(
            np.where(missing_NS, 0.0, values_NS),
            missing_N,
            rms_N / unit_N,
            float(unit_N[-1]) if len(unit_N) else np.inf,
        )
