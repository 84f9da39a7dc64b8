"""What a night is read from: one type for every source, so that what follows need not ask which."""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.recording import Recording

BCG_SUFFIXES = (".edf", ".csv", ".npy", ".npz", ".h5", ".hdf5")  # of BCG files; case is no matter


@dataclasses.dataclass(frozen=True, kw_only=True)
class NightFiles(abc.ABC):
    """The files of one night, which need not exist before they are read.

    Attributes:
      recording_id, subject_id, visit: as `Recording` has them; the first names files.
      bcg: a BCG recording of the same night; None where the source names none.
      more_bcg: further BCG files of the night, which make it unclear which one to take.
      bcg_channel, bcg_rate_hz: how the BCG is read; empty and 0 leave it to the build's settings.
    """

    recording_id: str
    subject_id: str
    visit: int = 1
    bcg: Path | None = None
    more_bcg: tuple[Path, ...] = ()
    bcg_channel: str = ""
    bcg_rate_hz: float = 0.0

    bcg_spelt: ClassVar = ("--bcg_channel", "--bcg_rate_hz")  # how a user gives these two

    @property
    @abc.abstractmethod
    def parts(self) -> Mapping[str, Path | None]:
        """Files by what they hold: `ecg`, `beats`, `stages`, …; None where there is none."""

    @abc.abstractmethod
    def read(self, *, signals: bool = True) -> Recording:
        """Reads all but the BCG.

        Args:
          signals: False reads stages and beats alone: no ECG, no effort.

        Raises:
          RecordingError: a file that is missing or unusable, or files that contradict each other.
        """

    def options(self) -> str:
        """What changes the record and stands in none of the files."""
        return ""

    def part(self, *names: str) -> Path:
        """The file of the first of these parts that the night has, for errors; else any file."""
        parts = self.parts
        found = (*(parts[name] for name in (*names, *parts)), self.bcg)
        return next(path for path in found if path is not None)

    def bcg_file(self) -> Path:
        """The BCG file.

        Raises:
          RecordingError: for none, or several: nobody can tell which one to take.
        """
        if self.bcg is None or not self.bcg.exists():
            raise RecordingError(
                self.bcg or self.part(),
                "the night has no BCG file.",
                f"Put it into --bcg_dir as {self.recording_id} with one of the suffixes"
                f" {' '.join(BCG_SUFFIXES)}, or build with another --bcg_source.",
            )
        if self.more_bcg:
            names = " and ".join(file.name for file in (self.bcg, *self.more_bcg))
            raise RecordingError(
                self.bcg, f"the night has several BCG files: {names}.", "Leave one."
            )
        return self.bcg

    def all_files(self) -> list[Path]:
        """Those of the night's files that exist."""
        named = (*self.parts.values(), self.bcg, *self.more_bcg)
        return [file for file in named if file is not None and file.is_file()]


_Files = TypeVar("_Files", bound=NightFiles, covariant=True)


@dataclasses.dataclass(frozen=True)
class Listing(Generic[_Files]):
    """The nights of a source.

    Attributes:
      place: the folder or table that was listed, for errors.
      nights: in order of their ids.
      strays: files whose names are none of the source's, in order. Nobody reads them; hidden files
        and unfinished downloads do not count.
      splits: subject -> split, for subjects whose split the source itself decides.
    """

    place: str | os.PathLike
    nights: Sequence[_Files]
    strays: Sequence[Path] = ()
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
