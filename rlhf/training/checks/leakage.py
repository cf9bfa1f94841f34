"""Prompts that stand on both sides of a split, word for word or nearly so."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from rlhf.data.comparisons import Message
from rlhf.training.checks.data_rows import DataRows
from rlhf.training.checks.findings import WARNING, Finding, by_share, shown

WORD = re.compile(r"\w+")
SHINGLE = 3  # words
NEAR = 0.5  # Jaccard similarity of the sets of shingles from which on two texts are near-duplicates


def check_leakage(seen: DataRows, held_out: DataRows, *, name: str = "leakage") -> Iterator[Finding]:
    """Rows of `held_out` whose prompt is in `seen`, and those whose prompt is nearly so.

    Words decide, whatever their case and punctuation; system messages do not count.
    """
    if not seen.rows or not held_out.rows:
        return
    texts_seen = [_text(row.prompt) for row in seen.rows]
    texts_held_out = [_text(row.prompt) for row in held_out.rows]
    first = {text: index for index, text in reversed(list(enumerate(texts_seen)))}
    exact = [(index, first[text]) for index, text in enumerate(texts_held_out) if text in first]
    if exact:
        index, other = exact[0]
        prompt = held_out.rows[index].prompt[-1].content
        answers = {(text, answer) for text, row in zip(texts_seen, seen.rows, strict=True) for answer in row.texts()}
        same = sum(any((texts_held_out[i], text) in answers for text in held_out.rows[i].texts()) for i, _ in exact)
        yield Finding(
            name,
            by_share(len(exact) / len(held_out.rows), warning=0, fatal=0.01),
            f"{len(exact)} of {len(held_out.rows)} rows of {held_out.field} have a prompt of {seen.field}"
            + (f", {same} of them a response of it as well" if same else "")
            + ": what is measured there is partly memory",
            f"remove their prompts from {seen.field}, or split by prompt",
            example=f"{held_out.place(index)} and {seen.place(other)}: {shown(prompt)}",
        )
    known = {index for index, _ in exact}
    rest = [index for index in range(len(texts_held_out)) if index not in known]
    near = near_duplicates([texts_held_out[index] for index in rest], texts_seen)
    if near:
        first_near, (other, similarity) = min(near.items())
        index = rest[first_near]
        yield Finding(
            "near_leakage",
            WARNING,
            f"{len(near)} of {len(held_out.rows)} prompts of {held_out.field} share half of their word sequences or "
            f"more with one of {seen.field}",
            f"look at them, and remove their likes from {seen.field} if they ask the same",
            example=f"{held_out.place(index)} and {seen.place(other)} (similarity {similarity:.2f}): "
            f"{shown(held_out.rows[index].prompt[-1].content)}",
        )


def near_duplicates(texts: Sequence[str], among: Sequence[str]) -> dict[int, tuple[int, float]]:
    """For each index of `texts` with a near-duplicate in `among`: the index of the most similar, and how similar.

    Similarity is the Jaccard similarity of the sets of three-word sequences, from `NEAR` on; texts of fewer words have
    none. Exact: two sets that share at least a half share one of the rarest sequences of either, so only the rarest
    half of a text's sequences are looked up (prefix filtering; Chaudhuri, Ganti, Kaushik, ICDE 2006).
    """
    sets = [_shingles(text) for text in among]
    counts = Counter(shingle for shingles in sets for shingle in shingles)
    places: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, shingles in enumerate(sets):
        for shingle in _rarest(shingles, counts):
            places[shingle].append(index)
    found: dict[int, tuple[int, float]] = {}
    for index, text in enumerate(texts):
        own = _shingles(text)
        candidates = {place for shingle in _rarest(own, counts) for place in places.get(shingle, ())}
        scored = [(len(own & sets[place]) / len(own | sets[place]), -place) for place in candidates]
        best, place = max(scored, default=(0.0, 0))
        if best >= NEAR:
            found[index] = (-place, best)
    return found


def _text(prompt: Sequence[Message]) -> str:
    """The words of a conversation, lower-case, with who says them; the whole text where it has no words."""
    turns = [(message.role, message.content) for message in prompt if message.role != "system"]
    return "\n".join(f"{role}: {' '.join(WORD.findall(text.lower())) or text.strip()}" for role, text in turns)


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    words = text.split()
    return frozenset(tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1))


def _rarest(shingles: frozenset[tuple[str, ...]], counts: Counter[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """So many of the rarest that a set of similarity `NEAR` or more shares one of them, in an order common to all."""
    ordered = sorted(shingles, key=lambda shingle: (counts[shingle], shingle))
    return ordered[: len(ordered) - int(NEAR * len(ordered)) + 1] if ordered else []
