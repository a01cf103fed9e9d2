"""A growing folder of images that are made while a student trains on them.

FOLDER/manifest.json               what made it, how many of each class
FOLDER/0003/00017.png              the class that the image was to show / index within the class
"""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np

from dataset.image_set import ImageSet
from dataset.image_writer import ImageWriter, to_pixels
from dataset.loader import keep_in_memory
from dataset.paths import Paths
from helper.errors import UserError
from helper.files import make_folder, read_json, remove_parts, write_json


class Pool:
    """Images of `image_size` pixels in `folder`, in the order in which they were made; a part of a
    RunFolder.

    `rounds` counts the additions. Rank 0 writes, all processes see the same. `manifest` says what
    makes the images, its `run` which run. `beside`: an ImageSet that stands before the pool's own
    images, already at its size; images up to `memory_size` pixels are kept in memory.
    """

    def __init__(self, folder, image_size, grey, world, manifest, beside=None, memory_size=64):
        self.folder, self.image_size, self.grey, self.world = Path(folder), image_size, grey, world
        self.manifest, self.beside = manifest, beside
        self._in_memory = image_size <= memory_size
        self.rounds, self._names, self._counts, self._arrays = 0, [], Counter(), []

    def __len__(self):
        """How many images have been made; those `beside` do not count."""
        return len(self._names)

    def state_dict(self):
        return {"rounds": self.rounds, "names": list(self._names)}

    def load_state_dict(self, state):
        self.rounds, self._names = state["rounds"], list(state["names"])
        self._counts = Counter(int(name.partition("/")[0]) for name in self._names)

    def open(self):
        """Makes the folder hold what the checkpoint says: files that are younger than it are
        removed.

        Raises UserError if an image of it is missing, or the folder holds images of something else.
        """
        self.world.from_main(self._tidy)
        if self._in_memory and self._names:
            images = ImageSet([self.folder / name for name in self._names], None, grey=self.grey)
            self._arrays = [keep_in_memory(images, lambda image: image, limit=float("inf")).images]

    def _tidy(self):
        path = make_folder(self.folder) / "manifest.json"
        found = {str(file.relative_to(self.folder)) for file in self.folder.glob("*/*.png")}
        owner = read_json(path, "manifest") if path.exists() else {}
        unfinished = (
            isinstance(owner, dict)
            and owner.get("run") == self.manifest["run"]
            and not owner.get("complete")
        )
        if found.difference(self._names) and not unfinished:
            raise UserError(
                f"{self.folder} holds images that this run has not made: choose another --pool, or "
                "empty it"
            )
        if lacking := set(self._names) - found:
            raise UserError(
                f"{self.folder} lacks {len(lacking)} images of the run to be resumed, "
                f"{min(lacking)} among "
                "them: put them back, or start another run"
            )
        for name in found.difference(self._names):
            (self.folder / name).unlink()
        for place in (self.folder, *self.folder.glob("[0-9]*/")):
            remove_parts(place)
        self.write_manifest(complete=False)

    def add(self, images, labels):
        """Adds a round: this process's images (n, 3, S, S), floats in [0, 1], and classes (n,); n
        is the same for all.

        The files are there when it returns. Raises OSError if the disk is full.
        """
        pixels = self.world.gather(to_pixels(2 * images.float() - 1, self.grey)).cpu().numpy()
        names = [self._next_name(label) for label in self.world.gather(labels).tolist()]
        self.world.from_main(lambda: self._write(names, pixels))
        self._names += names
        self.rounds += 1
        if self._in_memory:
            self._arrays.append(np.repeat(pixels[..., None], 3, axis=3) if self.grey else pixels)
        if self.world.is_main:
            self.write_manifest(complete=False)

    def _next_name(self, label):
        self._counts[label] += 1
        return f"{label:04d}/{self._counts[label] - 1:05d}.png"

    def _write(self, names, pixels):
        with ImageWriter("png") as writer:
            for name, image in zip(names, pixels, strict=True):
                writer.put(self.folder / name, image)

    def write_manifest(self, complete):
        """Writes manifest.json with what is there (rank 0)."""
        classes = {str(label): self._counts[label] for label in sorted(self._counts)}
        write_json(
            self.folder / "manifest.json",
            {"complete": complete, **self.manifest, "images": len(self), "classes": classes},
        )

    def images(self):
        """Returns the ImageSet of what is there now, without labels: the images beside, then those
        made, in order.
        """
        if self._in_memory:
            self._arrays = [np.concatenate(self._arrays)]  # joined once, not at every epoch anew
            arrays = self._arrays if self.beside is None else [self.beside.images, *self._arrays]
            return ImageSet(np.concatenate(arrays), None, grey=self.grey, shrunk=True)
        paths = Paths.of(self.folder / name for name in self._names)
        return ImageSet(
            paths if self.beside is None else self.beside.images + paths, None, grey=self.grey
        )


class PoolLoader:
    """Steps over a pool, as helper.loops.fit takes them: `steps` an epoch, pass after pass over
    what is there.

    `make_loader(images)` returns the Loader of an ImageSet, whose epochs are the passes; they are
    numbered so that no two of a run are alike. The pool is to hold `batch_size` images when the
    first epoch begins.
    """

    def __init__(self, pool, make_loader, steps, batch_size):
        self.pool, self._make_loader, self._steps, self.batch_size = (
            pool,
            make_loader,
            steps,
            batch_size,
        )

    def __len__(self):
        return self._steps

    def epoch_batches(self, epoch, first_step=0):
        """Yields this rank's batches of `epoch` (from 0), beginning with step `first_step`."""
        loader = self._make_loader(self.pool.images())
        step = first_step
        while step < self._steps:
            number, at = divmod(step, len(loader))
            for batch in islice(
                loader.epoch_batches(epoch * self._steps + number, at), self._steps - step
            ):
                yield batch
                step += 1
