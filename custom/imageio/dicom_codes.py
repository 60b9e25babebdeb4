"""Codes and texts of DICOM-SEG and RT Structure Sets."""

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as Concept

from custom.anatomy.class_set import Code

RESEARCH_USE = "Research use only"


def concept(code: Code) -> Concept:
    """A SNOMED CT code of a class set as a DICOM coded concept."""
    return Concept(code.value, "SCT", code.meaning)


def code_item(code: Code) -> Dataset:
    """A SNOMED CT code of a class set as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = concept(code)[:3]
    return item


def clean_text(text: str, limit: int = 64) -> str:
    """``text`` without backslashes and control characters, which a DICOM string may not have, cut to ``limit``."""
    return " ".join("".join(c if c.isprintable() and c != "\\" else " " for c in text).split())[:limit]
