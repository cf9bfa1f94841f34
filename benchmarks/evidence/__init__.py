"""The evidence of `docs/results.md`: experiments run by `python -m benchmarks.evidence`."""
