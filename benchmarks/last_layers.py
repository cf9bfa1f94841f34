"""What a pass costs with adapters on the last layers alone, as ratios to adapters on all of them.

python -m benchmarks.last_layers --members 3 --last_layers 4 8
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from rlhf.engine.backbone import Backbone, Role, reward_roles
from rlhf.engine.packing import Group, PackedBatch, pack
from rlhf.engine.sources import resolve_model
from rlhf.training.arguments import ModelArguments

PROMPT, RESPONSE, PAIRS = 120, 90, 3  # tokens; a pass of 900


def main(argv: Sequence[str] | None = None) -> None:
    """Reward models side by side: forward and backward, and scoring, by turns; the least time of each counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.last_layers", allow_abbrev=False, description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="smollm2-135m, a folder or a hub name")
    parser.add_argument("--members", type=int, default=3, help="reward models in the pass")
    parser.add_argument("--last_layers", type=int, nargs="+", default=[4, 8], help="layers with adapters")
    parser.add_argument("--repeats", type=int, default=3, help="counted turns, after one to warm up")
    arguments = parser.parse_args(argv)
    roles = reward_roles(arguments.members)
    backbones = {count: reward_backbone(arguments.model, roles, count) for count in (0, *arguments.last_layers)}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 1000, (PAIRS, PROMPT + 2 * RESPONSE), generator=generator).tolist()
    batch = pack([Group(row[:PROMPT], [row[PROMPT:-RESPONSE], row[-RESPONSE:]]) for row in ids])
    turns = [
        {
            count: (seconds(it, roles, batch, train=True), seconds(it, roles, batch, train=False))
            for count, it in backbones.items()
        }
        for _ in range(1 + arguments.repeats)
    ][1:]
    least = {count: [min(turn[count][part] for turn in turns) for part in (0, 1)] for count in backbones}
    print(f"{arguments.members} reward models, {sum(batch.group_lengths)} tokens, {torch.get_num_threads()} threads")
    print(f"{'adapters on':>14}{'training, s':>14}{'ratio':>8}{'scoring, s':>14}{'ratio':>8}")
    for count, (train, score) in least.items():
        name = f"last {count} layers" if count else "all layers"
        print(f"{name:>14}{train:>14.2f}{train / least[0][0]:>8.2f}{score:>14.2f}{score / least[0][1]:>8.2f}")


def reward_backbone(model: str, roles: Sequence[Role], last_layers: int) -> Backbone:
    """Reward models of random heads, so that gradients are no zeros."""
    backbone = Backbone.load(str(resolve_model(model).backbone), dtype=torch.float32)
    config = ModelArguments(lora_last_layers=last_layers).lora_config(backbone.model)
    for role in roles:
        backbone.add_adapter(role.name, config)
        torch.nn.init.normal_(backbone.add_head(role.name).linear.weight)
    names = [role.name for role in roles]
    backbone.train_only(adapters=names, heads=names)
    return backbone


def seconds(backbone: Backbone, roles: Sequence[Role], batch: PackedBatch, *, train: bool) -> float:
    """Of one pass, with its backward where it trains."""
    begun = time.perf_counter()
    with torch.set_grad_enabled(train):
        outputs = backbone(batch, roles)
        if train:
            torch.stack([outputs[role.name].scores.sum() for role in roles]).sum().backward()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
