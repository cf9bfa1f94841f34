"""What the checks before a run have found: each thing by a name that stays, with its value and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1
NOTE, WARNING, FATAL = "note", "warning", "fatal"
SEVERITIES = (FATAL, WARNING, NOTE)

# Every finding there is, and how bad it can be. docs/doctor.md says of each what it means.
FINDINGS: dict[str, tuple[str, ...]] = {
    # tokenizer and chat template
    "no_chat_template": (FATAL,),
    "template_refuses_roles": (FATAL,),
    "template_drops_content": (FATAL,),
    "template_drops_system": (FATAL, NOTE),
    "no_generation_prompt": (FATAL,),
    "double_bos": (FATAL, NOTE),
    "missing_bos": (FATAL,),
    "bos_mismatch": (FATAL,),
    "no_eos": (FATAL,),
    "eos_mismatch": (FATAL,),
    "end_of_turn_not_a_stop": (WARNING,),
    "no_end_of_turn": (WARNING,),
    "no_pad": (NOTE,),
    "pad_equals_eos": (NOTE,),
    "pad_outside_vocabulary": (FATAL,),
    "vocabulary_too_large": (FATAL,),
    # files of a model
    "no_safetensors": (FATAL,),
    "remote_code": (FATAL, NOTE),
    "generation_settings": (NOTE,),
    "adapter_of_another_base": (FATAL,),
    # policy and reward model together
    "reward_model_of_another_base": (FATAL,),
    "reward_tokenizer_differs": (FATAL, NOTE),
    "reward_template_differs": (FATAL, NOTE),
    # data
    "special_tokens_in_prompts": (WARNING,),
    "special_tokens_in_responses": (FATAL, WARNING),
    "prompts_cut": (FATAL, WARNING),
    "responses_cut": (FATAL, WARNING),
    "longer_than_model": (FATAL,),
    "responses_never_end": (FATAL, WARNING),
    "duplicated_rows": (FATAL, WARNING, NOTE),
    "duplicated_prompts": (WARNING, NOTE),
    "identical_responses": (FATAL, WARNING),
    "contradictory_pairs": (FATAL, WARNING),
    "one_sided_length": (WARNING,),
    "leakage": (FATAL, WARNING),
    "near_leakage": (WARNING,),
    "prompt_leakage": (FATAL, WARNING),
    # passes of the model
    "outputs_not_finite": (FATAL,),
    "ratio_not_one": (FATAL,),
    "first_kl_not_zero": (FATAL,),
    "decoding_gap": (FATAL,),
    # scores of a reward model
    "head_not_scalar": (FATAL,),
    "scores_not_finite": (FATAL,),
    "scores_constant": (FATAL,),
    "scores_depend_on_batch": (FATAL,),
    "scores_depend_on_padding": (FATAL,),
    "reward_padding_side": (FATAL,),
    "reward_pad_missing": (FATAL,),
    "reward_pad_equals_eos": (FATAL,),
    "reward_pad_mismatch": (FATAL,),
    # the machine
    "memory_low": (FATAL,),
    "disk_low": (FATAL,),
    "dtype_slow": (WARNING,),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        name: its key in `FINDINGS`, by which it can be allowed.
        severity: fatal (a run is refused), warning, or note.
        found: what it is, with the value.
        fix: what to do.
        example: a row, token or sample that shows it.
    """

    name: str
    severity: str
    found: str
    fix: str
    example: str | None = None

    def __post_init__(self) -> None:
        assert self.severity in FINDINGS[self.name], f"{self.name} is never {self.severity}"

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "severity", "found", "example", "fix")}


@dataclass
class Report:
    """All findings, in the order of the checks, and what was and was not looked at."""

    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    def add(self, what: str, findings: Iterable[Finding]) -> list[Finding]:
        """Record that `what` was looked at and what was found there, which is returned."""
        if what not in self.checked:
            self.checked.append(what)
        found = list(findings)
        self.findings += [finding for finding in found if finding not in self.findings]
        return found

    def of(self, severity: str) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def refused(self, allowed: Sequence[str]) -> list[Finding]:
        """The fatal findings that are not allowed by name."""
        return [finding for finding in self.of(FATAL) if finding.name not in allowed]

    def text(self, allowed: Sequence[str]) -> str:
        """The findings, worst first, and a line of summary."""
        lines = [line for severity in SEVERITIES for finding in self.of(severity) for line in _lines(finding, allowed)]
        counts = ", ".join(f"{len(self.of(severity))} {severity}" for severity in SEVERITIES)
        verdict = "refused" if self.refused(allowed) else "ready"
        lines.append(f"{verdict}: {counts}; checked: {', '.join(self.checked) or 'nothing'}")
        lines += [f"not checked: {', '.join(self.not_checked)}"] if self.not_checked else []
        return "\n".join(lines)

    def to_dict(self, allowed: Sequence[str]) -> dict[str, Any]:
        """The same for machines."""
        return {
            "schema_version": SCHEMA_VERSION,
            "refused": bool(self.refused(allowed)),
            "counts": {severity: len(self.of(severity)) for severity in SEVERITIES},
            "findings": [
                finding.to_dict() | {"allowed": finding.name in allowed}
                for severity in SEVERITIES
                for finding in self.of(severity)
            ],
            "checked": self.checked,
            "not_checked": self.not_checked,
        }


def check_allowed(names: Sequence[str]) -> None:
    """Raise ValueError for a name that no finding has."""
    for name in names:
        if name not in FINDINGS:
            close = difflib.get_close_matches(name, FINDINGS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ", and docs/doctor.md lists all"
            raise ValueError(f"allow is {name!r}: no finding has that name{hint}")


def by_share(share: float, *, warning: float, fatal: float) -> str:
    """The severity of a share: fatal from one limit on, warning from another, a note under both."""
    return FATAL if share >= fatal else WARNING if share >= warning else NOTE


def shown(text: str, width: int = 80) -> str:
    """The beginning of a text on one line, quoted."""
    line = " ".join(text.split())
    return repr(line if len(line) <= width else line[: width - 3] + "...")


def _lines(finding: Finding, allowed: Sequence[str]) -> list[str]:
    mark = " (allowed)" if finding.severity == FATAL and finding.name in allowed else ""
    lines = [f"{finding.severity:<8}{finding.name}{mark}: {finding.found}"]
    lines += [f"        for example {finding.example}"] if finding.example else []
    return [*lines, f"        fix: {finding.fix}"]
