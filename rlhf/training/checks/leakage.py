"""Prompts that stand on both sides of a split, word for word or nearly so."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from rlhf.data.comparisons import Message
from rlhf.data.wording import wording
from rlhf.training.checks.data_rows import DataRows
from rlhf.training.checks.findings import WARNING, Finding, by_share, shown

SHINGLE = 3  # words
Shingle = tuple[str, ...]
NEAR = 0.5  # Jaccard similarity of the sets of shingles from which on two texts are near-duplicates
FORM = 100  # held-out texts that share a rare shingle: it belongs to a form that all are made from, and is not followed
# Words that are looked at for near-duplicates, evenly taken rows where there are more: ten seconds and half a gigabyte.
MOST_WORDS_SEEN, MOST_WORDS_HELD_OUT = 10_000_000, 1_500_000


def check_leakage(seen: DataRows, held_out: DataRows, *, name: str = "leakage") -> Iterator[Finding]:
    """Rows of `held_out` whose prompt is in `seen`, and those whose prompt is nearly so.

    Words decide, whatever their case and punctuation. Prompts with other system messages are not one prompt; whether
    they are near is decided without these, since one system message may stand before all.
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
    rest = rest[:: near_every(held_out, MOST_WORDS_HELD_OUT)]
    every = near_every(seen, MOST_WORDS_SEEN)
    near = near_duplicates(
        [_text(held_out.rows[index].prompt, with_system=False) for index in rest],
        (_text(row.prompt, with_system=False) for row in seen.rows[::every]),
    )
    if near:
        first_near, (other, similarity) = min(near.items())
        index = rest[first_near]
        yield Finding(
            "near_leakage",
            WARNING,
            f"{len(near)} of {len(rest)} other prompts of {held_out.field} share half of their word sequences or more "
            f"with one of {seen.field}",
            f"look at them, and remove their likes from {seen.field} if they ask the same",
            example=f"{held_out.place(index)} and {seen.place(other * every)} (similarity {similarity:.2f}): "
            f"{shown(held_out.rows[index].prompt[-1].content)}",
        )


def near_every(data: DataRows, most_words: int) -> int:
    """Of so many rows one is looked at for near-duplicates: 1 unless the prompts have more than so many words."""
    words = sum(message.content.count(" ") for row in data.rows for message in row.prompt if message.role != "system")
    return 1 + words // most_words


def near_duplicates(texts: Sequence[str], among: Iterable[str]) -> dict[int, tuple[int, float]]:
    """For each index of `texts` with a near-duplicate in `among`: the index of the most similar, and how similar.

    Similarity is the Jaccard similarity of the sets of three-word sequences, from `NEAR` on; texts of fewer words have
    none. Two sets that share at least a half share one of the rarest sequences of either, so only the rarest half of a
    text's sequences are looked up (prefix filtering; Chaudhuri, Ganti, Kaushik, ICDE 2006). Exact but for texts that
    share with `FORM` others what is rarest in them. Only `texts` are held, as sets and as an index.
    """
    asked = [_shingles(text) for text in texts]
    counts = Counter(shingle for shingles in asked for shingle in shingles)
    places: defaultdict[Shingle, list[int]] = defaultdict(list)
    for index, shingles in enumerate(asked):
        for shingle in _rarest(shingles, counts):
            places[shingle].append(index)
    found: dict[int, tuple[int, float]] = {}
    for place, text in enumerate(among):
        own = _shingles(text)
        # what is similar to it holds half of its sequences
        if sum(shingle in counts for shingle in own) < max(1, NEAR * len(own)):
            continue
        pointed = (places.get(shingle, ()) for shingle in _rarest(own, counts))
        for index in {index for indices in pointed if len(indices) <= FORM for index in indices}:
            similarity = len(own & asked[index]) / len(own | asked[index])
            if similarity >= NEAR and similarity > found.get(index, (0, 0.0))[1]:
                found[index] = (place, similarity)
    return found


def _text(prompt: Sequence[Message], *, with_system: bool = True) -> str:
    """The wording of a conversation, with who says what."""
    turns = [(message.role, message.content) for message in prompt if with_system or message.role != "system"]
    return "\n".join(f"{role}: {wording(text)}" for role, text in turns)


def _shingles(text: str) -> frozenset[Shingle]:
    words = text.split()
    return frozenset(zip(*(words[start:] for start in range(SHINGLE)), strict=False))


def _rarest(shingles: frozenset[Shingle], counts: Counter[Shingle]) -> list[Shingle]:
    """So many of the rarest that a set of similarity `NEAR` or more shares one of them, in an order common to all."""
    ordered = sorted(shingles, key=lambda shingle: (counts[shingle], shingle))
    return ordered[: len(ordered) - int(NEAR * len(ordered)) + 1] if ordered else []
