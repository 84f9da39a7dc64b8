"""Flags of a command: settings as flags, --help in sections, errors in one line.

A command names the parts of `kd_sleep.config.Preset` that it needs; each of their fields becomes a
flag whose default is the preset's value. Setting a flag overrides the preset in that one field.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags as absl_flags
from absl import logging

from kd_sleep.config import PRESETS, Preset
from kd_sleep.errors import ConfigError, KdSleepError, Stopped
from kd_sleep.extras import optional_packages

_SECTIONS = {
    "cohort": "Simulated cohort", "dataset": "Data", "build": "Build", "teacher": "Model",
    "student": "Model", "soft_labels": "Soft labels", "study_soft_labels": "Soft labels",
    "distill": "Loss", "teacher_train": "Training", "student_train": "Training",
    "study": "Study", "evaluation": "Evaluation",
    "execution": "Execution",
}  # fmt: skip
_REQUIRED = object()
_LEFT = 28  # columns of --help before the texts
_SEE = "--help lists the flags."


class Kind(absl_flags.ArgumentParser):
    """What a flag takes: one value, or many, separated by commas.

    In --help `sign` stands for the value, which `convert` makes of a text, or raises ValueError.
    """

    def __init__(self, sign: str, convert: Callable[[str], Any], *, many: bool = False):
        self.sign, self._convert, self._many = f"{sign},…" if many else sign, convert, many

    def parse(self, argument: Any) -> Any:
        """The value of a flag's text; a default that is no text is one already."""
        if not isinstance(argument, str):
            return argument
        if self._many:
            return [self._convert(text.strip()) for text in argument.split(",") if text.strip()]
        return self._convert(argument)


def number(kind: type, *, low: float | None = None, many: bool = False) -> Kind:
    """An int or a finite float, `low` or more."""

    def convert(text: str) -> Any:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if (kind is int or math.isfinite(value)) and (low is None or value >= low):
                return value
        noun = "whole number" if kind is int else "number"
        raise ValueError(f"expected a {noun}" + f" of at least {low}" * (low is not None))

    return Kind("N" if kind is int else "X", convert, many=many)


def choice(*names: str) -> Kind:
    """One of these names."""

    def convert(text: str) -> str:
        if text not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return text

    return Kind("|".join(names), convert)


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("expected true or false")
    return text.lower() == "true"


def _file(text: str) -> Path:
    if not text:
        raise ValueError("expected a path")
    return Path(text).expanduser()


def _folder(text: str) -> Path:
    if _file(text).is_file():
        raise ValueError("a file; name a folder")
    return _file(text)


FILE, FILES = Kind("FILE", _file), Kind("FILE", _file, many=True)
FOLDER, FOLDERS = Kind("FOLDER", _folder), Kind("FOLDER", _folder, many=True)
TEXT, TEXTS, SWITCH = Kind("TEXT", str), Kind("TEXT", str, many=True), Kind("", _switch)

# Flags that several commands have: section, kind, text, and the default with its words.
_SHARED: dict[str, tuple] = {
    "data_dir": ("Input", FOLDERS, "Folder of the dataset; several are read together."),
    "teacher": (
        "Input", FILES, "Work folder or file of a teacher; several are mixed.", (), "none",
    ),
    "start_from": (
        "Input", FILE, "Work folder or file of a student or teacher to begin from.", None,
        "drawn parameters",
    ),
    "workdir": ("Output", FOLDER, "Folder of the run: settings, metrics, checkpoints."),
    "platform": (
        "Execution", choice("cpu", "gpu", "tpu"), "Where to compute; an absent one is an error.",
        None, "the best",
    ),
    "distributed": (
        "Execution", SWITCH,
        "This is one of several processes of one run: start the same command on every host. On"
        " Cloud TPU, Slurm and Open MPI they find each other; elsewhere say how below.",
        None, "one process",
    ),
    "coordinator": ("Execution", TEXT, "HOST:PORT of process 0.", None, "one process"),
    "processes": (
        "Execution", number(int, low=1), "How many processes there are.", None, "one process",
    ),
    "process": (
        "Execution", number(int, low=0), "Number of this one, from 0.", None, "one process",
    ),
}  # fmt: skip


class Flags:
    """The flags of one command; the docstring of its module says what it does."""

    def __init__(self, doc: str | None):
        self._doc = doc or ""
        self._values = absl_flags.FlagValues()
        self._values.set_gnu_getopt()
        self._values.append_flag_values(absl_flags.FLAGS)  # --verbosity and its like
        self._sections: dict[str, list[tuple[str, str]]] = {}
        self._own: list[str] = []
        self._required: list[str] = []
        self._parts: dict[str, list[str]] = {}  # flags of each part of a preset

    def define(
        self, section: str, name: str, kind: Kind, text: str, default: Any = _REQUIRED,
        shown: str = "", *, repeated: bool = False, own: bool = True,
    ) -> None:  # fmt: skip
        """Defines a flag.

        Args:
          section: heading that it stands under in --help.
          name: of the flag.
          kind: of its value.
          text: what it does.
          default: its value where it is not given; without one, it has to be.
          shown: the default in words.
          repeated: may be given several times; the value is a list.
          own: `main` takes it, by its name.
        """
        self._required += [name] * (default is _REQUIRED)
        self._own += [name] * own
        shown = "required" if default is _REQUIRED else f"default {shown or _words(default)}"
        text, default = f"{text} ({shown})", None if default is _REQUIRED else default
        make: Any = absl_flags.MultiFlag if repeated else absl_flags.Flag
        flag = make(kind, absl_flags.ArgumentSerializer(), name, default, text)
        flag.boolean = kind is SWITCH
        left = f"--[no]{name}" if flag.boolean else f"--{name}={kind.sign}"
        absl_flags.DEFINE_flag(flag, self._values)
        self._sections.setdefault(section, []).append((left, text))

    def shared(self, *names: str) -> None:
        """Defines flags that several commands have; `main` takes them by their names."""
        for name in names:
            section, *rest = _SHARED[name]
            self.define(section, name, *rest)

    def config(self, *parts: str, leave_out: tuple[str, ...] = ()) -> None:
        """Defines --preset and a flag for every field of these parts of a preset, but `leave_out`.

        Raises:
          absl.flags.DuplicateFlagError: two parts with a field of the same name.
        """
        text = "Defaults of the flags below; tiny is for tests."
        self.define("Preset", "preset", choice(*PRESETS), text, "cpu", own=False)
        kinds = {int: number(int), float: number(float), str: TEXT, bool: SWITCH}
        for part in parts:
            fields = dataclasses.fields(getattr(PRESETS["cpu"], part))
            self._parts[part] = [field.name for field in fields if field.name not in leave_out]
            for field in fields:
                if field.name in leave_out:
                    continue
                named = type(field.default) is str and field.metadata["choices"]
                kind = choice(*named) if named else kinds[type(field.default)]
                text, shown = field.metadata["help"], _defaults(part, field.name)
                self.define(_SECTIONS[part], field.name, kind, text, None, shown, own=False)

    def platform(self, *, hosts: bool = False) -> None:
        """Defines --platform; with `hosts` also the flags of a run on several of them."""
        names = ("platform", "distributed", "coordinator", "processes", "process")
        for name in names if hosts else names[:1]:
            section, *rest = _SHARED[name]
            self.define(section, name, *rest, own=False)

    def help(self, *, full: bool = False) -> str:
        """What the command does and every flag of it, in sections; absl's own, too, if `full`."""
        doc, width = self._doc.strip(), min(shutil.get_terminal_size().columns, 100)
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is not None and spec.name.startswith("launch."):  # in a clone
            doc = doc.replace("kd-sleep ", "python -m launch.")
        lines = [doc]
        for section, entries in self._sections.items():
            lines += ["", f"{section}:"]
            for left, text in entries:
                if len(left) > _LEFT - 4:
                    lines.append(f"  {left}")
                    left = ""
                wrapped = textwrap.wrap(text, width - _LEFT, break_on_hyphens=False)
                lines.append(f"  {left}".ljust(_LEFT) + f"\n{' ' * _LEFT}".join(wrapped))
        lines += ["", "--flagfile=FILE reads flags from a file; --helpfull lists absl's own, too."]
        return "\n".join([*lines, "", absl_flags.FLAGS.module_help(logging)] if full else lines)

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """What `main` takes: values of the command's own flags, and its preset if it has one.

        Raises:
          ConfigError: a flag that is not there, is missing or has no such value.
        """
        self._values.unparse_flags()
        absl_flags.FLAGS.mark_as_parsed()
        try:
            rest = self._values(["", *arguments])[1:]
        except absl_flags.UnrecognizedFlagError as error:
            names = [name for name in self._values if name not in absl_flags.FLAGS]
            near = difflib.get_close_matches(error.flagname.replace("-", "_"), names, 1)
            guess = f" Did you mean --{near[0]}?" if near else ""
            raise ConfigError(f"--{error.flagname}: no such flag.{guess}", _SEE) from error
        except absl_flags.Error as error:
            problem = str(error).removeprefix("flag ").removeprefix("ERROR:: ")
            raise ConfigError(f"{problem}.", _SEE) from error
        if rest:
            problem = f"{' '.join(rest)}: not a flag."
            raise ConfigError(problem, f"Flags look like --name=value; {_SEE}")
        absent = [f"--{name}" for name in self._required if not self._values[name].value]
        if absent:
            raise ConfigError(f"Give {', '.join(absent)}.", _SEE)
        if not self._values["verbosity"].present:
            logging.set_verbosity(logging.ERROR)  # Orbax tells of every folder it opens
        given = {name: self._values[name].value for name in self._own}
        return given | ({"preset": self._preset()} if self._parts else {})

    def _preset(self) -> Preset:
        """The chosen preset with the flags that were set put into it."""
        chosen = PRESETS[self._values.preset]
        changes = {}
        # Of the parts that the command has flags for: --steps of a student is not the teacher's.
        for part, names in self._parts.items():
            config = getattr(chosen, part)
            values = {name: self._values[name].value for name in names}
            values = {name: value for name, value in values.items() if value is not None}
            try:
                changes[part] = dataclasses.replace(config, **values)
            except ConfigError as error:
                problem = error.problem.replace(f"{type(config).__name__}.", "--")
                raise ConfigError(problem, error.remedy) from error
        return dataclasses.replace(chosen, **changes)

    def run(self, main: Callable[..., Any], arguments: Sequence[str] | None = None) -> NoReturn:
        """Runs `main`, which takes what `parse` gives, and ends the process with its status.

        Errors that a user can act on end in one line and status 2.

        Args:
          main: returns the status; None is 0.
          arguments: of the command line; None takes those of the process.
        """
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's chatter
        arguments = sys.argv[1:] if arguments is None else arguments
        if asked := {"--help", "-h", "--helpfull"} & set(arguments):
            print(self.help(full="--helpfull" in asked))
            sys.exit(0)
        try:
            given = self.parse(arguments)
            self._join_hosts()
            self._use_platform()
            with optional_packages():
                sys.exit(main(**given))
        except Stopped as stopped:  # as a process that SIGTERM ended, but with all its work saved
            print(stopped, file=sys.stderr)
            sys.exit(143)
        except (KdSleepError, OSError) as error:  # OSError names the file and says what is wrong
            print(f"Error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("Stopped. Give the same command again.", file=sys.stderr)
            sys.exit(130)

    def _join_hosts(self) -> None:
        if "distributed" not in self._values or not self._values.distributed:
            return
        import jax

        try:
            values = self._values
            jax.distributed.initialize(values.coordinator, values.processes, values.process)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--distributed: {error}",
                "Outside Cloud TPU, Slurm and Open MPI give --coordinator, --processes and"
                " --process.",
            ) from error

    def _use_platform(self) -> None:
        if "platform" not in self._values:
            return
        import jax

        from kd_sleep.training.mesh import default_platform

        jax.config.update("jax_enable_x64", False)  # whatever JAX_ENABLE_X64 says: all is float32
        platform = self._values.platform
        if platform == "cpu":
            jax.config.update("jax_platforms", "cpu")
        # Whatever JAX picks by itself must be what was asked for; "gpu" stands for cuda and rocm.
        found = default_platform()
        if platform not in (None, found):
            raise ConfigError(
                f"--platform={platform}: JAX finds none on this machine, only {found}.",
                "Install the jax of that platform, or leave the flag out.",
            )


def _words(value: Any) -> str:
    """A default as --help shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ",".join(map(_words, value))
    return "none" if value in (None, "") else str(value)


def _defaults(part: str, name: str) -> str:
    """The presets' values of a field: that of `cpu`, and others where they differ."""
    values = {key: _words(getattr(getattr(preset, part), name)) for key, preset in PRESETS.items()}
    others = [f"{key} {value}" for key, value in values.items() if value != values["cpu"]]
    return "; ".join([values["cpu"], ", ".join(others)] if others else [values["cpu"]])
