"""Data-free distillation: methods that synthesise images from the teacher alone, one file each.

Shared parts: `terms` (loss terms), `views` (random crops), `batchnorm` (BatchNorm statistics).
"""

from helper.errors import UserError


class Stopped(Exception):
    """Synthesis was interrupted: the images of the round are discarded."""


def per_process(batch, world):
    """The number of images that each process contributes to a round of `batch` images.

    Raises UserError if `batch` is not a multiple of the number of processes.
    """
    if batch % world.size:
        raise UserError(
            f"--batch {batch} cannot be divided among {world.size} processes: use a multiple of "
            f"{world.size}"
        )
    return batch // world.size
