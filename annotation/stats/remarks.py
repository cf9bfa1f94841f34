"""What statistics say in words, so that a page can say the same in another language."""

from __future__ import annotations

from typing import Any

ENGLISH = {
    "nothing": "nothing to count",
    "alone": "no item was judged by two annotators",
    "unanimous": "everyone agreed: all votes say {label}",
    "resamples": "{unanimous} of {resamples} resamples were unanimous and left out",
    "no_pace": "no pace yet: no two votes in the last {hours:g} hours",
    "young": "no pace yet: the first vote is less than an hour old",
    "agreement": "agrees with the others in {rate:.0%} of {count} cases (usual: {usual:.0%})",
    "gold": "is right on {rate:.0%} of {count} gold items",
    "guessing": "answers are no closer to the others' than guesses ({rate:.0%} of {count} cases; usual: {usual:.0%})",
    "few": "too few cases to tell: {shared} that others judged too, {gold} gold items",
    "left": "chose the left response in {left} of {count} decided votes "
    "(about {expected:.0f} without a bias, p = {p_value:.1g})",
    "repeats_1": "gave the same answer as the vote before in {repeats} of {count} votes "
    "(about {expected:.0f} by chance)",
    "repeats_2": "gave the same answer as two votes before in {repeats} of {count} votes "
    "(about {expected:.0f} by chance)",
    "repeats_3": "gave the same answer as three votes before in {repeats} of {count} votes "
    "(about {expected:.0f} by chance)",
    "haste": "takes {seconds:.1f} s for an item, the others {usual:.1f} s",
}


class Remark(str):
    """A sentence in English, with its key in `ENGLISH` and the values at its places."""

    key: str
    places: dict[str, Any]


def remark(key: str, **places: Any) -> Remark:
    """One of `ENGLISH`, filled in."""
    made = Remark(ENGLISH[key].format(**places))
    made.key, made.places = key, places
    return made
