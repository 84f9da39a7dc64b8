"""Errors that a user can act on: what is wrong, in which file, and what to do."""

from __future__ import annotations

import os
import re


class KdSleepError(Exception):
    """Base of every error that kd_sleep raises on purpose.

    Launchers print its text and exit with status 2; anything else is a bug and shows a traceback.
    """

    def __init__(self, problem: str, remedy: str = ""):
        # A sentence that ends in another's words may end twice: "is the rate right?."
        self.problem = re.sub(r"(?<!\.)([.?!])\.(?=\s|$)", r"\1", problem)
        self.remedy = remedy
        super().__init__(f"{self.problem} {remedy}".strip())

    def __reduce__(self):  # errors cross process boundaries when nights are built in a pool
        return type(self)._rebuild, (type(self), dict(self.__dict__), self.args)

    @staticmethod
    def _rebuild(cls, state, args):
        error = cls.__new__(cls)
        Exception.__init__(error, *args)
        error.__dict__.update(state)
        return error


class ConfigError(KdSleepError, ValueError):
    """A setting that cannot be: names the field, its value and what was expected."""


class SamplesError(KdSleepError, ValueError):
    """An array that cannot be one channel's samples."""


class RecordingError(KdSleepError):
    """A recording's file that cannot be used as it is.

    Attributes:
      path: the file in question.
      problem: what is wrong with it, in words.
      remedy: what to do about it.
    """

    def __init__(self, path: str | os.PathLike, problem: str, remedy: str = ""):
        self.path = os.fspath(path)
        super().__init__(f"{self.path}: {problem}", remedy)
        self.problem = self.problem.removeprefix(f"{self.path}: ")


class ExportError(KdSleepError):
    """An exported student's file that cannot be written, or used as it is; it names the file."""

    def __init__(self, path: str | os.PathLike, problem: str, remedy: str = ""):
        super().__init__(f"{os.fspath(path)}: {problem}", remedy)


class DatasetError(KdSleepError):
    """A dataset that is absent, incomplete, of another version, or leaks a subject."""


class TrainingError(KdSleepError):
    """Training that cannot start or cannot go on."""


class Stopped(KdSleepError):
    """Training that SIGTERM stopped; everything is saved, and the same command goes on."""
