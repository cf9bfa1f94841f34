from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.comparisons import Comparison, Message, Response
from rlhf.engine.packing import Group
from rlhf.training.examples import RankedGroup, collate_pairs, encode_comparison, ranked_groups


class LetterChat:
    """A chat format of one token per letter; 1 begins an answer, 2 ends a turn."""

    def encode_prompt(self, messages):
        return [ord(letter) for message in messages for letter in message.content] + [1]

    def encode_response(self, text, finished=True):
        return [ord(letter) for letter in text] + [2] * finished


def comparison(*texts: str, ranks=None, prompt: str = "q", **settings) -> Comparison:
    responses = tuple(Response(text) for text in texts)
    return Comparison((Message("user", prompt),), responses, ranks, **settings)


def ranked(num_responses: int, pairs, *, weight: float = 1.0, margin: float = 0.0) -> RankedGroup:
    responses = [[10 * k + 1, 10 * k + 2][: 1 + k % 2] for k in range(num_responses)]
    return RankedGroup(Group([5, 6], responses), list(pairs), margin, weight, "p")


def test_pairs_point_at_their_responses_in_the_whole_row() -> None:
    batch = collate_pairs([ranked(2, [(1, 0)]), ranked(3, [(0, 1), (0, 2), (1, 2)]), ranked(2, [(0, 1)])])
    assert batch.chosen_index.tolist() == [1, 2, 2, 3, 5]
    assert batch.rejected_index.tolist() == [0, 3, 4, 4, 6]
    # read back through the row: the second group's best is its response 0, which ends with token 1
    ends = batch.packed.input_ids[batch.packed.last_index]
    assert ends[batch.chosen_index].tolist() == [12, 1, 1, 12, 1]
    assert ends[batch.rejected_index].tolist() == [1, 12, 21, 21, 12]


def test_pairs_of_a_comparison_share_its_weight() -> None:
    batch = collate_pairs([ranked(2, [(0, 1)], weight=0.5), ranked(3, [(0, 1), (0, 2), (1, 2)], weight=3.0)])
    assert batch.weight.tolist() == [0.5, 1.0, 1.0, 1.0]


@settings(deadline=None, max_examples=25)
@given(
    groups=st.lists(
        st.tuples(st.lists(st.integers(1, 3), min_size=2, max_size=4), st.sampled_from([0.25, 1.0, 2.0])),
        min_size=1,
        max_size=4,
    )
)
def test_every_comparison_counts_by_its_weight_however_many_pairs_it_has(groups) -> None:
    examples, expected = [], []
    for ranks, weight in groups:
        pairs = [(i, j) for i, j in itertools.permutations(range(len(ranks)), 2) if ranks[i] < ranks[j]]
        if pairs:
            examples.append(ranked(len(ranks), pairs, weight=weight))
            expected.append(weight)
    if not examples:
        return
    batch = collate_pairs(examples)
    of_group = batch.packed.group_index[batch.chosen_index]
    assert of_group.equal(batch.packed.group_index[batch.rejected_index])
    sums = torch.zeros(len(examples)).index_add(0, of_group, batch.weight)
    assert sums.tolist() == pytest.approx(expected)


def test_margin_is_the_strength_of_the_comparison() -> None:
    examples = ranked_groups(
        LetterChat(), [comparison("a", "b", ranks=(1, 2), strength=1.5), comparison("c", "d", ranks=(2, 1))]
    )
    assert collate_pairs(examples).margin.tolist() == [1.5, 0.0]


def test_ties_make_no_pair() -> None:
    (example,) = ranked_groups(LetterChat(), [comparison("a", "b", "c", ranks=(2, 1, 2))])
    assert sorted(example.pairs) == [(1, 0), (1, 2)]


def test_ties_may_count_as_pairs_that_each_wins_half_the_time() -> None:
    (example,) = ranked_groups(LetterChat(), [comparison("a", "b", "c", ranks=(2, 1, 2))], ties="half")
    assert example.pairs == [(0, 2), (1, 0), (1, 2)]
    assert example.targets == [0.5, 1.0, 1.0]
    assert example.ordered_pairs == [(1, 0), (1, 2)]
    assert ranked_groups(LetterChat(), [comparison("a", "b", ranks=(1, 1))], ties="half")[0].targets == [0.5]


def test_several_annotators_of_the_same_responses_become_one_comparison_with_shares() -> None:
    rows = [comparison("a", "b", ranks=ranks) for ranks in ((1, 2), (2, 1), (1, 2), (1, 2))]
    (example,) = ranked_groups(LetterChat(), [*rows, comparison("a", "b")], soft_labels=True)
    assert (example.pairs, example.targets) == ([(0, 1)], [0.75])
    assert len(ranked_groups(LetterChat(), rows)) == 4
    batch = collate_pairs([example])
    assert batch.target.tolist() == [0.75]
    assert batch.ranks.tolist() == [1.25, 1.75]


def test_ranks_come_from_pairs_where_nothing_else_is_known() -> None:
    batch = collate_pairs([ranked(3, [(2, 0), (2, 1), (0, 1)], weight=2.0), ranked(2, [(1, 0)])])
    assert batch.ranks.tolist() == [2, 3, 1, 2, 1]
    assert batch.group_weight.tolist() == [2, 1]


def test_comparisons_that_order_nothing_are_left_out() -> None:
    examples = ranked_groups(
        LetterChat(),
        [
            comparison("a", "b"),
            comparison("a", "b", ranks=(1, 1)),
            comparison("a", "b", ranks=(2, 1), weight=0.5, prompt="x"),
        ],
    )
    assert [(example.pairs, example.weight) for example in examples] == [([(1, 0)], 0.5)]
    assert examples[0].prompt_id == comparison("other", prompt="x").prompt_id


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match=r"none of 2 comparisons .* 2 are all ties"):
        ranked_groups(LetterChat(), [comparison("a", "b"), comparison("c", "d", ranks=(1, 1))])


def test_a_response_cut_off_by_the_sampler_has_no_end_of_turn() -> None:
    responses = (Response("a"), Response("b", finish_reason="length"), Response("c", finish_reason="stop"))
    group = encode_comparison(LetterChat(), Comparison((Message("user", "q"),), responses))
    assert group.prompt_ids == [ord("q"), 1]
    assert group.response_ids == [[ord("a"), 2], [ord("b")], [ord("c"), 2]]


def test_a_batch_moves_as_a_whole() -> None:
    batch = collate_pairs([ranked(2, [(0, 1)])]).to("meta")
    assert batch.packed.input_ids.is_meta
    assert batch.weight.is_meta
    assert batch.chosen_index.is_meta
