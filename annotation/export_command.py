"""`rlhf annotate export`: write what was judged, for trainers and spreadsheets."""

from __future__ import annotations

from collections.abc import Sequence

from annotation.arguments import STORE_HELP, Parser
from annotation.export import export_dataset
from annotation.exporting.options import AGGREGATIONS, CONTAINERS, FORMS, WHEN_SPLIT
from annotation.store import Store


def export_main(arguments: Sequence[str]) -> None:
    """Write what was judged."""
    parser = Parser(prog="rlhf annotate export", description="Write what was judged, with a card and a manifest.")
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    out_help = "a folder to be made; or one file, where it ends with .jsonl, .parquet or .csv"
    parser.add_argument("--out", required=True, metavar="PATH", help=out_help)
    form_help = (
        "comparisons: rankings with ties, as rlhf reads them (default); trl: pairs; kto: good and bad responses; "
        "sft: edits of annotators; csv: a table of all judgments"
    )
    parser.add_argument("--format", choices=FORMS, default=FORMS[0], help=form_help)
    container_help = "datasets is a folder for datasets.load_dataset; default jsonl, and csv for --format csv"
    parser.add_argument("--container", choices=CONTAINERS, default="", help=container_help)
    parser.add_argument("--campaign", nargs="+", default=[], metavar="NAME", help="only these; default all")
    aggregation_help = "of several votes on an item; default every, and majority for kto and sft"
    parser.add_argument("--aggregation", choices=AGGREGATIONS, default="", help=aggregation_help)
    split_help = "what an item without a majority is; default tie"
    parser.add_argument("--when_split", choices=WHEN_SPLIT, default=WHEN_SPLIT[0], help=split_help)
    threshold_help = "how probable a verdict of dawid_skene must be, 0 to 1; default 0.5"
    parser.add_argument("--threshold", type=float, help=threshold_help)
    share_help = "share of the prompts for a file of their own, such as 0.1; default 0, no such file"
    parser.add_argument("--validation_share", type=float, default=0.0, help=share_help)
    parser.add_argument("--seed", type=int, default=0, help="of that split; default 0")
    plain_help = "texts in place of messages, for trl, kto and sft"
    parser.add_argument("--plain", action="store_true", help=plain_help)
    edits_help = "also a pair of every edit and the text it replaces, in comparisons and trl"
    parser.add_argument("--edit_pairs", action="store_true", help=edits_help)
    parser.add_argument("--best", action="store_true", help="also the responses ranked best, in sft")
    gold_help = "also judgments of gold and qualification items, in csv"
    parser.add_argument("--include_gold", action="store_true", help=gold_help)
    without_help = "leave out the judgments of these pseudonyms, or of all who are paused or closed"
    parser.add_argument("--without_annotators", nargs="+", default=[], metavar="ANNOTATOR", help=without_help)
    settings = parser.parse_args(arguments)
    store = Store.open(settings.store, create=False)
    try:
        exported = export_dataset(
            store,
            settings.out,
            form=settings.format,
            container=settings.container,
            campaigns=settings.campaign,
            aggregation=settings.aggregation,
            when_split=settings.when_split,
            threshold=settings.threshold,
            validation_share=settings.validation_share,
            seed=settings.seed,
            plain=settings.plain,
            edit_pairs=settings.edit_pairs,
            best=settings.best,
            include_gold=settings.include_gold,
            without_annotators=settings.without_annotators,
        )
        print(exported)
    finally:
        store.close()
