"""`rlhf annotate backup`, `restore` and `verify`: a store in one file, and whether it is what was written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from annotation import audit
from annotation.arguments import STORE_HELP, Parser
from annotation.backup import backup, restore
from annotation.store import Store


def backup_main(arguments: Sequence[str]) -> None:
    """Write a store to a file while it is in use."""
    parser = Parser(prog="rlhf annotate backup", description="Write a store, which may be in use, to one file.")
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write, such as annotations.jsonl.gz")
    settings = parser.parse_args(arguments)
    with closing(Store.open(settings.store, create=False)) as store:
        print(f"{backup(store, settings.out)}: {settings.out}")


def restore_main(arguments: Sequence[str]) -> None:
    """Make a store of a backup."""
    parser = Parser(prog="rlhf annotate restore", description="Make a new store, of either database, of a backup.")
    parser.add_argument("--file", required=True, help="what rlhf annotate backup wrote")
    parser.add_argument("--store", required=True, metavar="URL", help=f"where nothing is yet: {STORE_HELP}")
    settings = parser.parse_args(arguments)
    print(f"{restore(settings.file, settings.store)}: restored and verified")


def verify_main(arguments: Sequence[str]) -> None:
    """Compute the chains of a store anew; a problem ends with status 2."""
    parser = Parser(
        prog="rlhf annotate verify", description="Check that no judgment and no audit entry was changed or removed."
    )
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    settings = parser.parse_args(arguments)
    with closing(Store.open(settings.store, create=False)) as store, store.snapshot() as connection:
        found = audit.verify(connection)
    if found.problems:
        shown = "; ".join(found.problems[:5])
        raise ValueError(f"store {store.address} was changed: {shown} ({len(found.problems)} in all)")
    heads = f"{found.judgments.length} judgments, head {found.judgments.hash}; {found.audit.length} audit entries"
    print(f"unchanged: {heads}, head {found.audit.hash}")
