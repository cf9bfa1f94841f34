"""What each annotator's votes say of the annotator: right on gold items, and signs of not reading.

A machine bans nobody. A suspicion is a number and the reasons for it in words, for a person to look at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from statistics import median

import numpy as np
from scipy.special import betaln, logsumexp
from scipy.stats import binomtest

from annotation.stats.bias import pace
from annotation.stats.estimates import Estimate, share
from annotation.stats.labels import Labels
from annotation.stats.remarks import Remark, remark
from annotation.stats.table import Votes, VoteTable, pair_labels, table_of

# Of all annotators, so many are taken not to read before anything is known of them.
SUSPECTS_BEFORE = 0.1
# Evidence is in nats: the logarithm of how much likelier a sign is from somebody who does not read. No sign alone
# weighs more than a thousand to one; what weighs three to one is named as a reason.
MOST_EVIDENCE = math.log(1000)
REASON_EVIDENCE = math.log(3)
# Whoever reads knows the answer to an item with such a probability and guesses otherwise; whoever does not read never
# knows. 0.3 and 0.7 are accuracies of 65 and 85 % where there are two answers.
KNOWING = np.linspace(0.0, 0.98, 50)
READERS_KNOW = KNOWING >= 0.2
# A gold label counts as the vote of somebody who knows so often.
GOLD_KNOWS = 0.95
# Rounds at most in which it is found out how often each annotator knows, and how little they change in the last one.
ROUNDS = 10
SETTLED = 0.001
# Of those who do not read, a third shows each sign that only some of them show: a side, repeats, haste.
SHOWN_BY = 1 / 3
# How firmly the answers of readers keep to chance in such things as choosing the left response: as if that many votes
# had been seen. A slight bias is human.
FIRMNESS = 40.0
# Repeats are looked for one, two and three votes back: LLLL, LRLR, LRTLRT.
LAGS = (1, 2, 3)
# Whoever does not read takes about a fifth of the others' time; for all, up to a factor of e^0.5 is usual.
HASTE = math.log(0.2)
HASTE_SPREAD = 0.5
# Whoever reads is right in at least so many cases, where there are two answers: knowing 0.2 and guessing the rest.
READERS_RIGHT = 0.6
ENOUGH = 30  # cases with the others, so that they say something
Sign = tuple[float, list[Remark]]  # evidence, and what to say of it


@dataclass(frozen=True)
class Suspicion:
    """How likely an annotator does not read what they judge.

    Attributes:
        annotator: whom it is about.
        score: between 0 and 1; about a tenth where nothing is known. No verdict: nobody is banned by it.
        reasons: what speaks for it, in words; what speaks most comes first. Where the cases are too few to say, that.
    """

    annotator: str
    score: float
    reasons: list[Remark]


def gold_accuracy(votes: Votes, gold: Mapping[str, Sequence[int]]) -> dict[str, Estimate]:
    """Annotator (sorted) -> share of gold items judged right, with Wilson's interval; n counts their gold items.

    A ranking counts with the share of its pairs that have the order of the gold ranking.

    Args:
        gold: item -> the right ranks; votes on other items do not count.

    Raises:
        ValueError: a gold item has another number of ranks than its votes.
    """
    table = table_of(votes)
    is_gold = np.array([name in gold for name in table.items], dtype=np.bool_)
    right: dict[int, list[float]] = {code: [] for code in np.unique(table.annotator).tolist()}
    known = table.where(is_gold[table.item])
    for size, rows in known.by_size():
        of_vote = [gold[known.items[item]] for item in known.item[rows].tolist()]
        for item, ranks in zip(known.item[rows].tolist(), of_vote, strict=True):
            if len(ranks) != size:
                raise ValueError(
                    f"gold item {known.items[item]!r} has {len(ranks)} ranks for {size} responses; give one for each"
                )
        said, true = known.ranks[rows], np.array(of_vote)
        pairs = list(combinations(range(size), 2))
        same = sum(np.sign(said[:, i] - said[:, j]) == np.sign(true[:, i] - true[:, j]) for i, j in pairs) / len(pairs)
        for code, share_right in zip(known.annotator[rows].tolist(), same.tolist(), strict=True):
            right[code].append(share_right)
    named = {table.annotators[code]: found for code, found in right.items()}
    return {name: share(math.fsum(named[name]), len(named[name])) for name in sorted(named)}


def suspicions(votes: Votes, gold: Mapping[str, Sequence[int]] | None = None) -> list[Suspicion]:
    """How likely each annotator does not read, the most suspicious first.

    Four signs are weighed by how much likelier each is from somebody who does not read, and added up:

    1. agreement with the others on the same items, the annotator's own votes left out and each of the others counting
       by how often they agree themselves; gold labels count as somebody who nearly always knows,
    2. choosing the left response, or the right one, nearly always,
    3. giving the same answer again and again, or by turns,
    4. taking far less time than the others.

    Agreement speaks for an annotator as well as against; the other signs speak against, and hardly for.

    Args:
        votes: what stands; the order in which an annotator gave them is that of `at`.
        gold: item -> the right ranks.

    Raises:
        ValueError: an annotator has two votes on an item, or gold has another number of ranks than its votes.
    """
    table = table_of(votes)
    if not len(table):
        return []
    gold = gold or {}
    labels = pair_labels(table)
    in_time = table.where(np.argsort(table.at, kind="stable"))
    by_annotator = in_time.by_annotator
    agreement = _agreement_signs(labels, gold, gold_accuracy(table, gold))
    chance = {size: _chance_of_repeating(in_time.where(rows)) for size, rows in in_time.by_size()}
    seconds = {annotator: pace(of_one).median_seconds for annotator, of_one in by_annotator.items()}
    found = []
    for annotator, of_one in by_annotator.items():
        others = [other for name, other in seconds.items() if name != annotator and other is not None]
        signs = [
            agreement[annotator],
            _left_sign(of_one),
            _repeating_sign(of_one, chance),
            _haste_sign(seconds[annotator], others),
        ]
        signs.sort(key=lambda sign: -sign[0])
        prior = math.log(SUSPECTS_BEFORE / (1 - SUSPECTS_BEFORE))
        total = prior + math.fsum(max(-MOST_EVIDENCE, min(MOST_EVIDENCE, evidence)) for evidence, _ in signs)
        reasons = [reason for evidence, of_sign in signs if evidence >= REASON_EVIDENCE for reason in of_sign]
        found.append(Suspicion(annotator, 0.5 * (1 + math.tanh(total / 2)), reasons))
    return sorted(found, key=lambda suspicion: (-suspicion.score, suspicion.annotator))


def _agreement_signs(
    labels: Labels, gold: Mapping[str, Sequence[int]], right: Mapping[str, Estimate]
) -> dict[str, Sign]:
    """Annotator -> evidence and reasons.

    An annotator who knows with probability p gives the label l where c is true with probability
    p [l = c] + (1 - p) share(l). What is true is judged from the others' votes.
    """
    num_annotators, counts = len(labels.annotators), labels.counts()
    # Which response of an item comes first means nothing: both sides are guessed equally often.
    totals = counts.sum(axis=0) + 1.0
    totals[[0, 2]] = totals[[0, 2]].mean()
    shares = totals / totals.sum()
    # sorted, so that sums of each annotator are sums of neighbours
    order = np.argsort(labels.annotator, kind="stable")
    unit, annotator, label = labels.unit[order], labels.annotator[order], labels.label[order]
    first = np.searchsorted(annotator, np.arange(num_annotators))
    own_share = shares[label]
    half_share = own_share.astype(np.float32)  # half as long, and right to a thousandth of a nat
    is_own = label[:, None] == np.arange(len(shares))
    # The pairs of a ranking of K responses are worth K - 1 judgments.
    pairs_of_item = np.bincount(labels.item_of_unit)
    responses = (1 + np.sqrt(1 + 8 * pairs_of_item)) / 2
    weight = (2 / responses)[labels.item_of_unit[unit]]
    prior = np.tile(np.log(shares), (len(labels.units), 1))
    for of_gold, code in _gold_codes(labels, gold):
        prior[of_gold] += np.log(GOLD_KNOWS * (np.arange(len(shares)) == code) + (1 - GOLD_KNOWS) * shares[code])
    knows = np.full(num_annotators, 0.5)
    for _ in range(ROUNDS):
        p = knows[annotator][:, None]
        own = np.log(p * is_own + (1 - p) * own_share[:, None])
        said = [np.bincount(unit, own[:, code], len(labels.units)) for code in range(len(shares))]
        without = (prior + np.stack(said, axis=1))[unit] - own
        without = np.exp(without - reduce(np.maximum, without.T)[:, None])
        believed = without[np.arange(len(own)), label] / without.sum(axis=1)
        lead = (believed - own_share).astype(np.float32)
        # [annotators, KNOWING]
        likelihood = np.stack(
            [np.add.reduceat(weight * np.log(lead * p + half_share), first) for p in KNOWING.astype(np.float32)], axis=1
        )
        scaled = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
        before, knows = knows, scaled @ KNOWING / scaled.sum(axis=1)
        if np.abs(knows - before).max() < SETTLED:
            break
    readers = logsumexp(likelihood[:, READERS_KNOW], axis=1) - math.log(READERS_KNOW.sum())
    evidence = likelihood[:, 0] - readers
    judged = counts.sum(axis=1)[unit]
    shared = judged > 1
    agreed = (counts[unit, label] - 1)[shared] / (judged[shared] - 1)
    num_shared = np.bincount(annotator[shared], minlength=num_annotators)
    rates = np.bincount(annotator[shared], agreed, num_annotators) / np.maximum(num_shared, 1)
    usual = float(np.median(rates[num_shared > 0])) if shared.any() else 0.0
    signs = {}
    for code, name in enumerate(labels.annotators):
        agreeing = share(float(rates[code] * num_shared[code]), int(num_shared[code]))
        signs[name] = float(evidence[code]), _out_of_line(agreeing, usual, right[name])
    return signs


def _out_of_line(agreeing: Estimate, usual: float, right: Estimate) -> list[Remark]:
    """What an annotator's agreement with the others, and with gold, is suspected for: what chance hardly explains."""
    found = []
    if agreeing.value is not None and agreeing.high is not None and agreeing.high < usual:
        found.append(remark("agreement", rate=agreeing.value, count=agreeing.n, usual=usual))
    if right.value is not None and right.high is not None and right.high < READERS_RIGHT:
        found.append(remark("gold", rate=right.value, count=right.n))
    if found:
        return found
    if agreeing.value is None or agreeing.n < ENOUGH:
        return [remark("few", shared=agreeing.n, gold=right.n)]
    return [remark("guessing", rate=agreeing.value, count=agreeing.n, usual=usual)]


def _left_sign(of_one: VoteTable) -> Sign:
    """Whether the response shown leftmost wins far too often, or too seldom."""
    shown = np.where(of_one.shown >= 0, of_one.shown_ranks, np.iinfo(np.int64).max)
    best = shown == shown.min(axis=1, keepdims=True)
    decided = best.sum(axis=1) == 1
    total = int(decided.sum())
    if not total:
        return 0.0, []
    left = int(best[decided, 0].sum())
    chance = math.fsum(1 / of_one.size[decided]) / total
    p_value = binomtest(left, total, chance).pvalue
    reason = remark("left", left=left, count=total, expected=chance * total, p_value=p_value)
    return _shown_by_some(_off_chance(left, total, chance)), [reason]


def _repeating_sign(of_one: VoteTable, chance: Mapping[int, float]) -> Sign:
    """Whether answers follow upon each other by a rule. Votes on unlike numbers of responses are not compared."""
    answers, size = _answers(of_one), of_one.size
    evidence, strongest, reasons = [], -math.inf, []
    for lag in LAGS:
        compared = size[lag:] == size[:-lag]
        total = int(compared.sum())
        if not total:
            continue
        repeats = int((answers[lag:] == answers[:-lag])[compared].sum())
        by_chance = math.fsum(chance[each] for each in size[lag:][compared].tolist()) / total
        off = _off_chance(repeats, total, by_chance)
        evidence.append(off)
        if off > strongest:
            strongest = off
            reasons = [remark(f"repeats_{lag}", repeats=repeats, count=total, expected=by_chance * total)]
    if not evidence:
        return 0.0, []
    return _shown_by_some(float(logsumexp(evidence)) - math.log(len(evidence))), reasons


def _chance_of_repeating(of_size: VoteTable) -> float:
    """How often two votes of anybody on as many responses are the same answer."""
    _, counts = np.unique(_answers(of_size), return_counts=True)
    return float((counts.astype(np.float64) ** 2).sum()) / len(of_size) ** 2


def _answers(table: VoteTable) -> np.ndarray:
    """What was pressed, as a number: how many responses are ranked better than each from left to right, and whether all
    were bad."""
    shown = np.where(table.shown >= 0, table.shown_ranks, np.iinfo(np.int64).max)
    better = (shown[:, None, :] < shown[:, :, None]).sum(axis=2)
    most = shown.shape[1]
    return better @ (most ** np.arange(most)) * 2 + table.both_bad


def _haste_sign(seconds: float | None, others: Sequence[float]) -> Sign:
    """Whether somebody takes far less time than the median of the others."""
    if seconds is None or not others:
        return 0.0, []
    usual = median(others)
    ratio = math.log(seconds / usual)
    evidence = (ratio**2 - (ratio - HASTE) ** 2) / (2 * HASTE_SPREAD**2)
    return _shown_by_some(evidence), [remark("haste", seconds=seconds, usual=usual)]


def _off_chance(successes: int, total: int, chance: float) -> float:
    """Evidence for any share of successes against one near `chance` (beta-binomial both)."""
    near = FIRMNESS * min(0.98, max(0.02, chance))
    far = FIRMNESS - near
    failures = total - successes
    anything = betaln(successes + 1, failures + 1)
    return float(anything - (betaln(successes + near, failures + far) - betaln(near, far)))


def _shown_by_some(evidence: float) -> float:
    """Evidence from a sign that only some of those show who do not read."""
    return float(np.logaddexp(math.log(1 - SHOWN_BY), math.log(SHOWN_BY) + evidence))


def _gold_codes(labels: Labels, gold: Mapping[str, Sequence[int]]) -> list[tuple[int, int]]:
    """(index of the unit, code of its gold label) of every pair of every gold item."""
    found = []
    for index, unit in enumerate(labels.units):
        assert isinstance(unit, tuple)
        item, i, j = unit
        if item in gold:
            found.append((index, _sign(gold[item][i] - gold[item][j]) + 1))
    return found


def _sign(difference: int) -> int:
    return (difference > 0) - (difference < 0)
