"""Packages that only some uses need: the extras of setup.cfg."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kd_sleep.errors import KdSleepError


class MissingPackage(KdSleepError, ImportError):
    """A package of an extra that is not installed."""


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Surrounds imports of an extra's packages, so that an absent one says what to install.

    Raises:
      MissingPackage: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"{error.name} is not installed.", f"Run `pip install 'kd_sleep[{name}]'`."
        ) from error
