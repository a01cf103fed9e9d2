"""Random numbers as functions of what they belong to: a training step, or one image."""

import numpy as np
import torch


def seed_step(seed, epoch, step, rank):
    """Seeds torch's generators as a function of (seed, epoch, step, rank): mixing, dropout and
    noise follow from it.
    """
    # A linear congruential mix keeps nearby tuples apart without the cost of a SeedSequence at
    # every step.
    value = seed
    for part in (epoch, step, rank):
        value = (value * 6364136223846793005 + part + 1442695040888963407) % 2**63
    torch.manual_seed(value)


def image_generator(seed, class_index, image_index):
    """Returns the CPU generator that belongs to one image; its state depends on these three numbers
    alone.
    """
    state = np.random.SeedSequence([seed, class_index, image_index]).generate_state(1, np.uint64)[0]
    return torch.Generator("cpu").manual_seed(int(state) >> 1)
