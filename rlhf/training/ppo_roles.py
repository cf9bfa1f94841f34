"""Which roles a run of PPO has: what learns, what is measured against, and what of it is saved."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf.engine.backbone import FROZEN_REFERENCE, POLICY, POLICY_WITH_VALUE, REFERENCE, VALUE, Role
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.trainer import SavedRole


@dataclass(frozen=True)
class PPORoles:
    """The roles of a run by its settings.

    Attributes:
        training: of the update: the policy, and the value model where it is an adapter of its own.
        measuring: of the scoring pass: the reference, then those that learn, with the policy's entropy.
        value: the name of the role that gives values; None without a value model.
        adapters, heads: that learn.
        saved: what goes to disk.
    """

    training: list[Role]
    measuring: list[Role]
    value: str | None
    adapters: list[str]
    heads: list[str]
    saved: list[SavedRole]

    @classmethod
    def of(cls, args: PPOArguments) -> PPORoles:
        """The roles that these settings ask for."""
        own_value, no_value = args.value_model == "adapter", args.value_model == "none"
        policy = POLICY_WITH_VALUE if args.value_model == "shared" else POLICY
        saved = [SavedRole("policy")]
        if not no_value:
            saved.append(SavedRole("value" if own_value else None, "value", subfolder="value"))
        if args.holds_reference:
            saved.append(SavedRole("reference", subfolder="reference"))
        reference = FROZEN_REFERENCE if args.holds_reference else REFERENCE
        bonus = args.entropy_coef > 0
        values = [VALUE] if own_value else []
        return cls(
            training=[replace(policy, entropy=bonus, entropy_learns=bonus), *values],
            measuring=[reference, replace(policy, entropy=True), *values],
            value=None if no_value else "value" if own_value else "policy",
            adapters=["policy", "value"] if own_value else ["policy"],
            heads=[] if no_value else ["value"],
            saved=saved,
        )
