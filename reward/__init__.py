"""Reward models: their losses, training and use as scorers."""
