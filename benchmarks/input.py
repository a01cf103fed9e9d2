"""The input path beside torchvision's: images a second on one core, and what it takes to open a set
of 1.28M images.

    python -m benchmarks.input                   # about 4 minutes and, for the 1.28M empty files, 1.5 GB of memory
    python -m benchmarks.input --count 0         # images alone
    python -m benchmarks.input --images 0        # opening alone

Images: files, or 32×32 arrays in memory, to batches of augmented images; one process, one thread,
no workers. Ours hands over bytes that the device normalises. torchvision's usual transforms end in
normalised floats; the row `bytes` is what it takes without that last part, the same work as ours.
Opening: a folder of 1000 classes, and a list of its files with their labels, each time in a new
process. Ours checks that every file of the list is there and orders each class; the plain readers
split the lines, one looks each file up.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks import timing
from benchmarks.open_set import CLASSES
from dataset import folders
from dataset.image_set import ImageSet
from dataset.loader import Loader
from dataset.transforms import Large, Small
from helper.errors import UserError, run
from helper.files import make_folder
from helper.options import Parser, amount, natural

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "256×256 PNG": (256, 256, "png"),
    "256×256 JPEG": (256, 256, "jpg"),
    "500×375 JPEG": (500, 375, "jpg"),
}
IN_MEMORY = "32×32 in memory"
OURS, USUAL, BYTES = "ours", "torchvision, usual", "torchvision, bytes"
READERS = {"set": [OURS, USUAL], "list.txt": [OURS, "plain Python", "plain Python, checked"]}
BATCH = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def parse_option(argv=None):
    """Reads the flags. Raises UserError for a wrong one."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--images", type=natural, help="images of each kind (default: 256; 0: none)"
    )
    parser.add_argument(
        "--count",
        type=lambda text: 0 if text == "0" else amount(text),
        help="files of the set that is opened (default: 1.28m; 0: none)",
    )
    parser.add_argument(
        "--folder",
        help="where the files are made for a while (default: /dev/shm, else the system's)",
    )
    timing.add_flags(parser, repeats=5)
    parser.set_defaults(threads=1)
    options = parser.parse_args(argv)
    if options.images is None:
        options.images = 2 if options.quick else 256
    if options.count is None:
        options.count = 2 * CLASSES if options.quick else 1_280_000
    if options.folder is None and os.access("/dev/shm", os.W_OK):
        options.folder = "/dev/shm"
    return options


# Images


def photographs():
    """Returns the photographs that scikit-image and scikit-learn ship, as PIL images; without them,
    smooth noise.
    """
    found = []
    try:
        from skimage import data

        found += [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    except ImportError:
        pass
    try:
        from sklearn.datasets import load_sample_images

        found += load_sample_images().images
    except ImportError:
        pass
    return [Image.fromarray(pixels) for pixels in found] or [
        smooth_noise(seed) for seed in range(6)
    ]


def smooth_noise(seed, size=512):
    """Returns a PIL image of noise at six scales, each twice as fine and half as strong as the
    last.
    """
    rng, total = np.random.default_rng(seed), np.zeros((size, size, 3))
    for level in range(2, 8):
        coarse = Image.fromarray(rng.integers(0, 256, (2**level, 2**level, 3)).astype(np.uint8))
        total += (np.asarray(coarse.resize((size, size), Image.BICUBIC)) - 127.5) / 2 ** (level - 2)
    return Image.fromarray(np.clip(total / 2 + 127.5, 0, 255).astype(np.uint8))


def write_images(folder, kind, count):
    """Writes `count` cuttings of the photographs into `folder`/photo/, at sizes and places of their
    own.
    """
    width, height, extension = FILES[kind]
    rng, sources = np.random.default_rng(0), photographs()
    (folder / "photo").mkdir(parents=True)
    for number in range(count):
        source = sources[number % len(sources)]
        w = int(rng.uniform(0.5, 1) * min(source.width, source.height * width / height))
        h = int(w * height / width)
        left, top = rng.integers(0, source.width - w + 1), rng.integers(0, source.height - h + 1)
        cutting = source.resize((width, height), Image.BICUBIC, box=(left, top, left + w, top + h))
        cutting.save(
            folder / f"photo/{number:05d}.{extension}",
            **({"quality": 90} if extension == "jpg" else {}),
        )


def file_passes(folder):
    """Returns {name: a pass over the images of a folder}, to batches of 224×224."""
    from torchvision import datasets, transforms

    ours = Loader(folders.read_training(folder, 1), Large(224), BATCH, workers=0)
    moves = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    return {
        OURS: lambda: _exhaust(ours.epoch_batches(0)),
        USUAL: _torchvision_pass(
            datasets.ImageFolder(folder, transforms.Compose([*moves, *_normalised()]))
        ),
        BYTES: _torchvision_pass(
            datasets.ImageFolder(folder, transforms.Compose([*moves, _to_bytes()]))
        ),
    }


def memory_passes(count):
    """Returns {name: a pass over `count` images of 32×32 in memory}; torchvision's as its CIFAR-100
    does it.
    """
    from torchvision import datasets, transforms

    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    ours = Loader(ImageSet(pixels, np.zeros(count, np.int64)), Small(32), BATCH, workers=0)
    moves = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]

    def cifar(last):
        real = datasets.CIFAR100.__new__(datasets.CIFAR100)  # without the download
        real.data, real.targets, real.target_transform = pixels, [0] * count, None
        real.transform = transforms.Compose([*moves, *last])
        return _torchvision_pass(real)

    return {
        OURS: lambda: _exhaust(ours.epoch_batches(0)),
        USUAL: cifar(_normalised()),
        BYTES: cifar([_to_bytes()]),
    }


def _normalised():
    from torchvision import transforms

    return [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]


def _to_bytes():
    from torchvision.transforms import v2

    return v2.PILToTensor()


def _torchvision_pass(images):
    loader = DataLoader(
        images, batch_size=min(BATCH, len(images)), shuffle=True, num_workers=0, drop_last=True
    )
    return lambda: _exhaust(loader)


def _exhaust(batches):
    for _ in batches:
        pass


def measure_images(kind, passes, count, repeats):
    """Measures the passes over `count` images in turn and returns their rows."""
    seen = (
        count // min(BATCH, count) * min(BATCH, count)
    )  # the last incomplete batch is dropped by all
    times = timing.alternate(passes, repeats)
    over_ours = timing.ratios(times, OURS)
    return [
        [
            kind,
            name,
            f"{timing.spread([seen / value for value in times[name]]):,.0f} images/s",
            "–" if name == OURS else f"{over_ours[name]:.2f}",
            "",
        ]
        for name in passes
    ]


# Opening


def make_set(folder, count):
    """Makes `count` empty files in a thousand class folders, and the list of them. Raises UserError
    without room.
    """
    free = os.statvfs(folder).f_favail
    if free < count + 2 * CLASSES:
        raise UserError(
            f"{folder} has room for {free} files and {count} are to be made: give a smaller "
            "--count, or "
            "another --folder"
        )
    with open(folder / "list.txt", "w") as out:
        for label in range(CLASSES):
            place = folder / f"set/{label:04d}"
            place.mkdir(parents=True)
            for number in range(label, count, CLASSES):
                os.close(os.open(f"{place}/{number // CLASSES:05d}.png", os.O_CREAT))
                out.write(f"{place}/{number // CLASSES:05d}.png {label}\n")


def measure_opening(folder, repeats):
    """Measures all readers in turn, each in a process of its own, and returns their rows."""
    rows = []
    for source, readers in READERS.items():
        found = {name: [] for name in readers}
        for _ in range(repeats):
            for name in readers:
                command = [sys.executable, "-m", "benchmarks.open_set", name, str(folder / source)]
                done = subprocess.run(
                    command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
                )
                found[name].append(json.loads(done.stdout))
        over_ours = timing.ratios(
            {name: [one["seconds"] for one in found[name]] for name in readers}, OURS
        )
        for name in readers:
            seconds, kept, most = (
                timing.spread([one[key] for one in found[name]])
                for key in ("seconds", "kept", "most")
            )
            what = (
                f"{'folder' if source == 'set' else 'list'} of {found[name][0]['images']:,} files"
            )
            rows.append(
                [
                    what,
                    name,
                    f"{seconds:.2f} s",
                    "–" if name == OURS else f"{over_ours[name]:.2f}",
                    f"{kept.median:.0f}, {most.median:.0f}",
                ]
            )
    return rows


def main(argv=None):
    """Measures and prints the table."""
    options = parse_option(argv)
    timing.start(options)
    place = options.folder and make_folder(options.folder)
    scratch, rows = Path(tempfile.mkdtemp(prefix="benchmark_input_", dir=place)).resolve(), []
    try:
        if options.images:
            for number, kind in enumerate(FILES):
                write_images(scratch / str(number), kind, options.images)
                rows += measure_images(
                    kind, file_passes(scratch / str(number)), options.images, options.repeats
                )
            rows += measure_images(
                IN_MEMORY, memory_passes(8 * options.images), 8 * options.images, options.repeats
            )
        if options.count:
            make_set(scratch, options.count)
            rows += measure_opening(scratch, options.repeats)
    finally:
        shutil.rmtree(scratch)
    print(
        timing.markdown(
            ["input", "reader", "rate", "its time over ours", "MiB kept, at most"], rows
        )
    )
    print(f"\nMedian (lowest–highest) of {options.repeats} rounds.")


if __name__ == "__main__":
    sys.exit(run(main))
