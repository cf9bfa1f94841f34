"""Runs `rlhf ppo` and says, before training begins, how much of the backbone this process holds."""

from __future__ import annotations

import sys

from rlhf.train_ppo import main
from rlhf.training.ppo_trainer import PPOTrainer

start = PPOTrainer._start_training


def start_and_say(self, *arguments):  # type: ignore[no-untyped-def]
    model = start(self, *arguments)
    frozen = [parameter for parameter in self.backbone.parameters() if not parameter.requires_grad]
    here = sum(parameter.ds_tensor.numel() for parameter in frozen)
    everywhere = sum(parameter.ds_numel for parameter in frozen)
    whole = sum(parameter.numel() > 0 for parameter in frozen)
    print(f"\nPARTITIONED {whole} whole, {here / everywhere:.3f} here", flush=True)
    return model


PPOTrainer._start_training = start_and_say  # type: ignore[method-assign]
main(sys.argv[1:])
