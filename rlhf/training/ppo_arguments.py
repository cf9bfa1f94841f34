"""Settings of PPO, with the usual ranges."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf.algorithms.ensemble import RULES
from rlhf.engine.rollout_engines import ENGINES
from rlhf.engine.sources import reward_members
from rlhf.training.arguments import StageArguments, path_field
from rlhf.training.monitor_settings import read_limits, read_reactions
from rlhf.training.scoring import FAILED

ESTIMATORS = ("gae", "rloo", "grpo", "reinforce_pp")
GROUP_ESTIMATORS = ("rloo", "grpo")
# Words that a setting may be; the first is the default.
CHOICES: dict[str, tuple[str, ...]] = {
    "advantage_estimator": ESTIMATORS,
    "grpo_scale": ("deviation", "none"),
    "loss_average": ("token", "response", "constant"),
    "kl_in": ("reward", "loss"),
    "kl_estimator": ("k1", "k2", "k3"),
    "missing_eos": ("subtract", "replace"),
    "ensemble_rule": RULES,
    "failed_scores": FAILED,
    "reference": ("backbone", "start"),
}
AT_LEAST_1 = (
    "samples_per_prompt",
    "max_new_tokens",
    "num_ppo_epochs",
    "num_mini_batches",
    "rollout_batch_rows",
    "scorer_batch_size",
)
ABOVE_0 = (
    "temperature",
    "clip_range",
    "value_clip_range",
    "kl_horizon",
    "clip_range_high",
    "score_clip",
    "target_approx_kl",
    "scorer_timeout",
)
AT_LEAST_0 = (
    "entropy_coef",
    "ptx_coef",
    "length_penalty",
    "value_warmup_steps",
    "reference_update_steps",
    "scorer_retries",
)


@dataclass
class PPOArguments(StageArguments):
    """Settings of PPO. A minibatch is per_device_train_batch_size x gradient_accumulation_steps prompts a process."""

    prompt_file: list[str] = path_field("Prompts to sample from: JSON Lines with a `prompt`.", several=True)
    reward_model: list[str] = path_field(
        "Run folder of the reward model, of an ensemble, or of several as one. Beside it or instead: --scorer.",
        several=True,
    )
    reward_model_weight: float = field(
        default=1.0, metadata={"help": "Weight of the reward model in the score, usually 1."}
    )
    ensemble_rule: str = field(
        default="mean", metadata={"help": "Score of an ensemble: `mean` (less ensemble_penalty deviations) or `min`."}
    )
    ensemble_penalty: float = field(
        default=0.0, metadata={"help": "Deviations of an ensemble's scores taken off their mean, 0 to 1."}
    )
    scorer: list[str] = field(
        default_factory=list,
        metadata={"help": "Scorers, each `[name=]spec`, such as a Python function `module:function`.", "nargs": "+"},
    )
    scorer_weights: list[float] = field(
        default_factory=list,
        metadata={"help": "Weight of each scorer in the score, in their order; unset: 1 each.", "nargs": "+"},
    )
    scorer_timeout: float = field(default=30.0, metadata={"help": "Seconds that a scorer may take for a batch."})
    scorer_retries: int = field(default=2, metadata={"help": "Further tries of an endpoint that fails, 0 to 5."})
    scorer_batch_size: int = field(default=16, metadata={"help": "Responses that a scorer is given at once."})
    failed_scores: str = field(
        default="stop",
        metadata={"help": "A response that a scorer gives no score: `stop` the run, or `leave_out` the response."},
    )
    policy_adapter: str | None = path_field("Earlier policy to go on from: a run of PPO or DPO on the same --model.")
    reference: str = field(
        default="backbone",
        metadata={"help": "What the KL is from: `backbone`, or `start`, the policy_adapter as it was."},
    )
    reference_update_steps: int = field(
        default=0, metadata={"help": "Rollouts after which the reference becomes the policy of then; 0: never."}
    )
    advantage_estimator: str = field(
        default="gae",
        metadata={
            "help": "`gae` with a value model; without: `rloo`, `grpo` (2 to 16 samples_per_prompt) or `reinforce_pp`."
        },
    )
    grpo_scale: str = field(
        default="deviation",
        metadata={"help": "GRPO divides by the `deviation` of a prompt's rewards, or `none` (Dr. GRPO)."},
    )
    value_model: str = field(
        default="adapter",
        metadata={"help": "`adapter`: its own, started from the (first) reward adapter; `shared`: a policy's head."},
    )
    value_warmup_steps: int = field(
        default=0, metadata={"help": "First rollouts that teach the value model only, 0 to 20; the policy stands."}
    )
    samples_per_prompt: int = field(default=1, metadata={"help": "Responses per prompt, 1 to 16."})
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
    loss_average: str = field(
        default="token",
        metadata={
            "help": "Mean of the loss over every `token` alike, over each `response` first (GRPO), or over responses "
            "by the `constant` max_new_tokens (Dr. GRPO)."
        },
    )
    clip_range: float = field(default=0.2, metadata={"help": "Clip of the policy ratio, usually .2."})
    clip_range_high: float | None = field(
        default=None, metadata={"help": "Its upper side, .2 to .3 (clip-higher); unset: clip_range."}
    )
    dual_clip: float | None = field(
        default=None, metadata={"help": "Bound of the loss where the advantage is negative, usually 3; unset: none."}
    )
    entropy_coef: float = field(default=0.0, metadata={"help": "Weight of an entropy bonus, 0 to .01."})
    ptx_file: list[str] = path_field(
        "Demonstrations that the policy keeps learning beside its rollouts: JSON Lines.", several=True
    )
    ptx_coef: float = field(
        default=0.0, metadata={"help": "Weight of their log-likelihood per token, .01 to 1; needs ptx_file."}
    )
    target_approx_kl: float | None = field(
        default=None,
        metadata={"help": "A minibatch with 1.5 times this approx_kl ends a rollout's epochs; .01 to .1; unset: off."},
    )
    value_clip_range: float = field(default=0.2, metadata={"help": "Clip of the value change, usually .2."})
    value_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss, usually .1."})
    gamma: float = field(default=1.0, metadata={"help": "Discount, usually 1."})
    gae_lambda: float = field(default=0.95, metadata={"help": "GAE's lambda, usually .95."})
    kl_coef: float = field(default=0.05, metadata={"help": "Weight of the KL penalty, .01 to .2."})
    kl_in: str = field(default="reward", metadata={"help": "Whether the KL is part of the `reward` or of the `loss`."})
    kl_estimator: str = field(
        default="k1", metadata={"help": "k1, k2 or k3, in the reward usually k1, in the loss k2 or k3."}
    )
    kl_target: float | None = field(
        default=None,
        metadata={"help": "Sequence KL in nats to hold by adapting kl_coef; unset keeps kl_coef fixed."},
    )
    kl_horizon: int = field(default=10000, metadata={"help": "Samples over which kl_coef may change by a fifth."})
    normalize_scores: bool = field(default=False, metadata={"help": "Centre and scale scores by running moments."})
    score_clip: float | None = field(
        default=None, metadata={"help": "Largest size of a score, after normalising; 3 to 10; unset: any."}
    )
    missing_eos_penalty: float = field(default=1.0, metadata={"help": "Taken off the score of a response cut off."})
    missing_eos: str = field(
        default="subtract",
        metadata={"help": "`subtract` that penalty, or `replace` the score by minus the penalty."},
    )
    length_penalty: float = field(
        default=0.0,
        metadata={"help": "Taken off at max_new_tokens, in proportion from length_soft_limit on; 0 to 1."},
    )
    length_soft_limit: int | None = field(
        default=None, metadata={"help": "Tokens from which length_penalty grows; below max_new_tokens."}
    )
    whiten_rewards: bool = field(default=False, metadata={"help": "Scale rewards to variance 1, their mean kept."})
    judge_model: str | None = path_field(
        "Run folder of a reward model that is not in the score: it watches, and the policy it likes best is kept."
    )
    judge: str | None = field(default=None, metadata={"help": "A scorer as the judge, in place of --judge_model."})
    keep: str | None = field(
        default=None, metadata={"help": "Policy at the end: `best` by the judge, the default with one, or `last`."}
    )
    monitors: str = field(
        default="default",
        metadata={"help": "At an alarm: `default` as in docs/monitors.md, or for all monitors `stop`, `warn`, `off`."},
    )
    monitor_reactions: list[str] = field(
        default_factory=list, metadata={"help": "For one monitor: `length=off eos=stop kl_target=warn`.", "nargs": "+"}
    )
    monitor_limits: list[str] = field(
        default_factory=list, metadata={"help": "Limits other than usual: `length=2 entropy=.1`.", "nargs": "+"}
    )
    kl_budget: float | None = field(
        default=None, metadata={"help": "Sequence KL in nats above which the run stops, usually 10 to 50; unset: none."}
    )
    sample_rows: int = field(default=4, metadata={"help": "Samples written to samples.jsonl at every logged step."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("reward_model", "scorer", "ptx_file"):  # from Python, as from a file
            value = getattr(self, name)
            if value is None or isinstance(value, str):
                setattr(self, name, [value] if value else [])
        self.reward_model = [str(member) for folder in self.reward_model for member in reward_members(folder)]
        for name in ("save_strategy", "logging_strategy"):
            if str(getattr(self, name).value) == "epoch":
                raise ValueError(f"{name} is epoch: PPO counts rollouts; choose steps or no")
        if self.lora_dropout:
            raise ValueError(f"lora_dropout is {self.lora_dropout}: PPO needs 0, or the ratio does not start at 1")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose {' or '.join(choices)}")
        for names, least in ((AT_LEAST_1, 1), (AT_LEAST_0, 0)):
            for name in names:
                if getattr(self, name) < least:
                    raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        for name in ABOVE_0:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}: it must be above 0")
        self._check_estimator()
        self._check_losses()
        self._check_scores()
        if self.rollout_engine not in ENGINES:
            raise ValueError(f"rollout_engine is {self.rollout_engine!r}: choose {', '.join(ENGINES)}")
        if self.merged_rollouts is False and self.rollout_engine != "native":
            raise ValueError(
                f"merged_rollouts is false, which rollout_engine {self.rollout_engine} cannot: leave it out, or choose "
                "native"
            )
        if not 0 < self.vllm_gpu_memory < 1:
            raise ValueError(f"vllm_gpu_memory is {self.vllm_gpu_memory}: it must lie between 0 and 1, usually .3")

    def _check_estimator(self) -> None:
        estimator = self.advantage_estimator
        if estimator == "gae":
            if self.value_model not in ("adapter", "shared"):
                raise ValueError(f"value_model is {self.value_model!r}: choose adapter or shared")
        else:
            if self.value_model not in ("adapter", "none"):
                raise ValueError(
                    f"value_model is {self.value_model!r}, but advantage_estimator {estimator} has no value model: "
                    "leave it out, or choose gae"
                )
            if self.value_warmup_steps:
                raise ValueError(
                    f"value_warmup_steps is {self.value_warmup_steps}, but advantage_estimator {estimator} has no "
                    "value model: leave it out, or choose gae"
                )
            self.value_model = "none"
        if self.value_warmup_steps and self.weight_decay:
            raise ValueError(
                f"weight_decay is {self.weight_decay}: the policy would move in value_warmup_steps; take 0 for one"
            )
        if estimator not in GROUP_ESTIMATORS:
            return
        if self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt is {self.samples_per_prompt}: advantage_estimator {estimator} compares responses "
                "to one prompt and needs at least 2, usually 4 to 16"
            )
        if self.whiten_rewards:
            raise ValueError(f"whiten_rewards is true: {estimator} rewards whole responses; leave it out")
        if self.gamma != 1:
            raise ValueError(f"gamma is {self.gamma}: {estimator} rewards whole responses, undiscounted; leave it 1")

    def _check_losses(self) -> None:
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "kl_estimator is 'k1': in the loss its gradient is 0 on average and holds nothing; choose k2 or k3, or "
                "--kl_in reward"
            )
        if self.kl_target is not None and not self.kl_target > 0:
            raise ValueError(f"kl_target is {self.kl_target}: it must be above 0, usually 3 to 10 nats")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip is {self.dual_clip}: it must be above 1, usually 3")
        if bool(self.ptx_file) != bool(self.ptx_coef):
            raise ValueError(
                f"ptx_coef is {self.ptx_coef} and ptx_file is {self.ptx_file}: give both or neither, with a weight "
                "above 0"
            )
        if self.reference == "start" and self.policy_adapter is None:
            raise ValueError("reference is start, which is the backbone without --policy_adapter: leave it out")

    def _check_scores(self) -> None:
        soft = self.length_soft_limit
        if bool(self.length_penalty) != (soft is not None):
            raise ValueError(
                f"length_penalty is {self.length_penalty} and length_soft_limit is {soft}: give both or neither"
            )
        if soft is not None and not 0 <= soft < self.max_new_tokens:
            raise ValueError(
                f"length_soft_limit is {soft}: it must be at least 0 and below max_new_tokens ({self.max_new_tokens})"
            )
        if self.missing_eos_penalty < 0:
            raise ValueError(f"missing_eos_penalty is {self.missing_eos_penalty}: it must be at least 0")
        self._check_watch()
        if self.ensemble_penalty < 0:
            raise ValueError(f"ensemble_penalty is {self.ensemble_penalty}: it must be at least 0, usually up to 1")
        if self.ensemble_penalty and len(self.reward_model) < 2:
            raise ValueError(
                f"ensemble_penalty is {self.ensemble_penalty}, but --reward_model names no ensemble: name several"
            )
        if self.ensemble_rule == "min" and len(self.reward_model) < 2:
            raise ValueError("ensemble_rule is min, but --reward_model names no ensemble: name several")
        if self.ensemble_rule == "min" and self.ensemble_penalty:
            raise ValueError(
                f"ensemble_penalty is {self.ensemble_penalty}: the minimum takes off enough; leave it out, or choose "
                "--ensemble_rule mean"
            )
        if not self.reward_model and not self.scorer:
            raise ValueError("reward_model and scorer: neither is set; give at least one of them")
        if self.scorer_weights and len(self.scorer_weights) != len(self.scorer):
            raise ValueError(
                f"scorer_weights has {len(self.scorer_weights)} weights for {len(self.scorer)} scorers: give one each"
            )

    def _check_watch(self) -> None:
        """Refuse what judge and monitors cannot use."""
        if self.judge_model and self.judge:
            raise ValueError("judge_model and judge: both are set; give one of them")
        has_judge = bool(self.judge_model or self.judge)
        if self.keep not in (None, "best", "last"):
            raise ValueError(f"keep is {self.keep!r}: choose best or last")
        if self.keep == "best" and not has_judge:
            raise ValueError("keep is best, but nobody judges: name a --judge_model or a --judge")
        if self.judge_model and {self.judge_model, *map(str, reward_members(self.judge_model))} & {*self.reward_model}:
            raise ValueError(
                f"judge_model is {self.judge_model}, which is in the score too: a judge must stand outside of it"
            )
        if self.kl_budget is not None and not self.kl_budget > 0:
            raise ValueError(f"kl_budget is {self.kl_budget}: it must be above 0, usually 10 to 50 nats")
        read_reactions(self.monitors, self.monitor_reactions)
        read_limits(self.monitor_limits)

    @property
    def prompts_per_minibatch(self) -> int:
        """Prompts of one optimiser step in one process."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def holds_reference(self) -> bool:
        """Whether the reference is an adapter of its own, and not the backbone for the whole run."""
        return self.reference == "start" or self.reference_update_steps > 0
