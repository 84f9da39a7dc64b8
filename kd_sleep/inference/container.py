"""The .kdsleep file: one student, nothing in it that runs but a program for XLA, and no pickle.

    offset  bytes  what (numbers little endian)
    0       8      "kdsleep" and a zero
    8       4      format number, `FORMAT`
    12      8      bytes of the whole file
    20      32     SHA-256 of all that follows
    52             NPZ: "card" and "program" as bytes, "weights/NAME" in float32

A file is read into memory and never unpacked to disk. It says how large its parts are, and one that
asks for more memory than `LARGEST` is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import ExportError

MAGIC = b"kdsleep\0"
FORMAT = 4
LARGEST = 64 * 2**20  # bytes of a file, and of its parts; the presets' students stay below 3 MB
_HEAD = struct.Struct("<8sIQ32s")
_WEIGHTS = "weights/"
_AGAIN = "Copy it again, or export the student again with `kd-sleep export_student`."


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
      card: plain JSON about the network.
      arrays: float32 by name, in order.
      program: serialized by `jax.export`; empty of a teacher.
    """

    card: Mapping[str, Any]
    arrays: Mapping[str, NDArray]
    program: bytes


def pack(content: Content) -> bytes:
    """The bytes of a file. The same content always gives the same."""
    card = json.dumps(content.card, allow_nan=False).encode()
    parts = {"card": np.frombuffer(card, np.uint8)}
    parts["program"] = np.frombuffer(content.program, np.uint8)
    parts |= {_WEIGHTS + name: array.astype("<f4") for name, array in content.arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **parts)  # type: ignore[arg-type]
    body = buffer.getvalue()
    digest = hashlib.sha256(body).digest()
    return _HEAD.pack(MAGIC, FORMAT, _HEAD.size + len(body), digest) + body


def read(path: str | os.PathLike) -> Content:
    """Reads a file.

    Raises:
      ExportError: cut short, of another format, damaged, or no .kdsleep file at all.
    """
    size = os.stat(path).st_size
    if size > LARGEST:
        raise ExportError(path, f"{size:,} bytes, more than an exported student has.", _AGAIN)
    return unpack(Path(path).read_bytes(), path)


def unpack(data: bytes, path: str | os.PathLike) -> Content:
    """What the bytes of a file hold; `path` is for its errors.

    Raises:
      ExportError: as `read`.
    """
    if not data or not MAGIC.startswith(data[: len(MAGIC)]):
        raise ExportError(
            path,
            "no .kdsleep file.",
            "Write one with `kd-sleep export_student`, or name a student's work folder.",
        )
    if len(data) < _HEAD.size:
        raise ExportError(path, f"cut short: it ends after {len(data)} bytes.", _AGAIN)
    _, number, size, digest = _HEAD.unpack_from(data)
    if number != FORMAT:
        raise ExportError(
            path,
            f"of format {number}; this kd_sleep reads format {FORMAT}.",
            "Install the kd_sleep that wrote it, or export the student again with this one.",
        )
    if len(data) < size:
        raise ExportError(path, f"cut short: {len(data):,} of {size:,} bytes.", _AGAIN)
    if len(data) > size:
        raise ExportError(path, f"damaged: {len(data):,} bytes where it says {size:,}.", _AGAIN)
    if hashlib.sha256(data[_HEAD.size :]).digest() != digest:
        raise ExportError(path, "damaged: its checksum is wrong.", _AGAIN)
    try:
        return _content(io.BytesIO(data[_HEAD.size :]))
    except Exception as error:  # whatever zipfile, NumPy and JSON make of parts that are none
        raise ExportError(
            path, f"its checksum is right and its contents are not: {error}.", _AGAIN
        ) from error


def _content(file: io.BytesIO) -> Content:
    with zipfile.ZipFile(file) as parts:
        if sum(part.file_size for part in parts.infolist()) > LARGEST:
            raise ValueError("its parts are larger than an exported student")
    found = dict(np.load(file, allow_pickle=False))
    card, program = found.pop("card").tobytes(), found.pop("program").tobytes()
    weights = {name.removeprefix(_WEIGHTS): array for name, array in found.items()}
    for name, array in weights.items():
        if _WEIGHTS + name not in found or array.dtype != np.float32:
            raise ValueError(f"{name} is no weight in float32")
    header = json.loads(card, parse_constant=_no_number)
    if not isinstance(header, dict):
        raise ValueError("there is no card")
    return Content(header, weights, program)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
