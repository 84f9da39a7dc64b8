"""Annotation files from strangers: read within bounds, XML without entities or document types."""

from __future__ import annotations

import os
import re
from xml.etree.ElementTree import Element

from kd_sleep.errors import RecordingError
from kd_sleep.extras import optional_packages
from kd_sleep.recordings import files
from kd_sleep.recordings.files import FETCH_AGAIN

with optional_packages():
    import defusedxml
    import defusedxml.ElementTree

MAX_BYTES = 50_000_000  # a night's XML has less than one million, its R points five
_MAX_MARKS = 1_000_000  # tags and attributes; so many take two seconds and 300 MB
_MAX_DOCUMENTS = 8

# Files that were joined hold several documents; each begins with its own declaration.
_BEGINNING = re.compile(rb"(?=\xef\xbb\xbf<\?xml\s)|(?<!\xef\xbb\xbf)(?=<\?xml\s)")


def read_bytes(path: str | os.PathLike) -> bytes:
    """All of a file.

    Raises:
      RecordingError: for a file that is missing, cannot be read, or is larger than 50 MB.
    """
    with files.opened(path) as file:
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
    data = read_bytes(path)
    if data.count(b"<") + data.count(b"=") > _MAX_MARKS:
        raise RecordingError(path, "has too many tags for a night's annotations.", FETCH_AGAIN)
    parts = [part for part in _BEGINNING.split(data) if part.strip()] or [b""]
    if len(parts) > _MAX_DOCUMENTS:
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
