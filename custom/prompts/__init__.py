"""Words to classes, and classes to sentences.

A prompt is cut into the words of a class set (`lexicon`), words become nouns and the rest (`grammar`), and exclusions
are applied (`exclusions`); `resolve` does all of it, and corrects typing errors. `sentences` and `sampling` write the
sentences that name classes, `vectors` has a text vector for each class.

To add a word, a synonym or a language: lines in the JSON file of the class set. To add a way of asking: a kind of word
in `anatomy.Language` and `lexicon`, its rule in `grammar`, and rows in `tests/prompts/prompt_table.json`.
"""

from custom.prompts.grammar import PromptError
from custom.prompts.request import PromptParser
from custom.prompts.resolve import resolve_prompt
from custom.prompts.sentences import write_sentence
from custom.prompts.vectors import ClassMeanEncoder, class_vectors

__all__ = ["ClassMeanEncoder", "PromptError", "PromptParser", "class_vectors", "resolve_prompt", "write_sentence"]
