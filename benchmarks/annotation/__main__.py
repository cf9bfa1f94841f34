"""Try each promise of the annotation app: `python -m benchmarks.annotation --help`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.annotation import access, browsers, durability, fuzzing, injection, keeping, screens, sheets, texts
from benchmarks.annotation.databases import KINDS
from benchmarks.annotation.figures import Figure, table

Measure = Callable[[str, Path], Figure]
MEASURES: dict[str, tuple[tuple[str, ...], Measure]] = {
    "killed": (KINDS, durability.killed),
    "crowd": (KINDS, durability.crowd),
    "identical": (KINDS, durability.identical),
    "locked": (KINDS, durability.locked),
    "full": (("sqlite",), lambda _, folder: durability.full(folder)),
    "clock": (KINDS, durability.clock),
    "latency": (KINDS, durability.latency),
    "latency-200000": (KINDS, lambda kind, folder: durability.latency(kind, folder, count=200_000)),
    "paint-10000": (KINDS, browsers.in_chromium(browsers.painted)),
    "paint-200000": (KINDS, browsers.in_chromium(partial(browsers.painted, counts=(10_000, 200_000)))),
    "ten-browsers": (KINDS, browsers.in_chromium(browsers.ten_browsers)),
    "hostile": (("sqlite",), browsers.in_chromium(screens.hostile)),
    "fuzz": (KINDS, fuzzing.fuzz),
    "texts": (KINDS, texts.texts),
    "sql": (KINDS, injection.sql),
    "sqlmap": (KINDS, injection.sqlmap),
    "formulas": (KINDS, sheets.formulas),
    "login": (KINDS, access.login),
    "edits": (KINDS, keeping.edits),
    "backups": (KINDS, keeping.backups),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the JSON; 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.annotation", allow_abbrev=False, description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", nargs="*", help=f"{', '.join(MEASURES)}; all")
    parser.add_argument("--database", choices=KINDS, help="only this one; default both")
    parser.add_argument("--output_file", type=Path, default=Path("runs/faults-annotation.json"), help="JSON to write")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in MEASURES]:
        parser.error(f"{unknown[0]!r} is not known: choose {', '.join(MEASURES)}")
    figures: list[Figure] = []
    for name in arguments.names or MEASURES:
        kinds, measure = MEASURES[name]
        for kind in kinds:
            if arguments.database in (None, kind):
                figures.append(measured(name, kind, measure))
                arguments.output_file.parent.mkdir(parents=True, exist_ok=True)
                content = json.dumps([figure.to_dict() for figure in figures], indent=2)
                arguments.output_file.write_text(content + "\n", encoding="utf-8")
    print(table(figures))
    return 1 if any(figure.kept is False for figure in figures) else 0


def measured(name: str, kind: str, measure: Measure) -> Figure:
    """One figure; what fails is a promise that was not kept, and what is not installed was not tried."""
    print(f"{name} on {kind} ...", file=sys.stderr, flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rlhf-faults-") as folder:
        try:
            figure = measure(kind, Path(folder))
        except FileNotFoundError as error:
            figure = Figure(name, kind, str(error), None)
        except Exception as error:
            figure = Figure(name, kind, f"{type(error).__name__}: {error}", False)
    figure = replace(figure, seconds=time.monotonic() - begun)
    print(f"{figure.promise}: {figure.found}", file=sys.stderr, flush=True)
    return figure


if __name__ == "__main__":
    sys.exit(main())
