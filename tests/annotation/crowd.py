"""Votes by hand, and crowds whose members judge in ways that are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from annotation.stats.votes import Vote

RANKS = {"first": (1, 2), "tie": (1, 1), "second": (2, 1)}


def pair(item: str, annotator: str, label: str, shown_order: tuple[int, int] = (0, 1), **settings: object) -> Vote:
    """A vote on a pair, shown as it is stored unless said otherwise."""
    return Vote(item, annotator, RANKS[label], shown_order, **settings)


def votes_table(rows: Sequence[str]) -> list[Vote]:
    """One row for each annotator (a, b, ...), one letter for each item (0, 1, ...): f, t, s, or a dot for none."""
    words = {"f": "first", "t": "tie", "s": "second"}
    return [
        pair(str(item), "abcdefghij"[row], words[letter])
        for row, letters in enumerate(rows)
        for item, letter in enumerate(letters)
        if letter != "."
    ]


def crowd(
    seed: int, kinds: dict[str, int], *, each: int = 50, overlap: int = 5, ties: float = 0.1
) -> tuple[list[Vote], dict[str, tuple[int, int]]]:
    """Votes on pairs and what is true of them. Annotators are named by kind and number, as in "honest3".

    Everybody judges `each` items, most items are judged by `overlap`, and responses are shown in random order. Honest
    annotators find the better response with a probability from .65 to .85 and say tie now and then. The others do not
    look: "random" presses any key, with as many ties and in as much time as the honest; "left" always chooses the left
    one; "fast" presses the first key at once; "alternating" chooses left and right by turns.
    """
    generator = np.random.default_rng(seed)
    names = [f"{kind}{number}" for kind, count in kinds.items() for number in range(count)]
    num_items = len(names) * each // overlap
    better = generator.integers(0, 2, num_items)
    places = np.full(num_items, float(overlap))
    items_of = {}
    for name in generator.permutation(names):
        chosen = np.argsort(-(places + generator.random(num_items) / 2))[:each]
        places[chosen] -= 1
        items_of[str(name)] = generator.permutation(chosen)
    votes = []
    for name in names:
        kind = name.rstrip("0123456789")
        accuracy = generator.uniform(0.65, 0.85)
        usual_ms = 20_000 * np.exp(generator.normal(0, 0.3))
        for turn, item in enumerate(items_of[name]):
            shown = tuple(generator.permutation(2).tolist())
            place = {"left": 0, "fast": 0, "alternating": turn % 2}.get(kind, int(generator.integers(0, 2)))
            if kind == "honest":
                right = generator.random() < accuracy
                place = shown.index(better[item] if right else 1 - better[item])
            label = "first" if shown[place] == 0 else "second"
            if kind in ("honest", "random") and generator.random() < ties:
                label = "tie"
            active_ms = 1500 if kind == "fast" else usual_ms * np.exp(generator.normal(0, 0.5))
            votes.append(pair(str(item), name, label, shown, active_ms=int(active_ms), at=float(turn)))
    return votes, {str(item): (1, 2) if first == 0 else (2, 1) for item, first in enumerate(better)}
