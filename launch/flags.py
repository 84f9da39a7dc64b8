"""Flags derived from the config dataclasses, and the frame that every launcher runs in.

A launcher names the parts of `kd_sleep.config.Preset` that it needs; each of their fields becomes a
flag whose default is the preset's value. Setting a flag overrides the preset in that one field.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging

from kd_sleep.config import PRESETS, Preset
from kd_sleep.errors import ConfigError, KdSleepError, Stopped

flags.disclaim_key_flags()  # they belong to the launcher that asks for them: its --help shows them

_PLATFORMS = ("cpu", "gpu", "tpu")
_defined: set[str] = set()  # parts of a preset that this launcher has flags for
_DEFINE: dict[type, Callable] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
}


def define_config(*parts: str, leave_out: tuple[str, ...] = ()) -> None:
    """Defines --preset and a flag for every field of these parts of a preset, but `leave_out`.

    Raises:
      absl.flags.DuplicateFlagError: two parts with a field of the same name.
    """
    flags.DEFINE_enum(
        "preset", "cpu", list(PRESETS), "Defaults of the flags: tiny for tests, cpu, accelerator."
    )
    _defined.update(parts)
    for part in parts:
        for field in dataclasses.fields(getattr(PRESETS["cpu"], part)):
            if field.name in leave_out:
                continue
            text = f"{field.metadata['help']} ({_defaults(part, field.name)})"
            choices = field.metadata["choices"]
            define = _DEFINE[type(field.default)]
            if choices and isinstance(choices[0], str):
                flags.DEFINE_enum(field.name, None, choices, text)
            else:
                define(field.name, None, text)


def _defaults(part: str, name: str) -> str:
    values = {preset: getattr(getattr(value, part), name) for preset, value in PRESETS.items()}
    if len(set(values.values())) == 1:
        return f"default {values['cpu']}"
    return "default " + ", ".join(f"{preset}: {value}" for preset, value in values.items())


def preset() -> Preset:
    """The chosen preset with the flags that were set put into it."""
    chosen = PRESETS[flags.FLAGS.preset]
    changes = {}
    # Of the parts that the launcher has flags for: --steps of a student is not the teacher's.
    for part in _defined:
        config = getattr(chosen, part)
        named = {
            field.name: flags.FLAGS[field.name].value
            for field in dataclasses.fields(config)
            if field.name in flags.FLAGS and flags.FLAGS[field.name].value is not None
        }
        try:
            changes[part] = dataclasses.replace(config, **named)
        except ConfigError as error:
            problem = error.problem.replace(f"{type(config).__name__}.", "--")
            raise ConfigError(problem, error.remedy) from error
    return dataclasses.replace(chosen, **changes)


def define_path(name: str, text: str, *, required: bool = True) -> flags.FlagHolder[str | None]:
    """A flag that names a folder."""
    return flags.DEFINE_string(name, None, text, required=required)


def define_paths(
    name: str, text: str, *, required: bool = True
) -> flags.FlagHolder[list[str] | None]:
    """A flag that names one folder or several, separated by commas."""
    return flags.DEFINE_list(name, None, text, required=required)


def paths(holder: flags.FlagHolder[list[str] | None]) -> list[Path]:
    """The folders of such a flag."""
    return [_folder(holder.name, value) for value in holder.value or []]


def define_numbers(
    name: str, default: tuple[int, ...] | tuple[float, ...], text: str
) -> flags.FlagHolder[list[str] | None]:
    """A flag of numbers separated by commas, of the kind of its default."""
    return flags.DEFINE_list(name, [str(value) for value in default], text)


def numbers(holder: flags.FlagHolder[list[str] | None], kind: type = float) -> list:
    """The numbers of such a flag."""
    try:
        return [kind(value) for value in holder.value or []]
    except ValueError as error:
        raise ConfigError(
            f"--{holder.name}={','.join(holder.value or [])}: expected numbers of kind"
            f" {kind.__name__}, separated by commas."
        ) from error


def path(holder: flags.FlagHolder[str | None]) -> Path:
    """A path flag's value, a folder that need not exist; ~ is the home folder."""
    assert holder.value is not None  # absl has refused to start without it
    return _folder(holder.name, holder.value)


def _folder(name: str, value: str) -> Path:
    folder = Path(value).expanduser()
    if folder.is_file():
        raise ConfigError(f"--{name}={value} is a file.", "Name a folder.")
    return folder


def define_platform(*, hosts: bool = False) -> None:
    """Defines --platform, for launchers that compute with JAX, and what runs on several hosts need.

    Args:
      hosts: whether the launcher can run on several hosts at once.
    """
    flags.DEFINE_enum(
        "platform",
        None,
        _PLATFORMS,
        "Where to compute; an absent one is an error. Default: the best.",
    )
    if hosts:
        flags.DEFINE_bool(
            "distributed",
            False,
            "This is one of several processes of one run: start the same command on every host. On"
            " Cloud TPU, Slurm and Open MPI they find each other; elsewhere say how below.",
        )
        flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
        flags.DEFINE_integer("processes", None, "How many processes there are.", lower_bound=1)
        flags.DEFINE_integer("process", None, "Number of this one, from 0.", lower_bound=0)


def _join_hosts() -> None:
    if "distributed" not in flags.FLAGS or not flags.FLAGS.distributed:
        return
    import jax

    try:
        jax.distributed.initialize(
            flags.FLAGS.coordinator, flags.FLAGS.processes, flags.FLAGS.process
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--distributed: {error}",
            "Outside Cloud TPU, Slurm and Open MPI give --coordinator, --processes and --process.",
        ) from error


def _use_platform() -> None:
    if "platform" not in flags.FLAGS:
        return
    import jax

    from kd_sleep.training.mesh import default_platform

    jax.config.update("jax_enable_x64", False)  # whatever JAX_ENABLE_X64 says: all is float32
    if flags.FLAGS.platform is None:
        default_platform()
        return
    platform = flags.FLAGS.platform
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    # Whatever JAX picks by itself must be what was asked for; "gpu" stands for cuda and rocm alike.
    if default_platform() != platform:
        raise ConfigError(
            f"--platform={platform}: JAX finds none on this machine, only {default_platform()}.",
            "Install the jax of that platform, or leave the flag out.",
        )


def run(main: Callable[[], None]) -> None:
    """Parses the flags, then runs `main`; errors a user can act on end in one line and status 2."""

    def guarded(argv: Sequence[str]) -> None:
        try:
            if len(argv) > 1:
                raise ConfigError(
                    f"{' '.join(argv[1:])}: not a flag.", "Flags look like --name=value."
                )
            if not flags.FLAGS["verbosity"].present:
                logging.set_verbosity(logging.ERROR)  # Orbax tells of every folder it opens
            _join_hosts()
            _use_platform()
            main()
        except Stopped as stopped:  # as a process that SIGTERM ended, but with all its work saved
            print(stopped, file=sys.stderr)
            sys.exit(143)
        except (KdSleepError, OSError) as error:  # OSError names the file and says what is wrong
            print(f"Error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("Stopped. Give the same command again.", file=sys.stderr)
            sys.exit(130)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's chatter
    app.run(guarded)
