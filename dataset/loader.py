"""Batches of uint8 images. Order, crop and flip of an image depend on (seed, epoch, image) only."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from tempfile import gettempdir

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from dataset.device_crops import padded_crop, resized_crop
from dataset.transforms import Large, Small
from helper.errors import UserError
from helper.image_size import is_small

MEMORY_LIMIT = 1 << 30  # bytes of decoded images that are kept in memory
GPU_MEMORY_LIMIT = 2 << 30  # the same beside a GPU: 400,000 images of 32×32, which live on it
LONGEST_TMPDIR = 75  # bytes; multiprocessing adds 32 for its sockets, whose limit is 107
GPU_VAL_BATCH_SIZE = 512  # per process, of small images


class TransformedSet(Dataset):
    """ImageSet with a transform: item (epoch, index) is (uint8 image (H, W, 3), label).

    For a damaged file the item is its UserError, which the main process raises unchanged.
    """

    def __init__(self, images, transform, seed=0):
        self.images, self.transform, self.seed = images, transform, seed

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        epoch, index = key
        try:
            image = self.load(index)
        except UserError as error:
            return error
        if not self.images.shrunk:
            image = self.transform.shrink(image)
        rng = self.transform.generator(self.seed, epoch, index)
        return *self.arrays(image, rng), self.images.label(index)

    def load(self, index):
        """Image `index` as a PIL image."""
        return self.images.load(index)

    def arrays(self, image, rng):
        """The arrays of an item, given the image as a PIL image and its numpy Generator."""
        return (np.asarray(self.transform(image, rng)),)


class UncroppedSet(TransformedSet):
    """Item (epoch, index) is (uint8 image (H, W, 3), window, label), for the transform `Large`.

    The window is (left, top, right, bottom, flip): the box in pixels, and 0 or 1.
    The item is a UserError if the image has not the size of the others.
    """

    def load(self, index):
        image, size = super().load(index), self.images.pixel_size
        if size not in (None, (image.height, image.width)):
            raise UserError(
                f"{self.images.images[index]} is {image.width}×{image.height}, and the manifest of "
                f"its folder says {size[1]}×{size[0]}: resize it, or remove manifest.json"
            )
        return image

    def arrays(self, image, rng):
        return np.asarray(image), np.array([*self.transform.window(*image.size, rng)])


def _collate(items):
    """Stacks the arrays of items and their labels (N,) to tensors, or returns a UserError item."""
    for item in items:
        if isinstance(item, UserError):
            return item
    *arrays, labels = zip(*items, strict=True)
    batch = *(torch.from_numpy(np.stack(array)) for array in arrays), torch.tensor(labels)
    if get_worker_info() is not None:
        # Here an error, such as a full /dev/shm, reaches the main process. The queue would move the
        # batch to shared memory later, in a thread whose errors are lost.
        for tensor in batch:
            tensor.share_memory_()
    return batch


def _restore_signals(_):
    # Workers inherit the SIGTERM handler that saves the run; they must simply end.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def keep_in_memory(images, shrink, limit=MEMORY_LIMIT):
    """Decodes and shrinks the files of an ImageSet into an array, unless it exceeds `limit` bytes.

    shrink: deterministic part of the transform, PIL image → PIL image.
    """
    if images.in_memory:
        return images
    first = np.asarray(shrink(images.load(0)))
    if first.nbytes * len(images) > limit:
        return images
    array = np.empty((len(images), *first.shape), np.uint8)

    def read(index):
        array[index] = shrink(images.load(index))

    # Threads are sufficient: Pillow releases the GIL while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(read, range(len(images)))
        for _ in tqdm(
            jobs, total=len(images), desc="reading", unit="image", leave=False, mininterval=1
        ):
            pass
    return replace(images, images=array, shrunk=True)


def has_size(images, size):
    """Whether an ImageSet is an array of size × size pixels."""
    return images.in_memory and images.images.shape[1:3] == (size, size)


class Batches:
    """Order of the training images: the indices of each batch of an epoch, for one rank.

    A permutation that depends on (seed, epoch) is cut into batches of `batch_size` indices, which
    the ranks divide equally. An incomplete last batch is dropped unless it is the only one. Raises
    UserError if a batch cannot be divided.
    """

    def __init__(self, count, batch_size, *, seed=0, rank=0, world_size=1):
        if batch_size % world_size:
            raise UserError(
                f"--batch_size {batch_size} is not divisible by the {world_size} processes: "
                f"use a multiple of {world_size}"
            )
        if count < world_size:
            raise UserError(f"{count} images are too few for {world_size} processes")
        self.count, self.seed, self.rank, self.world_size = count, seed, rank, world_size
        self.batch_size = min(batch_size, count - count % world_size)
        self.rank_batch_size = self.batch_size // world_size

    def __len__(self):
        """Number of steps per epoch."""
        return self.count // self.batch_size

    def indices(self, epoch, first_step=0):
        """Yields this rank's indices, an int64 array per step, from `first_step` of `epoch` on."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        for step in range(first_step, len(self)):
            start = step * self.batch_size + self.rank * self.rank_batch_size
            yield order[start : start + self.rank_batch_size]


class TensorLoader(Batches):
    """Training batches of tensors in memory, such as latents and their labels."""

    def __init__(self, *tensors, batch_size, **order):
        """order: seed, rank and world_size of `Batches`."""
        super().__init__(len(tensors[0]), batch_size, **order)
        self.tensors = tensors

    def epoch_batches(self, epoch, first_step=0):
        """Yields this rank's batches of `epoch` (from 0), from `first_step` on."""
        for indices in self.indices(epoch, first_step):
            yield [tensor[torch.from_numpy(indices)] for tensor in self.tensors]


class Loader(Batches):
    """Batches of an ImageSet: (uint8 images (N, H, W, 3), int64 labels (N,)).

    val_batch_size: of `ordered_batches`, all ranks together (default: batch_size); workers:
    decoding processes of all ranks together (default: 0 for images in memory, else the number of
    cores); pin: whether the tensors are pinned; crop_device: crops images with the transform
    `Large`, which must have one size, on this device; order: seed, rank and world_size of
    `Batches`.
    """

    def __init__(
        self,
        images,
        transform,
        batch_size,
        *,
        val_batch_size=None,
        workers=None,
        pin=False,
        crop_device=None,
        **order,
    ):
        super().__init__(len(images), batch_size, **order)
        self.images, self.transform, self.pin = images, transform, pin
        self.crop_device = crop_device
        self.rank_val_batch_size = -(-(val_batch_size or self.batch_size) // self.world_size)
        if workers is not None:
            self.rank_workers = -(-workers // self.world_size)
        elif images.in_memory:
            self.rank_workers = 0
        else:
            self.rank_workers = max(1, (os.cpu_count() or 1) // self.world_size)

    def epoch_batches(self, epoch, first_step=0):
        """Yields this rank's training batches of `epoch` (from 0), from `first_step` on."""
        return self._load(epoch, list(self.indices(epoch, first_step)))

    def ordered_batches(self):
        """Yields each image of this rank exactly once: images rank, rank + world_size, …"""
        indices = np.arange(self.rank, self.count, self.world_size)
        starts = range(0, len(indices), self.rank_val_batch_size)
        return self._load(0, [indices[i : i + self.rank_val_batch_size] for i in starts])

    def _load(self, epoch, batches):
        """Yields the images and labels of each index array in `batches`."""
        images, transform = self.images, self.transform
        if isinstance(transform, Small) and has_size(images, transform.size):
            # Small images in memory are cropped a batch at a time.
            crops = transform.batches(images.images, self.seed, epoch, batches)
            for pixels, indices in zip(crops, batches, strict=True):
                yield self._to_tensors(pixels, indices)
            return
        if self.rank_workers and len(os.fsencode(gettempdir())) > LONGEST_TMPDIR:
            raise UserError(
                f"TMPDIR {gettempdir()} is too long for the sockets of the data-loading processes: "
                "set a shorter one (TMPDIR=/tmp), or use --num_workers 0"
            )
        items = TransformedSet if self.crop_device is None else UncroppedSet
        loader = DataLoader(
            items(images, transform, self.seed),
            batch_sampler=([(epoch, int(i)) for i in indices] for indices in batches),
            num_workers=self.rank_workers,
            collate_fn=_collate,
            pin_memory=self.pin,
            worker_init_fn=_restore_signals,
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch if self.crop_device is None else self._crop(*batch)

    def _crop(self, *batch):
        """Crops, resizes and flips a batch of UncroppedSet on the device."""
        images, windows, labels = (
            tensor.to(self.crop_device, non_blocking=True) for tensor in batch
        )
        crops = resized_crop(images, windows[:, :4], self.transform.size)
        flip = windows[:, 4].bool().view(-1, 1, 1, 1)
        return torch.where(flip, crops.flip(2), crops), labels

    def _to_tensors(self, pixels, indices):
        if self.images.labels is None:
            labels = np.full(len(indices), -1)
        else:
            labels = self.images.labels[indices].astype(np.int64)
        batch = torch.from_numpy(pixels), torch.from_numpy(labels)
        return tuple(tensor.pin_memory() for tensor in batch) if self.pin else batch


class ResidentLoader(Batches):
    """Batches of small images on the device: (uint8 images (N, S, S, 3), int64 labels (N,)).

    The batches are those of a Loader, bit for bit.
    images: ImageSet with an array (M, S, S, 3) in memory; transform: Small or SmallValidation;
    val_batch_size: of `ordered_batches`, all ranks together; order: seed, rank and world_size of
    `Batches`.
    """

    def __init__(self, images, transform, batch_size, device, *, val_batch_size=None, **order):
        super().__init__(len(images), batch_size, **order)
        self.images, self.transform, self.device = images, transform, device
        self.rank_val_batch_size = -(-(val_batch_size or self.batch_size) // self.world_size)

    @cached_property
    def _tensors(self):
        """The images and labels on the device."""
        labels = np.full(self.count, -1) if self.images.labels is None else self.images.labels
        arrays = self.images.images, labels.astype(np.int64)
        return [torch.from_numpy(array).to(self.device) for array in arrays]

    def epoch_batches(self, epoch, first_step=0):
        """Yields this rank's training batches of `epoch` (from 0), from `first_step` on."""
        pixels, labels = self._tensors
        windows = self.transform.windows(self.count, self.seed, epoch)
        top, left, flip = (torch.from_numpy(values).to(self.device) for values in windows)
        for indices in self.indices(epoch, first_step):
            batch = torch.from_numpy(indices).to(self.device, non_blocking=True)
            images = padded_crop(
                pixels[batch], top[batch], left[batch], flip[batch], self.transform.padding
            )
            yield images, labels[batch]

    def ordered_batches(self):
        """Yields each image of this rank exactly once: images rank, rank + world_size, …"""
        pixels, labels = (tensor[self.rank :: self.world_size] for tensor in self._tensors)
        yield from zip(
            pixels.split(self.rank_val_batch_size),
            labels.split(self.rank_val_batch_size),
            strict=True,
        )


def make_loader(images, transform, batch_size, world, seed=0, val_batch_size=None, workers=None):
    """Loader of an ImageSet for this process of `world`; small images are kept in memory.

    batch_size: of all processes; val_batch_size: default `batch_size`, but on a GPU at least 512
    per process for small images; workers: decoding processes of all ranks (default: 0 for images in
    memory, else the number of cores).
    On a GPU, small images live on the device, and large images of one size are cropped there.
    """
    device, small = world.device, is_small(transform.size)
    on_gpu, order = device.type == "cuda", {"rank": world.rank, "world_size": world.size}
    if val_batch_size is None and on_gpu and small:
        val_batch_size = max(batch_size, GPU_VAL_BATCH_SIZE * world.size)
    val_batch_size = val_batch_size or batch_size
    if small:
        limit = GPU_MEMORY_LIMIT if on_gpu else MEMORY_LIMIT
        images = keep_in_memory(images, transform.shrink, limit)
    if on_gpu and small and has_size(images, transform.size):
        return ResidentLoader(
            images, transform, batch_size, device, val_batch_size=val_batch_size, seed=seed, **order
        )
    crop_on_gpu = on_gpu and type(transform) is Large and images.pixel_size is not None
    return Loader(
        images,
        transform,
        batch_size,
        val_batch_size=val_batch_size,
        workers=workers,
        pin=on_gpu,
        crop_device=device if crop_on_gpu else None,
        seed=seed,
        **order,
    )
