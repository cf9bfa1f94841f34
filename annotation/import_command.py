"""`rlhf annotate import`: items into a store, from the formats that others write."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from annotation.arguments import STORE_HELP, Parser
from annotation.assignment import GOLD, QUALIFICATION
from annotation.formats.reading import read_items
from annotation.formats.rows import FORMS
from annotation.importing import DEFAULT_CAMPAIGN, check_campaign_settings, import_comparisons
from annotation.store import Store


def import_main(arguments: Sequence[str]) -> None:
    """Add prompts with responses, and what is known of them, to a campaign."""
    parser = Parser(prog="rlhf annotate import", description="Add responses to be ranked to a store.")
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    file_help = "JSON Lines, JSON, CSV, Parquet, or folders of them or saved by datasets: prompts with 2 to 9 responses"
    parser.add_argument("--file", required=True, nargs="+", help=file_help)
    parser.add_argument("--form", choices=FORMS, help="what the rows are; default told from their fields")
    parser.add_argument("--split", help="which split of a folder")
    parser.add_argument("--campaign", default=DEFAULT_CAMPAIGN, help=f"its name; default {DEFAULT_CAMPAIGN}")
    parser.add_argument("--overlap", type=int, help="annotators for each item; default the campaign's, 1 for a new one")
    gold_help = "rows with a right answer come among the work, or before it; default among it"
    parser.add_argument("--gold_as", choices=(GOLD, QUALIFICATION), default=GOLD, help=gold_help)
    settings = parser.parse_args(arguments)
    check_campaign_settings(settings.campaign, settings.overlap)
    items = read_items(settings.file, form=settings.form, split=settings.split)
    with closing(Store.open(settings.store)) as store:
        done = import_comparisons(
            store,
            [item.comparison for item in items],
            name=settings.campaign,
            overlap=settings.overlap,
            gold={item.comparison.id: item.gold for item in items if item.gold is not None},
            gold_kind=settings.gold_as,
            usefulness={item.comparison.id: item.usefulness for item in items if item.usefulness is not None},
        )
        print(f"{done} (store {store.address})")
