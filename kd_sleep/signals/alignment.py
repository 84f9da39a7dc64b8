"""Two clocks: where a BCG's samples lie in the time of the ECG.

A bed sensor runs on its own clock, set by hand and driven by its own crystal. Both sensors see the
same heart, and the pattern of long and short intervals over some minutes is like no other of the
night. The clock is found in two steps:

1. The beats of the ECG, as a train of bumps, are correlated with the BCG's beat energy in segments
   of `SEGMENT_S`, at every lag of the search. The correlations are summed along every line of lags
   that a drift of up to `MAX_DRIFT` allows, so that a noisy segment still adds to the sum. The
   highest sum is the clock to within some 50 ms; near it, others a beat off may be nearly as high.
   Where none is found, or one that drifts by more than `SURE_DRIFT`, the beats are stretched by
   each of `STRETCHES` and searched again.
2. Along each of these lines the energy around every beat is averaged by segment. Its peak is the
   segment's lag, and a straight line through the lags is the clock. The line along which the energy
   is highest wins; by how much is the confidence.

A clock that half an hour of the night clearly contradicts is refused: it jumped, or its drift
changes. The line holds the mean R-to-J delay as well, which we take to be `RJ_S`; a person's own
deviation from it stays in the clock, and the delay's track over the night is relative to it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, special

from kd_sleep.signals.filters import parabola
from kd_sleep.signals.j_peaks import beat_energy
from kd_sleep.signals.resampling import on_grid
from kd_sleep.signals.timeseries import Series

ENERGY_HZ = 25.0  # of the beat energy
COARSE = 2  # every second sample of it is enough to search with: it ends at 3 Hz
COARSE_HZ = ENERGY_HZ / COARSE
BUMP_S = 0.08  # SD of the bump that stands for a beat
SEGMENT_S = 300.0
TRACK_S = 60.0  # step of the RJ track; each of its points is a mean over SEGMENT_S
MIN_REACH_S = 300.0  # of lags on either side, to see how high a correlation comes by chance
BEYOND_S = 30.0  # seen as well: a clock just outside, else one some beats off would pass for it
MAX_DRIFT = 250e-6  # beyond, five minutes of beats smear; so beats are stretched first
SURE_DRIFT = 210e-6  # from there to MAX_DRIFT it may be a clock of more, some beats off
STRETCHES = tuple(400e-6 * step for step in (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5))
RJ_S = 0.210  # mean R-to-J delay at rest
REACH_S = 0.4  # how far from the line a segment's lag is looked for
TOLERANCE_S = 0.15  # a segment that agrees has its lag this near the line: a fifth of a short beat
MIN_Z = 4.0  # ... and a correlation this many SD over that at other lags
MIN_BEATS = 100  # seen by both sensors, else a segment says nothing
MIN_SEGMENTS = 3  # two lags always lie on a line
MIN_AGREEING = 0.5  # share of the segments that must agree, else no clock can be told
MIN_CONFIDENCE = 0.9
PART = 6  # segments in a row that are checked by themselves: half an hour
APART_S = 0.3  # from the clock: no nearer beat than this
CLEARLY = 1.15  # times the clock's own correlation: more, and a part of the night refutes it
RIVAL = 0.85  # a line whose sum is this share of the highest is looked at closely, too
MAX_LINES = 7


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Sensor time = (true time - offset_s) * (1 + drift), and what this was found from.

    Attributes:
      offset_s: true time at which the sensor's clock reads 0.
      drift: the sensor clock's rate error, 50e-6 for 50 ppm.
      residual_s: RMS distance of the agreeing segments' lags from the line.
      agreeing: share of the segments that agree, in [0, 1].
      confidence: chance that this clock and not the next best, mostly one a beat off, is the right
        one, as the segments' votes have it: 0 for a coin toss, 1 for certainty.
      segment_times_s: [S] sensor times of the middles of the segments.
      segment_lags_s: [S] true minus sensor time as each segment has it; NaN where a segment has too
        few beats that both sensors saw.
      segment_agrees: [S] bool.
      rj_times_s: [P] true times, every TRACK_S.
      rj_s: [P] R-to-J delay over SEGMENT_S around them, about a mean of RJ_S and without its trend
        over the night; NaN where unknown.
      height: mean beat energy on the line.
    """

    offset_s: float
    drift: float
    residual_s: float
    agreeing: float
    confidence: float
    segment_times_s: NDArray[np.float64]
    segment_lags_s: NDArray[np.float64]
    segment_agrees: NDArray[np.bool_]
    rj_times_s: NDArray[np.float64]
    rj_s: NDArray[np.float64]
    height: float

    def lag_s(self, sensor_s: NDArray) -> NDArray[np.float64]:
        """True minus sensor time on the line, at given sensor times."""
        return sensor_s / (1.0 + self.drift) + self.offset_s - sensor_s

    def corrected(self, bcg: Series) -> Series:
        """The sensor's samples on the true clock: another start and another rate."""
        return dataclasses.replace(
            bcg,
            rate_hz=bcg.rate_hz * (1.0 + self.drift),
            start_s=self.offset_s + bcg.start_s / (1.0 + self.drift),
        )


_NONE = np.zeros(0)
UNALIGNED = Alignment(  # the clock of a BCG that there is no other to compare with
    0.0, 0.0, np.nan, np.nan, np.nan, _NONE, _NONE, _NONE.astype(bool), _NONE, _NONE, np.nan
)


class NoAlignment(ValueError):
    """The two signals share no pattern of beats within the search range."""


@dataclasses.dataclass(frozen=True)
class _Clock:
    """true = sensor + start_s + slope * sensor, looked at closely.

    Attributes:
      lags_S: true minus sensor time by segment; NaN where the two sensors share too few beats.
      near_S: which of these are near the line.
      heights_S: mean beat energy of a segment on the line itself; NaN as above.
      track_times_P: sensor times every TRACK_S.
      track_lags_P: the lag over SEGMENT_S around each; NaN as above.
    """

    start_s: float
    slope: float
    lags_S: NDArray[np.float64]
    near_S: NDArray[np.bool_]
    heights_S: NDArray[np.float64]
    track_times_P: NDArray[np.float64]
    track_lags_P: NDArray[np.float64]

    def at(self, sensor_s: NDArray) -> NDArray[np.float64]:
        """The line: true minus sensor time."""
        return self.start_s + self.slope * sensor_s


def align(
    beat_times_s: NDArray,
    bcg: Series,
    *,
    guess_s: float = 0.0,
    search_s: float = 600.0,
) -> Alignment:
    """Offset and drift of the BCG's clock against the clock of the beats.

    Args:
      beat_times_s: [M] R times, increasing; stretches may be absent.
      bcg: at its nominal rate; its clock reads 0 at the first sample.
      guess_s: true time of the BCG's first sample as the files' headers have it.
      search_s: how far off the guess may be.

    Raises:
      NoAlignment: no clock was found, and why: too short, no beats in either signal, too few
        segments that agree on any clock, or a heart so regular that two clocks fit alike.
    """
    beats = np.asarray(beat_times_s, np.float64)
    segments = int(bcg.duration_s / SEGMENT_S)
    if segments < MIN_SEGMENTS:
        raise NoAlignment(f"the BCG is shorter than {MIN_SEGMENTS * SEGMENT_S / 60:.0f} minutes")
    if len(beats) < MIN_SEGMENTS * MIN_BEATS:
        raise NoAlignment(f"the ECG has {len(beats)} beats, too few to show a pattern")
    if bcg.constant:
        raise NoAlignment("the BCG is constant or missing throughout")

    energy = _masked_energy(bcg)
    try:
        first = _aligned(energy, beats, segments, guess_s, search_s, 0.0)
        if abs(first.drift) <= SURE_DRIFT:
            return first
        refusal = NoAlignment("its drift is at the edge of what was searched")
    except NoAlignment as reason:
        refusal = reason
    found = []
    for stretch in STRETCHES:
        try:
            each = _aligned(energy, beats, segments, guess_s, search_s, stretch)
        except NoAlignment:
            continue
        if abs(each.drift + stretch) <= SURE_DRIFT:
            found.append(each)
    if not found:
        raise refusal
    return max(found, key=lambda each: each.height)


def _aligned(
    energy: NDArray,
    beats: NDArray,
    segments: int,
    guess_s: float,
    search_s: float,
    stretch: float,
) -> Alignment:
    """The clock whose slope is within MAX_DRIFT of `stretch`; arguments else as in `align`."""
    reach_s = max(search_s + BEYOND_S, MIN_REACH_S)
    z_SL = _correlations(energy, beats / (1.0 + stretch), segments, guess_s - reach_s, 2 * reach_s)
    lag_L = guess_s - reach_s + np.arange(z_SL.shape[1]) / COARSE_HZ
    lines = _highest_sums(z_SL, lag_L)
    if not lines:
        raise NoAlignment("the BCG lies outside the ECG's recording")
    best, confidence = _best(
        [
            _look_closely(
                energy,
                beats + RJ_S,
                lag_s * (1.0 + stretch) + RJ_S,
                (1.0 + slope) * (1.0 + stretch) - 1.0,
                segments,
            )
            for lag_s, slope in lines
        ]
    )
    middle_S = SEGMENT_S * np.arange(0.5, segments)
    line_S = best.at(middle_S)
    # Where the line lies among the lags of the stretched beats.
    at_S = ((middle_S + line_S - RJ_S) / (1.0 + stretch) - middle_S - lag_L[0]) * COARSE_HZ
    at_S = np.rint(at_S).astype(int).clip(1, len(lag_L) - 2)
    z_S = np.max([z_SL[np.arange(segments), at_S + step] for step in (-1, 0, 1)], axis=0)
    usable = np.isfinite(best.lags_S)
    agrees = best.near_S & (z_S > MIN_Z)
    if agrees.sum() < max(MIN_SEGMENTS, MIN_AGREEING * usable.sum()):
        raise NoAlignment(
            f"only {agrees.sum()} of {usable.sum()} five-minute segments agree on one clock"
        )
    _check_parts(z_SL, at_S)
    if confidence < MIN_CONFIDENCE:
        raise NoAlignment(
            "the heart beats so evenly that clocks a beat apart fit alike"
            f" (confidence {confidence:.2f})"
        )
    if abs(best.start_s - guess_s) > search_s + 0.5:
        raise NoAlignment(
            f"they fit at {best.start_s - guess_s:+.1f} s from the guess, beyond {search_s:g} s"
        )
    deviation_P = best.at(best.track_times_P) - best.track_lags_P
    deviation_P[np.abs(deviation_P) >= TOLERANCE_S] = np.nan
    return Alignment(
        offset_s=best.start_s,
        drift=1.0 / (1.0 + best.slope) - 1.0,
        residual_s=float(np.sqrt(np.mean((best.lags_S - line_S)[agrees] ** 2))),
        agreeing=float(agrees.sum() / usable.sum()),
        confidence=confidence,
        segment_times_s=middle_S,
        segment_lags_s=best.lags_S,
        segment_agrees=agrees,
        rj_times_s=best.track_times_P + best.at(best.track_times_P),
        rj_s=RJ_S + deviation_P,
        height=float(np.nanmean(best.heights_S)),
    )


def _check_parts(z_SL: NDArray, at_S: NDArray[np.int64]) -> None:
    """Refuses a clock that a part of the night contradicts: it jumped, or drifts unevenly.

    In every PART segments in a row, no lag more than a beat's width off the clock's may correlate
    clearly better than it does (NoAlignment).
    """
    size, reach = min(PART, len(z_SL)), int(BEYOND_S * COARSE_HZ)
    lags = at_S[:, None] + np.arange(-reach, reach + 1)
    inside = (lags >= 0) & (lags < z_SL.shape[1])
    around_SL = np.where(inside, np.take_along_axis(z_SL, lags.clip(0, z_SL.shape[1] - 1), 1), 0.0)
    sums = np.cumsum(np.pad(around_SL, ((1, 0), (0, 0))), axis=0)
    mean_PL = (sums[size:] - sums[:-size]) / size
    width = int(APART_S * COARSE_HZ)
    own_P = mean_PL[:, reach - width : reach + width + 1].max(1)
    mean_PL[:, reach - width : reach + width + 1] = 0.0
    rival_P = mean_PL.max(1)
    worse = np.where(rival_P > MIN_Z, rival_P - CLEARLY * own_P, -np.inf)
    part = int(worse.argmax())
    if worse[part] > 0:
        off_s = (int(mean_PL[part].argmax()) - reach) / COARSE_HZ
        raise NoAlignment(
            f"its clock does not run evenly: {(part + 0.5 * size) * SEGMENT_S / 3600:.1f} h after"
            f" its start, the beats lie {off_s:+.1f} s from where the rest of the night has them"
        )


def _masked_energy(bcg: Series) -> NDArray[np.float64]:
    """Beat energy at ENERGY_HZ, 0 where the BCG is missing and half a second around it."""
    coarse = on_grid(bcg, ENERGY_HZ)
    return np.where(coarse.near_missing(0.5), 0.0, beat_energy(coarse.values, ENERGY_HZ))


def _beat_train(beats: NDArray, start_s: float, samples: int) -> NDArray[np.float32]:
    """A bump at every beat, less their moving mean, from `start_s` on at COARSE_HZ."""
    place = (beats - start_s) * COARSE_HZ
    place = place[(place > -4) & (place < samples + 3)]
    nearest = np.rint(place).astype(np.int64)
    index = nearest[:, None] + np.arange(-4, 5)
    bump = np.exp(-0.5 * ((index - place[:, None]) / (BUMP_S * COARSE_HZ)) ** 2)
    inside = (index >= 0) & (index < samples)
    train = np.bincount(index[inside], weights=bump[inside], minlength=samples)
    mean = ndimage.uniform_filter1d(train, int(4 * COARSE_HZ), mode="constant")
    return (train - mean).astype(np.float32)


def _correlations(
    energy: NDArray, beats: NDArray, segments: int, first_s: float, range_s: float
) -> NDArray[np.float32]:
    """[S, L] correlation of each segment with the beats at lags from `first_s` over `range_s`.

    In units of its own SD over the lags, so that no segment outweighs another.
    """
    segment, lags = int(SEGMENT_S * COARSE_HZ), int(range_s * COARSE_HZ) + 1
    pieces = energy[::COARSE][: segments * segment].reshape(segments, segment)
    pieces = pieces.astype(np.float32)
    reach = segment + lags - 1
    train = _beat_train(beats, first_s, segments * segment + lags)
    reaches = np.lib.stride_tricks.sliding_window_view(train, reach)[::segment][:segments]
    size = fft.next_fast_len(reach, real=True)
    spectrum = fft.rfft(reaches, size, axis=1) * fft.rfft(pieces, size, axis=1).conj()
    correlation = fft.irfft(spectrum, size, axis=1)[:, :lags]

    # Over the norm of the beats that it covers, so that a lead-off stretch cannot win.
    squares = np.cumsum(train**2, dtype=np.float64)
    squares = np.concatenate([[0.0], squares])
    norm = np.sqrt(np.maximum(squares[segment:] - squares[:-segment], 0.0)).astype(np.float32)
    enough = 0.5 * np.median(norm[norm > 0]) if norm.any() else 1.0
    weight = np.where(norm > enough, 1.0 / np.maximum(norm, enough), 0.0).astype(np.float32)
    weights = np.lib.stride_tricks.sliding_window_view(weight, lags)[::segment][:segments]
    correlation *= weights
    covered = np.maximum((weights > 0).sum(1), 1)
    spread = np.sqrt(np.einsum("sl,sl->s", correlation, correlation) / covered)
    return correlation / np.maximum(spread, 1e-6 * spread.max(initial=1e-12))[:, None]


def _highest_sums(z_SL: NDArray, lag_L: NDArray) -> list[tuple[float, float]]:
    """Lag at sensor time 0, and slope, of the lines with the highest sums."""
    segments, lags = z_SL.shape
    # Two neighbours in one: the steepest line moves by less than a sample from one to the next.
    pairs_PL = z_SL[: segments // 2 * 2].reshape(-1, 2, lags).sum(1)
    if segments % 2:
        pairs_PL = np.concatenate([pairs_PL, z_SL[-1:]])
    pair_s = 2 * SEGMENT_S * (np.arange(len(pairs_PL)) + 0.5)
    middle_s = 0.5 * segments * SEGMENT_S
    # Half a step of slope moves the ends of the recording by half a sample.
    step = 2.0 / COARSE_HZ / (segments * SEGMENT_S)
    slopes = step * np.arange(-np.ceil(MAX_DRIFT / step), np.ceil(MAX_DRIFT / step) + 1)
    shifts = np.rint(slopes[:, None] * (pair_s - middle_s) * COARSE_HZ).astype(int)
    pad = int(np.abs(shifts).max())
    rows = list(np.pad(pairs_PL, ((0, 0), (pad, pad))))
    best_L, which_L = np.zeros(lags, np.float32), np.zeros(lags, int)
    for number, shift_P in enumerate((shifts + pad).tolist()):
        total = np.zeros(lags, np.float32)
        for row, shift in zip(rows, shift_P, strict=True):
            total += row[shift : shift + lags]
        higher = total > best_L
        best_L[higher] = total[higher]
        which_L[higher] = number

    lines: list[tuple[float, float]] = []
    highest = best_L.max()
    apart = int(0.4 * COARSE_HZ)  # no heart beats twice within this
    while len(lines) < MAX_LINES and best_L.max() >= max(RIVAL * highest, 1e-6):
        peak = int(np.argmax(best_L))
        slope = float(slopes[which_L[peak]])
        lines.append((float(lag_L[peak]) - slope * middle_s, slope))
        best_L[max(peak - apart, 0) : peak + apart + 1] = 0.0
    return lines


def _look_closely(
    energy: NDArray, bumps_s: NDArray, start_s: float, slope: float, segments: int
) -> _Clock:
    """The clock near a given line that fits best: a straight line through the segments' lags.

    Args:
      energy: [n] at ENERGY_HZ.
      bumps_s: [M] true times at which the beats' energy is expected.
      start_s, slope: of true minus sensor time, roughly.
      segments: how many there are.
    """
    sensor = (bumps_s - start_s) / (1.0 + slope)
    half = int(REACH_S * ENERGY_HZ)
    centre = np.rint(sensor * ENERGY_HZ).astype(np.int64)
    inside = (centre >= half) & (centre < len(energy) - half)
    sensor, centre = sensor[inside], centre[inside]
    # Sums over the beats before each; what lies between two beats is a difference.
    windows = np.lib.stride_tricks.sliding_window_view(energy, 2 * half + 1)[centre - half]
    energy_MK = np.zeros((len(centre) + 1, 2 * half + 1))
    np.cumsum(windows, axis=0, out=energy_MK[1:])
    seen_M = np.concatenate([[0], np.cumsum(energy[centre] != 0.0)])

    def stretch(middle_s: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Mean energy around the beats of SEGMENT_S, where it peaks, whether there are enough."""
        first, last = np.searchsorted(sensor, middle_s + 0.5 * SEGMENT_S * np.array([[-1], [1]]))
        beats = seen_M[last] - seen_M[first]
        mean = (energy_MK[last] - energy_MK[first]) / np.maximum(beats, 1)[:, None]
        late_s = (_peak(mean) - half) / ENERGY_HZ
        usable = beats >= MIN_BEATS
        return mean, np.where(usable, start_s + slope * middle_s - late_s, np.nan), usable

    middle_S = (np.arange(segments) + 0.5) * SEGMENT_S
    mean_SK, lags_S, usable_S = stretch(middle_S)
    fitted_start, fitted_slope = start_s, slope
    near_S = usable_S
    for _ in range(3):
        off_S = lags_S - (fitted_start + fitted_slope * middle_S)
        near_S = usable_S & (np.abs(off_S) < TOLERANCE_S)
        if near_S.sum() < MIN_SEGMENTS:
            break
        fitted_slope, fitted_start = np.polyfit(middle_S[near_S], lags_S[near_S], 1)
    late_s = start_s - fitted_start + (slope - fitted_slope) * middle_S
    place = np.clip(half + late_s * ENERGY_HZ, 0.0, 2 * half - 1e-6)
    row, below = np.arange(segments), place.astype(int)
    heights_S = mean_SK[row, below]
    heights_S += (place - below) * (mean_SK[row, below + 1] - heights_S)
    track_times_P = np.arange(0.5 * TRACK_S, segments * SEGMENT_S, TRACK_S)
    return _Clock(
        float(fitted_start),
        float(fitted_slope),
        lags_S,
        near_S,
        np.where(usable_S, heights_S, np.nan),
        track_times_P,
        stretch(track_times_P)[1],
    )


def _peak(values: NDArray) -> NDArray[np.float64]:
    """Place of the highest sample along the last axis, refined by a parabola."""
    peak = np.clip(np.argmax(values, axis=-1), 1, values.shape[-1] - 2)
    row = np.arange(len(peak))
    return peak + parabola(*(values[row, peak + step] for step in (-1, 0, 1)))[0]


def _best(clocks: list[_Clock]) -> tuple[_Clock, float]:
    """The clock along which the energy is highest, and how sure that is.

    The mean difference of its segments' heights from a rival's over its standard error, through the
    normal distribution, is the chance that the order holds; a coin toss is 0.
    """
    height = [float(np.nanmean(c.heights_S)) if c.near_S.any() else -np.inf for c in clocks]
    best = clocks[int(np.argmax(height))]
    confidence = 1.0
    for rival in clocks:
        if abs(rival.start_s - best.start_s) < 0.5 * REACH_S:
            continue  # the same one
        ahead = best.heights_S - rival.heights_S
        ahead = ahead[np.isfinite(ahead)]
        if len(ahead) < 3:
            continue
        error = ahead.std(ddof=1) / np.sqrt(len(ahead)) + 1e-12
        confidence = min(confidence, float(special.erf(ahead.mean() / error / np.sqrt(2.0))))
    return best, confidence
