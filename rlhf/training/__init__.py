"""What the training stages share: arguments, batches, the trainer, checkpoints and the run folder."""
