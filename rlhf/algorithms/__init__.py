"""Losses and estimators as pure functions on tensors, each with its equation and paper."""
