"""Class sets: what the channels of a network mean, in words, SNOMED codes, colours and sides.

`class_set` holds the dataclasses, `loading` reads and checks the JSON files in `class_sets/`.

To add a class set: put its JSON file into `class_sets/`, which makes its name valid for `--class_set_file`, or pass the
path of the file. To add a class, a synonym or a word of prompts: a line in that file. No code changes.
"""

from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.anatomy.loading import load_class_set

__all__ = ["AnatomicalClass", "ClassSet", "load_class_set"]
