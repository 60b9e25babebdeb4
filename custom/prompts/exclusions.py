"""Exclusions: what remains of the structures that a prompt names.

An organ's class includes its lesions. So an excluded class is removed where it was requested ("all organs except the
liver"), and otherwise cut out of the organ that it is part of ("liver without tumour").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from custom.prompts.grammar import PromptError, UnknownOrganError
from custom.prompts.lexicon import Lexicon, Piece, Structure

Requested = list[tuple[Piece, tuple[Structure, ...]]]


def interpret(text: str, items: Sequence[Piece], lexicon: Lexicon) -> Requested:
    """Return each requested noun with what remains of it; PromptError if exclusions leave nothing or are ambiguous."""
    clauses = [_Clause(text, lexicon)]
    joint = ""  # what stands between the last structure and the next one
    exclusion: Piece | None = None  # the word of exclusion before the next structure
    for item in items:
        clause = clauses[-1]
        if item.kind in ("stop", "comma", "separator", "or", "adding"):
            if exclusion:
                break
            if joint not in ("stop", "adding") and (joint != "or" or item.kind == "adding"):
                joint = "comma and" if (joint, item.kind) == ("comma", "separator") else item.kind
        elif item.kind in ("without", "except"):
            clause.begin_exclusion(item, follows_another=not joint)
            joint, exclusion = "", item
        elif item.kind in ("noun", "lesion", "side"):
            leaves_out = clause.excluding and joint != "stop"
            if not (leaves_out and clause.leave_out(item, joint, exclusion)):
                if leaves_out or joint == "stop":  # liver without tumour and spleen
                    joint = "stop"
                    clauses.append(_Clause(text, lexicon))
                clauses[-1].request(item, joint)
            joint, exclusion = "", None
    if exclusion or joint == "or":
        word = exclusion.typed(text) if exclusion else joint
        raise PromptError(f'"{word}" must be followed by what to leave out in {text!r:.80}.')
    requested = [pair for clause in clauses for pair in clause.remaining()]
    removed = set().union(*(clause.removed for clause in clauses))
    if again := removed & {structure.index for _, structures in requested for structure in structures}:
        names = ", ".join(lexicon.class_set[index].name for index in sorted(again))
        raise PromptError(f"A prompt must not both request {names} and leave it out, as {text!r:.80} does: keep one.")
    return requested


@dataclass
class _Clause:
    """Nouns requested together, what is kept of each, and what exclusions have removed."""

    text: str
    lexicon: Lexicon
    kept: dict[Piece, tuple[Structure, ...]] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    excluding: bool = False
    removes_classes: bool = False
    nouns_have_commas: bool = False
    exclusions_have_commas: bool = False
    by_without: bool = False
    left_out: list[Piece] = field(default_factory=list)

    @property
    def structures(self) -> list[Structure]:
        return [structure for kept in self.kept.values() for structure in kept]

    def begin_exclusion(self, word: Piece, *, follows_another: bool) -> None:
        if not self.kept:
            rule = "A prompt must name structures before those to leave out"
            raise PromptError(f'{rule}, not {self.text!r:.80}: write "all organs except the liver".')
        if self.excluding and follows_another:
            rule = "A prompt must have one reading; what an exclusion within an exclusion leaves out is not known"
            remedy = 'write "or" between all that you do not want'
            raise PromptError(f'{rule}, as of "{word.typed(self.text)}" in {self.text!r:.80}: {remedy}.')
        self.excluding = True

    def request(self, noun: Piece, joint: str) -> None:
        if noun.kind != "noun" or joint == "or":  # liver without tumour and spleen or tumours
            raise _two_readings(self.text, noun)
        self.kept[noun] = noun.structures
        self.nouns_have_commas |= joint == "comma"

    def leave_out(self, item: Piece, joint: str, exclusion: Piece | None) -> bool:
        """Remove `item`, which may stand right behind an `exclusion`; False if it begins the next list instead."""
        if not (exclusion or joint):
            raise _two_readings(self.text, item)
        requested = {structure.index for structure in self.structures}
        own = [target for target in item.structures if target.index in requested | self.removed]
        of_classes = item.kind == "side" or (item.kind == "lesion" and own)
        parts = [] if of_classes else [target for target in item.structures if target not in own]
        less = {noun: self._subtract(structures, own, parts) for noun, structures in self.kept.items()}
        changed = [noun for noun in less if less[noun] != self.kept[noun]]
        if not changed:
            return self._leave_nothing_out(item, joint, exclusion)
        if exclusion:
            self.by_without = exclusion.kind == "without"
        if self.by_without:
            self.left_out.append(item)
        if self._is_ambiguous(item, joint, exclusion, changed):
            raise _two_readings(self.text, item)
        self.kept = less
        removed = requested.difference(structure.index for structure in self.structures)
        self.removed |= removed
        self.removes_classes |= bool(removed)
        self.exclusions_have_commas = exclusion is None and (self.exclusions_have_commas or joint == "comma")
        return True

    def remaining(self) -> Requested:
        if self.kept and not self.structures:
            rule = "A prompt must leave something to segment"
            raise PromptError(f"{rule}, not nothing as {self.text!r:.80}: leave out less.")
        for item in self.left_out:  # checked last: the order of mention does not matter
            self._refuse_cut_lesions(item)
        return [(noun, kept) for noun, kept in self.kept.items() if kept]

    def _subtract(
        self, structures: Sequence[Structure], own: Sequence[Structure], parts: Sequence[Structure]
    ) -> tuple[Structure, ...]:
        """Remove the classes `own` from structures, and cut `parts` out of the organs that they are part of."""
        kept = []
        for structure in structures:
            if structure in own or Structure(structure.index) in own:
                continue
            if structure.within is None and any(target.index == structure.index for target in own):
                rule = "A class must be left out whole"
                raise PromptError(f"{rule}, not in one organ as in {self.text!r:.80}: name what remains.")
            inside = [part for part in parts if structure.index in self.lexicon.class_set.wholes[part.index]]
            less = [part.index for part in inside if part.within in (None, structure.index)]
            kept.append(replace(structure, without=tuple(sorted({*structure.without, *less}))))
        return tuple(kept)

    def _is_ambiguous(self, item: Piece, joint: str, exclusion: Piece | None, changed: Sequence[Piece]) -> bool:
        """Whether an item that takes something from the nouns `changed` may be requested, or mean other nouns too."""
        last = next(reversed(self.kept))
        if joint == "adding":  # all organs except the lungs, with the aorta
            return True
        if joint == "comma and" and not self.exclusions_have_commas:  # all organs, without the lungs, and tumours
            return True
        if list(changed) != [last] and (self.nouns_have_commas if item.kind == "lesion" else last in changed):
            return True  # spleen, liver, kidneys without tumours
        further_noun = exclusion is None and joint == "comma" and item.kind == "noun"
        return further_noun and not self.removes_classes  # kidneys without tumours, kidney cysts

    def _leave_nothing_out(self, item: Piece, joint: str, exclusion: Piece | None) -> bool:
        """Judge an item that removes nothing: True if that is harmless, False if it is the next one requested."""
        typed = item.typed(self.text)
        class_set = self.lexicon.class_set
        gone = self.removed.union(*(structure.without for structure in self.structures))
        if item.kind == "lesion" and not gone.intersection(item.indices):
            rule = f'A lesion must be one of the organs named; "{typed}" in {self.text!r:.80} is none of theirs here'
            raise UnknownOrganError(f"{rule}: leave these words out.")
        if item.kind == "side" and not any(class_set[structure.index].side for structure in self.structures):
            raise UnknownOrganError(f'A side must be one of the organs named, not "{typed}" in {self.text!r:.80}.')
        if item.kind == "noun":
            self._refuse_cut_lesions(item)
        if joint == "or" or (exclusion and exclusion.kind == "without"):
            self.removes_classes = True  # liver but not the gallbladder
            return True
        is_part = any(class_set.wholes[index] for index in item.indices)
        if item.kind == "noun" and not is_part and not self.removes_classes and exclusion is None:
            return False  # liver without tumour and spleen
        raise _two_readings(self.text, item)

    def _refuse_cut_lesions(self, item: Piece) -> None:
        """Refuse kidney tumors "not in the left kidney": the class of a lesion is not cut by organ."""
        lesions, wholes = self.lexicon.lesion_classes, self.lexicon.class_set.wholes
        organs = set(item.indices) - lesions
        for kept in self.structures:
            if kept.index in lesions and organs & (wholes[kept.index] if kept.within is None else {kept.within}):
                received = f'"{item.typed(self.text):.60}" of {kept.title(self.lexicon.class_set)} in {self.text!r:.80}'
                rule = "A prompt must not leave out the place of a lesion that it keeps"
                raise PromptError(f"{rule}, not {received}: name the lesions and organs that you want.")


def _two_readings(text: str, item: Piece) -> PromptError:
    return PromptError(
        f'A prompt must have one reading, but "{item.typed(text):.60}" in {text!r:.80} may be requested or left out: '
        'name all that you want first, then "but not" and all that you do not want, with "or" between them; or write '
        "two sentences, with a full stop between them."
    )
