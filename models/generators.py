"""The generator of the data-free methods: noise z → images in [0, 1] (arXiv 1904.01186,
2112.06253).
"""

import torch
from torch import nn

from helper.errors import UserError
from helper.image_size import is_small

SLOPE = 0.2  # of LeakyReLU
RESET_STD = 0.02


def make_generator(z_dim, image_size, grey=False):
    """Builds a Generator, channels_last. Raises UserError for an image size that it cannot have."""
    divisor = _divisor(image_size)
    if image_size % divisor:
        next_size = (image_size // divisor + 1) * divisor
        raise UserError(
            f"--image_size {image_size}: the generator needs a multiple of {divisor} pixels, "
            f"{next_size} for instance"
        )
    return Generator(z_dim, image_size, grey).to(memory_format=torch.channels_last)


def _divisor(image_size):
    """Image size / size of the first feature map."""
    return 4 if is_small(image_size) else 16


class Generator(nn.Module):
    """Noise (N, *z_shape) from N(0, 1) → images (N, 3, S, S) in [0, 1].

    z is a vector for small images and a map of 1/16 of the image size for large ones. Each doubling
    stage upsamples its input by two. With `grey` the three channels are equal.
    """

    def __init__(self, z_dim, image_size, grey=False):
        super().__init__()
        side = image_size // _divisor(image_size)
        if is_small(image_size):
            self.z_shape, widths = (z_dim,), (128, 128, 64)
            self.first = nn.Linear(z_dim, 128 * side**2)
            self.before_norm = nn.Unflatten(1, (128, side, side))
            after_norm = nn.Identity()
        else:
            self.z_shape, widths = (z_dim, side, side), (128, 128, 64, 64, 64)
            self.first = nn.Conv2d(z_dim, 128, 3, padding=1)
            self.before_norm = nn.Identity()
            after_norm = nn.LeakyReLU(SLOPE)
        self.body = nn.Sequential(
            after_norm,
            *[_doubling_stage(*pair) for pair in zip(widths, widths[1:])],
            nn.Conv2d(widths[-1], 1 if grey else 3, 3, padding=1),
            nn.Sigmoid(),
        )
        self.first_norm = nn.BatchNorm2d(128)

    def forward(self, z):
        x = self.first_norm(self.before_norm(self.first(z)))  # (N, 128, side, side)
        return self.body(x).expand(-1, 3, -1, -1)

    def reset_first(self):
        """Reinitialises the first layer and its BatchNorm: weights from N(0, 0.02²), biases 0."""
        for layer in (self.first, self.first_norm):
            nn.init.normal_(layer.weight, 0.0, RESET_STD)
            nn.init.zeros_(layer.bias)


def _doubling_stage(c_in, c_out):
    """(N, c_in, H, W) → (N, c_out, 2H, 2W)."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2),
        nn.Conv2d(c_in, c_out, 3, padding=1),
        nn.BatchNorm2d(c_out),
        nn.LeakyReLU(SLOPE),
    )
