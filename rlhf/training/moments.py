"""Running mean and deviation of scores, part of every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RunningMoments:
    """Mean and biased variance of all values seen, merged batch by batch (Chan, Golub and LeVeque, 1979)."""

    count: float = 0.0
    mean: float = 0.0
    variance: float = 0.0

    def update(self, count: float, mean: float, variance: float) -> None:
        """Merge a batch of `count` values with this mean and biased variance."""
        total = self.count + count
        delta = mean - self.mean
        spread = self.variance * self.count + variance * count + delta * delta * self.count * count / total
        self.mean += delta * count / total
        self.variance = spread / total
        self.count = total

    @property
    def deviation(self) -> float:
        return max(self.variance, 1e-12) ** 0.5
