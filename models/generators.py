"""Generators of the methods that make images for a student: noise z → images in [0, 1] (arXiv
1904.01186, 2112.06253).

Up to 64 pixels z is a vector, above it a map of 1/16 of the image's size.
"""

import torch
from torch import nn

from helper.errors import UserError

_SMALL = 64  # pixels
_SLOPE = 0.2  # of LeakyReLU
_RESET_STD = 0.02


def make_generator(z_dim, image_size, grey=False):
    """Returns the Generator of images of `image_size` pixels, channels_last; `z_dim` are the
    channels of its noise.

    `grey`: the three channels of an image are one and the same. Raises UserError if the size is not
    one that it makes.
    """
    small = image_size <= _SMALL
    divisor = 4 if small else 16
    side, left_over = divmod(image_size, divisor)
    if left_over:
        raise UserError(
            f"--image_size {image_size}: the generator makes images whose size is a multiple of "
            f"{divisor} "
            f"pixels, {(side + 1) * divisor} for instance"
        )
    if small:
        # z (N, z_dim) → (N, 128, S/4, S/4)
        first, widths = nn.Linear(z_dim, 128 * side**2), (128, 128, 64)
        before, after = nn.Unflatten(1, (128, side, side)), nn.Identity()
    else:
        # z (N, z_dim, S/16, S/16) → (N, 128, S/16, S/16)
        first, widths = nn.Conv2d(z_dim, 128, 3, padding=1), (128, 128, 64, 64, 64)
        before, after = nn.Identity(), nn.LeakyReLU(_SLOPE)
    doublings = [_doubled(*pair) for pair in zip(widths, widths[1:])]
    body = nn.Sequential(
        after, *doublings, nn.Conv2d(widths[-1], 1 if grey else 3, 3, padding=1), nn.Sigmoid()
    )
    z_shape = (z_dim,) if small else (z_dim, side, side)
    return Generator(z_shape, first, before, body).to(memory_format=torch.channels_last)


def _doubled(inputs, outputs):
    """The layers from (N, inputs, H, W) to (N, outputs, 2H, 2W)."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2),
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(_SLOPE),
    )


class Generator(nn.Module):
    """Noise (N, *z_shape) from N(0, 1) → images (N, 3, S, S) in [0, 1]."""

    def __init__(self, z_shape, first, before_norm, body):
        super().__init__()
        self.z_shape, self.first, self.before_norm, self.body = z_shape, first, before_norm, body
        self.first_norm = nn.BatchNorm2d(128)

    def forward(self, z):
        return self.body(self.first_norm(self.before_norm(self.first(z)))).expand(-1, 3, -1, -1)

    def reset_first(self):
        """Draws the first layer and the first BatchNorm anew: weights from N(0, 0.02²), biases
        0.
        """
        for layer in (self.first, self.first_norm):
            nn.init.normal_(layer.weight, 0.0, _RESET_STD)
            nn.init.zeros_(layer.bias)
