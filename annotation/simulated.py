"""A simulated annotator: a fixed, readable rule that ranks responses where no person is at hand.

**It is a rule and not a person.** It makes the demonstration and the tests run from end to end with judgments
that anyone can recompute, and it writes its name, `simulated-annotator`, into every comparison it ranks. It
cannot tell whether an answer is true, safe, kind or useful. What a policy gains by it shows that the
optimisation works, never that people would prefer the policy. It knows English only.

The rule, all of it on the text of the last user message and of the response:

    own_words   how much of the response is not taken over from the prompt: it brings new content words,
                copies no long runs and says no sentence of the prompt back whole
    sentences   whether it reads as sentences: at least 30 % function words (keywords alone have hardly any)
    answers     share of the prompt's content words, crudely stemmed, that the response takes up; full at
                80 %, and counted only so far as the response is in its own words and in sentences
    complete    1 if it ended by itself and with . ! or ?; one half if only by itself; else 0
    concise     1 from 8 to 45 words, falling linearly below and exponentially above
    varied      share of distinct word trigrams, and of distinct sentences; 0 at one half

    form  = 0.45 complete + 0.25 concise + 0.30 varied
    total = form * (0.25 + 0.75 answers)

Form counts for little unless the response answers, so that one fixed string cannot win on every prompt, nor
can an echo of the prompt, a list of its words, or a polite phrase. A policy can still learn the rule without
learning to answer well: take up the words of the question, write two sentences, stop. That is what
over-optimisation of any judge looks like, and this one makes it easy to see.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlhf.data.comparisons import Comparison, Message, Response

TIE_MARGIN = 0.05
FORM_WEIGHTS = {"complete": 0.45, "concise": 0.25, "varied": 0.30}
FEWEST_WORDS, MOST_WORDS = 8, 45
COPIED_RUN = 4

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
SENTENCE_END = re.compile(r"[.!?]+[\"'\u201d\u2019)\]]*(?:\s+|$)")
LONG_QUOTATION = re.compile(r"[\"\u201c](?:[^\s\"\u201c\u201d]+\s+){6,}[^\s\"\u201c\u201d]+[\"\u201d]")
SUFFIXES = ("ations", "ation", "ings", "ing", "ers", "er", "ies", "ed", "es", "ly", "s", "e", "y")

FUNCTION_WORDS = frozenset(
    """a about after all also always am an and another any are as at away back be because been before being
    between both but by can could did do does doing down during each either else even every few first for from
    get gets had has have he her here him his how i if in instead into is it its itself just later least less
    like made make many may me might more most much must my near never no nor not nothing now of off often on
    once one only or other our out over own per rather same she should since so some someone something still
    such than that the their them then there these they this those though through to together too two under
    until up upon us usually very was way we well were what when where whether which while who whose why will
    with within without would yet you your yours it's isn't don't doesn't i'm you're can't won't that's
    there's""".split()
)
# What a question asks the answerer to do. A good answer does not say these words back.
ASKING_WORDS = frozenset(
    """answer briefly compare define describe difference differ examples example explain find give help idea
    imagine know list mean meaning meant name please question rewrite say sentence sentences short show simple
    suggest teach tell think thing things understand use want word words write""".split()
)


@dataclass(frozen=True)
class Judgment:
    """What the rule made of one response: the total and each part, in [0, 1], and the parts in words."""

    total: float
    parts: dict[str, float]
    reasons: tuple[str, ...]


class SimulatedAnnotator:
    """Ranks responses by the rule at the head of this module. Deterministic, and says that it is simulated.

    `tie_margin`: totals that differ by no more than this are tied (0 to 0.1; in units of the total).
    """

    NAME = "simulated-annotator"

    def __init__(self, tie_margin: float = TIE_MARGIN):
        if not 0 <= tie_margin < 1:
            raise ValueError(f"tie_margin is {tie_margin}; give a number from 0 up to, but not including, 1")
        self.tie_margin = tie_margin

    def score(self, prompt_messages: Sequence[Message], response: Response) -> Judgment:
        """The judgment of one response. A response without a word in it gets 0 in every part."""
        prompt = last_user_text(prompt_messages)
        spoken = words(response.text)
        if not spoken:
            parts = dict.fromkeys(("answers", "own_words", "sentences", *FORM_WEIGHTS), 0.0)
            return Judgment(0.0, parts, ("the response is empty",))
        own, readable = own_words(prompt, spoken), sentences(spoken)
        parts = {
            "answers": taken_up(words(prompt), spoken) * own * readable,
            "own_words": own,
            "sentences": readable,
            "complete": complete(response),
            "concise": concise(len(spoken)),
            "varied": varied(response.text, spoken),
        }
        form = sum(weight * parts[name] for name, weight in FORM_WEIGHTS.items())
        total = form * (0.25 + 0.75 * parts["answers"])
        return Judgment(total, parts, tuple(f"{name} {value:.2f}" for name, value in parts.items()))

    def rank(self, comparison: Comparison) -> Comparison:
        """The comparison with ranks (1 = best) and this annotator's name; earlier ranks and strength are
        replaced.

        Ties go by the best of a group: a response joins the group above it when it is within `tie_margin` of
        that group's best, so that a chain of small steps does not tie the best with the worst.
        """
        if not comparison.responses:
            raise ValueError(f"comparison {comparison.id} has no responses to rank; sample some first")
        totals = [self.score(comparison.prompt, response).total for response in comparison.responses]
        ranks = [0] * len(totals)
        rank, group_best = 0, math.inf
        for index in sorted(range(len(totals)), key=lambda index: -totals[index]):
            if group_best - totals[index] > self.tie_margin:
                rank, group_best = rank + 1, totals[index]
            ranks[index] = rank
        return replace(comparison, ranks=tuple(ranks), strength=None, annotators=(self.NAME,))

    def compare(self, prompt: Sequence[Message], response_a: Response, response_b: Response) -> float:
        """1.0 if `response_a` is better, 0.0 if `response_b` is, 0.5 if they are within `tie_margin`."""
        difference = self.score(prompt, response_a).total - self.score(prompt, response_b).total
        if abs(difference) <= self.tie_margin:
            return 0.5
        return 1.0 if difference > 0 else 0.0


def taken_up(prompt: Sequence[str], spoken: Sequence[str]) -> float:
    """Share of the prompt's content stems that the response holds, full at 80 %; 1 if there are none."""
    asked = content_stems(prompt)
    if not asked:
        return 1.0
    return min(1.0, len(asked & content_stems(spoken)) / len(asked) / 0.8)


def own_words(prompt: str, spoken: Sequence[str]) -> float:
    """The least of three: new content words (full at 40 %), words in no copied run (full at 80 %), and the
    share of the prompt's sentences not said back whole.

    New is what the question did not say. Material that the question is about (see `question_part`) may be
    used, as whoever sorts or extracts must, but not copied in runs of four words and more.
    """
    said = content_stems(spoken)
    new_share = len(said - content_stems(words(question_part(prompt)))) / len(said) if said else 0.0
    prompt_runs = set(ngrams(words(prompt), COPIED_RUN))
    copied = {
        position + offset
        for position, run in enumerate(ngrams(spoken, COPIED_RUN))
        if run in prompt_runs
        for offset in range(COPIED_RUN)
    }
    asked = [tuple(sentence) for sentence in split_sentences(prompt) if len(sentence) >= COPIED_RUN]
    echoed = sum(sentence in ngrams(spoken, len(sentence)) for sentence in asked) / max(1, len(asked))
    return min(1.0, new_share / 0.4, (1 - len(copied) / len(spoken)) / 0.8, 1 - echoed)


def sentences(spoken: Sequence[str]) -> float:
    """0 when up to 10 % of the words are function words, 1 from 30 % on, linear between."""
    share = sum(word in FUNCTION_WORDS for word in spoken) / len(spoken)
    return min(1.0, max(0.0, (share - 0.10) / 0.20))


def complete(response: Response) -> float:
    """1 if the response ended by itself with . ! or ? (quotes may follow), one half without that mark."""
    if response.finish_reason == "length":
        return 0.0
    ending = response.text.rstrip().rstrip("\"'\u201d\u2019)]*")
    return 1.0 if ending.endswith((".", "!", "?")) else 0.5


def concise(num_words: int) -> float:
    """1 from 8 to 45 words; `num_words / 8` below; above, a fall by the factor e with every 15 words."""
    if num_words < FEWEST_WORDS:
        return num_words / FEWEST_WORDS
    return math.exp(-max(0, num_words - MOST_WORDS) / 15)


def varied(text: str, spoken: Sequence[str]) -> float:
    """The lesser share of distinct word trigrams and distinct sentences; 1 for all distinct, 0 at half."""
    trigrams = ngrams(spoken, 3)
    said = [tuple(sentence) for sentence in split_sentences(text)]
    distinct = min(len(set(items)) / len(items) if items else 1.0 for items in (trigrams, said))
    return max(0.0, 2 * distinct - 1)


def last_user_text(messages: Sequence[Message]) -> str:
    """The text of the last user message, the one that the response answers; ValueError if there is none."""
    for message in reversed(messages):
        if message.role == "user":
            return message.content
    raise ValueError("the prompt has no user message; the simulated annotator judges answers to a user")


def question_part(prompt: str) -> str:
    """The prompt without its material: what follows a colon, and quotations of seven words or more."""
    question = LONG_QUOTATION.sub(" ", prompt.split(": ", 1)[0])
    return question if content_stems(words(question)) else prompt


def split_sentences(text: str) -> list[list[str]]:
    """The words of each sentence that has any."""
    return [spoken for sentence in SENTENCE_END.split(text) if (spoken := words(sentence))]


def words(text: str) -> list[str]:
    """Lower-case words of a text, apostrophes kept inside, punctuation left out."""
    return [word.lower().replace("\u2019", "'") for word in WORD.findall(text)]


def content_stems(spoken: Sequence[str]) -> set[str]:
    """Stems of the words that carry meaning: neither function words nor words that only ask."""
    return {stem(word) for word in spoken if word not in FUNCTION_WORDS and word not in ASKING_WORDS}


def stem(word: str) -> str:
    """The word without its English ending, as long as three letters stay: stopping, stopped -> stop."""
    word = word.removesuffix("'s")
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word


def ngrams(spoken: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """All runs of `length` words, in order, repeats kept."""
    return [tuple(spoken[start : start + length]) for start in range(len(spoken) - length + 1)]
