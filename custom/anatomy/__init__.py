"""Class sets: what the channels of a network mean, in words, codes, colours and sides."""

from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.anatomy.loading import load_class_set

__all__ = ["AnatomicalClass", "ClassSet", "load_class_set"]
