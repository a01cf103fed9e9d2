"""A folder of generated images, which may be unfinished, damaged, or grow.

    with GeneratedFolder(path, settings, request, world, origin) as folder:
        for batch in folder.missing_batches(32):        # lists of (class, index)
            folder.write(batch, pixels)                 # a uint8 tensor

Batches are cut from the whole list of requested images, whatever is missing, and the last one is
padded, so that an image is always computed in the same batch. If it depends only on that batch, the
files are the same for any number of processes and interruptions.
"""

import contextlib
import glob
import os
import time
from pathlib import Path

from tqdm import tqdm

from dataset.contact_sheet import sheet_beside, write_contact_sheet
from dataset.folder_layouts import layout_of
from dataset.image_writer import ImageWriter, image_bytes
from dataset.requested_images import SeedRange
from helper.batches import padded_batches
from helper.cost import Pace
from helper.errors import UserError
from helper.files import check_free_space, make_folder, read_json
from helper.run import lock_folder, unlock_folder

BAR = "{percentage:3.0f}%|{bar}| {n:.0f}/{total} images [{elapsed}<{remaining}, {rate_fmt}]"


class GeneratedFolder:
    """Context manager; leaving it draws the contact sheet and completes the manifest.

    settings: everything that changes an image (`format`, `image_size` and `grey` among them); those
    of an existing folder must be equal.
    request: {class: images}, a SeedRange, or the number of unlabelled images.
    origin: further content of the manifest; `class_names` also label the contact sheet.
    verify: decode all files of a complete folder, too; repair them and the manifest.

    missing: the requested images (class, index) without a file.
    result: folder, images, made (images of this run), seconds; available afterwards.
    """

    def __init__(self, path, settings, request, world, origin, verify=False):
        self.path, self.settings, self.request = Path(path), settings, request
        self.verify = verify
        self.sheet = sheet_beside(path)
        self.world, self.origin = world, origin
        self._locked = False

    def __enter__(self):
        """Compares the request with the folder.

        Raises UserError if the folder was generated with other settings or in another layout, holds
        images of unknown origin, the disk has too little space, or another command is generating
        images in it.
        """
        self._start = time.monotonic()
        try:
            self._layout = self.world.from_main(self._prepare)
        except BaseException:
            self._unlock()
            raise
        self.missing = self._layout.missing
        self._writer, self._bar = ImageWriter(self.settings["format"]), None
        if self._layout.complete:
            self._print(f"{self.path} is complete: {self._layout.summary}, nothing to do")
        elif self.missing:
            self._print(
                f"{self.path}: generating {len(self.missing)} of {self._layout.images} images on "
                f"{self.world.size} × {self.world.device}"
            )
        return self

    def __exit__(self, exception, *details):
        if self._bar:
            self._bar.close()
        self._writer.__exit__(exception, *details)
        try:
            if not exception and not self._layout.complete:
                self.world.barrier()
                self.world.from_main(self._complete)
        finally:
            self._unlock()
        if exception:
            return
        seconds = time.monotonic() - self._start
        images, made = self._layout.images, len(self.missing)
        self.result = {
            "folder": str(self.path),
            "images": images,
            "made": made,
            "seconds": seconds,
        }
        if not self._layout.complete:
            sheet = f"; {self.sheet}" if self._can_write_sheet else ""
            self._print(f"{self.path}: {images} images, {made} generated in {seconds:.0f} s{sheet}")

    def missing_batches(self, batch_size, order=None):
        """The batches of this process, lists of (class, index), in which images are missing.

        order: the images to divide into batches, by default those of the request. A short last
        batch is padded with its last item. Writes the manifest and starts the progress bar.
        """
        # Not before: a folder for which no model could be loaded has no settings yet
        self.world.from_main(lambda: self._layout.write_manifest(self.origin, complete=False))
        items = self._layout.items if order is None else order
        batches = padded_batches(items, batch_size)
        batches = [batch for batch in batches if self.missing.intersection(batch)]
        # The processes advance together: missing images of a batch in each of them
        size = self.world.size
        counts = [len(self.missing.intersection(batch)) for batch in batches]
        self._counts = [sum(counts[start : start + size]) for start in range(0, len(counts), size)]
        self._done, self._pace = 0, Pace(len(self.missing), "image")
        self._bar = tqdm(
            total=len(self.missing), unit="image", bar_format=BAR, disable=not self.world.is_main
        )
        return batches[self.world.rank :: size]

    def write(self, batch, pixels):
        """Writes the missing images of a batch; files appear whole.

        pixels: uint8 tensor (N, S, S, 3), or (N, S, S) for grey images. Encoding goes on in threads
        after the return. Raises OSError if an image could not be written, for example when the disk
        is full.
        """
        pixels = pixels.cpu().numpy()  # waits for the device
        for item in dict.fromkeys(batch):
            if item in self.missing:
                self._writer.put(self._layout.file(item), pixels[batch.index(item)])
        images = self._counts.pop(0)
        self._done += images
        self._bar.update(images)
        line = self._pace.batch(self._done)
        if line and self.world.is_main:
            self._bar.write(line)

    def _prepare(self):
        """Opens the folder and returns its layout (rank 0)."""
        make_folder(self.path)
        if not isinstance(self.request, SeedRange):  # whose flat files several commands write
            self._lock()
        layout = layout_of(self.path, self.settings, self.request, self.verify)
        check_free_space(self.path, len(layout.missing) * image_bytes(self.settings))
        for part in self.sheet.parent.glob(f"{glob.escape(self.sheet.name)}.*.part"):
            part.unlink(missing_ok=True)  # of a killed run
        earlier_sheet = self.path / "contact_sheet.png"  # where earlier versions wrote it
        if earlier_sheet.exists() and self._can_write_sheet:
            earlier_sheet.replace(self.sheet)
        self._layout = layout
        if layout.complete:
            self._unlock()
            if not self.sheet.exists():
                self._write_sheet()
        return layout

    def _lock(self):
        """Locks the folder, unless nothing can be written to it, or it is complete and in use.

        Raises UserError if another command is generating images in it.
        """
        try:
            lock_folder(self.path)
            self._locked = True
        except UserError:
            with contextlib.suppress(UserError, OSError):
                if read_json(self.path / "manifest.json", "manifest").get("complete") is True:
                    return
            raise
        except OSError:
            pass

    def _unlock(self):
        if self._locked:
            unlock_folder(self.path)
            self._locked = False

    def _write_sheet(self):
        if not self._can_write_sheet:
            return
        rows = self._layout.sheet_rows(self.origin.get("class_names"))
        write_contact_sheet(self.sheet, rows)

    def _complete(self):
        """Draws the contact sheet and completes the manifest (rank 0)."""
        self._write_sheet()
        os.sync()  # a power cut must not empty files of a set that is called complete
        self._layout.write_manifest(self.origin, complete=True)

    @property
    def _can_write_sheet(self):
        """False for a mounted folder below one that is not writable."""
        return os.access(self.sheet.parent, os.W_OK)

    def _print(self, line):
        if self.world.is_main:
            print(line, flush=True)
