"""Whether a policy and a reward model read text alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from rlhf.engine.sources import ModelSource
from rlhf.training.checks.findings import FATAL, NOTE, Finding
from rlhf.training.run_folder import hash_model


def vocabulary_hash(tokenizer: Any) -> str:
    """SHA-256 over all tokens with their ids and over which of them are special, in hexadecimal."""
    special = sorted(token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
    content = json.dumps([sorted(tokenizer.get_vocab().items()), special])
    return hashlib.sha256(content.encode()).hexdigest()


def check_shared_backbone(policy: ModelSource, reward: ModelSource, *, field: str) -> Iterator[Finding]:
    """Whether a reward adapter lies on the weights of the policy."""
    if policy.backbone != reward.backbone and hash_model(policy.backbone) != hash_model(reward.backbone):
        yield Finding(
            "reward_model_of_another_base",
            FATAL,
            f"{field} lies on {reward.backbone}, the policy on {policy.backbone}: other weights",
            "train the reward model on the base of the policy, or start the policy from the reward model's",
        )


def check_agreement(policy: Any, reward: Any, *, shares_backbone: bool, field: str) -> Iterator[Finding]:
    """Vocabulary and template of two tokenizers.

    Args:
        policy, reward: the tokenizers.
        shares_backbone: whether the reward model reads the policy's own tokens; otherwise it is handed messages, and
            may tokenise them as it was trained to.
        field: the argument that named the reward model.
    """
    severity = FATAL if shares_backbone else NOTE
    if vocabulary_hash(policy) != vocabulary_hash(reward):
        yield Finding(
            "reward_tokenizer_differs",
            severity,
            f"the tokenizer of {field} has another vocabulary than the policy's"
            + (", whose token ids it is given" if shares_backbone else "; it is handed messages, not tokens"),
            "train the reward model again with the policy's tokenizer" if shares_backbone else "nothing to do",
            example=_first_difference(policy, reward),
        )
    if (policy.chat_template or "") != (reward.chat_template or ""):
        yield Finding(
            "reward_template_differs",
            severity,
            f"the chat template of {field} is another than the policy's"
            + (
                ": it would score conversations of a form that it was not trained on"
                if shares_backbone
                else "; its own one is used for scoring"
            ),
            "use one template for both: train the reward model again, or restore the template"
            if shares_backbone
            else "nothing to do",
        )


def _first_difference(policy: Any, reward: Any) -> str | None:
    mine, theirs = policy.get_vocab(), reward.get_vocab()
    for token, token_id in sorted(mine.items(), key=lambda item: item[1]):
        if theirs.get(token) != token_id:
            return f"{token!r} is {token_id} for the policy, {theirs.get(token, 'no token')} for the reward model"
    return f"{len(theirs)} tokens against {len(mine)}" if len(theirs) != len(mine) else None
