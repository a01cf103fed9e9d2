"""Optimizers and the learning-rate schedule."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the finished epochs (a float), after a linear warm-up.

    step: the rate is multiplied by `decay_rate` at each of `decay_epochs`. Epochs count from 1 and
        the rate drops when epoch > milestone, as in the released code of DM-KD.
    cosine: from `learning_rate` to `min_lr` over all steps.
    """

    kind: str  # step or cosine
    learning_rate: float
    epochs: int
    warmup_epochs: float = 0.0
    decay_epochs: tuple = ()
    decay_rate: float = 0.1
    min_lr: float = 0.0

    def __call__(self, position):
        if position < self.warmup_epochs:
            return self.learning_rate * position / self.warmup_epochs
        if self.kind == "step":
            drops = sum(math.floor(position) + 1 > milestone for milestone in self.decay_epochs)
            return self.learning_rate * self.decay_rate**drops
        span = max(self.epochs - self.warmup_epochs, 1e-9)
        cosine = 0.5 * (1 + math.cos(math.pi * (position - self.warmup_epochs) / span))
        return self.min_lr + (self.learning_rate - self.min_lr) * cosine


def make_optimizer(name, parameters, learning_rate, weight_decay, momentum=0.9):
    """Returns the optimizer `name`: sgd (with momentum), adam or adamw (with PyTorch's betas)."""
    if name == "sgd":
        return torch.optim.SGD(
            parameters, learning_rate, momentum=momentum, weight_decay=weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(parameters, learning_rate, weight_decay=weight_decay)


def update(optimizer, loss):
    """One optimisation step: backward pass and parameter update."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
