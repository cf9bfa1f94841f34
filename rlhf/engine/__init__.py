"""Models as the stages need them: where they come from, how they are packed, run and sampled."""
