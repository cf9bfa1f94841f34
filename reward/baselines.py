"""What a reward model has to beat: the longer response wins, and a bag of words.

Both see the responses only. Their margins, chosen minus rejected, are read like a reward model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf.data.comparisons import Comparison

TextPair = tuple[str, str]


def text_pairs(comparisons: Sequence[Comparison]) -> list[TextPair]:
    """(chosen, rejected) texts of every strictly ordered pair, in the order of `Comparison.pairs`."""
    return [
        (comparison.responses[chosen].text, comparison.responses[rejected].text)
        for comparison in comparisons
        for chosen, rejected in comparison.pairs()
    ]


def length_margins(pairs: Sequence[TextPair]) -> list[float]:
    """Characters that the chosen text is longer by; 0, which counts as half right, where both are equally long."""
    return [float(len(chosen) - len(rejected)) for chosen, rejected in pairs]


class BagOfWords:
    """Logistic regression on the difference of two texts' TF-IDF vectors: Bradley-Terry with a linear score.

    Words are scikit-learn's default tokens (lower case, two characters and more), term frequencies are
    logarithmic, vectors have length 1, and the ridge penalty is scikit-learn's default, C = 1. There is no
    intercept, so that exchanging the two texts exchanges the verdict; every training pair is given both ways.

    Args:
        pairs: (chosen, rejected) texts to learn from.

    Raises:
        ValueError: there are no pairs, their texts hold no words, or scikit-learn is not installed.
    """

    def __init__(self, pairs: Sequence[TextPair]):
        if not pairs:
            raise ValueError("the bag-of-words baseline got no pairs to learn from: rank at least two responses")
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise ValueError(
                "the bag-of-words baseline needs scikit-learn: pip install 'rlhf-loop[baselines]'"
            ) from error
        self.vectorizer = TfidfVectorizer(sublinear_tf=True)
        self.vectorizer.fit([text for pair in pairs for text in pair])
        self.regression = LogisticRegression(fit_intercept=False, C=1.0, max_iter=1000)
        reversed_pairs = [(rejected, chosen) for chosen, rejected in pairs]
        self.regression.fit(self._differences([*pairs, *reversed_pairs]), np.repeat([1, 0], len(pairs)))

    def margins(self, pairs: Sequence[TextPair]) -> list[float]:
        """Log-odds that the first text of each pair is the chosen one."""
        return [float(margin) for margin in self.regression.decision_function(self._differences(pairs))]

    def _differences(self, pairs: Sequence[TextPair]) -> Any:
        """`[pairs, words]`, sparse."""
        first, second = zip(*pairs, strict=True)
        return self.vectorizer.transform(first) - self.vectorizer.transform(second)
