"""Write a trained reward model for use without this framework: `rlhf export-reward RUN FOLDER`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from reward.export import export_reward_model
from rlhf.training.parser import exit_on_error, switch_off_telemetry


class Parser(argparse.ArgumentParser):
    """Argparse without abbreviations and without the usage before an error."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help lists the arguments")


def main(argv: Sequence[str] | None = None) -> None:
    """Export, and say what the class could not carry."""
    switch_off_telemetry()
    parser = Parser(
        prog="rlhf export-reward",
        description="Write a reward model as AutoModelForSequenceClassification: weights, tokenizer and a card.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="output_dir of rlhf reward; of an ensemble, the folder of a member")
    parser.add_argument("folder", type=Path, help="new folder to write")
    with exit_on_error():
        arguments = parser.parse_args(argv)
        export = export_reward_model(arguments.run, arguments.folder)
    padding = (
        f"pad token {export.pad_token}" if export.pad_token else "no pad token, since the tokenizer has none to spare"
    )
    print(
        f"export-reward: {export.folder}; {padding}; scores lack the shift {export.shift:.4g}, and with it differ from "
        f"the run's by at most {export.difference:.1g}"
    )


if __name__ == "__main__":
    main()
