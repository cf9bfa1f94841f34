"""Statistics of votes: agreement, annotators, bias, ratings of policies and one label per item. Pure functions."""
