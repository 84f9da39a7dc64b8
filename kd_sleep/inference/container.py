"""The .kdsleep file: one student, nothing in it that runs but a program for XLA, and no pickle.

    offset  bytes  what (numbers little endian)
    0       8      "kdsleep" and a zero
    8       4      format number, `FORMAT`
    12      4      H, bytes of the header
    16      8      bytes of the whole file
    24      H      header, JSON in UTF-8: "card", "arrays" (name, dtype, shape), "program" (bytes)
    24 + H         the arrays in that order, C order; then the program, deflated
    last 32        SHA-256 of all that comes before

A file is read into memory and nothing is ever unpacked to disk. All sizes are held against the
file's own before anything is allocated, so that no file can ask for more memory than `LARGEST`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import ExportError

MAGIC = b"kdsleep\0"
FORMAT = 3
LARGEST = 64 * 2**20  # bytes of a file, and of its program; the presets' students stay below 3 MB
_HEAD = struct.Struct("<8sIIQ")
_DIGEST = hashlib.sha256().digest_size
_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4")}
_MOST_AXES = 8
_AGAIN = "Copy it again, or export the student again with `kd-sleep export_student`."


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
      card: plain JSON about the student.
      arrays: float32 by name, in order.
      program: serialized by `jax.export`.
    """

    card: Mapping[str, Any]
    arrays: Mapping[str, NDArray]
    program: bytes


def pack(content: Content) -> bytes:
    """The bytes of a file. The same content always gives the same."""
    program = zlib.compress(content.program, 9)
    header = json.dumps(
        {
            "card": content.card,
            "arrays": [
                {"name": name, "dtype": array.dtype.name, "shape": array.shape}
                for name, array in content.arrays.items()
            ],
            "program": {"bytes": len(program), "inflated": len(content.program)},
        },
        allow_nan=False,
    ).encode()
    arrays = [
        np.ascontiguousarray(array, _DTYPES[array.dtype.name]).tobytes()
        for array in content.arrays.values()
    ]
    body = b"".join([header, *arrays, program])
    head = _HEAD.pack(MAGIC, FORMAT, len(header), _HEAD.size + len(body) + _DIGEST)
    return head + body + hashlib.sha256(head + body).digest()


def read(path: str | os.PathLike) -> Content:
    """Reads a file.

    Raises:
      ExportError: no such file, cut short, of a newer format, damaged, or no .kdsleep file at all.
    """
    size = os.stat(path).st_size
    if size > LARGEST:
        raise ExportError(path, f"{size:,} bytes, more than an exported student has.", _AGAIN)
    with open(path, "rb") as file:
        return unpack(file.read(LARGEST + 1), path)


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
    _, number, header_bytes, size = _HEAD.unpack_from(data)
    if number > FORMAT:
        raise ExportError(
            path,
            f"of format {number}; this kd_sleep reads formats up to {FORMAT}.",
            "Install a newer kd_sleep, or export the student again with this one.",
        )
    if len(data) < size:
        raise ExportError(path, f"cut short: {len(data):,} of {size:,} bytes.", _AGAIN)
    if len(data) > size:
        raise ExportError(path, f"damaged: {len(data):,} bytes where it says {size:,}.", _AGAIN)
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise ExportError(path, "damaged: its checksum is wrong.", _AGAIN)
    try:
        if number < 1:
            raise ValueError("there is no format 0")
        return _content(memoryview(data)[_HEAD.size : -_DIGEST], header_bytes)
    # RecursionError: a header that nests too deep. KeyError, TypeError: one of another shape.
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error) as error:
        raise ExportError(
            path, f"its checksum is right and its contents are not: {error}.", _AGAIN
        ) from error


def _content(body: memoryview, header_bytes: int) -> Content:
    if header_bytes > len(body):
        raise ValueError("the header is longer than the file")
    header = json.loads(bytes(body[:header_bytes]), parse_constant=_no_number)
    place, arrays = header_bytes, {}
    for entry in header["arrays"]:
        name, shape = entry["name"], entry["shape"]
        dtype = _DTYPES[entry["dtype"]]
        if not isinstance(name, str) or name in arrays:
            raise ValueError(f"array {name!r} is there twice, or has no name")
        if len(shape) > _MOST_AXES or not all(type(n) is int and 0 <= n <= LARGEST for n in shape):
            raise ValueError(f"{name} has no shape")
        count = math.prod(shape)
        end = place + count * dtype.itemsize
        if end > len(body):
            raise ValueError(f"{name} is longer than the file")
        arrays[name] = np.frombuffer(body[place:end], dtype).reshape(shape)
        place = end
    length, inflated = header["program"]["bytes"], header["program"]["inflated"]
    if type(length) is not int or length != len(body) - place:
        raise ValueError("the arrays do not end where the program begins")
    if type(inflated) is not int or not 0 < inflated <= LARGEST:
        raise ValueError("the program has no size")
    stream = zlib.decompressobj()
    program = stream.decompress(body[place:], inflated)
    if len(program) != inflated or stream.decompress(stream.unconsumed_tail, 1) or not stream.eof:
        raise ValueError("the program has another size than it says")
    if not isinstance(header["card"], dict):
        raise ValueError("there is no card")
    return Content(header["card"], arrays, program)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
