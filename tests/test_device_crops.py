"""Images cropped on the device: those of the CPU's loader, from the same random numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import loader as loaders
from dataset import transforms
from dataset.device_crops import resized_crop
from dataset.image_set import ImageSet
from dataset.loader import Loader, ResidentLoader
from helper.distributed import World
from helper.errors import UserError

CPU = torch.device("cpu")


def noise_images(count, size):
    """uint8 (count, size, size, 3): smooth shapes and noise."""
    rng = np.random.default_rng(0)
    waves = np.sin(
        np.arange(size)[:, None] * rng.random((count, 1, 1, 3)) + rng.random(size)[:, None]
    )
    noise = rng.normal(0, 0.2, (count, size, size, 3))
    return (255 * np.clip(waves / 2 + 0.5 + noise, 0, 1)).astype(np.uint8)


def equal_batches(one, other):
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for batch, same in pairs for a, b in zip(batch, same, strict=True))


@pytest.mark.parametrize("world_size", [1, 2])
def test_small_images_on_the_device_are_those_of_the_loader(world_size):
    images = ImageSet(noise_images(50, 32), np.arange(50) % 7)
    for rank in range(world_size):
        order = {"seed": 3, "rank": rank, "world_size": world_size}
        loader = Loader(images, transforms.training(32), 16, **order)
        resident = ResidentLoader(images, transforms.training(32), 16, CPU, **order)
        assert len(loader) == len(resident) == 3
        for epoch, first_step in ((0, 0), (5, 2)):
            assert equal_batches(
                loader.epoch_batches(epoch, first_step), resident.epoch_batches(epoch, first_step)
            )
        order["val_batch_size"] = 10
        loader = Loader(images, transforms.validation(32), 16, **order)
        resident = ResidentLoader(images, transforms.validation(32), 16, CPU, **order)
        assert equal_batches(loader.ordered_batches(), resident.ordered_batches())


def test_a_gpu_keeps_larger_sets_of_small_files(tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "MEMORY_LIMIT", 10_000)
    monkeypatch.setattr(loaders, "GPU_MEMORY_LIMIT", 20_000)
    paths = [tmp_path / f"{number}.png" for number in range(4)]  # 12,288 bytes of pixels
    for path in paths:
        Image.new("RGB", (32, 32)).save(path)
    kinds = {"cuda": ResidentLoader, "cpu": Loader}
    for device, kind in kinds.items():
        world = World(0, 1, torch.device(device))
        made = loaders.make_loader(ImageSet(paths, None), transforms.training(32), 2, world)
        assert type(made) is kind and made.images.in_memory == (device == "cuda")


def test_unlabelled_images_on_the_device():
    images = ImageSet(noise_images(8, 32), None)
    resident = ResidentLoader(images, transforms.validation(32), 4, CPU, val_batch_size=3)
    batches = list(resident.ordered_batches())
    assert [len(labels) for _, labels in batches] == [3, 3, 2]
    assert all((labels == -1).all() for _, labels in batches)


@pytest.mark.parametrize("source, size", [(256, 224), (80, 72), (96, 128)])
def test_resizing_is_that_of_pillow(source, size):
    pixels, rng = noise_images(24, source), np.random.default_rng(1)
    boxes = [transforms.Large(size).crop_box(source, source, rng) for _ in pixels]
    boxes[0] = (0, 0, source, source)
    expected = np.stack(
        [
            np.asarray(Image.fromarray(image).resize((size, size), Image.BILINEAR, box=box))
            for image, box in zip(pixels, boxes, strict=True)
        ]
    )
    result = resized_crop(torch.from_numpy(pixels), torch.tensor(boxes), size).numpy()
    difference = np.abs(result.astype(int) - expected)
    assert difference.max() <= 2 and np.mean(difference > 1) < 1e-3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_another_size_is_named(tmp_path, workers):
    """In a folder whose manifest tells the size, which the crops on a GPU rely on."""
    for number, size in enumerate((80, 80, 81)):
        Image.new("RGB", (size, 80)).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    images = ImageSet(paths, None, origin={"manifest": {"settings": {"image_size": 80}}})
    loader = Loader(images, transforms.Large(72), 3, workers=workers, crop_device=CPU)
    with pytest.raises(UserError, match=r"2\.png is 81×80, .* 80×80"):
        list(loader.epoch_batches(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_large_images_on_the_device_are_those_of_the_loader(workers):
    images = ImageSet(noise_images(12, 80), np.arange(12))
    options = {"seed": 1, "workers": workers}
    loader = Loader(images, transforms.Large(72), 4, **options)
    on_device = Loader(images, transforms.Large(72), 4, crop_device=CPU, **options)
    for epoch, first_step in ((0, 0), (2, 1)):
        batches = zip(
            loader.epoch_batches(epoch, first_step),
            on_device.epoch_batches(epoch, first_step),
            strict=True,
        )
        for (pixels, labels), (same_pixels, same_labels) in batches:
            assert torch.equal(labels, same_labels)
            assert (pixels.int() - same_pixels.int()).abs().max() <= 2
