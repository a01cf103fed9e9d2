"""models/generators.py: image sizes, grey images, reset of the first layers."""

import pytest
import torch

from helper.errors import UserError
from models.generators import make_generator


@pytest.mark.parametrize(
    "size, z_shape", [(8, (5,)), (32, (5,)), (64, (5,)), (80, (5, 5, 5)), (224, (5, 14, 14))]
)
def test_images_have_the_size_and_range(size, z_shape):
    torch.manual_seed(0)
    generator = make_generator(5, size)
    assert generator.z_shape == z_shape
    images = generator(torch.randn(2, *z_shape))
    assert images.shape == (2, 3, size, size) and images.dtype == torch.float32
    assert images.min() > 0 and images.max() < 1
    assert not torch.equal(images[:, 0], images[:, 1])


def test_grey_images_have_three_equal_channels():
    images = make_generator(5, 16, grey=True)(torch.randn(2, 5))
    assert images.shape == (2, 3, 16, 16)
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])


def test_published_widths():
    """Parameters counted by hand: weights and biases, and two per channel of a BatchNorm."""

    def convolution(inputs, outputs):
        return 9 * inputs * outputs + outputs

    def doubled(*widths):
        return sum(convolution(a, b) + 2 * b for a, b in zip(widths, widths[1:]))

    small = 257 * 128 * 64 + 2 * 128 + doubled(128, 128, 64) + convolution(64, 3)
    large = convolution(256, 128) + 2 * 128 + doubled(128, 128, 64, 64, 64) + convolution(64, 3)
    for size, count in ((32, small), (224, large)):
        assert (
            sum(parameter.numel() for parameter in make_generator(256, size).parameters()) == count
        )


@pytest.mark.parametrize("size, divisor, example", [(30, 4, 32), (70, 16, 80), (1, 4, 4)])
def test_unsupported_sizes_are_refused(size, divisor, example):
    with pytest.raises(
        UserError, match=f"--image_size {size}: .* multiple of {divisor} pixels, {example} for"
    ):
        make_generator(5, size)


@pytest.mark.parametrize("size", [32, 224])
def test_reset_changes_the_first_layers_only(size):
    torch.manual_seed(0)
    generator = make_generator(64, size)
    before = {name: value.clone() for name, value in generator.named_parameters()}
    generator.reset_first()
    changed = {
        name for name, value in generator.named_parameters() if not torch.equal(value, before[name])
    }
    # The BatchNorm's bias is 0 before and after.
    assert changed == {"first.weight", "first.bias", "first_norm.weight"}
    assert not generator.first.bias.any() and not generator.first_norm.bias.any()
    for layer in (generator.first, generator.first_norm):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.2)
        assert abs(layer.weight.mean().item()) < 0.01
