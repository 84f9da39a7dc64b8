"""Arrays in NPY, NPZ and HDF5: shapes, rates and starts; nothing unpickled, fetched or unpacked
beyond a night's size."""

import datetime
import io
import zipfile

import h5py
import numpy as np
import pytest

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import bcg_formats, time_stamps
from kd_sleep.recordings.paired_bcg import read_bcg

RNG = np.random.default_rng(5)
NOISE = RNG.normal(size=(40_000, 3))


@pytest.mark.parametrize("turned", [False, True])
def test_the_longer_axis_is_time(tmp_path, turned):
    np.save(tmp_path / "night.npy", NOISE.T if turned else NOISE)
    for k in range(3):
        bcg = read_bcg(tmp_path / "night.npy", f"array[{k}]", 100.0)
        np.testing.assert_array_equal(bcg.signal.values, NOISE[:, k].astype(np.float32))


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a file was unpickled",)


@pytest.mark.parametrize(
    "array",
    [np.array([Bomb()] * 2000), np.zeros(2000, [("a", "f4")]), np.zeros(2000, "M8[s]"),
     np.zeros(2000, complex), np.zeros(2000, bool), np.array(["x"] * 2000)],
    ids=lambda array: str(array.dtype),
)  # fmt: skip
def test_only_plain_numbers_are_read(tmp_path, array):
    np.save(tmp_path / "night.npy", array)
    np.savez(tmp_path / "night.npz", bcg=array, fs=100)
    for name in ("night.npy", "night.npz"):
        with pytest.raises(RecordingError, match=r"no plain numbers|no readable"):
            read_bcg(tmp_path / name, rate_hz=100.0)


ODD = {
    "a mask": NOISE[:, 0] > 0,
    "dates": np.datetime64("2024-03-10T22:15") + np.arange(40_000).astype("m8[ms]") * 10,
    "text": np.array(["W"] * 1200),
    "objects": np.array([Bomb()] * 2000),
    "a spectrogram": np.zeros((10, 1000, 3)),
    "a grid": np.zeros((2000, 80)),
    "a table": np.zeros(2000, [("a", "f4")]),
    "nothing": np.zeros(0),
    "a number": np.float64(7.0),
    "rows": np.arange(40_000),
}


@pytest.mark.parametrize("channel", ["", "bcg"])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_signal_stands_in_no_signals_way(tmp_path, kind, channel):
    np.savez(tmp_path / "night.npz", other=ODD[kind], bcg=NOISE[:, 0], fs=100)
    bcg = read_bcg(tmp_path / "night.npz", channel)
    np.testing.assert_array_equal(bcg.signal.values, NOISE[:, 0].astype(np.float32))
    if kind in ("text", "objects", "dates"):
        return  # HDF5 has none of these
    with h5py.File(tmp_path / "night.h5", "w") as file:
        file["other"], file["bcg"], file.attrs["fs"] = ODD[kind], NOISE[:, 0], 100.0
        file["far"] = h5py.ExternalLink("nowhere.h5", "/x")
        file["soft"] = h5py.SoftLink("/nowhere")
        file.create_dataset("blank", (2000,), "f4")
        file.create_dataset("log", data=NOISE[:5000, 1]).attrs["fs"] = "n/a"
    bcg = read_bcg(tmp_path / "night.h5", channel)
    np.testing.assert_array_equal(bcg.signal.values, NOISE[:, 0].astype(np.float32))
    with pytest.raises(RecordingError, match=r"tells 'n/a' as the rate|no channel"):
        read_bcg(tmp_path / "night.h5", "log")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
@pytest.mark.parametrize("clock", ["s", "ms", "Unix s", "rows"])
@pytest.mark.parametrize("clock_first", [True, False])
def test_a_clock_among_the_channels_is_the_clock(tmp_path, suffix, clock, clock_first):
    time_s = np.arange(40_000) / 100
    stamps = {"s": time_s, "ms": np.rint(1e3 * time_s), "Unix s": 1.7e9 + time_s}.get(
        clock, np.arange(40_000)
    )
    lost = (time_s >= 100) & (time_s < 150)
    columns = (stamps, NOISE[:, 0]) if clock_first else (NOISE[:, 0], stamps)
    table, path = np.column_stack(columns)[~lost], tmp_path / f"night{suffix}"
    if suffix == ".npy":
        np.save(path, table)
    elif suffix == ".npz":
        np.savez(path, other=table[:, 1 - clock_first], z=table[:, int(clock_first)])
    else:
        with h5py.File(path, "w") as file:
            file["a/table"] = table
    bcg = read_bcg(path, rate_hz=100.0)
    expected = np.where(lost, np.nan, NOISE[:, 0]).astype(np.float32)
    np.testing.assert_array_equal(bcg.signal.values, expected)
    assert (bcg.start is None) == (clock != "Unix s")
    with pytest.raises(RecordingError, match="only rises"):
        read_bcg(path, bcg.other_channels[0], 100.0)


def npy_header(shape, dtype="<f8"):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


@pytest.mark.parametrize(
    "shape", [(10**18,), (86_400_001,), (86_400_000, 64), (30_000, 65), (30, 30, 3000)]
)
def test_declared_sizes_are_checked_before_memory_is_taken(tmp_path, shape):
    with open(tmp_path / "night.npy", "wb") as file:
        file.write(npy_header(shape))
        size = 8 * int(np.prod(shape, dtype=object))
        file.truncate(min(size + file.tell(), 2**43))  # sparse
    with zipfile.ZipFile(tmp_path / "night.npz", "w") as archive:
        archive.writestr("bcg.npy", npy_header(shape) + bytes(1000))
    with h5py.File(tmp_path / "night.h5", "w") as file:
        chunks = (30, *(1 for _ in shape[1:]))
        file.create_dataset("bcg", shape, "f8", chunks=chunks)[(0,) * len(shape)] = 1.0
    for suffix in ("npy", "npz", "h5"):
        with pytest.raises(RecordingError, match=r"declare|no readable NPY|axes"):
            read_bcg(tmp_path / f"night.{suffix}", rate_hz=100.0)


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(bcg_formats, "_MOST_NPZ_BYTES", 2**24)
    np.savez_compressed(tmp_path / "night.npz", bcg=np.zeros((40_000, 64)), fs=100)
    assert (tmp_path / "night.npz").stat().st_size < 2**17
    with pytest.raises(RecordingError, match="declared as 40000 x 64"):
        read_bcg(tmp_path / "night.npz")


@pytest.mark.parametrize("name", ["fs", "Rate", "rate_hz", "sampling_rate"])
def test_npz_rates_and_refusals(tmp_path, name):
    path = tmp_path / "night.npz"
    np.savez(path, bed=NOISE[:, 0], temp=NOISE[:, 1], **{name: np.array([125.0])})
    assert read_bcg(path).signal.rate_hz == 125.0
    np.savez(path, bed=NOISE[:, 0], fs=100, sample_rate=50)
    with pytest.raises(RecordingError, match="several rates"):
        read_bcg(path)
    np.savez(path, bed=NOISE[:, 0], **{name: "fast"})
    with pytest.raises(RecordingError, match="tells 'fast' as the rate"):
        read_bcg(path)


def h5_with(tmp_path, place):
    """A file whose rate stands at one place, and a contradicting one further off."""
    with h5py.File(tmp_path / "night.h5", "w") as file:
        file["a/b/bcg"] = NOISE[:, 0]
        if place == "attribute":
            file["a/b/bcg"].attrs["FS"] = np.array([125.0])
            file["a/b/fs"] = 60.0
        elif place == "beside":
            file["a/b/sampling_rate"] = np.int32(125)
            file["a"].attrs["fs"] = 60.0
        else:
            file["a"].attrs["rate"] = 125
            file["fs"] = 60.0
    return tmp_path / "night.h5"


@pytest.mark.parametrize("place", ["attribute", "beside", "parent"])
def test_hdf5_takes_the_nearest_rate(tmp_path, place):
    assert read_bcg(h5_with(tmp_path, place)).signal.rate_hz == 125.0


def test_hdf5_never_opens_another_file(tmp_path):
    secret, path = tmp_path / "secret.h5", tmp_path / "night.h5"
    with h5py.File(secret, "w") as file:
        file["bcg"] = NOISE[:, 0]
    (tmp_path / "raw.bin").write_bytes(NOISE[:, 0].tobytes())

    def refused(fill):
        with h5py.File(path, "w") as file:
            fill(file)
        with pytest.raises(RecordingError, match="in another file"):
            read_bcg(path, rate_hz=100.0)

    refused(lambda file: file.__setitem__("bcg", h5py.ExternalLink("secret.h5", "/bcg")))
    layout = h5py.VirtualLayout(40_000, "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "bcg", 40_000)
    refused(lambda file: file.create_virtual_dataset("bcg", layout))
    refused(
        lambda file: file.create_dataset(
            "bcg", (40_000,), "f8", external=[(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)]
        )
    )


def test_hdf5_cycles_and_soft_links_do_no_harm(tmp_path):
    with h5py.File(tmp_path / "night.h5", "w") as file:
        file["a/b/bcg"] = NOISE[:, 0]
        file["a/b/up"] = file["a"]
        file["again"] = file["a/b/bcg"]
        file["soft"] = h5py.SoftLink("/a/b/bcg")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["stages"] = np.zeros(640, "i1")
        file["text"] = "words"
    bcg = read_bcg(tmp_path / "night.h5", rate_hz=100.0)
    assert bcg.other_channels == ()
    np.testing.assert_array_equal(bcg.signal.values, NOISE[:, 0].astype(np.float32))


@pytest.mark.parametrize(
    ("stamp", "start", "utc"),
    [
        ("2023-11-03 22:39:15", (2023, 11, 3, 22, 39, 15), False),
        (b"2023/11/3 2:09:15.25", (2023, 11, 3, 2, 9, 15, 250_000), False),
        ("2023-11-03T22:39:15+01:00", (2023, 11, 3, 22, 39, 15), False),
        ("2023-11-03T22:39:15Z", (2023, 11, 3, 22, 39, 15), True),
        (1700061224065, (2023, 11, 15, 15, 13, 44, 65_000), True),
        (1700061224.5, (2023, 11, 15, 15, 13, 44, 500_000), True),
        (12.5, None, False),
        ("3/11/2023 22:39", None, False),
        ("2023-13-03 22:39:15", None, False),
    ],
)
def test_a_start_is_local_or_in_utc_or_none(stamp, start, utc):
    zone = datetime.UTC if utc else None
    assert time_stamps.start_of(stamp) == (start and datetime.datetime(*start, tzinfo=zone))


def test_cut_files_are_refused_by_name(tmp_path):
    np.save(tmp_path / "night.npy", NOISE)
    np.savez_compressed(tmp_path / "night.npz", bcg=NOISE, fs=100)
    with h5py.File(tmp_path / "night.h5", "w") as file:
        file.create_dataset("bcg", data=NOISE, compression="gzip")
    for path in tmp_path.iterdir():
        whole = path.read_bytes()
        for keep in (0.99, 0.5, 0.001):
            path.write_bytes(whole[: int(keep * len(whole))])
            with pytest.raises(RecordingError, match=path.name):
                read_bcg(path, rate_hz=100.0)
