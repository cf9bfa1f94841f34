"""What an export is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rlhf.data.comparisons import DataError

FORMS = ("comparisons", "trl", "kto", "sft", "csv")
CONTAINERS = ("jsonl", "parquet", "datasets", "csv")
AGGREGATIONS = ("every", "majority", "dawid_skene", "adjudicated")
WHEN_SPLIT = ("tie", "leave_out")
# A text cannot be good and bad at once, and nobody learns from two contrary answers: these forms take one verdict.
DEFAULT_AGGREGATION = {"comparisons": "every", "trl": "every", "csv": "every", "kto": "majority", "sft": "majority"}
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Options:
    """Everything that decides which bytes come out of a store.

    Attributes:
        form: "comparisons", native rows with rankings; "trl", pairs of chosen and rejected; "kto", single responses
            that are good or bad; "sft", answers to imitate; "csv", a table with one row for each judgment.
        container: "jsonl", "parquet", "datasets" (a folder that `datasets.load_dataset` reads); "csv" for the table
            alone. Empty takes "jsonl", or "csv" for the table.
        campaigns: their names; empty takes all.
        aggregation: "every" vote by itself; "majority", the most frequent answer; "dawid_skene", the most probable one,
            each annotator weighed by how they err; "adjudicated", only what an adjudicator decided. Where an
            adjudication stands it decides in all of them. Empty takes the form's own.
        when_split: what an item is whose votes leave the majority open: a "tie", or "leave_out".
        threshold: how probable a verdict must be, by Dawid-Skene, from 0 to 1; None takes 0.5.
        validation_share: of the prompts, how many go to a file of their own; 0 makes no such file.
        seed: of that split; another seed is another split.
        plain: prompts and answers of "trl", "kto" and "sft" as texts in place of messages.
        edit_pairs: in "comparisons" and "trl", also a pair of every text that an annotator edited, the edit preferred.
        best: in "sft", also the responses that were ranked best.
        include_gold: in "csv", also the judgments of gold and qualification items. Nothing else ever has them.
        without_annotators: pseudonyms, or "paused" and "closed" for all in that state, whose judgments are left out.

    Raises:
        DataError: a value does not exist, or does not fit the form.
    """

    form: str = "comparisons"
    container: str = ""
    campaigns: tuple[str, ...] = ()
    aggregation: str = ""
    when_split: str = "tie"
    threshold: float | None = None
    validation_share: float = 0.0
    seed: int = 0
    plain: bool = False
    edit_pairs: bool = False
    best: bool = False
    include_gold: bool = False
    without_annotators: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_choice("format", self.form, FORMS)
        self._set("container", self.container or ("csv" if self.form == "csv" else "jsonl"))
        self._set("aggregation", self.aggregation or DEFAULT_AGGREGATION[self.form])
        _check_choice("container", self.container, CONTAINERS)
        _check_choice("aggregation", self.aggregation, AGGREGATIONS)
        _check_choice("when_split", self.when_split, WHEN_SPLIT)
        if (self.form == "csv") != (self.container == "csv"):
            raise DataError(
                f"container is {self.container!r} for format {self.form!r}; csv is both or neither: leave container out"
            )
        if self.form == "csv" and self.aggregation != "every":
            raise DataError(f"aggregation is {self.aggregation!r} for csv, which has every judgment; leave it out")
        if self.threshold is not None:
            if self.aggregation != "dawid_skene":
                raise DataError(f"threshold is given for aggregation {self.aggregation!r}; only dawid_skene has one")
            if not 0 <= self.threshold <= 1:
                raise DataError(f"threshold is {self.threshold}; give a probability from 0 to 1")
        elif self.aggregation == "dawid_skene":
            self._set("threshold", DEFAULT_THRESHOLD)
        if not 0 <= self.validation_share < 1:
            raise DataError(f"validation_share is {self.validation_share}; give a share from 0 to below 1")
        for name, forms in (
            ("plain", ("trl", "kto", "sft")),
            ("edit_pairs", ("comparisons", "trl")),
            ("best", ("sft",)),
            ("include_gold", ("csv",)),
        ):
            if getattr(self, name) and self.form not in forms:
                raise DataError(f"{name} is set for format {self.form!r}; it is of {', '.join(forms)} only")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def to_dict(self) -> Mapping[str, Any]:
        return asdict(self)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise DataError(f"{name} is {value!r}; use one of {', '.join(choices)}")
