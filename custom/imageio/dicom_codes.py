"""What our DICOM objects have in common."""

from pydicom.sr.coding import Code as Concept

from custom.anatomy.class_set import Code

RESEARCH_USE = "Research use only"


def concept(code: Code) -> Concept:
    """A code of a class set as DICOM writes it."""
    return Concept(code.value, "SCT", code.meaning)


def clean_text(text: str, limit: int = 64) -> str:
    """Return text that a DICOM string may hold: no backslash, no control characters, so many characters."""
    return " ".join("".join(c if c.isprintable() and c != "\\" else " " for c in text).split())[:limit]
