"""A trained reward model, ready to score responses: what evaluation and judging use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from rlhf.data.chat import Chat
from rlhf.data.comparisons import Comparison, Response
from rlhf.engine.adapters import add_adapter_from, load_head_weights
from rlhf.engine.backbone import Backbone, reward_roles
from rlhf.engine.packing import Group, pack
from rlhf.engine.sources import resolve_model, reward_members
from rlhf.training.arguments import DTYPES
from rlhf.training.run_folder import CONFIG
from rlhf.training.stage import load_tokenizer


class RewardModel:
    """The reward model of a run of `rlhf reward`, in the precision and with the maximum lengths it was trained with.

    A run that trained an ensemble stands for all of its members, whose scores take one pass; a member's own folder for
    that member alone.

    Args:
        folder: the run's folder.
        batch_size: prompts per forward pass.

    Raises:
        ValueError: the folder holds no finished reward model.
    """

    def __init__(self, folder: str | Path, *, batch_size: int = 8):
        folder = Path(folder)
        members = reward_members(folder)
        for member in members:
            if not (member / "reward_head.safetensors").is_file() or not (member / CONFIG).is_file():
                raise ValueError(f"{member} holds no finished reward model; give the --output_dir of rlhf reward")
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        self.name = folder.name
        self.batch_size = batch_size
        self.source = resolve_model(folder)
        tokenizer = load_tokenizer(self.source.backbone)
        self.chat = Chat(tokenizer, config["max_prompt_length"], config["max_response_length"])
        self.backbone = Backbone.load(
            str(self.source.backbone),
            dtype=DTYPES[config["dtype"]],
            quantization=config.get("quantization", "none"),
        )
        self.roles = reward_roles(len(members))
        for role, member in zip(self.roles, members, strict=True):
            add_adapter_from(self.backbone, role.name, member)
            self.backbone.add_head(role.name)
            load_head_weights(self.backbone, role.name, member, saved_as="reward")
        if torch.cuda.is_available():
            self.backbone.to("cuda")
        self.backbone.eval()

    def score(self, comparisons: Sequence[Comparison], *, progress: bool = True) -> list[list[float]]:
        """`[comparisons][responses]` scores, of an ensemble the mean; with a progress bar unless `progress` is off."""
        members = self.member_scores(comparisons, progress=progress)
        return [
            [sum(scores) / len(scores) for scores in zip(*rows, strict=True)] for rows in zip(*members, strict=True)
        ]

    @torch.no_grad()
    def member_scores(self, comparisons: Sequence[Comparison], *, progress: bool = True) -> list[list[list[float]]]:
        """`[members][comparisons][responses]` scores."""
        members: list[list[list[float]]] = [[] for _ in self.roles]
        label = f"score with {self.name}"
        for start in tqdm(range(0, len(comparisons), self.batch_size), desc=label, unit="batch", disable=not progress):
            groups = [self._encode(comparison) for comparison in comparisons[start : start + self.batch_size]]
            batch = pack(groups).to(self.backbone.device)
            outputs = self.backbone(batch, self.roles)
            for scores, role in zip(members, self.roles, strict=True):
                flat = iter(outputs[role.name].scores.float().tolist())
                scores += [[next(flat) for _ in group.response_ids] for group in groups]
        return members

    def _encode(self, comparison: Comparison) -> Group:
        responses = [self._encode_response(response) for response in comparison.responses]
        return Group(self.chat.encode_prompt(comparison.prompt), responses)

    def _encode_response(self, response: Response) -> list[int]:
        # a response that was cut off before it had any text is scored as an empty one
        finished = response.finish_reason != "length" or not response.text
        return self.chat.encode_response(response.text, finished=finished)
