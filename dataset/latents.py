"""Latents of an image set in a file, so that each image is encoded once."""

import numpy as np
import torch
from tqdm import tqdm

from helper.device import to_device
from helper.errors import UserError
from helper.files import check_free_space, read_json, write_json


def cached_latents(path, loader, encode, shape, key, world):
    """The moments of the posterior of every image, float32 (N, *shape), memory-mapped from `path`.

    Another file than the one for `key` is written again: each process encodes its part.

    path: a .npy file; the key is beside it as .json. loader: its `ordered_batches` are the images
    of this process. encode: images (n, 3, S, S) in [0, 1] on the device → moments (n, *shape).
    key: what identifies images and autoencoder, a string.
    Raises UserError if the disk is too small or the moments are not finite.
    """
    description, part = path.with_suffix(".json"), path.with_suffix(".npy.part")
    if not world.from_main(_has_key, path, description, key):
        world.from_main(_create, part, (loader.count, *shape))
        _encode_share(np.load(part, mmap_mode="r+"), loader, encode, world)
        world.barrier()
        world.from_main(_complete, part, path, description, key)
    # Copy on write: torch warns of arrays that cannot be written
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _has_key(path, description, key):
    """Whether `path` holds the latents of `key`."""
    if not (path.is_file() and description.is_file()):
        return False
    return read_json(description, "description of the latents").get("key") == key


def _create(part, shape):
    """Makes the file `part` for an array of this shape."""
    part.parent.mkdir(parents=True, exist_ok=True)
    check_free_space(part.parent, 4 * int(np.prod(shape)))
    np.lib.format.open_memmap(part, "w+", np.float32, shape)


def _encode_share(latents, loader, encode, world):
    """Writes the latents of this process's images, rank, rank + size, …, into the array."""
    finite, start = True, world.rank
    with (
        torch.no_grad(),
        tqdm(total=loader.count, desc="latents", unit="image", disable=not world.is_main) as bar,
    ):
        for batch in loader.ordered_batches():
            moments = encode(to_device(batch, world.device)[0]).float().cpu()
            finite = finite and bool(moments.isfinite().all())
            stop = start + len(moments) * world.size
            latents[start : stop : world.size] = moments.numpy()
            start = stop
            bar.update(len(moments) * world.size)
    latents.flush()
    if world.any(not finite):
        raise UserError("the autoencoder gives latents that are not finite: give another --vae")


def _complete(part, path, description, key):
    """Gives the finished file its name. Its description is written last, so that it is true."""
    description.unlink(missing_ok=True)
    part.replace(path)
    write_json(description, {"key": key})
