"""Recording files to the dataset `shhs_bcg`: planned, read night by night, written, described.

    <data_dir>/shhs_bcg/<bcg_source>/building/    finished nights, until the dataset is complete
    <data_dir>/shhs_bcg/<bcg_source>/<version>/   the dataset, card.html, nights.csv, exclusions.csv

A build that was killed goes on with the same command and gives the same dataset: it reads no
finished night again, and the dataset's folder appears complete or not at all.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import fcntl
import functools
import io
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from kd_sleep.config import BuildConfig, DatasetConfig
from kd_sleep.datasets.nights import open_split
from kd_sleep.datasets.shhs_bcg import card
from kd_sleep.datasets.shhs_bcg.planned import Plan, PlannedNight, no_room, plan
from kd_sleep.datasets.shhs_bcg.shhs_bcg_dataset_builder import Builder
from kd_sleep.datasets.splits import SPLITS
from kd_sleep.errors import DatasetError
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.parallel import NightBar, map_nights
from kd_sleep.recordings import files
from kd_sleep.recordings.night_files import Listing

NIGHTS_PER_SHARD = 64  # some 200 MB a file
TRIED = 3  # nights that a dry run reads to estimate the time
_COLUMNS = ("split", *(field.name for field in dataclasses.fields(Exclusion)))


def build(
    source: str | Path | Listing,
    data_dir: str | Path,
    config: DatasetConfig,
    how: BuildConfig,
    bcg_dir: str | Path | None = None,
    splits_file: str | Path | None = None,
) -> Builder:
    """Builds `shhs_bcg/<bcg_source>` under `data_dir`, or keeps the one that these files made.

    Raises:
      DatasetError: as `plan`; a dataset of other files there; too many nights left out, or all of
        a split; no room on the disk; another build at work in the folder.
    """
    todo = plan(source, config, bcg_dir, splits_file)
    builder = Builder(config=config.bcg_source, data_dir=data_dir)
    final = Path(builder.data_path)
    if final.exists():
        if (builder.info.metadata or {}).get("files") != todo.digest():
            raise DatasetError(
                f"{final}: a dataset of other files or settings than those named now.",
                "Name another --data_dir, or remove that folder to build it anew.",
            )
        return builder
    folder = final.parent / "building"
    with _alone_in(folder):
        _read_all(todo, folder, config, how)
        left_out = _check_exclusions(todo, folder, how)
        _write(todo, folder, config, left_out).rename(final)
        shutil.rmtree(folder)
    return Builder(config=config.bcg_source, data_dir=data_dir)


def exclusions(builder: Builder) -> Sequence[dict[str, str]]:
    """The nights that were left out, each with split, recording_id, path, reason and remedy."""
    return (builder.info.metadata or {}).get("exclusions", [])


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Locks the folder against other builds; the system unlocks it when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DatasetError(
                f"{folder}: another build is at work here.", "Wait for it."
            ) from error
        for part in folder.glob(".*.part"):  # of a build that was killed
            part.unlink()
        yield


def _read_all(todo: Plan, folder: Path, config: DatasetConfig, how: BuildConfig) -> None:
    """Finishes every night that is not."""
    left = todo.unfinished(folder)
    for night in left:
        night.path(folder, ".json").unlink(missing_ok=True)
    work = functools.partial(PlannedNight.finish, folder=folder, config=config)
    done = len(todo.nights) - len(left)
    for _ in map_nights(work, left, how.workers, "Reading nights", done=done):
        pass


def _check_exclusions(todo: Plan, folder: Path, how: BuildConfig) -> list[dict[str, str]]:
    """All that is left out, after judging whether the rest is a dataset."""
    found = [(night.split, night.exclusion(folder)) for night in todo.nights]
    excluded = [(split, one) for split, one in found if one is not None]
    split_of_night = {night.files.recording_id: night.split for night in todo.nights}
    rows = [
        {"split": split, **dataclasses.asdict(one)}
        for split, one in (
            *((split_of_night.get(one.recording_id, ""), one) for one in todo.left_out),
            *excluded,
        )
    ]
    why = folder.parent / "exclusions.csv"  # stays where the build ends here
    _write_csv(why, rows, _COLUMNS)
    for split in SPLITS:
        mine = [one for its, one in excluded if its == split]
        there = sum(night.split == split for night in todo.nights)
        if len(mine) == there:
            raise DatasetError(
                f"split {split} has no usable night of {there}: {_reasons(mine)}."
                f" For instance {mine[0].path}. All of them: {why}.",
                mine[0].remedy,
            )
    share = len(excluded) / len(todo.nights)
    if share > how.max_excluded_fraction:
        raise DatasetError(
            f"{len(excluded)} of {len(todo.nights)} nights ({100 * share:.0f} %) cannot be used:"
            f" {_reasons([one for _, one in excluded])}. All of them: {why}.",
            "Mend what can be mended and give the same command again, or allow it with"
            f" --max_excluded_fraction={min(1.0, share + 0.01):.2f}.",
        )
    why.unlink()
    return rows


def _reasons(excluded: Sequence[Exclusion]) -> str:
    counted = collections.Counter(one.reason.rstrip(".") for one in excluded).most_common()
    named = [f"{count} x {reason}" for reason, count in counted[:5]]
    others = sum(count for _, count in counted[5:])
    return "; ".join([*named, f"{others} for other reasons"] if others else named)


def _write(todo: Plan, folder: Path, config: DatasetConfig, left_out: list[dict[str, str]]) -> Path:
    """Writes the dataset into `folder`, checks that it reads back, returns where it lies."""
    kept = [night for night in todo.nights if night.path(folder, ".npz").exists()]
    needed = sum(night.path(folder, ".npz").stat().st_size for night in kept)
    root = folder / "dataset"
    shutil.rmtree(root, ignore_errors=True)
    if shutil.disk_usage(folder).free < needed:
        raise no_room(folder)
    staged = Builder(config=config.bcg_source, data_dir=root)
    metadata = staged.describe(todo, config)
    metadata["exclusions"].extend(left_out)
    out, rows = Path(staged.data_path), []
    out.mkdir(parents=True)
    try:
        # TFDS's own writer of a complete build keeps up to 1 GB in memory, to shuffle; training
        # shuffles by itself, so nights are written in their order, one at a time.
        writer = tfds.core.SequentialWriter(
            staged.info, NIGHTS_PER_SHARD, file_format="array_record"
        )
        writer.initialize_splits(list(SPLITS))
        with NightBar(len(kept), "Writing nights") as bar:
            for night in kept:
                record = night.record(folder)
                writer.add_examples({night.split: [dict(record)]})
                rows.append(card.row(night.split, record))
                bar.update()
        writer.close_all()
        _write_csv(out / "exclusions.csv", left_out, _COLUMNS)
        _write_csv(out / "nights.csv", rows, tuple(rows[0]))
        card.write_card(out / "card.html", rows, left_out, metadata["made_by"])
    except Exception as error:  # array_record's errors are of several kinds
        if shutil.disk_usage(folder).free < 1 << 20:
            raise no_room(folder) from error
        raise
    for split in SPLITS:  # a full disk must not end in a dataset that only looks complete
        records, _ = open_split(root, split, ("recording_id",))
        found = [record["recording_id"].decode() for record in records]
        if found != [night.files.recording_id for night in kept if night.split == split]:
            raise DatasetError(f"{root}: split {split} was not written whole.", "Build it again.")
    return out


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_bytes(path, text.getvalue().encode())


def dry_run(
    source: str | Path | Listing,
    data_dir: str | Path,
    config: DatasetConfig,
    how: BuildConfig,
    bcg_dir: str | Path | None = None,
    splits_file: str | Path | None = None,
) -> str:
    """What `build` would read, an estimate of its time, and the room it needs; writes nothing.

    Raises:
      DatasetError: as `plan`.
    """
    todo = plan(source, config, bcg_dir, splits_file)
    folder = Path(Builder(config=config.bcg_source, data_dir=data_dir).data_path).parent
    left = todo.unfinished(folder / "building")
    sizes = collections.Counter[str]()
    for night in todo.nights:
        for path in night.files.all_files():
            sizes[path.suffix.lower()] += path.stat().st_size
    splits = ", ".join(
        f"{split} {sum(night.split == split for night in todo.nights)} of {len(subjects)} subjects"
        for split, subjects in todo.subjects.items()
    )
    lines = [
        f"{len(todo.nights)} nights: {splits}; {len(todo.left_out)} files or nights are left out"
        " unread.",
        f"{len(todo.nights) - len(left)} nights are finished already, {len(left)} to read.",
        "Files: " + ", ".join(f"{suffix} {_size(size)}" for suffix, size in sizes.items()) + ".",
    ]
    seconds, record_bytes, problems = [], [], []
    for night in left[:: max(1, len(left) // TRIED)][:TRIED]:
        began = time.perf_counter()
        result = process_night(night.files, config)
        seconds.append(time.perf_counter() - began)
        if isinstance(result, Exclusion):
            problems.append(f"left out {result.recording_id}: {result.path} {result.reason}")
        else:
            record_bytes.append(sum(getattr(value, "nbytes", 0) for value in result.values()))
    if seconds:
        workers, mean_s = how.workers or os.cpu_count() or 1, sum(seconds) / len(seconds)
        lines.append(
            f"Reading: {mean_s:.2f} s a night by {len(seconds)} of them, about"
            f" {mean_s * len(left) / workers / 60:.1f} min with {workers} workers."
        )
    if record_bytes:
        needed = sum(record_bytes) / len(record_bytes) * len(todo.nights)
        place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        lines.append(
            f"Room: {_size(needed)} for the dataset, as much again while it is built;"
            f" {_size(shutil.disk_usage(place).free)} are free."
        )
    return "\n".join([*lines, *problems])


def _size(count: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
