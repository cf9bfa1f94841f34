"""`rlhf annotate`: open the annotation app, fill its store from files, and write what was judged."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from annotation.export import FORMATS, export
from annotation.importing import (
    DEFAULT_CAMPAIGN,
    check_campaign_settings,
    check_comparisons,
    import_comparisons,
)
from annotation.store import Store, StoreUnavailable
from rlhf.data.comparisons import read_comparisons

STORE_HELP = "sqlite:///annotations.db, or postgresql://user@host/database"


class Parser(argparse.ArgumentParser):
    """Argparse without abbreviations and without the usage before an error."""

    def __init__(self, **settings: object):
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help lists the settings")


def main(argv: Sequence[str] | None = None) -> None:
    """Serve, import or export; a mistake ends with "error: ..." and status 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    actions = {"import": import_main, "export": export_main}
    with exit_on_error():
        if arguments and arguments[0] in actions:
            actions[arguments[0]](arguments[1:])
        elif arguments and not arguments[0].startswith("-"):
            raise ValueError(f"unknown {arguments[0]!r}; rlhf annotate alone opens the app, its others: import, export")
        else:
            serve_main(arguments)


def serve_main(arguments: Sequence[str]) -> None:
    """Open the app until it is stopped."""
    parser = Parser(
        prog="rlhf annotate",
        usage="rlhf annotate --store URL [--port PORT] [--host HOST]\n       rlhf annotate import|export --help",
        description="Open the annotation app in the browser.",
        epilog="rlhf annotate import and rlhf annotate export fill the store from files and write what was judged.",
    )
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    parser.add_argument("--port", type=int, default=7860, help="default 7860")
    parser.add_argument("--host", default="127.0.0.1", help="an address of this machine only; default 127.0.0.1")
    settings = parser.parse_args(arguments)
    if not 1 <= settings.port <= 65535:
        raise ValueError(f"port is {settings.port}; give a number from 1 to 65535")
    check_loopback(settings.host)
    try:
        from annotation.app import serve
    except ModuleNotFoundError as error:
        raise ValueError(f"the annotation app needs {error.name}: pip install 'rlhf-loop[annotation]'") from None
    serve(Store.open(settings.store), host=settings.host, port=settings.port)


def import_main(arguments: Sequence[str]) -> None:
    """Add comparisons from JSON Lines files to a store."""
    parser = Parser(prog="rlhf annotate import", description="Add responses to be ranked to a store.")
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    parser.add_argument("--file", required=True, nargs="+", help="JSON Lines: prompts with 2 to 9 responses, or pairs")
    parser.add_argument("--campaign", default=DEFAULT_CAMPAIGN, help=f"its name; default {DEFAULT_CAMPAIGN}")
    parser.add_argument("--overlap", type=int, help="annotators for each item; default the campaign's, 1 for a new one")
    settings = parser.parse_args(arguments)
    check_campaign_settings(settings.campaign, settings.overlap)
    comparisons, _ = read_comparisons(settings.file)
    check_comparisons(comparisons)
    store = Store.open(settings.store)
    done = import_comparisons(store, comparisons, name=settings.campaign, overlap=settings.overlap)
    print(f"{done} (store {store.address})")


def export_main(arguments: Sequence[str]) -> None:
    """Write what was judged."""
    parser = Parser(prog="rlhf annotate export", description="Write what was judged, for the trainers.")
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    parser.add_argument("--out", required=True, metavar="FILE", help="JSON Lines file to write")
    form_help = "comparisons: rankings with ties, as rlhf reads them (default); trl: pairs as TRL reads them"
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=form_help)
    parser.add_argument("--campaign", help="only this one; default all")
    settings = parser.parse_args(arguments)
    store = Store.open(settings.store, create=False)
    num_rows = export(store, settings.out, form=settings.format, name=settings.campaign)
    print(f"{num_rows} rows: {settings.out}")


def check_loopback(host: str) -> None:
    """Refuse an address that other machines reach: who signs in here is asked for a name only.

    Raises:
        ValueError: the host is not this machine's loopback.
    """
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        fix = "serve on 127.0.0.1 and let others in by an SSH tunnel or a proxy that asks for a password"
        raise ValueError(f"host {host} can be reached from other machines, and the app asks for a name only; {fix}")


@contextmanager
def exit_on_error() -> Iterator[None]:
    """As `rlhf.training.parser.exit_on_error`, which would bring torch along."""
    try:
        yield
    except (ValueError, OSError, StoreUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
