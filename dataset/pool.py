"""A folder of images that grows while a student trains on them.

FOLDER/manifest.json     settings of the method, and the number of images of each class
FOLDER/0003/00017.png    intended class / index within the class
"""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np

from dataset import transforms
from dataset.image_set import ImageSet
from dataset.image_writer import ImageWriter, to_pixels
from dataset.loader import keep_in_memory
from dataset.paths import Paths
from helper.errors import UserError
from helper.files import entry, make_folder, read_json, remove_parts, write_json
from helper.image_size import is_small


class Pool:
    """Images of `image_size` pixels in `folder`, in the order in which they were added; a part of a
    Run.

    `rounds` counts the additions. Rank 0 writes; all processes have the same images, small ones in
    memory.
    manifest: settings of the method; its `run` identifies the run that owns the folder.
    beside: a further ImageSet to train on, of the same size; it comes before the pool's own images.
    """

    def __init__(self, folder, image_size, grey, world, manifest, beside=None):
        self.folder, self.image_size, self.grey, self.world = Path(folder), image_size, grey, world
        self.manifest, self.beside = manifest, beside
        self.rounds, self._names, self._counts = 0, [], Counter()
        self._in_memory, self._arrays = is_small(image_size), []

    def __len__(self):
        """The number of images that were added, without those `beside`."""
        return len(self._names)

    def state_dict(self):
        return {"rounds": self.rounds, "names": list(self._names)}

    def load_state_dict(self, state):
        self.rounds, self._names = state["rounds"], list(state["names"])
        self._counts = Counter(int(name.partition("/")[0]) for name in self._names)

    def open(self):
        """Makes the folder match the state: removes the files of rounds that were not saved.

        Raises UserError if an image of the state is missing, or the folder holds other images.
        """
        self.world.from_main(self._clean)
        if self._in_memory and self._names:
            paths = [self.folder / name for name in self._names]
            images = ImageSet(paths, None, grey=self.grey)
            shrink = transforms.training(self.image_size).shrink
            self._arrays = [keep_in_memory(images, shrink, limit=float("inf")).images]

    def _clean(self):
        path = make_folder(self.folder) / "manifest.json"
        files = {str(file.relative_to(self.folder)) for file in self.folder.glob("*/*.png")}
        extra, missing = files.difference(self._names), set(self._names) - files
        own = bool(self._names) and not missing  # the checkpoint knows these images
        if path.exists():
            try:
                manifest = read_json(path, "manifest")
                run = entry(manifest, "run", str, path)
            except UserError:  # damaged, or another program's, which must not be overwritten
                if not self._names:
                    raise UserError(
                        f"{path} is not the manifest of a pool: choose another --pool, or remove it"
                    ) from None
            else:
                own = run == self.manifest["run"] and not manifest.get("complete")
        if extra and not own:
            raise UserError(
                f"{self.folder} holds images of another run: choose another --pool, or empty it"
            )
        if missing:
            raise UserError(
                f"{self.folder} lacks {len(missing)} images of the run to be resumed, such as "
                f"{min(missing)}: restore them, or start another run"
            )
        for name in extra:
            (self.folder / name).unlink()
        for folder in (self.folder, *self.folder.glob("[0-9]*/")):
            remove_parts(folder)
        self.write_manifest(complete=False)

    def add(self, images, labels):
        """Adds a round: this process's images (n, 3, S, S), floats in [0, 1], and classes (n,).

        n is the same on all processes. The files exist when it returns. Raises OSError if the disk
        is full.
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
        """Writes manifest.json for the current images (rank 0)."""
        classes = {str(label): self._counts[label] for label in sorted(self._counts)}
        write_json(
            self.folder / "manifest.json",
            {"complete": complete, **self.manifest, "images": len(self), "classes": classes},
        )

    def images(self):
        """The current ImageSet without labels: `beside`, then the pool's own images in order."""
        if self._in_memory:
            self._arrays = [np.concatenate(self._arrays)]  # once, not again at every epoch
            arrays = self._arrays if self.beside is None else [self.beside.images, *self._arrays]
            return ImageSet(np.concatenate(arrays), None, grey=self.grey, shrunk=True)
        paths = Paths.of(self.folder / name for name in self._names)
        if self.beside is not None:
            paths = self.beside.images + paths
        return ImageSet(paths, None, grey=self.grey)


class RepeatedLoader:
    """Epochs of `steps` steps, each with as many passes over the images of `loader` as needed.

    The passes are the epochs of `loader`, numbered so that none occurs twice in a run.
    """

    def __init__(self, loader, steps):
        self.loader, self.steps, self.batch_size = loader, steps, loader.batch_size

    def __len__(self):
        return self.steps

    def epoch_batches(self, epoch, first_step=0):
        """Yields this rank's batches of `epoch` (from 0), beginning with step `first_step`."""
        step = first_step
        while step < self.steps:
            number, start = divmod(step, len(self.loader))
            batches = self.loader.epoch_batches(epoch * self.steps + number, start)
            for batch in islice(batches, self.steps - step):
                yield batch
                step += 1
