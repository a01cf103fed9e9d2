"""Batches of uint8 images: the order, crop and flip of an image depend on (seed, epoch, image) and
nothing else.
"""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dataset.transforms import Small
from helper.errors import UserError
from helper.image_size import is_small

MEMORY_LIMIT = 1 << 30  # bytes of decoded images that are kept in memory


class TransformedSet(Dataset):
    """An ImageSet seen through a transform: item (epoch, index) is (uint8 image (H, W, 3), label).

    `transform.shrink(image)` is the part without randomness, skipped where the set has been shrunk
    already; `transform(image, rng)` the rest, with a numpy Generator that is a function of (seed,
    epoch, index): `transform.generator`. A damaged file gives the UserError in place of an item, so
    that the main process can raise it as it is.
    """

    def __init__(self, images, transform, seed=0):
        self.images, self.transform, self.seed = images, transform, seed

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        epoch, index = key
        try:
            image = self.images.load(index)
        except UserError as error:
            return error
        if not self.images.shrunk:
            image = self.transform.shrink(image)
        rng = self.transform.generator(self.seed, epoch, index)
        return np.asarray(self.transform(image, rng)), self.images.label(index)


def _collate(items):
    """Returns (uint8 (N, H, W, 3), int64 (N,)) tensors, or the first UserError among the items."""
    for item in items:
        if isinstance(item, UserError):
            return item
    images, labels = zip(*items, strict=True)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def _restore_signals(_):
    # Workers inherit the SIGTERM handler that asks the loop to save; they are to end as usual.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def keep_in_memory(images, shrink, limit=MEMORY_LIMIT):
    """Returns the set with its files decoded and shrunk once, or as it is if that would exceed
    `limit` bytes.

    `shrink` is the part of the transform without randomness (PIL image → PIL image), such as the
    resize to 32×32.
    """
    if images.in_memory:
        return images
    first = np.asarray(shrink(images.load(0)))
    if first.nbytes * len(images) > limit:
        return images
    array = np.empty((len(images), *first.shape), np.uint8)

    def read(index):
        array[index] = shrink(images.load(index))

    # Threads are enough: Pillow decodes and resizes without the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(read, range(len(images)))
        for _ in tqdm(
            done, total=len(images), desc="reading", unit="image", leave=False, mininterval=1
        ):
            pass
    return replace(images, images=array, shrunk=True)


def default_workers(images, world_size):
    """Returns the decoding processes a rank: none for images in memory, else its share of the
    cores.
    """
    return 0 if images.in_memory else max(1, (os.cpu_count() or 1) // world_size)


class Batches:
    """The order of training: which indices of `count` items a rank takes at each step of an epoch.

    A permutation of (seed, epoch) is cut into global batches of `batch_size`, of which a rank takes
    its share; the last incomplete one is dropped unless there is only that one. Raises UserError if
    the processes cannot share a batch.
    """

    def __init__(self, count, batch_size, *, seed=0, rank=0, world_size=1):
        if batch_size % world_size:
            raise UserError(
                f"--batch_size {batch_size} cannot be shared among {world_size} processes: "
                f"give a multiple of {world_size}"
            )
        if count < world_size:
            raise UserError(f"{count} images are too few for {world_size} processes")
        self.count, self.seed, self.rank, self.world_size = count, seed, rank, world_size
        self.batch_size = min(batch_size, count - count % world_size)
        self.share = self.batch_size // world_size

    def __len__(self):
        """Steps an epoch."""
        return self.count // self.batch_size

    def indices(self, epoch, first_step=0):
        """Yields this rank's indices, an int64 array a step, of `epoch` (from 0), beginning with
        step `first_step`.
        """
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        for step in range(first_step, len(self)):
            start = step * self.batch_size + self.rank * self.share
            yield order[start : start + self.share]


class TensorLoader(Batches):
    """Training batches of tensors that are whole in memory, such as latents and their labels."""

    def __init__(self, *tensors, batch_size, **order):
        super().__init__(len(tensors[0]), batch_size, **order)
        self.tensors = tensors

    def epoch_batches(self, epoch, first_step=0):
        """Yields this rank's batches of `epoch` (from 0), beginning with step `first_step`."""
        for indices in self.indices(epoch, first_step):
            yield [tensor[torch.from_numpy(indices)] for tensor in self.tensors]


class Loader(Batches):
    """Batches of an ImageSet through a transform: (uint8 images (N, H, W, 3), int64 labels (N,)),
    pinned if `pin`.

    `ordered_batch` is the batch size of `ordered_batches`, of all ranks (default: batch_size);
    `workers` counts the decoding processes of all ranks. Small images in memory are cropped here, a
    batch at once.
    """

    def __init__(
        self, images, transform, batch_size, *, ordered_batch=None, workers=None, pin=False, **order
    ):
        super().__init__(len(images), batch_size, **order)
        self.images, self.pin, self.dataset = (
            images,
            pin,
            TransformedSet(images, transform, self.seed),
        )
        self.ordered_share = -(-(ordered_batch or self.batch_size) // self.world_size)
        mine = (
            default_workers(images, self.world_size)
            if workers is None
            else -(-workers // self.world_size)
        )
        self._settings = {
            "num_workers": mine,
            "collate_fn": _collate,
            "pin_memory": pin,
            "worker_init_fn": _restore_signals,
        }

    def epoch_batches(self, epoch, first_step=0):
        """Yields this rank's training batches of `epoch` (from 0), beginning with step
        `first_step`.
        """
        yield from self._load(epoch, list(self.indices(epoch, first_step)))

    def ordered_batches(self):
        """Yields every image of this rank exactly once, in order: images rank, rank + world_size,
        …
        """
        mine = np.arange(self.rank, self.count, self.world_size)
        yield from self._load(
            0,
            [mine[at : at + self.ordered_share] for at in range(0, len(mine), self.ordered_share)],
        )

    def _load(self, epoch, batches):
        transform, images = self.dataset.transform, self.images
        if (
            isinstance(transform, Small)
            and images.in_memory
            and images.images.shape[1:3] == (transform.size,) * 2
        ):
            loaded = zip(
                transform.batches(images.images, self.seed, epoch, batches), batches, strict=True
            )
            yield from (self._from_arrays(pixels, indices) for pixels, indices in loaded)
            return
        keys = ([(epoch, int(i)) for i in indices] for indices in batches)
        for batch in DataLoader(self.dataset, batch_sampler=keys, **self._settings):
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def _from_arrays(self, pixels, indices):
        labels = (
            np.full(len(indices), -1) if self.images.labels is None else self.images.labels[indices]
        )
        batch = torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))
        return tuple(tensor.pin_memory() for tensor in batch) if self.pin else batch


def make_loader(images, transform, batch_size, world, seed=0, val_batch_size=None, workers=None):
    """Returns the Loader of an ImageSet; small images are decoded once and kept in memory.

    batch_size: of all processes; val_batch_size: of the evaluation (default: batch_size; on a GPU
    at least 512 per process for small images); workers: decoding processes of all ranks (default: 0
    for images in memory, else the number of cores).
    """
    on_gpu = world.device.type == "cuda"
    small = is_small(transform.size)
    if val_batch_size is None:
        val_batch_size = max(batch_size, 512 * world.size) if on_gpu and small else batch_size
    return Loader(
        keep_in_memory(images, transform.shrink) if small else images,
        transform,
        batch_size,
        ordered_batch=val_batch_size,
        workers=workers,
        pin=on_gpu,
        seed=seed,
        rank=world.rank,
        world_size=world.size,
    )
