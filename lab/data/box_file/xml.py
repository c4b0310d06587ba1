"""XML files as trees. A file that declares entities is refused before it can blow up."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from lab.data.faults import BadRecord
from lab.data.files import open_regular, why_unreadable


def tree(path: Path) -> Element:
    """The root of an XML file. Raises `BadRecord`."""
    try:
        with open_regular(path) as file:
            data = file.read()
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise BadRecord(str(path), "it declares a document type, which no annotation needs")
        return ElementTree.fromstring(data)
    except (OSError, ValueError) as error:
        raise BadRecord(str(path), why_unreadable(error)) from None
    except ElementTree.ParseError as error:
        raise BadRecord(str(path), f"it is no XML ({error})") from None
