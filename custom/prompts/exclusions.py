"""What a prompt asks for once everything that it leaves out is left out.

An organ's class includes its lesions. So an exclusion takes a class away where that class was asked for ("all organs
except the liver"), and else cuts it out of the organ that it is part of ("liver without tumour").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from custom.anatomy.class_set import ClassSet
from custom.prompts.grammar import Item, Noun, PromptError, Structure, UnknownOrganError
from custom.prompts.lexicon import Lexicon, Piece


def interpret(text: str, items: Sequence[Item], lexicon: Lexicon) -> list[tuple[Noun, tuple[Structure, ...]]]:
    """Return each noun that is asked for with what remains of it.

    Raises:
        PromptError: exclusions that leave nothing, follow nothing, or have two readings.
        UnknownOrganError: a lesion is left out of organs that have none here.
    """
    class_set = lexicon.class_set
    clauses = [_Clause(text, lexicon)]
    exclusion: Piece | None = None  # "without", until its first item is read
    joint = ""
    for item in items:
        clause = clauses[-1]
        if item.kind in ("stop", "comma", "separator", "or", "adding"):
            if exclusion:
                raise PromptError(f'"{exclusion.typed(text)}" must be followed by what to leave out in {text!r:.80}.')
            if joint not in ("stop", "adding") and (joint != "or" or item.kind == "adding"):
                joint = "comma and" if (joint, item.kind) == ("comma", "separator") else item.kind
        elif isinstance(item, Piece) and item.kind in ("without", "except"):
            if not clause.nouns:
                rule = "A prompt must name structures before those to leave out"
                raise PromptError(f'{rule}, not {text!r:.80}: write "all organs except the liver".')
            if exclusion or (clause.excluding and not joint):
                rule = "A prompt must have one reading; what an exclusion within an exclusion leaves out is not known"
                remedy = 'write "or" between all that you do not want'
                raise PromptError(f'{rule}, as of "{item.typed(text)}" in {text!r:.80}: {remedy}.')
            exclusion, joint, clause.excluding = item, "", True
        elif isinstance(item, Noun) or item.kind in ("lesion", "side"):
            if clause.excluding and not (exclusion or joint):
                raise _two_readings(text, item.typed(text))
            if exclusion or (clause.excluding and joint != "stop"):
                taken = clause.leave_out(item, joint, exclusion)
            else:
                taken = joint != "stop" and clause.ask_for(item, joint)
            if not taken:
                clauses.append(_Clause(text, lexicon))
                clauses[-1].ask_for(item, "")
            exclusion, joint = None, ""
    if exclusion or joint == "or":
        said = exclusion.typed(text) if exclusion else "or"
        raise PromptError(f'"{said}" must be followed by what to leave out in {text!r:.80}.')
    asked = [pair for clause in clauses for pair in clause.remaining()]
    removed = set().union(*(clause.removed for clause in clauses))
    if again := removed & {structure.index for _, structures in asked for structure in structures}:
        names = ", ".join(class_set[index].name for index in sorted(again))
        raise PromptError(f"A prompt must not both ask for {names} and leave it out, as {text!r:.80} does: keep one.")
    return asked


@dataclass
class _Clause:
    """Nouns asked for together, what is kept of each, and what exclusions have taken away."""

    text: str
    lexicon: Lexicon
    nouns: list[Noun] = field(default_factory=list)
    kept: list[tuple[Structure, ...]] = field(default_factory=list)
    removed: set[int] = field(default_factory=set)
    excluding: bool = False
    commas: bool = False
    listed: bool = False
    takes_classes: bool = False
    by_without: bool = False
    places: list[tuple[tuple[Structure, ...], str]] = field(default_factory=list)

    @property
    def class_set(self) -> ClassSet:
        return self.lexicon.class_set

    def ask_for(self, noun: Item, joint: str) -> bool:
        if not isinstance(noun, Noun) or joint == "or":  # liver without tumour and spleen or tumours
            raise _two_readings(self.text, noun.typed(self.text))
        self.nouns.append(noun)
        self.kept.append(noun.structures)
        self.commas |= joint == "comma"
        return True

    def leave_out(self, item: Item, joint: str, exclusion: Piece | None) -> bool:
        """Take `item` away from what is kept; False where it is no exclusion but begins the next list.

        `exclusion` is the word right before the item; None for a further item of its list.
        """
        typed = item.typed(self.text)
        targets = item.structures if isinstance(item, Noun) else tuple(map(Structure, item.indices))
        asked = {structure.index for structures in self.kept for structure in structures}
        own = [target for target in targets if target.index in asked | self.removed]
        parts = [] if item.kind == "side" or (item.kind == "lesion" and own) else [t for t in targets if t not in own]
        less = [self._less(structures, own, parts) for structures in self.kept]
        changed = [at for at, (before, after) in enumerate(zip(self.kept, less, strict=True)) if before != after]
        if not changed:
            return self._miss(item, joint, exclusion)
        if exclusion:
            self.by_without = exclusion.kind == "without"
        if self.by_without:
            self.places.append((targets, typed))
        if joint == "adding":
            raise _two_readings(self.text, typed)  # all organs except the lungs, with the aorta
        if joint == "comma and" and not self.listed:
            raise _two_readings(self.text, typed)  # all organs, without the lungs, and tumours
        last = len(self.kept) - 1
        if changed != [last] and (self.commas if item.kind == "lesion" else last in changed):
            raise _two_readings(self.text, typed)  # spleen, liver, kidneys without tumours
        if exclusion is None and joint == "comma" and item.kind == "noun" and not self.takes_classes:
            raise _two_readings(self.text, typed)  # kidneys without tumours, kidney cysts
        kept = {structure.index for structures in less for structure in structures}
        self.listed = exclusion is None and (self.listed or joint == "comma")
        self.takes_classes |= kept != asked
        self.removed |= asked - kept
        self.kept = less
        return True

    def remaining(self) -> list[tuple[Noun, tuple[Structure, ...]]]:
        if self.nouns and not any(self.kept):
            raise PromptError(
                f"A prompt must leave something to segment, not nothing as {self.text!r:.80}: leave out less."
            )
        for targets, typed in self.places:  # once all is left out, whatever the order: kidneys and tumours
            self._keep_no_lesion_in(targets, [structure for kept in self.kept for structure in kept], typed)
        return [(noun, kept) for noun, kept in zip(self.nouns, self.kept, strict=True) if kept]

    def _less(
        self, structures: Sequence[Structure], own: Sequence[Structure], parts: Sequence[Structure]
    ) -> tuple[Structure, ...]:
        kept = []
        for structure in structures:
            if structure in own or Structure(structure.index) in own:
                continue
            if structure.within is None and any(target.index == structure.index for target in own):
                raise PromptError(
                    f"A class must be left out whole, not in one organ as {self.text!r:.80} asks: name what remains."
                )
            less = [
                part.index
                for part in parts
                if structure.index in self.class_set.wholes[part.index] and part.within in (None, structure.index)
            ]
            kept.append(replace(structure, without=tuple(sorted({*structure.without, *less}))))
        return tuple(kept)

    def _keep_no_lesion_in(self, targets: Sequence[Structure], kept: Sequence[Structure], typed: str) -> None:
        """Refuse kidney tumours "not in the left kidney": a lesion's class is not cut by place."""
        places = {structure.index for structure in targets if structure.index not in self.lexicon.lesion_classes}
        if placed := [s for s in kept if s.index in self.lexicon.lesion_classes and self._lies_in(s, places)]:
            raise PromptError(
                f'A prompt must not leave out the place of a lesion that it keeps, not "{typed:.60}" of '
                f"{placed[0].title(self.class_set)} in {self.text!r:.80}: name the lesions and organs that you want."
            )

    def _lies_in(self, lesion: Structure, organs: set[int]) -> bool:
        wholes = self.class_set.wholes[lesion.index] if lesion.within is None else {lesion.within}
        return not organs.isdisjoint(wholes)

    def _miss(self, item: Item, joint: str, exclusion: Piece | None) -> bool:
        """Judge an item that takes nothing away: harmless, the next thing asked for, or not to be understood."""
        typed = item.typed(self.text)
        kept = [structure for structures in self.kept for structure in structures]
        targets = item.structures if isinstance(item, Noun) else ()
        gone = self.removed.union(*(structure.without for structure in kept))
        if item.kind == "lesion" and not gone.intersection(item.indices):
            raise UnknownOrganError(
                f'A lesion must be one of the organs named; "{typed}" in {self.text!r:.80} is none of theirs here: '
                "leave these words out."
            )
        if item.kind == "side" and not any(self.class_set[structure.index].side for structure in kept):
            raise UnknownOrganError(f'A side must be one of the organs named, not "{typed}" in {self.text!r:.80}.')
        self._keep_no_lesion_in(targets, kept, typed)
        if joint == "or" or (exclusion and exclusion.kind == "without"):
            self.takes_classes = True  # liver but not the gallbladder
            return True
        begins = item.kind == "noun" and not any(self.class_set.wholes[index] for index in item.indices)
        if begins and not self.takes_classes and exclusion is None:
            return False  # liver without tumour and spleen
        raise _two_readings(self.text, typed)


def _two_readings(text: str, typed: str) -> PromptError:
    return PromptError(
        f'A prompt must have one reading, but "{typed:.60}" in {text!r:.80} may be asked for or left out: name all '
        'that you want first, then "but not" and all that you do not want, with "or" between them; or ask in two '
        "sentences, with a full stop between them."
    )
