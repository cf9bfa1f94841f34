"""Evaluation: judges, metrics with intervals, and reports that stand in one file."""
