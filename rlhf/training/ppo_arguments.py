"""Settings of PPO, with the usual ranges."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf.engine.rollout_engines import ENGINES
from rlhf.training.arguments import StageArguments, path_field


@dataclass
class PPOArguments(StageArguments):
    """Settings of PPO. A minibatch is per_device_train_batch_size x gradient_accumulation_steps prompts a process."""

    prompt_file: list[str] = path_field("Prompts to sample from: JSON Lines with a `prompt`.", several=True)
    reward_model: list[str] = path_field(
        "Run folder of the reward model, or of several: their mean is the score then. Or use --scorer.", several=True
    )
    ensemble_penalty: float = field(
        default=0.0, metadata={"help": "Deviations of an ensemble's scores taken off their mean, 0 to 1."}
    )
    scorer: str | None = field(default=None, metadata={"help": "A Python function `module:function` as the scorer."})
    value_model: str = field(
        default="adapter",
        metadata={"help": "`adapter`: its own, started from the (first) reward adapter; `shared`: a policy's head."},
    )
    samples_per_prompt: int = field(default=1, metadata={"help": "Responses per prompt, 1 to 8."})
    max_new_tokens: int = field(default=128, metadata={"help": "Longest response in tokens."})
    temperature: float = field(
        default=1.0, metadata={"help": "Sampling temperature; log-probabilities are taken at it."}
    )
    rollout_engine: str = field(
        default="native",
        metadata={"help": "What samples: `native`, `transformers` (its `generate`) or `vllm`."},
    )
    vllm_server_url: str | None = field(
        default=None,
        metadata={"help": "A vLLM server, such as http://localhost:8000; unset runs vLLM in this process."},
    )
    vllm_gpu_memory: float = field(
        default=0.3, metadata={"help": "Share of a GPU's memory for vLLM in this process, .2 to .6."}
    )
    merged_rollouts: bool | None = field(
        default=None,
        metadata={
            "help": "Whether `native` samples from weights with the adapter merged: faster, but a second copy. Unset: "
            "if memory allows."
        },
    )
    rollout_batch_rows: int = field(default=64, metadata={"help": "Responses decoded side by side."})
    rollout_cuda_graphs: bool = field(
        default=False,
        metadata={"help": "CUDA graphs for the native decoder, on a GPU only; has not been run yet."},
    )
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over each rollout, 1 to 4."})
    num_mini_batches: int = field(default=1, metadata={"help": "Optimiser steps per pass."})
    learning_rate: float = field(default=3e-5, metadata={"help": "1e-5 to 1e-4 with LoRA."})
    adam_epsilon: float = field(default=1e-5, metadata={"help": "Adam's epsilon; 1e-5 in PPO."})
    clip_range: float = field(default=0.2, metadata={"help": "Clip of the policy ratio, usually .2."})
    value_clip_range: float = field(default=0.2, metadata={"help": "Clip of the value change, usually .2."})
    value_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss, usually .1."})
    gamma: float = field(default=1.0, metadata={"help": "Discount, usually 1."})
    gae_lambda: float = field(default=0.95, metadata={"help": "GAE's lambda, usually .95."})
    kl_coef: float = field(default=0.05, metadata={"help": "Weight of the KL penalty, .01 to .2."})
    kl_estimator: str = field(default="k1", metadata={"help": "k1, k2 or k3."})
    kl_target: float | None = field(
        default=None,
        metadata={"help": "Sequence KL in nats to hold by adapting kl_coef; unset keeps kl_coef fixed."},
    )
    kl_horizon: int = field(default=10000, metadata={"help": "Samples over which kl_coef may change by a fifth."})
    missing_eos_penalty: float = field(default=1.0, metadata={"help": "Taken off the score of a response cut off."})
    normalize_scores: bool = field(default=False, metadata={"help": "Centre and scale scores by running moments."})
    whiten_rewards: bool = field(default=False, metadata={"help": "Scale rewards to variance 1, their mean kept."})
    sample_rows: int = field(default=4, metadata={"help": "Samples written to samples.jsonl at every logged step."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward_model is None or isinstance(self.reward_model, str):  # from Python, as from a file
            self.reward_model = [self.reward_model] if self.reward_model else []
        for name in ("save_strategy", "logging_strategy"):
            if str(getattr(self, name).value) == "epoch":
                raise ValueError(f"{name} is epoch: PPO counts rollouts; choose steps or no")
        if self.value_model not in ("adapter", "shared"):
            raise ValueError(f"value_model is {self.value_model!r}: choose adapter or shared")
        if self.lora_dropout:
            raise ValueError(f"lora_dropout is {self.lora_dropout}: PPO needs 0, or the ratio does not start at 1")
        for name in (
            "samples_per_prompt",
            "max_new_tokens",
            "num_ppo_epochs",
            "num_mini_batches",
            "rollout_batch_rows",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("temperature", "clip_range", "value_clip_range", "kl_horizon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        if self.rollout_engine not in ENGINES:
            raise ValueError(f"rollout_engine is {self.rollout_engine!r}: choose {', '.join(ENGINES)}")
        if self.merged_rollouts is False and self.rollout_engine != "native":
            raise ValueError(
                f"merged_rollouts is false, which rollout_engine {self.rollout_engine} cannot: leave it out, or choose "
                "native"
            )
        if not 0 < self.vllm_gpu_memory < 1:
            raise ValueError(f"vllm_gpu_memory is {self.vllm_gpu_memory}: it must lie between 0 and 1, usually .3")
        if self.kl_estimator not in ("k1", "k2", "k3"):
            raise ValueError(f"kl_estimator is {self.kl_estimator!r}: choose k1, k2 or k3")
        if self.kl_target is not None and not self.kl_target > 0:
            raise ValueError(f"kl_target is {self.kl_target}: it must be above 0, usually 3 to 10 nats")
        if self.ensemble_penalty < 0:
            raise ValueError(f"ensemble_penalty is {self.ensemble_penalty}: it must be at least 0, usually up to 1")
        if self.ensemble_penalty and len(self.reward_model) < 2:
            raise ValueError(
                f"ensemble_penalty is {self.ensemble_penalty}, but --reward_model names no ensemble: name several"
            )
        if bool(self.reward_model) == (self.scorer is not None):
            found = "both are" if self.reward_model else "neither is"
            raise ValueError(f"reward_model and scorer: {found} set; give exactly one of them")

    @property
    def prompts_per_minibatch(self) -> int:
        """Prompts of one optimiser step in one process."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps
