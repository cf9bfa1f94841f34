"""What annotators said, as files that trainers and spreadsheets read.

The same store and the same options give the same bytes, whatever the database: what differs between two exports is
`created_at` in the manifest. Each leaves an entry in the store's audit before its files get their names.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from annotation import audit
from annotation.exporting.card import data_card, hub_readme
from annotation.exporting.files import SUFFIXES, row_file, sha256_of, write_text
from annotation.exporting.judged import JudgedItem, judged_items, scope_of
from annotation.exporting.options import Options
from annotation.exporting.rows import in_validation, judged_comparison, rows_of, sheet_columns, sheet_rows
from annotation.exporting.survey import Survey, survey
from annotation.exporting.verdicts import Verdict, decided, posterior_of
from annotation.store import Store
from rlhf import __version__
from rlhf.data.comparisons import Comparison, DataError

FORMATS = ("comparisons", "trl")
CARD, MANIFEST, README = "DATACARD.md", "manifest.json", "README.md"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        out: the file, or the folder.
        files: everything that was written, data first.
        rows: number of rows by split.
        left_out: what had no place in the rows, by the reason.
    """

    out: Path
    files: tuple[Path, ...]
    rows: dict[str, int]
    left_out: dict[str, int]

    @property
    def num_rows(self) -> int:
        return sum(self.rows.values())

    def __str__(self) -> str:
        parts = f" ({', '.join(f'{number} {split}' for split, number in self.rows.items())})"
        gone = "".join(f"\nleft out: {reason}: {number}" for reason, number in sorted(self.left_out.items()))
        return f"{self.num_rows} rows{parts if len(self.rows) > 1 else ''}: {self.out}{gone}"


def judged_comparisons(store: Store, *, name: str | None = None) -> list[Comparison]:
    """The rankings that stand, in the order in which their items were added; of one campaign or of all.

    Raises:
        DataError: there is no campaign of that name.
    """
    options = Options(campaigns=() if name is None else (name,))
    with _snapshot(store) as connection:
        items = judged_items(connection, scope_of(connection, options.campaigns))
        return [
            judged_comparison(judged, verdict)
            for judged, verdicts in decided(items, options, {}, Counter())
            for verdict in verdicts
        ]


def export(store: Store, path: str | Path, *, form: str = "comparisons", name: str | None = None) -> int:
    """Write every ranking that stands to one JSON Lines file; the number of its rows.

    Raises:
        DataError: as `export_dataset`.
        FileExistsError: the file is there already.
    """
    if form not in FORMATS:
        raise DataError(f"format is {form!r}; use one of {', '.join(FORMATS)}")
    options = Options(form=form, campaigns=() if name is None else (name,))
    return _write(store, Path(path), options, single_file=True).num_rows


def export_dataset(
    store: Store,
    out: str | Path,
    *,
    form: str = "comparisons",
    container: str = "",
    campaigns: Sequence[str] = (),
    aggregation: str = "",
    when_split: str = "tie",
    threshold: float | None = None,
    validation_share: float = 0.0,
    seed: int = 0,
    plain: bool = False,
    edit_pairs: bool = False,
    best: bool = False,
    include_gold: bool = False,
    without_annotators: Sequence[str] = (),
    at: float | None = None,
    by: str | None = None,
) -> Exported:
    """Write what was judged, with a card and a manifest beside it, all or nothing, and say so in the audit.

    Reads from one snapshot, so that annotators can go on; holds texts of a few hundred items at a time.

    Args:
        store: where the judgments are.
        out: a folder to be made. With the suffix of its container (.jsonl, .parquet, .csv) it is one file, and card and
            manifest lie beside it under its name with .DATACARD.md and .manifest.json.
        form, container, campaigns, aggregation, when_split, threshold, validation_share, seed, plain, edit_pairs, best,
            include_gold, without_annotators: as in `annotation.exporting.options.Options`.
        at: when it was made, for manifest and audit, in seconds since 1970; None is now.
        by: the manager; None for the command line.

    Raises:
        DataError: an option does not exist or does not fit, there is no such campaign or annotator, or there would be
            no rows.
        FileExistsError: something of that name is there already.
        StoreUnavailable: the database is busy or away.
    """
    options = Options(
        form=form,
        container=container,
        campaigns=tuple(campaigns),
        aggregation=aggregation,
        when_split=when_split,
        threshold=threshold,
        validation_share=validation_share,
        seed=seed,
        plain=plain,
        edit_pairs=edit_pairs,
        best=best,
        include_gold=include_gold,
        without_annotators=tuple(without_annotators),
    )
    return _write(store, Path(out), options, single_file=_is_single_file(Path(out), options), at=at, by=by)


def _is_single_file(out: Path, options: Options) -> bool:
    if out.suffix not in SUFFIXES.values():
        return False
    if options.container == "datasets" or out.suffix != SUFFIXES[options.container]:
        raise DataError(f"out {out} ends with {out.suffix} and the container is {options.container}; make them fit")
    if options.validation_share:
        raise DataError(f"out {out} is one file, and a validation_share makes two; name a folder")
    return True


def _write(
    store: Store, out: Path, options: Options, *, single_file: bool, at: float | None = None, by: str | None = None
) -> Exported:
    at = time.time() if at is None else at
    with _published(out, single_file=single_file) as folder:
        written = _write_all(store, folder, options, lambda name: _name(out, name, single_file), at=at)
        store.write(lambda connection: audit.record(connection, "export made", by, written.details, at=at))
    files = tuple(_place(out, name, single_file) for name in written.names)
    return Exported(out, files, written.rows, written.left_out)


@dataclass(frozen=True)
class _Written:
    """Names of the files, rows and what was left out as in `Exported`, and what the audit says of them."""

    names: tuple[str, ...]
    rows: dict[str, int]
    left_out: dict[str, int]
    details: dict[str, Any]


def _write_all(store: Store, folder: Path, options: Options, name_of: Callable[[str], str], *, at: float) -> _Written:
    """Write data, card and manifest; `name_of` gives the name that a file has in the end."""
    with _snapshot(store) as connection:
        scope = scope_of(connection, options.campaigns, options.without_annotators, with_gold=options.include_gold)
        found = survey(connection, scope)
        if not found.num_rankings:
            raise DataError(
                f"store {store.address} holds no judgments yet; open `rlhf annotate --store ...` and judge some items"
            )
        left_out: Counter[str] = Counter()
        items = judged_items(connection, scope)
        data, rows = _write_rows(folder, _rows(items, options, found, left_out), options, found)
        _check_rows(store, rows, options, found)
        names = list(data.values())
        if options.container == "datasets":
            write_text(folder / README, hub_readme(options, data))
            names.append(README)
        write_text(folder / CARD, data_card(options, list(scope.campaigns.values()), rows, left_out, found))
        names.append(CARD)
        files = {name_of(name): _entry(folder / name) for name in names}
        manifest = {
            "created_at": datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"),
            "app_version": __version__,
            "store_id": store.id,
            "judgments": {"count": found.chain.length, "hash": found.chain.hash},
            "options": options.to_dict(),
            "rows": rows,
            "left_out": dict(sorted(left_out.items())),
            "files": files,
            "policies": found.policies,
        }
        write_text(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    names.append(MANIFEST)
    files[name_of(MANIFEST)] = _entry(folder / MANIFEST)
    details = {
        "campaigns": sorted(scope.campaigns),
        "options": options.to_dict(),
        "rows": rows,
        "sha256": {name: entry["sha256"] for name, entry in files.items()},
    }
    return _Written(tuple(names), rows, dict(left_out), details)


def _rows(
    items: Iterator[JudgedItem], options: Options, found: Survey, left_out: Counter[str]
) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Every row, and whether it is held out."""
    posterior = posterior_of(found.votes, options) if options.aggregation == "dawid_skene" else {}
    for judged, verdicts in decided(items, options, posterior, left_out):
        held_out = bool(options.validation_share) and in_validation(
            judged.comparison, options.validation_share, options.seed
        )
        for row in _rows_of_item(judged, verdicts, options, found, left_out):
            yield held_out, row


def _rows_of_item(
    judged: JudgedItem, verdicts: Sequence[Verdict], options: Options, found: Survey, left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    if options.form == "csv":
        return sheet_rows(judged, found.most_responses)
    return rows_of(judged, verdicts, options, left_out, with_margin=found.num_with_strength > 0)


def _write_rows(
    folder: Path, rows: Iterator[tuple[bool, dict[str, Any]]], options: Options, found: Survey
) -> tuple[dict[str, str], dict[str, int]]:
    """Names of the files by split, and the number of their rows."""
    splits = SPLITS if options.validation_share else SPLITS[:1]
    inside = "data/" if options.container == "datasets" else ""
    data = {split: f"{inside}{split}{SUFFIXES[options.container]}" for split in splits}
    counts = dict.fromkeys(splits, 0)
    columns = sheet_columns(found.most_responses) if options.form == "csv" else ()
    with ExitStack() as stack:
        files = {}
        for split, name in data.items():
            (folder / name).parent.mkdir(exist_ok=True)
            opened = row_file(folder / name, options, columns=columns, with_margin=found.num_with_strength > 0)
            files[split] = stack.enter_context(opened)
        for held_out, row in rows:
            split = SPLITS[held_out]
            files[split].write(row)
            counts[split] += 1
    return data, counts


def _check_rows(store: Store, rows: dict[str, int], options: Options, found: Survey) -> None:
    judged = f"{found.num_rankings} judgments of store {store.address}"
    if not any(rows.values()):
        if found.num_ties == found.num_rankings and options.form == "trl":
            raise DataError(f"all {judged} are ties, which TRL's rows cannot say; use --format comparisons")
        if options.form == "sft" and not options.best:
            raise DataError(f"none of {judged} has an edit; take the responses ranked best too, with --best")
        raise DataError(
            f"{judged} give no row as {options.form} by {options.aggregation}; choose another format or aggregation"
        )
    for split, number in rows.items():
        if not number:
            raise DataError(
                f"validation_share {options.validation_share} leaves the split {split} without rows; "
                "take another share or seed, or judge more prompts"
            )


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


@contextmanager
def _snapshot(store: Store) -> Iterator[sa.Connection]:
    """A transaction whose queries all see the store as it was at the first one."""
    with store.reading() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield connection


@contextmanager
def _published(out: Path, *, single_file: bool) -> Iterator[Path]:
    """A folder to write in; it gets its name when the block ends, or goes with all that is in it when that raises.

    Of a single file, each of the files takes its name beside the others, the data last.
    """
    _check_free(out, single_file)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        yield folder
        _check_free(out, single_file)
        if single_file:
            _link_beside(folder, out)
        else:
            folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link_beside(folder: Path, out: Path) -> None:
    linked: list[Path] = []
    try:
        # the data, whose name has nothing added, come last; a link never replaces a file
        for name in sorted((path.name for path in folder.iterdir()), key=lambda name: _place(out, name, True) == out):
            target = _place(out, name, True)
            os.link(folder / name, target)
            linked.append(target)
    except OSError:
        for target in linked:
            target.unlink()
        raise


def _check_free(out: Path, single_file: bool) -> None:
    beside = (CARD, MANIFEST) if single_file else ()
    for path in (out, *(_place(out, name, single_file) for name in beside)):
        if path.exists():
            raise FileExistsError(f"out {path} exists; choose another name")


def _place(out: Path, name: str, single_file: bool) -> Path:
    """Where a file of an export lies in the end."""
    return out.with_name(_name(out, name, True)) if single_file else out / name


def _name(out: Path, name: str, single_file: bool) -> str:
    if not single_file:
        return name
    return f"{out.name}.{name}" if name in (CARD, MANIFEST) else out.name
