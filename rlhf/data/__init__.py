"""Comparisons, prompts and demonstrations: the records, their files, and their form as token ids."""
