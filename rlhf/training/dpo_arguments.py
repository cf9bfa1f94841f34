"""Settings of DPO: which losses, and which of the other settings these read."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

from rlhf.algorithms.dpo import DIVERGENCES
from rlhf.training.config_file import closest
from rlhf.training.pair_trainer import PairArguments

logger = logging.getLogger(__name__)

OF_THE_MARGIN = ("sigmoid", "hinge", "ipo", "robust", "exo_pair")
OF_EACH_REWARD = ("sppo_hard", "nca_pair", "bco_pair", "apo_zero", "apo_down")
WITHOUT_REFERENCE = ("simpo", "orpo", "sft")
OF_RANKINGS = ("plackett_luce",)
LOSSES = (*OF_THE_MARGIN, *OF_EACH_REWARD, *WITHOUT_REFERENCE, *OF_RANKINGS)

# What TRL has under a name that is not one here.
NOT_OFFERED = {
    "sigmoid_norm": "that is sigmoid with --length_normalization true",
    "aot": "it sorts the pairs of a batch, so what it teaches would change with passes and processes",
    "aot_unpaired": "it sorts the pairs of a batch, so what it teaches would change with passes and processes",
    "discopop": "its gradient at the start ranks pairs the wrong way round",
}

# Settings that only some losses read; with none of these a setting would do nothing.
READERS = {
    "label_smoothing": ("sigmoid", "robust", "exo_pair", "simpo"),
    "margin_weight": ("sigmoid", "hinge", "robust", "simpo"),
    "length_normalization": ("sigmoid", "hinge", "robust", "exo_pair", *OF_EACH_REWARD, *OF_RANKINGS),
    "simpo_gamma": ("simpo",),
}
# A divergence other than KL leaves a constant of the prompt in a reward, which only cancels in differences.
TAKE_ANY_DIVERGENCE = (*OF_THE_MARGIN, *WITHOUT_REFERENCE, *OF_RANKINGS)


@dataclass
class DPOArguments(PairArguments):
    """Settings of DPO."""

    loss_type: list[str] = field(
        default_factory=lambda: ["sigmoid"],
        metadata={"help": f"One loss or several, which add up: {', '.join(LOSSES)}.", "nargs": "+"},
    )
    loss_weights: list[float] = field(
        default_factory=list,
        metadata={"help": "One weight for each loss, as in `1 .2`; unset: 1 each.", "nargs": "+"},
    )
    beta: float = field(
        default=0.1,
        metadata={
            "help": "Strength of the tie to the reference, usually .05 to .5; 2 to 10 for simpo and with "
            "length_normalization; orpo's weight of the odds ratio."
        },
    )
    label_smoothing: float = field(
        default=0.0,
        metadata={
            "help": "Share of pairs taken to be labelled the wrong way round; 0 to .3 for sigmoid, simpo and robust, "
            ".001 for exo_pair."
        },
    )
    margin_weight: float = field(
        default=0.0,
        metadata={"help": "The margin asked of a pair per unit of its `margin` or strength; 0 to 1, 0 ignores these."},
    )
    length_normalization: bool = field(
        default=False, metadata={"help": "Divide log-ratios by tokens; ipo, simpo and orpo always do."}
    )
    simpo_gamma: float = field(default=0.5, metadata={"help": "The margin simpo asks of every pair, .3 to 1.6."})
    f_divergence_type: str = field(
        default="reverse_kl",
        metadata={"help": f"The divergence that ties to the reference: {', '.join(DIVERGENCES)}."},
    )
    f_alpha_divergence_coef: float = field(default=0.5, metadata={"help": "Alpha of alpha_divergence, 0 to 1."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.loss_type, str):  # from Python, as from a file
            self.loss_type = [self.loss_type]
        self._check_losses()
        self._check_values()
        self._check_readers()
        if self.beta < 1 and ("simpo" in self.loss_type or self.length_normalization):
            logger.warning("beta is %s, small for means over tokens: there it is usually 2 to 10", self.beta)

    @property
    def weighted_losses(self) -> list[tuple[str, float]]:
        """Each loss with its weight."""
        return list(zip(self.loss_type, self.loss_weights or [1.0] * len(self.loss_type), strict=True))

    @property
    def needs_reference(self) -> bool:
        """Whether any loss reads the reference's log-probabilities."""
        return not set(self.loss_type) <= set(WITHOUT_REFERENCE)

    def _check_losses(self) -> None:
        if not self.loss_type:
            raise ValueError(f"loss_type is empty: name one or several of {', '.join(LOSSES)}")
        for name in self.loss_type:
            if name in NOT_OFFERED:
                raise ValueError(f"loss_type {name!r} is not offered: {NOT_OFFERED[name]}")
            if name not in LOSSES:
                raise ValueError(
                    f"loss_type has {name!r}{closest(name, LOSSES)}: choose one or several of {', '.join(LOSSES)}"
                )
        if len(set(self.loss_type)) < len(self.loss_type):
            raise ValueError(f"loss_type is {' '.join(self.loss_type)}: name each loss once, and weigh it")
        if self.loss_weights and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(
                f"loss_weights has {len(self.loss_weights)} weights for {len(self.loss_type)} losses "
                f"({' '.join(self.loss_type)}): give one for each, or none"
            )
        for weight in self.loss_weights:
            if not 0 < weight < math.inf:
                raise ValueError(f"loss_weights has {weight}: each must be above 0 and finite")

    def _check_values(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta is {self.beta}: it must be above 0 and finite, usually .05 to .5")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is {self.label_smoothing}: it must be at least 0 and below .5")
        if "exo_pair" in self.loss_type and not self.label_smoothing:
            raise ValueError("label_smoothing is 0, where exo_pair's loss is infinite: set it, usually to .001")
        for name in ("margin_weight", "simpo_gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0 and finite")
        if not 0 <= self.f_alpha_divergence_coef <= 1:
            raise ValueError(f"f_alpha_divergence_coef is {self.f_alpha_divergence_coef}: it must be 0 to 1")
        if self.f_divergence_type not in DIVERGENCES:
            hint = closest(self.f_divergence_type, DIVERGENCES)
            raise ValueError(
                f"f_divergence_type is {self.f_divergence_type!r}{hint}: choose one of {', '.join(DIVERGENCES)}"
            )

    def _check_readers(self) -> None:
        losses = " ".join(self.loss_type)
        for name, readers in READERS.items():
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default and not set(readers) & set(self.loss_type):
                raise ValueError(
                    f"{name} is {value}, which loss_type {losses} does not read: leave it out, or choose one of "
                    f"{', '.join(readers)}"
                )
        if self.f_alpha_divergence_coef != 0.5 and self.f_divergence_type != "alpha_divergence":
            raise ValueError(
                f"f_alpha_divergence_coef is {self.f_alpha_divergence_coef}, which f_divergence_type "
                f"{self.f_divergence_type} does not read: leave it out, or choose alpha_divergence"
            )
        if self.f_divergence_type != "reverse_kl":
            for name in self.loss_type:
                if name not in TAKE_ANY_DIVERGENCE:
                    raise ValueError(
                        f"f_divergence_type is {self.f_divergence_type}, under which {name} has no meaning: choose "
                        f"reverse_kl, or losses among {', '.join(TAKE_ANY_DIVERGENCE)}"
                    )
            if not self.needs_reference:
                raise ValueError(f"f_divergence_type is {self.f_divergence_type}, but {losses} reads no reference")
        if self.soft_labels and set(self.loss_type) & set(OF_RANKINGS):
            raise ValueError(
                "soft_labels is true, but plackett_luce reads ranks and no shares of votes: leave it out, or choose "
                "a loss of pairs"
            )
