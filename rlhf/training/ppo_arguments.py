"""Settings of PPO, with the usual ranges."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf.engine.sources import reward_members
from rlhf.training.arguments import StageArguments, path_field
from rlhf.training.ppo_refusals import refuse_unusable


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
        metadata={
            "help": "Scorers, each `[name=]spec`: a Python function `module:function`, an address, a model.",
            "nargs": "+",
        },
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
        metadata={
            "help": "Of gae. `adapter`: its own, started from the (first) reward adapter; `shared`: a policy's head."
        },
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
            "help": "Mean of the loss over every `token` alike, over each `response` first (GRPO), or `constant`: sums "
            "over responses, by max_new_tokens (Dr. GRPO)."
        },
    )
    clip_range: float = field(default=0.2, metadata={"help": "Clip of the policy ratio, usually .2."})
    clip_range_high: float | None = field(
        default=None, metadata={"help": "Upper side of that clip, .2 to .3 (clip-higher); unset: clip_range."}
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
        refuse_unusable(self)
        if self.advantage_estimator != "gae":
            self.value_model = "none"

    @property
    def prompts_per_minibatch(self) -> int:
        """Prompts of one optimiser step in one process."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def holds_reference(self) -> bool:
        """Whether the reference is an adapter of its own, and not the backbone for the whole run."""
        return self.reference == "start" or self.reference_update_steps > 0
