"""Files read within bounds, with errors that name them, and written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import Element

from kd_sleep.errors import RecordingError
from kd_sleep.extras import optional_packages

FETCH_AGAIN = "Download or copy the file again, or leave this night out."

# How a web server's answer begins, be it a page in HTML, an error in JSON or XML, or a bare line.
_WEB_ANSWER = re.compile(
    rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|title|script|error)\b"
    rb"|\{\s*\"(error|errors|message|status|detail|code|title|success)\"\s*:"
    rb"|HTTP/\d|(4\d\d:? )?(unauthori[sz]ed|forbidden|access denied|not found|bad request)\b",
    re.IGNORECASE | re.DOTALL,
)
_MARKS = b"\xef\xbb\xbf\xff\xfe \t\r\n"  # before its first letter
_PEEK = 2048

MAX_BYTES = 50_000_000  # a night's XML has less than one million, its R points five
_MAX_XML_MARKS = 1_000_000  # tags and attributes; so many take two seconds and 300 MB
_MAX_XML_DOCUMENTS = 8
# Files that were joined hold several documents; each begins with its own declaration.
_XML_BEGINNING = re.compile(rb"(?=\xef\xbb\xbf<\?xml\s)|(?<!\xef\xbb\xbf)(?=<\?xml\s)")


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens `path` to read bytes.

    Raises:
      RecordingError: for a file that is missing, is a pipe, a socket or a device, holds a web
        server's page or error instead of what was asked for, or cannot be opened or read in the
        block.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RecordingError(path, "is no ordinary file.", FETCH_AGAIN)
            if _WEB_ANSWER.match(file.peek(_PEEK)[:_PEEK].replace(b"\0", b"").lstrip(_MARKS)):
                raise RecordingError(
                    path,
                    "is a web page (sign-in or error), not what its name says.",
                    "Fetch it again; is the token valid?",
                )
            yield file
    except FileNotFoundError:
        raise RecordingError(path, "is missing.", "Download it, or leave this night out.") from None
    except OSError as error:
        raise RecordingError(path, f"cannot be read ({error.strerror}).", FETCH_AGAIN) from error


def _at_once(path: str, flags: int) -> int:
    """Opens without waiting: a named pipe would have its reader wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_bytes(path: str | os.PathLike) -> bytes:
    """All of a file.

    Raises:
      RecordingError: for a file that is missing, cannot be read, or is larger than 50 MB.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise RecordingError(
                path,
                f"has {size / 1e6:.0f} MB; a night's annotations have less than"
                f" {MAX_BYTES / 1e6:.0f}.",
                FETCH_AGAIN,
            )
        return file.read(MAX_BYTES)


def read_xml(path: str | os.PathLike) -> list[Element]:
    """Roots of the XML documents in a file, in its order: one, or several where files were joined.

    Raises:
      RecordingError: as `read_bytes`; for a million tags, for what is no XML, and for one that
        declares a document type or entities.
    """
    with optional_packages():
        import defusedxml
        import defusedxml.ElementTree

    data = read_bytes(path)
    if data.count(b"<") + data.count(b"=") > _MAX_XML_MARKS:
        raise RecordingError(path, "has too many tags for a night's annotations.", FETCH_AGAIN)
    parts = [part for part in _XML_BEGINNING.split(data) if part.strip()] or [b""]
    if len(parts) > _MAX_XML_DOCUMENTS:
        raise RecordingError(path, f"holds {len(parts)} XML documents.", FETCH_AGAIN)
    try:
        return [defusedxml.ElementTree.fromstring(part, forbid_dtd=True) for part in parts]
    except defusedxml.DefusedXmlException as error:
        raise RecordingError(
            path,
            f"declares a document type or entities, which no annotation needs ({error!r}).",
            "Leave this night out.",
        ) from error
    # Unknown encodings are ValueErrors or LookupErrors, and malformed XML is a SyntaxError.
    except (SyntaxError, ValueError, LookupError) as error:
        raise RecordingError(path, f"is no readable XML ({error}).", FETCH_AGAIN) from error


def hidden(name: str) -> bool:
    """Whether a file is a system's or a program's own: `._night.edf`, `~$x`, `Thumbs.db`."""
    return name.startswith((".", "~$")) or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


def write_bytes(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Writes `data` to `path`, making its folder; a run killed half-way leaves no half file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
