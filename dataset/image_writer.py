"""Writing generated images: formats, sizes on the disk, and threads that encode; files appear whole
or not at all.
"""

import io
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image

from helper.files import whole_file

FORMATS = {"png": ".png", "jpeg": ".jpg"}
# JPEG of the quality that is usual for training sets, with the colours at full resolution (4:4:4).
_SAVE = {"png": {"format": "PNG"}, "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0}}
THREADS = min(8, os.cpu_count() or 1)
# Bytes a pixel of generated RGB photographs at 256×256, rounded up; grey takes a third.
_BYTES_PER_PIXEL = {"png": 1.7, "jpeg": 0.5}


def image_bytes(settings):
    """Estimates the bytes of one file of the `image_size`, `format` and `grey` of `settings`.

    Small ones fill at least one 4 KiB block of the disk.
    """
    channels = 1 / 3 if settings["grey"] else 1
    return max(4096, settings["image_size"] ** 2 * _BYTES_PER_PIXEL[settings["format"]] * channels)


def is_whole(path, image_size, mode):
    """Returns whether `path` is an image of this size and mode that decodes to the end."""
    try:
        with Image.open(path) as image:
            image.verify()  # PNG checksums
        with Image.open(path) as image:
            image.load()
            return image.size == (image_size, image_size) and image.mode == mode
    except FileNotFoundError:
        return False
    except Exception:  # Pillow raises many kinds for a damaged file
        return False


class ImageWriter:
    """Encodes and writes images in threads, at most `limit` of them waiting; files appear whole or
    not at all.

    A context manager: leaving it waits for the files, or, after an exception, drops those not
    begun.
    """

    def __init__(self, image_format, threads=None, limit=256):
        self._format, self._limit = image_format, limit
        self._pool = ThreadPoolExecutor(threads or THREADS)
        self._waiting = deque()

    def put(self, path, pixels):
        """Queues uint8 pixels, (H, W, 3) or (H, W), for `path`; waits while the queue is full.

        Raises what the writing of any image before it raised (OSError when the disk is full).
        """
        self.check()
        if len(self._waiting) >= self._limit:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._write, path, pixels))

    def check(self):
        """Raises the first error of the files written so far."""
        for job in [job for job in self._waiting if job.done()]:
            job.result()
            self._waiting.remove(job)

    def _write(self, path, pixels):
        path.parent.mkdir(exist_ok=True)
        encoded = (
            io.BytesIO()
        )  # given a file, Pillow's encoders hide the error number of a full disk
        Image.fromarray(pixels).save(encoded, **_SAVE[self._format])
        with whole_file(path) as file:
            file.write(encoded.getbuffer())

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self.check()


def to_pixels(images, grey=False):
    """Rounds images in [−1, 1], (N, 3, H, W), half up to uint8 (N, H, W, 3); grey: their channels'
    mean, (N, H, W).
    """
    images = images.float().mean(dim=1) if grey else images.float().permute(0, 2, 3, 1)
    return (255 * (images / 2 + 0.5)).clamp(0, 255).add(0.5).floor().to(torch.uint8).contiguous()
