"""`rlhf COMMAND ...`: one name for all entry points; each is imported when its command is called."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf import __version__


@dataclass(frozen=True)
class Command:
    """A module with `main(argv)`, and what the command does in a line."""

    module: str
    summary: str


COMMANDS = {
    "demo": Command("rlhf.demo", "the whole loop on a small model, start here"),
    "sft": Command("rlhf.train_sft", "train a policy on demonstrations"),
    "reward": Command("reward.train_reward", "train a reward model on comparisons"),
    "dpo": Command("rlhf.train_dpo", "train a policy on comparisons directly"),
    "ppo": Command("rlhf.train_ppo", "train a policy against a reward model"),
    "sample": Command("rlhf.sample", "sample several responses to each prompt"),
    "annotate": Command("annotation.command", "rank responses in the browser; import, export"),
    "rank": Command("rlhf.rank", "rank sampled responses by a rule, where no person is at hand"),
    "evaluate": Command("rlhf.evaluate_policy", "compare policies on held-out prompts"),
    "evaluate-reward": Command("reward.evaluate_reward", "accuracy of a reward model by data set"),
    "doctor": Command("rlhf.doctor", "what is wrong with models and data, before a run"),
    "report": Command("rlhf.report", "a run, or several, as one HTML page"),
    "export-reward": Command("reward.export_reward", "a reward model for plain transformers"),
    "plan": Command("rlhf.plan", "memory and time of a run, before it is started"),
    "recipe": Command("rlhf.recipe", "run a folder of steps; again to go on"),
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run one command and return its exit status; the console script `rlhf`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"rlhf {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}{_closest(name)}; rlhf --help lists all", file=sys.stderr)
        return 2
    # argparse takes the name in its messages from here.
    sys.argv[0] = f"rlhf {name}"
    # a user's scorer or judge lies in the current folder; last, so that it shadows nothing
    sys.path.append(os.getcwd())
    return importlib.import_module(COMMANDS[name].module).main(rest)


def help_text() -> str:
    """What `rlhf --help` prints: one screen."""
    commands = "\n".join(f"  {name:<16}{command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: rlhf COMMAND [--config FILE.yaml] [--name value ...]\n"
        "       rlhf --help | --version\n\n"
        "From collected comparisons to an aligned policy.\n\n"
        f"commands:\n{commands}\n\n"
        "rlhf COMMAND --help lists a command's settings."
    )


def _closest(name: str) -> str:
    matches = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


if __name__ == "__main__":
    sys.exit(main())
