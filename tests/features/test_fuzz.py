"""Bad files, end to end: a mutated night is the same record, an exclusion that says why, or a
record whose damage is where the file's own is.

A mutant is one file of a short simulated night, changed by a seed: bytes, header fields, lines,
whole spans, whole files. What a different record may differ in is judged by `judge`; where a file
tells a thing once only (a sample, a beat's type, a stage in Profusion's list), nothing can.
"""

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import re
import resource
import shutil
import signal
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from kd_sleep import schema
from kd_sleep.config import BuildConfig, CohortConfig, DatasetConfig
from kd_sleep.datasets import shhs_bcg
from kd_sleep.errors import KdSleepError
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.recordings import edf, shhs
from kd_sleep.recordings.stage_files import read_scoring
from kd_sleep.simulation.cohort import write_cohort
from kd_sleep.stages import UNSCORED

ID = "shhs1-200001"
LONGEST_S = 5.0  # that any mutant may take
MOST_DAMAGE = 0.05  # of an EDF's bytes, up to which what is away from it has to be unchanged
MOST_BYTES = 1e9  # that a run may need on top of its imports
NO_BCG = DatasetConfig(bcg_source="none")
SIMULATED, PAIRED = DatasetConfig(bcg_source="simulated"), DatasetConfig(bcg_source="paired")
RPOINTS_ALONE = DatasetConfig(bcg_source="none", recordings="rpoints")
ECG_FIELDS = ("label", "tachogram", "hrv", "rr_missing", "ecg_quality")

# Each kind: the file of NightFiles that is mutated, its suffix, and what the night is read for.
KINDS = {
    "EDF": ("edf", ".edf", SIMULATED),
    "EDF, no R points": ("edf", ".edf", NO_BCG),
    "NSRR XML": ("stages_xml", ".xml", NO_BCG),
    "NSRR XML, R points alone": ("stages_xml", ".xml", RPOINTS_ALONE),
    "Profusion XML": ("profusion_xml", ".xml", NO_BCG),
    "R points": ("rpoints_csv", ".csv", NO_BCG),
    "R points alone": ("rpoints_csv", ".csv", RPOINTS_ALONE),
    "BCG EDF": ("bcg", ".edf", PAIRED),
    "BCG CSV": ("bcg", ".csv", PAIRED),
    "BCG NPY": ("bcg", ".npy", dataclasses.replace(PAIRED, bcg_rate_hz=50.0)),
    "BCG NPZ": ("bcg", ".npz", PAIRED),
    "BCG HDF5": ("bcg", ".h5", PAIRED),
}
TEXT = (".xml", ".csv")
EXTREMES = (
    b"0", b"-1", b"1", b"", b"99999999", b"-9999999", b"2147483648", b"1e308", b"1e-308", b"nan",
    b"inf", b"-inf", b"-0", b"0.0001", b"1e5", b"32768", b"65536", b"x", b"1_0", b" 7 ", b"0x10",
    b"\xd9\xa3", b"1,5", b"--", b"+3",
)  # fmt: skip
JUNK = (
    b"\0", b"\r", b"\n", b"\x1a", b"\x1b[2J", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"<", b"&x;",
    b"]]>", b"<?xml version='1.0'?>", b"\xe2\x80\xae", b",", b";", b"\t",
    b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
)  # fmt: skip


# --- the mutator


def mutated(data: bytes, suffix: str, others: list[bytes], seed: list[int]) -> tuple[str, bytes]:
    """A changed copy of `data`, and the name of what was done; the same seed does the same."""
    rng = np.random.default_rng(seed)
    choices = [*BYTE_CHANGES, *(TEXT_CHANGES if suffix in TEXT else ())]
    if suffix == ".edf":
        choices += [edf_field, edf_field, edf_fields_swapped, edf_samples, edf_samples, edf_samples]
    change = choices[rng.integers(len(choices))]
    if change is other_file:
        return change.__name__, others[rng.integers(len(others))]
    if change is appended:
        return change.__name__, data + [data, *others][rng.integers(len(others) + 1)]
    for _ in range(rng.choice([1, 1, 1, 3])):
        data = change(rng, data)
    return change.__name__, data


def some_span(rng, data, longest=None) -> tuple[int, int]:
    """Of any length up to `longest`, the short ones as likely as the long."""
    most = max(1, min(len(data), longest or len(data)))
    length = int(np.exp(rng.uniform(0, np.log(most))))
    start = int(rng.integers(max(1, len(data) - length + 1)))
    return start, start + length


def noise(rng, length) -> bytes:
    return rng.integers(0, 256, length, np.uint8).tobytes()


def bytes_changed(rng, data):
    changed = bytearray(data)
    for at in rng.integers(0, max(len(data), 1), rng.integers(1, 9)):
        changed[at : at + 1] = noise(rng, 1)
    return bytes(changed)


def bit_of_the_beginning(rng, data):
    changed = bytearray(data)
    at = int(rng.integers(min(len(data), 4096)))
    changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut_short(rng, data):
    return data[: int(rng.integers(len(data)))] if data else data


def span_changed(rng, data):
    """A span is lost, doubled, or overwritten."""
    start, stop = some_span(rng, data)
    here = data[start:stop]
    size = stop - start
    instead = (b"", here + here, bytes(size), noise(rng, size), b"\xff" * size)[rng.integers(5)]
    return data[:start] + instead + data[stop:]


def spans_swapped(rng, data):
    length = some_span(rng, data, len(data) // 3)
    size = length[1] - length[0]
    one, two = sorted(int(at) for at in rng.integers(0, max(1, len(data) - size), 2))
    return data if two < one + size else swapped(data, (one, one + size), (two, two + size))


def swapped(data, one, two):
    return b"".join(
        (data[: one[0]], data[slice(*two)], data[one[1] : two[0]], data[slice(*one)],
         data[two[1] :])
    )  # fmt: skip


def junk_inserted(rng, data):
    at = int(rng.integers(len(data) + 1))
    junk = JUNK[rng.integers(len(JUNK))] if rng.random() < 0.7 else noise(rng, 64)
    return data[:at] + junk * int(rng.choice([1, 1, 1, 1000])) + data[at:]


def emptied(rng, data):
    return bytes(int(rng.choice([0, 0, 1, 300])))


def other_file(rng, data):
    raise NotImplementedError  # `mutated` has the others


def appended(rng, data):
    raise NotImplementedError


def lines_changed(rng, data):
    """Lines are lost, doubled, or two of them swapped."""
    lines = data.splitlines(keepends=True)
    start, stop = some_span(rng, lines, 200)
    kind = rng.integers(3)
    if kind < 2 or not lines:
        return b"".join(lines[:start] + lines[start:stop] * (2 * kind) + lines[stop:])
    one, two = rng.integers(0, len(lines), 2)
    lines[one], lines[two] = lines[two], lines[one]
    return b"".join(lines)


def number_changed(rng, data):
    """A number becomes an extreme one, or one of its digits another."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", data))
    if not found:
        return data
    one = found[rng.integers(len(found))]
    value = EXTREMES[rng.integers(len(EXTREMES))]
    if rng.random() < 0.4:
        digits = [at for at in range(one.start(), one.end()) if data[at : at + 1].isdigit()]
        at = digits[rng.integers(len(digits))]
        return data[:at] + b"%d" % rng.integers(10) + data[at + 1 :]
    return data[: one.start()] + value + data[one.end() :]


def cells_swapped(rng, data):
    lines = data.split(b"\n")
    at = int(rng.integers(len(lines)))
    cells = re.split(rb"([,<>])", lines[at])
    one, two = rng.integers(0, len(cells), 2)
    cells[one], cells[two] = cells[two], cells[one]
    lines[at] = b"".join(cells)
    return b"\n".join(lines)


def other_text(rng, data):
    """Another encoding, or other ends of lines."""
    if rng.random() < 0.5:
        ends = (b"\r\n", b"\r", b"\r\r\n", b"\n\n", b"")
        return data.replace(b"\n", ends[rng.integers(5)])
    text = data.decode("latin-1")
    return text.encode(str(rng.choice(["utf-16", "utf-32", "utf-8-sig", "cp037", "utf-16-le"])))


def edf_fields(data) -> list[tuple[int, int]]:
    """Bytes of every field of an EDF header."""
    fixed = (8, 80, 80, 8, 8, 8, 44, 8, 8, 4)
    try:
        channels = max(1, min(20, int(data[252:256])))
    except ValueError:
        channels = 1
    sizes = [*fixed, *(s for s in (16, 80, 8, 8, 8, 8, 8, 80, 8, 32) for _ in range(channels))]
    stops = np.cumsum(sizes)
    return [(int(stop - size), int(stop)) for size, stop in zip(sizes, stops, strict=True)]


def edf_field(rng, data):
    fields = edf_fields(data)
    start, stop = fields[rng.integers(len(fields))]
    value = EXTREMES[rng.integers(len(EXTREMES))]
    return data[:start] + value[: stop - start].ljust(stop - start) + data[stop:]


def edf_fields_swapped(rng, data):
    fields = edf_fields(data)
    one = fields[rng.integers(len(fields))]
    same = [field for field in fields if field[1] - field[0] == one[1] - one[0]]
    one, two = sorted((one, same[rng.integers(len(same))]))
    return data if one == two else swapped(data, one, two)


def edf_samples(rng, data):
    """Damage to samples alone, and not to many of them."""
    header = edf_fields(data)[-1][1]
    body = data[header:]
    start = int(rng.integers(max(1, len(body) - len(body) // 8)))
    stop = start + len(body) // 8
    first, last = some_span(rng, body[start:stop])
    instead = (bytes(last - first), noise(rng, last - first))[rng.integers(2)]
    return data[:header] + body[: start + first] + instead + body[start + last :]


BYTE_CHANGES = (
    bytes_changed, bit_of_the_beginning, cut_short, *[span_changed] * 5, spans_swapped,
    junk_inserted, emptied, other_file, appended,
)  # fmt: skip
TEXT_CHANGES = (
    *[lines_changed] * 3, *[number_changed] * 5, *[cells_swapped] * 2, *[other_text] * 2,
)  # fmt: skip


# --- the night


def write_bcg(path: Path, values: np.ndarray) -> None:
    """50 samples a second, in the format of the suffix."""
    if path.suffix == ".csv":
        rows = "".join(f"{k / 50:.2f},{value:.1f}\n" for k, value in enumerate(values))
        path.write_text("time_s,BCG\n" + rows)
    elif path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, bcg=values, fs=50.0)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("bcg", data=values, chunks=(10_000,), compression="gzip")
            file["bcg"].attrs["fs"] = 50.0


def night_of(home: Path, kind: str) -> shhs.NightFiles:
    """The night's files of one kind of mutants, in a folder of their own."""
    field, suffix, _ = KINDS[kind]
    source, root = shhs.paths_of(home / "cohort", ID, home / "cohort" / "bcg"), home / kind
    night = shhs.paths_of(root, ID, root / "bcg")
    for name in ("edf", "stages_xml", "rpoints_csv", "bcg"):
        getattr(night, name).parent.mkdir(parents=True)
        shutil.copy(getattr(source, name), getattr(night, name))
    if kind == "EDF, no R points":
        night = dataclasses.replace(night, rpoints_csv=None)
    if field == "profusion_xml":
        night.profusion_xml.parent.mkdir(parents=True)
        code = {UNSCORED: 9, 0: 0, 1: 5, 2: 2, 3: 3}
        stages = "".join(
            f"<SleepStage>{code[int(label)]}</SleepStage>\n"
            for label in read_scoring(night.stages_xml).labels
        )
        night.profusion_xml.write_text(
            '<?xml version="1.0"?>\n<CMPStudyConfig><EpochLength>30</EpochLength>\n'
            f"<ScoredEvents/><SleepStages>\n{stages}</SleepStages></CMPStudyConfig>\n"
        )
        night.stages_xml.unlink()
    else:
        night = dataclasses.replace(night, profusion_xml=None)
    if field == "bcg" and suffix != ".edf":
        bcg = edf.read_signals(night.bcg, {"bcg": ["BCG"]}).signals["bcg"].values
        night = dataclasses.replace(night, bcg=night.bcg.with_suffix(suffix))
        write_bcg(night.bcg, bcg[::2])
    return night


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Holds a cohort of one short night, which every kind of mutants copies."""
    home = tmp_path_factory.mktemp("fuzz")
    config = CohortConfig(subjects=1, hours=0.5, second_visit_share=0, rpoints_share=1)
    write_cohort(home / "cohort", config, workers=1)
    return home


# --- the judge


@contextlib.contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in a block that takes longer, even where it waits for a file."""

    def stop(*_):
        raise TimeoutError(f"longer than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def same(one, two) -> bool:
    return all(
        np.array_equal(one[name], two[name], equal_nan=spec.dtype is not str)
        if spec.dtype is not str
        else one[name] == two[name]
        for name, spec in schema.NIGHT_FIELDS.items()
    )


def damaged_windows(data: bytes, mutant: bytes) -> np.ndarray | None:
    """Windows whose samples differ in two EDF files; None if anything else does, or too much."""
    header = edf_fields(data)[-1][1]
    if len(mutant) != len(data) or mutant[:header] != data[:header]:
        return None
    changed = np.flatnonzero(np.frombuffer(data, np.uint8) != np.frombuffer(mutant, np.uint8))
    if changed.size > MOST_DAMAGE * len(data):
        return None
    record_bytes = (len(data) - header) // int(data[236:244])
    return np.unique((changed - header) // record_bytes // 30)


def judge(kind: str, night: shhs.NightFiles, before, after, windows) -> str:
    """What became of a mutant; raises AssertionError where that is not acceptable.

    Args:
      kind: of KINDS.
      night: its files, one of them mutated.
      before: the night's record.
      after: what the mutant came to.
      windows: with damaged samples, as `damaged_windows` has it.
    """
    if isinstance(after, Exclusion):
        assert after.recording_id == ID
        assert not after.reason.startswith("unforeseen"), after
        assert after.reason, after
        assert after.remedy, after
        assert Path(after.path).is_relative_to(night.edf.parents[3]), after
        return "excluded"
    schema.validate(after)
    for name, spec in schema.NIGHT_FIELDS.items():
        if spec.dtype is not str:
            assert not np.isinf(after[name]).any(), f"{name} is infinite"
    if same(before, after):
        return "equal"
    field = KINDS[kind][0]
    common = min(len(before["label"]), len(after["label"]))
    if field in ("edf", "rpoints_csv", "bcg"):  # they say nothing of stages
        np.testing.assert_array_equal(after["label"][:common], before["label"][:common])
        assert (after["label"][common:] == UNSCORED).all()
    if field in ("stages_xml", "profusion_xml") and len(after["label"]) == len(before["label"]):
        for name in set(ECG_FIELDS) - {"label"}:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    if field == "bcg":
        for name in ECG_FIELDS:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    if field == "edf" and windows is not None:
        distance = np.abs(np.arange(common)[:, None] - windows).min(1)
        for name, reach in (("tachogram", 2), ("rr_missing", 2), ("hrv", 6)):
            away = distance > reach
            np.testing.assert_array_equal(
                after[name][away], before[name][away], err_msg=f"{name}, damage at {windows}"
            )
    return "different"


def run(home: Path, kind: str, seeds: range) -> list[tuple[int, str, str, object]]:
    """Seed, change, outcome and result of every mutant.

    Raises:
      AssertionError: for the first that is a defect; names its seed.
    """
    number, (field, suffix, config) = list(KINDS).index(kind), KINDS[kind]
    night = night_of(home, kind)
    path = getattr(night, field)
    data = path.read_bytes()
    others = [file.read_bytes() for file in night.all_files() if file != path]
    before = process_night(night, config)
    assert not isinstance(before, Exclusion), before

    outcomes, failures = [], []
    for seed in seeds:
        change, mutant = mutated(data, suffix, others, [number, seed])
        path.write_bytes(mutant)
        windows = damaged_windows(data, mutant) if suffix == ".edf" and mutant != data else None
        try:
            with no_longer_than(LONGEST_S):
                after = process_night(night, config)
            outcomes.append((seed, change, judge(kind, night, before, after, windows), after))
        except (AssertionError, TimeoutError) as error:
            failures.append(f"seed {seed} ({change}): {error}")
    path.write_bytes(data)
    assert not failures, f"{kind}: {len(failures)} defects\n" + "\n".join(failures)
    return outcomes


@pytest.mark.parametrize("kind", ["EDF", "NSRR XML", "R points", "BCG CSV"])
def test_a_mutated_file_is_harmless_or_named(home, kind):
    outcomes = run(home, kind, range(9))
    assert len({outcome for _, _, outcome, _ in outcomes}) > 1, "mutants that change nothing"


def _measured(home, kind, seeds, results) -> None:
    """`run` in a process of its own, with the memory that it took."""
    warnings.simplefilter("error")
    run(home / "warm", kind, range(1))
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    try:
        outcomes = [outcome[:3] for outcome in run(home, kind, seeds)]
    except AssertionError as error:
        outcomes = str(error)
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle)
    results.put((outcomes, taken, time.monotonic() - began))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_mutants(home, kind, tmp_path):
    shutil.copytree(home / "cohort", tmp_path / "cohort")
    shutil.copytree(home / "cohort", tmp_path / "warm" / "cohort")
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    child = context.Process(target=_measured, args=(tmp_path, kind, range(1000, 1180), results))
    child.start()
    child.join(600)
    assert child.exitcode == 0
    outcomes, taken, seconds = results.get()
    assert not isinstance(outcomes, str), outcomes
    counts = collections.Counter(outcome for _, _, outcome in outcomes)
    print(f"{kind}: {dict(counts)}, {taken / 1e6:.0f} MB, {seconds:.0f} s")
    assert taken < MOST_BYTES


# --- folders


def linked_to(target):
    return lambda path: path.symlink_to(target)


def a_socket(path):
    home = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(home)


NO_FILES = {
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": linked_to("nowhere"),
    "link to a folder": linked_to("/"),
    "link to a device": linked_to("/dev/zero"),
    "link to a tape without an end": linked_to("/dev/urandom"),
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "socket": a_socket,
    "empty": Path.touch,
}
ODD_NAMES = (
    "shhs1-200001.edf\n", "shhs1-200001\n.edf", "shhs1-20000\u0661.edf", "shhs1-200001.edf.",
    "%2e%2e%2fshhs1-200001.edf", "shhs1-200001\u202e.edf", "\U0001f634.edf", "-rf", "a,b\".edf",
    "SHHS1-200001.EDF", "shhs2-200001.edf", "shhs1-200001.EDF.edf", "shhs1-" + "2" * 240 + ".edf",
    os.fsdecode(b"shhs1-\xff\xfe.edf"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "what"),
    [("edf", what) for what in NO_FILES]
    + [(field, "pipe") for field in ("stages_xml", "rpoints_csv", "bcg")]
    + [("rpoints_csv", "folder"), ("bcg", "empty")],
)
def test_what_is_no_file_is_named_and_never_waited_for(home, tmp_path, field, what):
    source = shhs.paths_of(home / "cohort", ID, home / "cohort" / "bcg")
    night = shhs.paths_of(tmp_path, ID, tmp_path / "bcg")
    for name in ("edf", "stages_xml", "rpoints_csv", "bcg"):
        getattr(night, name).parent.mkdir(parents=True)
        if name != field:
            getattr(night, name).symlink_to(getattr(source, name))
    NO_FILES[what](getattr(night, field))
    with no_longer_than(LONGEST_S):
        (found,) = shhs.find_nights(tmp_path, tmp_path / "bcg").nights
        result = process_night(found, PAIRED)
    if field == "rpoints_csv" and what in ("folder", "link to a folder"):
        assert not isinstance(result, Exclusion)  # no R points: the ECG has the beats
        return
    assert isinstance(result, Exclusion)
    assert not result.reason.startswith("unforeseen"), result
    assert result.path == str(getattr(night, field))
    assert result.reason
    assert result.remedy


@pytest.fixture(scope="module")
def four_nights(tmp_path_factory) -> Path:
    """A cohort with a splits file; the fourth night is spare."""
    home = tmp_path_factory.mktemp("four")
    config = CohortConfig(subjects=4, hours=0.5, second_visit_share=0, rpoints_share=1)
    write_cohort(home / "cohort", config, workers=1)
    (home / "splits.csv").write_text(
        "subject_id,split\n200001,train\n200002,validation\n200003,test\n200004,train\n"
    )
    return home


def test_a_build_survives_odd_names_and_what_is_no_file(four_nights, tmp_path):
    shutil.copytree(four_nights / "cohort", tmp_path / "cohort")
    edfs = tmp_path / "cohort" / "polysomnography" / "edfs" / "shhs1"
    (edfs / "shhs1-200004.edf").unlink()
    os.mkfifo(edfs / "shhs1-200004.edf")
    for name in ODD_NAMES:
        (edfs / name).write_bytes(b"")
    how = BuildConfig(workers=1, max_excluded_fraction=0.5)
    with no_longer_than(30.0):
        builder = shhs_bcg.build(
            tmp_path / "cohort", tmp_path / "data", NO_BCG, how,
            splits_file=four_nights / "splits.csv",
        )  # fmt: skip
    found = shhs_bcg.exclusions(builder)
    assert "no ordinary file" in found[-1]["reason"]
    assert {row["path"] for row in found[:-1]} == {
        str(edfs / name).encode(errors="backslashreplace").decode() for name in ODD_NAMES
    }
    listed = (Path(builder.data_path) / "exclusions.csv").read_text(encoding="utf-8")
    assert listed.count("none of SHHS's") == len(ODD_NAMES)


@pytest.mark.parametrize("what", ["link to nothing", "pipe", "empty"])
def test_a_cohort_that_is_no_folder_is_named(tmp_path, what):
    path = tmp_path / "cohort"
    NO_FILES[what](path)
    for place in (path, path / "shhs"):
        with pytest.raises(KdSleepError, match=str(place)), no_longer_than(LONGEST_S):
            shhs_bcg.build(place, tmp_path / "data", NO_BCG, BuildConfig(workers=1))
