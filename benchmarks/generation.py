"""Sampling K responses to each prompt, here and by `generate` of transformers, until each ends or is too long.

    python -m benchmarks.generation --peer --samples_per_prompt 4 --data hh_harmless --json generation.json

A turn of ours begins with merging the policy's adapter, as every rollout of PPO does. The peer samples as trainers
do that call `generate` on a model with adapters; `--peer_merged` merges them for it, outside of its time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.case import Case
from benchmarks.cost import rollout_seconds
from benchmarks.machine import Rates
from benchmarks.shapes import Shape, causal_lm
from benchmarks.side_by_side import Benchmark, Numbers, run
from benchmarks.worker import PhaseTimer, Turns
from benchmarks.workload import Workload, prompts_workload


def ours(case: Case, work: Workload, turns: Turns, scratch: str) -> None:
    """Merge and sample, as PPO's first phase does, on the engine that it samples from."""
    from rlhf.engine.backbone import Backbone
    from rlhf.engine.generation import Sampling
    from rlhf.engine.rollout_engines import build_engine
    from rlhf.training.arguments import ModelArguments

    backbone = Backbone(causal_lm(case))
    settings = ModelArguments(lora_r=case.lora_r, lora_alpha=2 * case.lora_r)
    backbone.add_adapter("policy", settings.lora_config(backbone.model))
    engine = build_engine(
        case.rollout_engine,
        backbone,
        "policy",
        stop_ids=set(work.stop_ids),
        pad_id=work.pad_id,
        max_rows=case.batch * case.samples_per_prompt,
        exchange_folder=Path(scratch),
    )
    merging, sampling = PhaseTimer(case.device), PhaseTimer(case.device)
    sync, sample = merging.wrap(engine.sync), sampling.wrap(engine.sample)
    while not turns.all_taken:
        turns.start()
        sync()
        # a new seed each turn, as in training
        wanted = Sampling(case.samples_per_prompt, case.response_length, 1.0, case.seed + turns.taken)
        lengths = [len(response.token_ids) for responses in sample(work.prompts(), wanted) for response in responses]
        phases = {"merge": merging.seconds[-1], "sample": sampling.seconds[-1]}
        turns.finish(lengths=lengths, phases=phases)


def peer(case: Case, work: Workload, turns: Turns, scratch: str) -> dict[str, Any]:
    """`generate` on all prompts at once, padded on the left."""
    from peft import get_peft_model

    from benchmarks.trl_peer import peer_lora

    policy = get_peft_model(causal_lm(case), peer_lora(case, "CAUSAL_LM")).eval()
    model = policy.merge_and_unload() if case.peer_merged else policy
    pad_id = work.pad_id if case.peer_settings == "tuned" else work.own_pad_id
    longest = max(map(len, work.prompts()))
    input_ids = torch.tensor([[pad_id] * (longest - len(ids)) + list(ids) for ids in work.prompts()])
    lengths = torch.tensor([len(ids) for ids in work.prompts()])
    mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
    stop_ids = torch.tensor(work.stop_ids)
    settings = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "num_return_sequences": case.samples_per_prompt,
        "max_new_tokens": case.response_length,
        "eos_token_id": work.stop_ids,
        "pad_token_id": pad_id,
    }
    torch.manual_seed(case.seed)
    while not turns.all_taken:
        turns.start()
        output = model.generate(input_ids.to(case.device), attention_mask=mask.to(case.device), **settings)
        responses = output[:, longest:].cpu()
        turns.finish(lengths=response_lengths(responses, stop_ids), steps=responses.shape[1])
    return {"settings": settings | {"merged": case.peer_merged}}


def response_lengths(responses: torch.Tensor, stop_ids: torch.Tensor) -> list[int]:
    """Tokens of each row up to and with its first stop token."""
    ended = torch.isin(responses, stop_ids)
    first = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, responses.shape[1])
    lengths: list[int] = first.tolist()
    return lengths


def tokens(case: Case, work: Workload, side: str, said: Sequence[Numbers]) -> tuple[int, int]:
    """Prompt tokens that were read and tokens that were sampled.

    With padding: the rows of `generate`, the peer's or ours, run to the end of the longest. Our decoder pads nothing
    and reads each prompt once; rows that have ended it drops at once on a CPU, on a GPU every few steps.
    """
    lengths = [len(ids) for ids in work.prompts()]
    sampled = sum(sum(turn["lengths"]) for turn in said)
    if side == "ours" and case.rollout_engine != "transformers":
        computed = sum(decoded_tokens(case, length) for turn in said for length in turn["lengths"])
        return sum(lengths) * len(said) + sampled, sum(lengths) * len(said) + computed
    rows = len(lengths) * case.samples_per_prompt
    steps = sum(turn["steps"] if side == "peer" else max(turn["lengths"]) for turn in said)
    return sum(lengths) * case.samples_per_prompt * len(said) + sampled, rows * (max(lengths) * len(said) + steps)


def decoded_tokens(case: Case, length: int) -> int:
    """Tokens that our decoder draws in the row of a response of this length, until it drops the row."""
    from rlhf.engine.generation import STEPS_BETWEEN_CHECKS

    if case.device == "cpu" or case.rollout_engine == "vllm":  # which drops rows as they end
        return length
    return min(math.ceil(length / STEPS_BETWEEN_CHECKS) * STEPS_BETWEEN_CHECKS, case.response_length)


def limits(case: Case, shape: Shape, work: Workload, said: Numbers, step: int, rates: Rates) -> Mapping[str, float]:
    """Merging reads and writes every weight of the body; then the decoding of what was sampled."""
    weight_bytes = case.torch_dtype.itemsize
    sample = rollout_seconds(shape, work.prompts(), said["lengths"], rates, weight_bytes=weight_bytes)
    return {"merge": 2 * shape.body * weight_bytes / rates.copy, "sample": sample}


BENCHMARK = Benchmark(
    name="generation",
    peer="transformers generate",
    flags=("samples_per_prompt", "rollout_engine", "peer_merged"),
    workload=prompts_workload,
    tokens=tokens,
    limits=limits,
    training=("sample",),
)

if __name__ == "__main__":
    run(BENCHMARK)
