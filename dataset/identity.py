"""The identity of an image set, by which a resumed run recognises its images."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from helper.files import sha256

SAMPLE = 1_000  # images that represent a set
THREADS = 8  # they wait for the disk, which may be a remote one


def images_sha256(images):
    """Hex SHA-256 that identifies the images of an ImageSet, their order, and their labels.

    Up to SAMPLE evenly spaced images represent the set. Images in memory are hashed. Of files, the
    names relative to their common folder (which may move) are hashed, and either the settings in
    the manifest of their generated folder, of which the images are a function, or else the files'
    sizes and contents.
    """
    indices = np.linspace(0, len(images) - 1, min(len(images), SAMPLE)).astype(np.int64)
    digest = hashlib.sha256(f"{len(images)} images\n".encode())
    if images.labels is not None:
        digest.update(np.asarray(images.labels, np.int64).tobytes())
    if images.in_memory:
        for index in indices:
            digest.update(images.images[index].tobytes())
        return digest.hexdigest()
    paths = [images.images[int(index)] for index in indices]
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    for path in paths:
        digest.update(os.fsencode(os.path.relpath(path, common)) + b"\n")
    manifest = images.origin.get("manifest")
    settings = manifest.get("settings") if isinstance(manifest, dict) else None
    # The images of a pool also depend on the run that owns it.
    if isinstance(settings, dict) and "run" not in manifest:
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()
    with ThreadPoolExecutor(THREADS) as pool:
        for line in pool.map(_size_and_sha256, paths):
            digest.update(line.encode())
    return digest.hexdigest()


def _size_and_sha256(path):
    """Size and content of a file, as a line of text; a missing file is found when it is decoded."""
    return f"{os.path.getsize(path)} {sha256(path)}\n" if os.path.isfile(path) else "missing\n"
