"""The data of a run: each file by itself, and the files against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.data.chat import Chat, ChatFault
from rlhf.data.comparisons import Comparison, Demonstration
from rlhf.training.checks.data_rows import DataRows, check_rows
from rlhf.training.checks.findings import FATAL, Finding, Report
from rlhf.training.checks.leakage import check_leakage
from rlhf.training.checks.lengths import check_lengths, measure_lengths
from rlhf.training.checks.model_files import ModelSettings

Records = Sequence[Comparison | Demonstration]


@dataclass(frozen=True)
class RunData:
    """The rows of `train_file`, `eval_file` and `prompt_file`; None where none was named."""

    train: DataRows | None = None
    held_out: DataRows | None = None
    prompts: DataRows | None = None

    @classmethod
    def of(
        cls,
        *,
        train_file: Records = (),
        ptx_file: Records = (),
        eval_file: Records = (),
        prompt_file: Records = (),
    ) -> RunData:
        """The rows of a run by the arguments that named their files; at most one of the first two."""
        train, name = (ptx_file, "ptx_file") if ptx_file else (train_file, "train_file")
        return cls(
            train=DataRows.of(name, train) if train else None,
            held_out=DataRows.of("eval_file", eval_file) if eval_file else None,
            prompts=DataRows.of("prompt_file", prompt_file) if prompt_file else None,
        )

    @property
    def named(self) -> list[DataRows]:
        return [data for data in (self.train, self.held_out, self.prompts) if data is not None]

    @property
    def with_system(self) -> bool:
        """Whether any prompt has a system message."""
        return any(data.with_system for data in self.named)


def check_run_data(
    report: Report, data: RunData, chat: Chat | None, settings: ModelSettings | None, *, max_new_tokens: int
) -> None:
    """Add what is found in the files. Without a `chat` nothing is tokenised."""
    for rows in data.named:
        report.add(rows.field, check_rows(rows, None if chat is None else chat.tokenizer))
        if chat is None or settings is None:
            continue
        try:
            lengths = measure_lengths(chat, rows.rows, response_length=max_new_tokens)
        except ChatFault as fault:
            report.add(rows.field, [Finding(fault.name, FATAL, f"{rows.field}: {fault.found}", fault.fix)])
            continue
        report.add(rows.field, check_lengths(rows, lengths, chat, settings, learns_ends=rows is data.train))
    if data.held_out is not None:
        if data.train is not None:
            report.add("leakage", check_leakage(data.train, data.held_out))
        if data.prompts is not None:
            report.add("leakage", check_leakage(data.prompts, data.held_out, name="prompt_leakage"))
