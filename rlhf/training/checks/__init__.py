"""What is looked at before a run: tokenizer, template, data, reward model, passes of the model, and the machine."""
