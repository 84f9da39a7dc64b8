"""`python -m launch.NAME` in a clone runs `kd_sleep/commands/NAME.py`, as `kd-sleep NAME` does."""

from kd_sleep import commands

__path__ = commands.__path__  # where Python looks for launch.NAME
