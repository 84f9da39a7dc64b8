"""Augmentation: each kind does what its setting says, and nothing else."""

import functools

import jax
import numpy as np
import pytest

from kd_sleep.config import AugmentConfig
from kd_sleep.features.bcg import LARGEST
from kd_sleep.schema import BCG_HZ
from kd_sleep.training import augment as module
from kd_sleep.training.augment import augment

KINDS = {
    "augment_gain": 0.3,
    "augment_polarity": 0.5,
    "augment_shift_s": 2.0,
    "augment_dropouts": 0.1,
    "augment_movements": 60.0,
}
KEY = jax.random.key(0)
B, L, S = 4, 16, 1500


def make_batch(rows=B, windows=L, bcg=None):
    """Counts that are never 0, scales that differ from window to window."""
    rng = np.random.default_rng(0)
    if bcg is None:
        bcg = rng.integers(1, 2000, (rows, windows, S)) * rng.choice([-1, 1], (rows, windows, S))
    return {
        "bcg": bcg.astype(np.int16),
        "bcg_scale": rng.uniform(0.005, 0.02, (rows, windows)).astype(np.float32),
        "bcg_missing": np.zeros((rows, windows), np.float32),
        "valid_BL": np.ones((rows, windows), bool),
        "rr_missing": rng.uniform(size=(rows, windows)).astype(np.float32),
        "tachogram": rng.normal(size=(rows, windows, 120)).astype(np.float32),
        "label": rng.integers(-1, 4, (rows, windows)).astype(np.int8),
        "teacher_logits": rng.normal(size=(rows, windows, 4)).astype(np.float32),
    }


@pytest.fixture
def batch():
    return make_batch()


@pytest.fixture
def half_there(batch):
    """Sequences that reach beyond their night at either end, and a window half missing."""
    batch["valid_BL"][0, :3] = batch["valid_BL"][1, -2:] = False
    batch["bcg_missing"][2, 5] = 0.5
    return batch


TRACES = []
QUICK = {"xla_backend_optimization_level": 0}  # what takes time here is compiling


@functools.cache
def jitted(config):
    def counting(key, batch):
        TRACES.append(config)
        return augment(key, batch, config)

    return jax.jit(counting, compiler_options=QUICK)


def run(batch, seed=0, **settings):
    out = jitted(AugmentConfig(**settings))(jax.random.key(seed), batch)
    return {name: np.asarray(value) for name, value in out.items()}


def flat(batch):
    """[B, L * S] in heartbeat amplitudes."""
    values = batch["bcg"].astype(np.float32) * batch["bcg_scale"][..., None]
    return values.reshape(len(values), -1)


def test_off_is_the_very_same_batch(batch):
    assert augment(KEY, batch, AugmentConfig()) is batch


@pytest.mark.parametrize("settings", [{kind: value} for kind, value in KINDS.items()] + [KINDS])
def test_only_the_bcg_changes(half_there, settings):
    out = run(half_there, **settings)
    assert out.keys() == half_there.keys()
    for name in half_there.keys() - {"bcg", "bcg_scale", "bcg_missing"}:
        np.testing.assert_array_equal(out[name], half_there[name])
        assert out[name].dtype == half_there[name].dtype
    assert out["bcg"].dtype == np.float32
    assert out["bcg"].shape == half_there["bcg"].shape
    assert (out["bcg_scale"] == 1).all()
    assert out["bcg_scale"].shape == half_there["bcg_scale"].shape
    assert not np.array_equal(out["bcg"].reshape(B, -1), flat(half_there))
    valid = half_there["valid_BL"]
    assert (out["bcg"][~valid] == 0).all()
    np.testing.assert_array_equal(out["bcg_missing"][~valid], half_there["bcg_missing"][~valid])
    if not {"augment_shift_s", "augment_dropouts"} & set(settings):
        np.testing.assert_array_equal(out["bcg_missing"], half_there["bcg_missing"])


def test_the_key_decides(batch):
    first, again, other = (run(batch, seed, **KINDS) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["bcg"], again["bcg"])
    np.testing.assert_array_equal(first["bcg_missing"], again["bcg_missing"])
    assert (first["bcg"] != other["bcg"]).mean() > 0.5


def test_gain_is_one_log_normal_factor_a_sequence():
    batch = make_batch(2000, 1, np.ones((2000, 1, 50)))
    ratio = flat(run(batch, augment_gain=0.3)) / flat(batch)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-5)
    log = np.log(ratio[:, 0])
    assert abs(log.mean()) < 4 * 0.3 / 2000**0.5
    assert log.std() == pytest.approx(0.3, rel=0.07)


def test_polarity_turns_the_given_share_of_sequences():
    batch = make_batch(2000, 1, np.arange(1, 51) * np.ones((2000, 1, 1)))
    ratio = flat(run(batch, augment_polarity=0.3)) / flat(batch)
    assert set(np.unique(ratio)) == {-1.0, 1.0}
    assert (ratio == ratio[:, :1]).all()
    assert (ratio[:, 0] < 0).mean() == pytest.approx(0.3, abs=0.04)


def test_a_positive_shift_is_a_delay():
    out = module._shift(np.arange(1.0, 5.0)[None], np.array([1]), 2, 0.0)
    np.testing.assert_array_equal(out, [[0, 1, 2, 3]])


def test_shift_is_the_oracles(half_there):
    shifts = set()
    values = np.where(np.repeat(half_there["valid_BL"], S, axis=1), flat(half_there), 0)
    lost = np.where(half_there["valid_BL"], half_there["bcg_missing"], 1)
    lost = np.repeat(lost, S, axis=1)
    for seed in range(8):
        out = run(half_there, seed, augment_shift_s=2.0)
        for row in range(B):
            mine = np.repeat(half_there["valid_BL"][row], S)
            found = flat(out)[row]
            expected = {}
            for by in range(-100, 101):
                moved = np.zeros(L * S, np.float32)
                moved[max(by, 0) : L * S + min(by, 0)] = values[row][
                    max(-by, 0) : L * S - max(by, 0)
                ]
                expected[by] = np.where(mine, moved, 0)
            (by,) = (by for by in expected if np.array_equal(expected[by], found))
            gone = np.ones(L * S)
            gone[max(by, 0) : L * S + min(by, 0)] = lost[row][max(-by, 0) : L * S - max(by, 0)]
            missing = gone.reshape(L, S).mean(1)
            valid = half_there["valid_BL"][row]
            np.testing.assert_allclose(out["bcg_missing"][row][valid], missing[valid], atol=1e-5)
            shifts.add(by)
    assert len(shifts) > 20  # each sequence its own, either way
    assert min(shifts) < -50
    assert max(shifts) > 50


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_dropouts_lose_the_given_share_all_over_a_sequence(share):
    batch = make_batch(400, 4, np.ones((400, 4, S)))
    lost = run(batch, augment_dropouts=share)["bcg"].reshape(400, -1) == 0
    sd = (share * (1 - share) * 10 / 120 / 400) ** 0.5  # spans of 10 s in 400 times 120 s
    assert lost.mean() == pytest.approx(share, abs=5 * sd)
    for tenth in np.array_split(lost, 10, axis=1):  # the ends lose as much as the middle
        assert tenth.mean() == pytest.approx(share, abs=5 * 3.2 * sd)


def test_dropouts_last_5_to_15_s(batch):
    batch = make_batch(100, 16)
    lost = (run(batch, augment_dropouts=0.01)["bcg"] == 0).reshape(100, -1)
    edges = np.diff(lost.astype(int), axis=1)
    starts, stops = np.nonzero(edges == 1), np.nonzero(edges == -1)
    inside = ~lost[:, 0] & ~lost[:, -1]
    lengths = np.concatenate(
        [stops[1][stops[0] == row] - starts[1][starts[0] == row] for row in np.flatnonzero(inside)]
    )
    assert lengths.min() >= 5 * BCG_HZ
    assert np.median(lengths) == pytest.approx(10 * BCG_HZ, rel=0.2)
    assert (lengths <= 15 * BCG_HZ).mean() > 0.9  # two may touch


def test_a_dropout_is_silence_and_is_accounted_for(batch):
    out = run(batch, augment_dropouts=0.1)
    lost = out["bcg"] == 0
    assert 0.02 < lost.mean() < 0.3
    kept = ~lost.reshape(B, -1)
    np.testing.assert_array_equal(out["bcg"].reshape(B, -1)[kept], flat(batch)[kept])
    np.testing.assert_allclose(out["bcg_missing"], lost.mean(-1), atol=1e-6)
    batch["bcg_missing"][:] = 0.4  # nobody knows where: what is left of a window misses as much
    half = run(batch, augment_dropouts=0.1)
    np.testing.assert_allclose(half["bcg_missing"], 0.4 + 0.6 * lost.mean(-1), atol=1e-5)
    batch["bcg_missing"][:] = 1.0
    assert (run(batch, augment_dropouts=0.1)["bcg_missing"] == 1).all()


def bursts_of(per_hour, rows=100):
    """[B, L * S] movements alone, over a BCG of 0."""
    batch = make_batch(rows, 16, np.zeros((rows, 16, S)))
    return flat(run(batch, augment_movements=per_hour))


def test_movements_come_at_the_given_rate_and_last_3_to_15_s():
    out = bursts_of(15.0)
    moving = out != 0
    starts = (np.diff(moving.astype(int), axis=1) == 1).sum()
    expected = 15.0 * out.size / BCG_HZ / 3600
    assert starts == pytest.approx(expected, abs=4 * expected**0.5)
    # A burst is there for 6.6 s in the mean, and a quiet sequence has none.
    assert moving.mean() == pytest.approx(15.0 * 6.6 / 3600, rel=0.25)
    for third in np.array_split(moving, 3, axis=1):
        assert third.mean() == pytest.approx(moving.mean(), rel=0.35)
    single = [row for row in moving if (np.diff(row.astype(int)) != 0).sum() == 2]
    lengths = np.array([row.sum() / BCG_HZ for row in single])
    assert lengths.min() > 2.9
    assert np.median(lengths) == pytest.approx(6.0, rel=0.25)


def test_movements_have_the_simulators_spectrum_and_saturate():
    out = bursts_of(15.0)
    assert np.abs(out).max() == module.LARGEST == LARGEST
    loud = [row for row in out if 0 < np.abs(row).max() < module.LARGEST]
    power = np.mean([np.abs(np.fft.rfft(row)) ** 2 for row in loud], axis=0)
    frequency = np.fft.rfftfreq(out.shape[1], 1 / BCG_HZ)

    def share(low, high):
        return power[(frequency >= low) & (frequency < high)].sum() / power.sum()

    assert share(0, 1) > 0.9  # sway
    assert 0.5e-3 < share(2, 10) < 2e-2  # shaking: (0.4 / 6)^2 = 4e-3
    assert share(15, 25) < 1e-4


def test_movements_add_to_the_bcg_near_bursts_alone(batch):
    silent = make_batch(bcg=np.zeros((B, L, S)))
    added = flat(run(silent, augment_movements=60.0))
    moving = added != 0
    out = flat(run(batch, augment_movements=60.0))
    assert 0.02 < moving.mean() < 0.4
    np.testing.assert_array_equal(out[~moving], flat(batch)[~moving])
    both = flat(batch) + added
    expected = np.where(np.abs(added) < 450, both, out)
    np.testing.assert_allclose(out, expected, atol=1e-3)


def test_what_is_not_valid_does_not_get_in(half_there):
    """Whatever stands in windows beyond a night's ends, no valid window changes."""
    first = run(half_there, **KINDS)
    gone = ~half_there["valid_BL"]
    half_there["bcg"][gone] = 12345
    half_there["bcg_missing"][gone] = 0.7
    second = run(half_there, **KINDS)
    np.testing.assert_array_equal(first["bcg"], second["bcg"])
    np.testing.assert_array_equal(first["bcg_missing"][~gone], second["bcg_missing"][~gone])


def test_a_window_without_bcg_does_not_move(batch):
    settings = {"augment_movements": KINDS["augment_movements"]}
    batch["bcg"][:, 3] = 0
    assert (run(batch, **settings)["bcg"][:, 3] != 0).any()
    batch["bcg_missing"][:, 3] = 1
    assert (run(batch, **settings)["bcg"][:, 3] == 0).all()


def test_one_trace(batch):
    first = run(batch, 0, **KINDS)
    traces = len(TRACES)
    batch["bcg_missing"][:] = 0.2
    second = run(batch, 1, **KINDS)
    assert (first["bcg_missing"] != second["bcg_missing"]).any()
    assert len(TRACES) == traces


def test_vmap_over_keys_is_a_loop(batch):
    keys = jax.random.split(KEY, 3)
    config = AugmentConfig(**KINDS)
    over_keys = jax.vmap(functools.partial(augment, config=config), (0, None))
    together = jax.jit(over_keys, compiler_options=QUICK)(keys, batch)
    for n, key in enumerate(keys):
        alone = jitted(config)(key, batch)
        for name in ("bcg", "bcg_missing", "label"):
            np.testing.assert_allclose(together[name][n], alone[name], rtol=1e-5, atol=1e-3)


def test_kinds_do_not_disturb_each_others_draws(batch):
    every = run(batch, **KINDS)
    some = run(batch, **KINDS | {"augment_dropouts": 0.0})
    kept = every["bcg"] != 0
    assert not kept.all()
    np.testing.assert_allclose(every["bcg"][kept], some["bcg"][kept], rtol=1e-5, atol=1e-3)
    still = run(batch, **KINDS | {"augment_shift_s": 0.0})
    alone = run(batch, augment_dropouts=KINDS["augment_dropouts"])
    np.testing.assert_array_equal(still["bcg"] == 0, alone["bcg"] == 0)
    assert (every["bcg"][alone["bcg"] == 0] == 0).all()


@pytest.mark.parametrize("kind", ["augment_gain", "augment_polarity"])
def test_a_factor_is_the_same_beside_others(batch, kind):
    settings = {name: KINDS[name] for name in ("augment_gain", "augment_polarity")}
    settings["augment_shift_s"] = 2.0
    factor = flat(run(batch, **{kind: KINDS[kind]})) / flat(batch)
    with_it, without = flat(run(batch, **settings)), flat(run(batch, **settings | {kind: 0.0}))
    np.testing.assert_allclose(with_it, without * factor[:, :1], rtol=1e-4)
