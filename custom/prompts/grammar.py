"""What a prompt means: nouns, lesions of organs, and what is left out.

A prompt is understood only if every word of it is; anything else is refused with a reason, never guessed.

    prompt     = clause (stop clause)*                  "liver, spleen. All lungs."
    clause     = noun (and noun)* (exclusion)*          "kidneys and spleen but not the left one"
    exclusion  = without item ((and | or) item)*        "without tumours or cysts"
    item       = noun | lesion word | side
    noun       = organ | organ lesion | lesion link organ       "left kidney tumor", "tumour in the left kidney"

Between these may stand fillers ("please") and links ("of"), which mean nothing where they link nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from custom.anatomy.class_set import ClassSet
from custom.prompts.lexicon import Lexicon, Piece, Token
from custom.prompts.lexicon import Structure as Structure

_MOST_NAMES = 8  # in an error


class PromptError(ValueError):
    """A prompt that cannot be carried out as it stands."""


class UnknownOrganError(PromptError):
    """A prompt with a word that has no meaning in this class set."""


def parse(text: str, tokens: Sequence[Token], lexicon: Lexicon) -> list[Piece]:
    """Return nouns and the words between them, all of them understood and with one reading: else PromptError."""
    items = _alone(list(_only(_join(tokens, lexicon))))
    if refused := [item.typed(text) for item in items if item.kind == "refused"]:
        rule = "A prompt must name whole structures; parts, places and choices are not understood yet"
        raise _name_instead(rule, f"{_quoted(refused)} in {text!r:.80}")
    items = list(_in_context(text, items, lexicon))
    _refuse_unknown(text, items, lexicon.class_set)
    nouns = [(at, item) for at, item in enumerate(items) if item.kind == "noun"]
    for (start, first), (end, last) in pairwise(nouns):
        _refuse_relation(text, first, last, {item.kind for item in items[start + 1 : end]}, lexicon)
    _refuse_shared_link(text, items, lexicon)
    _refuse_region(text, items)
    return items


def _only(items: Iterator[Piece]) -> Iterator[Piece]:
    """Yield items with "only" as a filler where it changes nothing: before all structures, or behind them."""
    pieces = list(items)
    named = [at for at, piece in enumerate(pieces) if piece.kind in ("noun", "lesion", "side", "without", "except")]
    for at, piece in enumerate(pieces):
        between = bool(named) and named[0] < at < named[-1]
        yield Piece("refused" if between else "filler", piece.tokens) if piece.kind == "only" else piece


def _alone(items: list[Piece]) -> list[Piece]:
    """Make nouns of lesion words where nothing else is named: "tumors" are all that the weights know."""
    if {item.kind for item in items} & {"noun", "side", "without", "except", "unknown", "refused", "region"}:
        return items
    return [Piece("noun", item.tokens, item.structures, True) if item.kind == "lesion" else item for item in items]


def _in_context(text: str, items: Sequence[Piece], lexicon: Lexicon) -> Iterator[Piece]:
    """Yield items as what they are where they stand: "tumour" by itself is known only in an exclusion."""
    excluding = listing = False
    before = ""
    for item in items:
        kind = item.kind
        excluding = kind in ("without", "except") or (excluding and kind != "stop")
        listing = excluding and (listing or kind in ("noun", "lesion", "side"))
        if kind == "or" and not excluding:
            raise _name_instead("A prompt must leave no choice", f"{_quoted([item.typed(text)])} in {text!r:.80}")
        if listing and kind in ("separator", "filler") and item.words in lexicon.adding:
            kind = "adding"
        elif kind in ("lesion", "side", "pronoun") and not (excluding and (kind != "pronoun" or before == "side")):
            kind = "unknown"
        yield item if kind == item.kind else Piece(kind, item.tokens)
        before = kind


def _name_instead(rule: str, received: str) -> PromptError:
    return PromptError(f"{rule}, not {received}: name the structures you want instead.")


def _quoted(words: Sequence[str]) -> str:
    """Return up to five different words in quotation marks."""
    words = list(dict.fromkeys(words))
    return ", ".join(f'"{word:.40}"' for word in words[:5]) + (", ..." if len(words) > 5 else "")


def _join(tokens: Sequence[Token], lexicon: Lexicon) -> Iterator[Piece]:
    """Make nouns of "left kidney tumor" and "tumour in the left kidney"; a lesion of no class stays unknown."""
    pieces = list(lexicon.read(tokens))
    at = 0
    while at < len(pieces):
        end = _after_links(pieces, at)
        linked = any(piece.kind == "link" for piece in pieces[at + 1 : end])
        if end < len(pieces) and (linked or end == at + 1):
            part, whole = (pieces[at], pieces[end]) if linked else (pieces[end], pieces[at])
            if whole.kind == "noun" and (part.kind == "lesion" or (linked and _are_parts(part, lexicon))):
                joined = _lesions(part, whole, pieces[at : end + 1], lexicon)
                pieces[at : end + 1] = [joined]
                if joined.kind == "noun":  # it may go on: lung nodule in the right lung
                    continue
        yield pieces[at]
        at += 1


def _after_links(pieces: Sequence[Piece], at: int) -> int:
    """Return the place of the first piece after this one that is neither link nor filler."""
    return next((a for a in range(at + 1, len(pieces)) if pieces[a].kind not in ("link", "filler")), len(pieces))


def _are_parts(piece: Piece, lexicon: Lexicon) -> bool:
    return piece.kind == "noun" and all(lexicon.class_set.wholes[index] for index in piece.indices)


def _lesions(part: Piece, whole: Piece, pieces: Sequence[Piece], lexicon: Lexicon) -> Piece:
    """Return the classes of `part` that belong to the organs of `whole`, restricted to these if they have others."""
    tokens = tuple(token for piece in pieces for token in piece.tokens)
    wholes, organs = lexicon.class_set.wholes, set(whole.indices)
    found = [index for index in part.indices if wholes[index] & organs]
    missed = organs.difference(*(wholes[index] for index in found)) if not whole.open else ()
    if not found or missed or (part.kind == "noun" and not part.open and len(found) < len(part.indices)):
        return Piece("misplaced" if part.kind == "noun" else "unknown", tokens)
    structures: list[Structure] = []
    for index in found:
        inside = [organ for organ in whole.indices if organ in wholes[index]]
        all_of_it = len(inside) == len(wholes[index])
        structures += [Structure(index)] if all_of_it else [Structure(index, within=organ) for organ in inside]
    return Piece("noun", tokens, tuple(structures), part.open or whole.open)


def _refuse_unknown(text: str, items: Sequence[Piece], class_set: ClassSet) -> None:
    if misplaced := [item.typed(text) for item in items if item.kind == "misplaced"]:
        rule = "A prompt may place a lesion in the organ that it belongs to and nothing else"
        raise _name_instead(rule, _quoted(misplaced))
    if not (unknown := [at for at, item in enumerate(items) if item.kind == "unknown"]):
        return
    near: list[str] = []
    for at in unknown[:5]:
        around = [item for item in items[max(at - 1, 0) : at + 2] if item.kind in ("noun", "unknown")]
        phrases = [" ".join(items[at].words), *items[at].words[::-1][:3], " ".join(item.typed(text) for item in around)]
        near += [name for phrase in phrases for name in class_set.nearest(phrase)[: 6 if phrase is phrases[0] else 2]]
    names = ", ".join(list(dict.fromkeys(near or class_set.names))[:_MOST_NAMES])
    listed = near or len(class_set) <= _MOST_NAMES
    help_ = f"Nearest names: {names}" if listed else "All names: python -m custom list-classes"
    rule = f"Every word of a prompt must be known, not {_quoted([items[at].typed(text) for at in unknown])}"
    raise UnknownOrganError(f"{rule} in {text!r:.80}. {help_}. Separate names with commas.")


def _refuse_region(text: str, items: Sequence[Piece]) -> None:
    """Refuse "all organs in the chest": the class set does not state which of them lie there."""
    for at, item in enumerate(items):
        after = _after_links(items, at)
        if item.open and after < len(items) and items[after].kind == "region":
            rule = "A group of structures must not be narrowed to a region of the body"
            raise _name_instead(rule, f'"{text[item.tokens[0].start : items[after].tokens[-1].end]:.80}"')


def _refuse_relation(text: str, first: Piece, last: Piece, between: set[str], lexicon: Lexicon) -> None:
    """Refuse two successive nouns, with these kinds of words between, that may mean more than each by itself."""
    if "link" in between and between <= {"link", "filler"}:
        rule = "A prompt must name structures by themselves; of places only that of a lesion in its organ is understood"
        raise _name_instead(rule, f'"{text[first.tokens[0].start : last.tokens[-1].end]:.80}"')
    beside = between <= {"separator", "adding"} or between == {"separator", "comma"}
    adjective = first.words in lexicon.adjectives and between <= {"separator", "adding", "comma", "break", "filler"}
    lesion = set(last.indices) <= lexicon.lesion_classes
    if not beside and not (adjective and lesion):
        return
    ends = [_meaning(first.tokens + last.tokens[cut:], lexicon) for cut in range(1, len(last.tokens))]
    if (
        (adjective and lesion)
        or (first.words in lexicon.adjectives and last.words not in lexicon.adjectives)  # gastric and colon tumor
        # the first may go on as the last does: liver and pancreas tumor, lung and kidney (left)
        or any(meant != set(first.structures) and _adds(meant, last.structures) for meant in ends)
        or _may_share_beginning(first, last, lexicon, adjacent=not between)
        or _may_share_noun(first, last, lexicon)
    ):
        both = f'"{first.typed(text)}" beside "{last.typed(text)}"'
        remedy = f"write every name in full, with commas between{_written_out(first, last, ends, lexicon)}"
        raise PromptError(f"A prompt must have one reading, not two as {both} has: {remedy}.")


def _written_out(first: Piece, last: Piece, ends: Sequence[set[Structure]], lexicon: Lexicon) -> str:
    """List what two nouns may mean: with the end of the last, the first may mean one of `ends`."""
    ones = [first.structures, *(tuple(sorted(meant, key=lambda s: s.classes)) for meant in ends)]
    lists = [(*structures, *last.structures) for structures in dict.fromkeys(ones) if structures]
    written = [", ".join(dict.fromkeys(s.title(lexicon.class_set) for s in reading)) for reading in lists]
    return ", as in " + " or ".join(f'"{names}"' for names in written) if max(map(len, lists)) <= _MOST_NAMES else ""


def _refuse_shared_link(text: str, items: Sequence[Piece], lexicon: Lexicon) -> None:
    """Refuse "tumors of the liver, the spleen and the kidney": it may mean the tumors of all or of the first."""
    head: tuple[Token, ...] = ()
    for item in items:
        if item.kind in ("stop", "without", "except"):
            head = ()
        elif item.kind == "noun":
            shared = _meaning(head + item.tokens, lexicon) if head else set()
            if shared and shared != set(item.structures):
                both = f'"{text[head[0].start : head[-1].end]} ... {item.typed(text)}"'
                rule = f"A prompt must have one reading, not two as {both:.80} has"
                raise PromptError(f"{rule}: write both names in full.")
            links = [at for at, word in enumerate(item.words) if lexicon.kinds.get((word,)) == "link"]
            head = item.tokens[: links[0] + 1] if links else head


def _meaning(tokens: Sequence[Token], lexicon: Lexicon) -> set[Structure]:
    """Return what the words mean if they are one noun."""
    items = list(_join(tokens, lexicon))
    return set(items[0].structures) if len(items) == 1 and items[0].kind == "noun" else set()


def _may_share_beginning(first: Piece, last: Piece, lexicon: Lexicon, *, adjacent: bool) -> bool:
    """Whether the last noun may begin within the first."""
    begins_anew = lexicon.kinds.get(last.words[:1]) in ("side", "filler")  # left kidney and right lung, ... both lungs
    linked = False
    for cut in range(1, len(first.tokens)):
        head, tail = first.tokens[:cut], first.tokens[cut:]
        shared = set() if begins_anew else _meaning(head + last.tokens, lexicon)
        if shared != set(last.structures) and _adds(shared, first.structures):  # left kidney and lung
            return True
        linked = linked or lexicon.kinds.get(first.words[cut - 1 : cut]) == "link"
        if linked and _adds(_meaning(tail, lexicon), first.structures):  # vessels of the liver and spleen
            return True
        crossing = next(lexicon.read(tail + last.tokens))
        if adjacent and crossing.kind == "noun" and len(crossing.tokens) > len(tail):  # kidney left lung
            return True
    return False


def _may_share_noun(first: Piece, last: Piece, lexicon: Lexicon) -> bool:
    """Whether a plural at the end may belong to both: "spleen and liver tumors"."""
    if last.words[-1:] not in lexicon.shared_nouns or _are_parts(first, lexicon):
        return False
    known = (*first.structures, *last.structures)
    ends = [cut for cut in range(1, len(last.tokens)) if last.words[:cut] not in lexicon.adjectives]
    return any(_adds(_meaning(last.tokens[:cut], lexicon), known) for cut in ends)


def _adds(found: set[Structure], known: Sequence[Structure]) -> bool:
    return any(s not in known and Structure(s.index) not in known for s in found)
