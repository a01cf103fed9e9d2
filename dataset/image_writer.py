"""Image files: formats, sizes on the disk, and threads that encode."""

import io
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image

from dataset.image_set import UnusableImage, opened
from helper.errors import UserError
from helper.files import whole_file

FORMATS = {"png": ".png", "jpeg": ".jpg"}
# JPEG with the usual quality of training sets and colours at full resolution (4:4:4)
SAVE_OPTIONS = {
    "png": {"format": "PNG"},
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
THREADS = min(8, os.cpu_count() or 1)
# Of generated RGB photographs of 256×256 pixels, rounded up; grey images take a third
BYTES_PER_PIXEL = {"png": 1.7, "jpeg": 0.5}


def image_bytes(settings):
    """Estimates the size of one file from `image_size`, `format` and `grey` in `settings`.

    Small files fill at least one 4 KiB block of the disk.
    """
    channels = 1 / 3 if settings["grey"] else 1
    return max(4096, settings["image_size"] ** 2 * BYTES_PER_PIXEL[settings["format"]] * channels)


def is_whole(path, image_size, mode):
    """Whether `path` is an image of this size and mode that can be decoded to the end.

    Raises UserError if that is unknown because the file cannot be read.
    """
    try:
        with opened(path) as image:
            image.verify()  # PNG checksums
        with opened(path) as image:
            image.load()
            return image.size == (image_size, image_size) and image.mode == mode
    except UnusableImage:
        return False


def to_pixels(images, grey=False, remedy="check the weights of the networks and the precision"):
    """Rounds images (N, 3, H, W) in [−1, 1] half up to uint8 (N, H, W, 3).

    grey: the mean of the channels instead, (N, H, W).
    Raises UserError, which ends in `remedy`, if a value is not finite.
    """
    if not images.isfinite().all():
        raise UserError(f"a generated image has values that are not finite: {remedy}")
    images = images.float().mean(dim=1) if grey else images.float().permute(0, 2, 3, 1)
    return (255 * (images / 2 + 0.5)).clamp(0, 255).add(0.5).floor().to(torch.uint8).contiguous()


class ImageWriter:
    """Encodes and writes images in threads; files appear whole or not at all.

    Leaving the context waits for the files; after an exception, those not begun are dropped.
    limit: maximum number of images in the queue.
    """

    def __init__(self, image_format, threads=None, limit=256):
        self._format, self._limit = image_format, limit
        self._pool = ThreadPoolExecutor(threads or THREADS)
        self._jobs = deque()

    def put(self, path, pixels):
        """Queues uint8 pixels (H, W, 3) or (H, W) for `path`; waits while the queue is full.

        Raises the errors of earlier images, such as OSError when the disk is full.
        """
        self.check()
        if len(self._jobs) >= self._limit:
            self._jobs.popleft().result()
        self._jobs.append(self._pool.submit(self._write, path, pixels))

    def check(self):
        """Raises the first error of the files written so far."""
        for job in [job for job in self._jobs if job.done()]:
            job.result()
            self._jobs.remove(job)

    def _write(self, path, pixels):
        path.parent.mkdir(exist_ok=True)
        # Writing to a file, Pillow's encoders would hide the error number of a full disk
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, **SAVE_OPTIONS[self._format])
        with whole_file(path) as file:
            file.write(encoded.getbuffer())

    def __enter__(self):
        return self

    def __exit__(self, exception, *_):
        self._pool.shutdown(wait=True, cancel_futures=exception is not None)
        if exception is None:
            self.check()
