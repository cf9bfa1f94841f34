"""The card beside an export: what it holds, who made it, and what to know before training on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from annotation.exporting.options import Options
from annotation.exporting.survey import Survey

if TYPE_CHECKING:
    from annotation.stats.estimates import Estimate

ROWS = {
    "comparisons": "A row is a prompt with its responses and their ranks: 1 is the best, equal numbers tie.",
    "trl": "A row is a prompt with a chosen and a rejected response: a pair for TRL.",
    "kto": "A row is a prompt with one response and whether it is good (`label`).",
    "sft": "A row is a prompt with an answer to imitate: `source` says whether it is an annotator's edit or was ranked "
    "best.",
    "csv": "A row is one judgment.",
}
AGGREGATIONS = {
    "every": "Every vote goes out by itself.",
    "majority": "One verdict for each item, the most frequent answer; rankings are ordered by their mean ranks.",
    "dawid_skene": "One verdict for each item, the most probable one by Dawid and Skene's model, which weighs each "
    "annotator by how they err.",
    "adjudicated": "Only what an adjudicator decided.",
}


def data_card(
    options: Options, campaigns: list[str], rows: Mapping[str, int], left_out: Counter[str], found: Survey
) -> str:
    """The card in Markdown; the same for the same content and options.

    Args:
        options: of the export.
        campaigns: names of those taken.
        rows: by split.
        left_out: what had no place, by the reason.
        found: the counts of what was judged.
    """
    parts = [
        "# Data card",
        f"Human judgments of responses, from the campaigns {', '.join(map(_verbatim, campaigns))}, exported as "
        f"`{options.form}`.",
        "License: *not stated; to be filled in by who may give one for prompts, responses and judgments.*",
        "## Rows",
        _table("split", "rows", rows),
        f"{ROWS[options.form]} {_aggregation(options)}",
        *_columns(options, found),
        *_splits(options),
        "## Judgments",
        _table("what", "number", _counts(found)),
        f"Guideline versions in force (0: none): {_numbers(found.by_guideline)}.",
        "## Annotators",
        f"{len(found.by_annotator)}, by pseudonym. Rankings of each:",
        _table("annotator", "rankings", dict(sorted(found.by_annotator.items()))),
        *_agreement(found),
        "## Left out",
        _left_out(options, left_out, found),
        "## Known limits",
        _limits(options),
    ]
    return "\n\n".join(parts) + "\n"


def hub_readme(options: Options, files: Mapping[str, str]) -> str:
    """The file by which `datasets.load_dataset` finds the splits of a folder."""
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split, file in files.items():
        lines += [f"  - split: {split}", f"    path: {file}"]
    return "\n".join([*lines, "---", "", f"# Human judgments as `{options.form}`", "", "See DATACARD.md.", ""])


def _aggregation(options: Options) -> str:
    if options.form == "csv":
        return ""
    words = AGGREGATIONS[options.aggregation]
    if options.aggregation == "majority":
        split = "a tie" if options.when_split == "tie" else "left out"
        words += f" A pair whose votes are split is {split}."
    if options.aggregation == "dawid_skene":
        words += f" Verdicts of a probability below {options.threshold} are left out."
    return f"{words} Where an adjudicator decided, that decision alone counts."


def _columns(options: Options, found: Survey) -> list[str]:
    if options.form == "trl":
        margin = "`margin` is by how much the chosen one leads (1 slightly, 2, 3 much), 0 where nobody said. "
        edits = " A pair of an edit and the text that it replaces has the source `edit`." if options.edit_pairs else ""
        return [
            f"{margin if found.num_with_strength else ''}`vote_share` is the share of the item's `num_votes` votes "
            "that rank the chosen one first, a tie counting one half: below one half where this vote was outvoted. "
            f"All pairs of one ranking share `comparison_id`, all rows of a prompt `prompt_id`.{edits}"
        ]
    if options.form == "kto":
        return [
            "Of a ranking the best are good and the worst are not; what lies between is left out. Both bad makes all "
            "of them negatives, also where one was still better. A tie that is not both bad is left out."
        ]
    if options.form == "csv":
        return [
            "Ranks are in the order of `response_1`, `response_2`, ...; `shown_order` says which of them stood where, "
            "from the left. A cell that a spreadsheet would take for a formula begins with an apostrophe, and so does "
            "a text that begins with one: the first apostrophe is not part of the text."
        ]
    return []


def _splits(options: Options) -> list[str]:
    if not options.validation_share:
        return []
    return [
        f"{options.validation_share:.2%} of the prompts are held out, by a hash of the first question (seed "
        f"{options.seed}): no prompt is in both files."
    ]


def _counts(found: Survey) -> dict[str, int]:
    return {
        "items with a ranking": found.num_items,
        "of them adjudicated": found.num_adjudicated,
        "rankings": found.num_rankings,
        **{f"of them by role: {role}": number for role, number in sorted(found.by_role.items())},
        "ties": found.num_ties,
        "both bad": found.num_both_bad,
        "with a strength": found.num_with_strength,
        "with a rationale": found.num_with_rationale,
        "with an edit": found.num_with_edits,
        "skips": found.by_kind["skip"],
        "flags": found.by_kind["flag"],
        "replaced or taken back": found.num_replaced,
    }


def _agreement(found: Survey) -> list[str]:
    if not len(found.votes):
        return []
    from annotation.stats.agreement import ORDINARY_AGREEMENT, percent_agreement, preference_alpha

    same = percent_agreement(found.votes)
    if same.value is None:
        return ["## Agreement", "No item was judged by two annotators: there is nothing to compare."]
    low, high = ORDINARY_AGREEMENT
    return [
        "## Agreement",
        f"Two annotators of one item say the same of a pair in {_estimate(same)} of cases, ties counting as an answer. "
        f"{low:.0%} to {high:.0%} is what people reach at this. Krippendorff's alpha is "
        f"{_estimate(preference_alpha(found.votes))}. Items with two annotators or more: {same.n}. Intervals are "
        "95 %, from resampling items.",
    ]


def _estimate(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"not defined ({estimate.note})"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _left_out(options: Options, left_out: Counter[str], found: Survey) -> str:
    lines = [f"- {reason}: {number}" for reason, number in sorted(left_out.items())]
    lines.append(f"- skips: {found.by_kind['skip']}; flags: {found.by_kind['flag']}")
    lines.append(f"- judgments that were replaced or taken back: {found.num_replaced}")
    if options.include_gold:
        lines.append(
            "- nothing of gold and qualification items: their judgments are among the rows; never train on them"
        )
    else:
        lines.append(f"- judgments of gold and qualification items, which never train: {found.num_known_answers}")
    if options.without_annotators:
        lines.append(f"- judgments of these annotators: {', '.join(map(_verbatim, options.without_annotators))}")
    else:
        lines.append("- of annotators who are paused or closed nothing: their judgments are among the rows")
    return "\n".join(lines)


def _limits(options: Options) -> str:
    lines = [
        "- Prompts and responses are as they were sampled and shown. Nobody has looked for personal data or for "
        "content that harms.",
        "- Annotators saw responses in a random order, and may all the same prefer the longer one or the left one.",
        "- Agreement measures whether annotators are of one mind, not whether they are right.",
    ]
    if options.form in ("trl", "kto", "sft"):
        lines.append("- Which responses were cut off by the sampler is not in these rows; `comparisons` has it.")
    if options.form in ("comparisons", "trl"):
        lines.append("- Both bad, aspects and rationales have no column here; `csv` has them.")
    if options.form == "comparisons" and options.container in ("parquet", "datasets"):
        lines.append("- Sampling settings and seeds are in JSON Lines only.")
    if options.form == "kto" and options.aggregation == "every":
        lines.append("- A response can be good in one row and bad in another: annotators differed.")
    return "\n".join(lines)


def _table(name: str, value: str, rows: Mapping[str, int]) -> str:
    lines = [f"| {name} | {value} |", "|---|---:|", *(f"| {row} | {number} |" for row, number in rows.items())]
    return "\n".join(lines)


def _numbers(counts: Counter[int]) -> str:
    return ", ".join(f"{version} for {number} rankings" for version, number in sorted(counts.items())) or "none"


def _verbatim(name: str) -> str:
    """A name that somebody chose, as Markdown shows it whatever is in it."""
    plain = " ".join(name.split())
    fence = "``" if "`" in plain else "`"
    return f"{fence} {plain} {fence}" if "`" in plain else f"`{plain}`"
