"""Annotation: who says which response is better. Runs without torch."""
