"""One run, or several beside each other, as one HTML file: `rlhf report runs/ppo`, without any service."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.training.parser import exit_on_error, parse
from rlhf.training.run_record import read_run
from rlhf.training.run_report import write_run_report

MOST_RUNS = 5  # lines that a chart can tell apart
DEFAULT_NAME = "report.html"


@dataclass
class ReportArguments:
    """Write what run folders hold as one HTML file; the folders come first, as in `rlhf report RUN RUN2`."""

    run: list[str] = field(
        default_factory=list, metadata={"help": f"Run folders, up to {MOST_RUNS}.", "nargs": "+", "path": True}
    )
    output: str | None = field(
        default=None,
        metadata={"help": f"The file; for one run {DEFAULT_NAME} in its folder.", "path": True, "output": True},
    )

    def __post_init__(self) -> None:
        if not self.run:
            raise ValueError("run is missing: name one or more run folders, as in rlhf report runs/ppo")
        if len(self.run) > MOST_RUNS:
            raise ValueError(f"run names {len(self.run)} folders: a chart tells {MOST_RUNS} runs apart; name fewer")
        if len({Path(run).resolve() for run in self.run}) < len(self.run):
            raise ValueError(f"run names a folder twice: {', '.join(self.run)}")
        if self.output is None and len(self.run) > 1:
            raise ValueError("output is missing: name the file for several runs with --output FILE.html")
        if self.output is not None and Path(self.output).suffix != ".html":
            raise ValueError(f"output is {self.output}: name a file that ends in .html")


def main(argv: Sequence[str] | None = None) -> None:
    """Read, draw, write."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--run", *arguments]
    args = parse(ReportArguments, arguments)
    with exit_on_error():
        runs = [read_run(folder) for folder in args.run]
        path = write_run_report(Path(args.output) if args.output else runs[0].path / DEFAULT_NAME, runs)
    print(f"the report is in {path}")


if __name__ == "__main__":
    main()
