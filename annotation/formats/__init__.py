"""Forms of prompts with responses that other programs write and people keep in tables."""
