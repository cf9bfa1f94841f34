"""The evidence of `docs/results.md`: experiments on the embedded model, run by `python -m benchmarks.evidence`."""
