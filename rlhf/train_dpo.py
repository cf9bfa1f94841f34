"""Train a policy by DPO: `accelerate launch rlhf/train_dpo.py --config configs/dpo.yaml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # as a script, make the packages importable and keep this folder's names out
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rlhf.engine.backbone import Backbone
from rlhf.training.arguments import DTYPES
from rlhf.training.checks.before_run import check_inputs
from rlhf.training.checks.run_data import RunData
from rlhf.training.dpo_arguments import DPOArguments
from rlhf.training.dpo_trainer import DPOTrainer
from rlhf.training.memory_plan import plan_run
from rlhf.training.parser import exit_on_error, parse
from rlhf.training.stage import find_backbone, finish_stage, load_chat, load_comparisons, open_stage


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure on `eval_file`, save."""
    args = parse(DPOArguments, argv)
    with exit_on_error():
        train = load_comparisons(args.train_file, args, "train_file")
        held_out = load_comparisons(args.eval_file, args, "eval_file") if args.eval_file else []
        source = find_backbone(args)
        chat = load_chat(source, args)
        train_examples = args.ranked_groups(chat, train)
        eval_examples = args.ranked_groups(chat, held_out) if held_out else []
        check_inputs(args, source, chat, RunData.of(train_file=train, eval_file=held_out))
        plan_run("dpo", args, source, [example.group for example in train_examples])
        backbone = Backbone.load(str(source.backbone), dtype=DTYPES[args.dtype], quantization=args.quantization)
        backbone.add_adapter("policy", args.lora_config(backbone.model))
        stage = open_stage("dpo", args, source, chat, data_files=[*args.train_file, *args.eval_file])
    trainer = DPOTrainer(backbone, args, train_dataset=train_examples, run=stage.run, backbone_path=stage.backbone_path)
    trainer.train(resume_from_checkpoint=stage.checkpoint)
    trainer.save_model()
    metrics = {"num_train": len(train_examples), "steps": trainer.state.global_step}
    if eval_examples:
        metrics["eval_accuracy"] = trainer.accuracy(eval_examples).to_dict()
        samples = trainer.sample_rows(eval_examples, held_out, stage.chat)
        if stage.run is not None:
            stage.run.log_samples(samples)
    finish_stage(stage, metrics)


if __name__ == "__main__":
    main()
