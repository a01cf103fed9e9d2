"""The input pipeline beside torchvision's: images per second on one core, and the time to open a
set of 1.28M images.

    python -m benchmarks.input               # about 4 minutes, 1.5 GB of memory
    python -m benchmarks.input --count 0     # only the images
    python -m benchmarks.input --images 0    # only the opening

Images: from files, or from 32×32 arrays in memory, to batches of augmented images, in one process
and one thread. Ours yields bytes, which are normalised on the device. torchvision's usual
transforms end with normalised floats; the row `bytes` omits this last part and does the same work
as ours.
Opening: a folder of 1000 classes, and a list of its files with their labels, each time in a new
process. Ours checks that every file of the list exists and orders each class. The plain readers
split the lines; one of them looks up each file.
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
from helper.errors import UserError, run_script
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
    """Parses the flags. Raises UserError."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--images", type=natural, help="number of images of each kind (default: 256; 0: none)"
    )
    parser.add_argument(
        "--count",
        type=lambda text: 0 if text == "0" else amount(text),
        help="number of files in the set that is opened (default: 1.28m; 0: none)",
    )
    parser.add_argument(
        "--folder",
        help="folder for the temporary files (default: /dev/shm, or that of the system)",
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
    """Returns the photographs in scikit-image and scikit-learn as PIL images, or smooth noise if
    neither is installed.
    """
    arrays = []
    try:
        from skimage import data

        arrays += [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    except ImportError:
        pass
    try:
        from sklearn.datasets import load_sample_images

        arrays += load_sample_images().images
    except ImportError:
        pass
    return [Image.fromarray(pixels) for pixels in arrays] or [
        smooth_noise(seed) for seed in range(6)
    ]


def smooth_noise(seed, size=512):
    """Returns a PIL image of noise at six scales, each twice as fine and half as strong as the one
    before.
    """
    rng, total = np.random.default_rng(seed), np.zeros((size, size, 3))
    for level in range(2, 8):
        coarse = Image.fromarray(rng.integers(0, 256, (2**level, 2**level, 3)).astype(np.uint8))
        total += (np.asarray(coarse.resize((size, size), Image.BICUBIC)) - 127.5) / 2 ** (level - 2)
    return Image.fromarray(np.clip(total / 2 + 127.5, 0, 255).astype(np.uint8))


def write_images(folder, kind, count):
    """Writes `count` random crops of the photographs, resized to `kind`, into `folder`/photo/."""
    width, height, extension = FILES[kind]
    rng, sources = np.random.default_rng(0), photographs()
    (folder / "photo").mkdir(parents=True)
    for number in range(count):
        source = sources[number % len(sources)]
        w = int(rng.uniform(0.5, 1) * min(source.width, source.height * width / height))
        h = int(w * height / width)
        left, top = rng.integers(0, source.width - w + 1), rng.integers(0, source.height - h + 1)
        crop = source.resize((width, height), Image.BICUBIC, box=(left, top, left + w, top + h))
        crop.save(
            folder / f"photo/{number:05d}.{extension}",
            **({"quality": 90} if extension == "jpg" else {}),
        )


def file_passes(folder):
    """Returns {name: function that reads all images of a folder as batches of 224×224}."""
    from torchvision import datasets, transforms

    ours = Loader(folders.read_training(folder, 1), Large(224), BATCH, workers=0)
    augmentation = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    return {
        OURS: lambda: _exhaust(ours.epoch_batches(0)),
        USUAL: _torchvision_pass(
            datasets.ImageFolder(folder, transforms.Compose([*augmentation, *_normalised()]))
        ),
        BYTES: _torchvision_pass(
            datasets.ImageFolder(folder, transforms.Compose([*augmentation, _to_bytes()]))
        ),
    }


def memory_passes(count):
    """Returns {name: function that reads `count` 32×32 images in memory as batches}.

    torchvision's is that of its CIFAR-100.
    """
    from torchvision import datasets, transforms

    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    ours = Loader(ImageSet(pixels, np.zeros(count, np.int64)), Small(32), BATCH, workers=0)
    augmentation = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]

    def cifar(last):
        images = datasets.CIFAR100.__new__(datasets.CIFAR100)  # without its files
        images.data, images.targets, images.target_transform = pixels, [0] * count, None
        images.transform = transforms.Compose([*augmentation, *last])
        return _torchvision_pass(images)

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
    """Times the passes over `count` images in turn and returns their rows of the table."""
    batch = min(BATCH, count)
    images = count // batch * batch  # the last incomplete batch is dropped
    times = timing.alternate(passes, repeats)
    time_ratios = timing.ratios(times, OURS)
    return [
        [
            kind,
            name,
            f"{timing.spread([images / value for value in times[name]]):,.0f} images/s",
            "–" if name == OURS else f"{time_ratios[name]:.2f}",
            "",
        ]
        for name in passes
    ]


# Opening


def make_set(folder, count):
    """Creates `count` empty files in CLASSES class folders, and a list of them.

    Raises UserError if the file system has too few free inodes.
    """
    free = os.statvfs(folder).f_favail
    if free < count + 2 * CLASSES:
        raise UserError(
            f"{folder} has room for {free} more files, fewer than the {count} of --count: give a "
            "smaller --count, or another --folder"
        )
    with open(folder / "list.txt", "w") as out:
        for label in range(CLASSES):
            class_folder = folder / f"set/{label:04d}"
            class_folder.mkdir(parents=True)
            for number in range(label, count, CLASSES):
                path = f"{class_folder}/{number // CLASSES:05d}.png"
                os.close(os.open(path, os.O_CREAT))
                out.write(f"{path} {label}\n")


def measure_opening(folder, repeats):
    """Times all readers in turn, each in a new process, and returns their rows of the table."""
    rows = []
    for source, readers in READERS.items():
        outputs = {name: [] for name in readers}
        for _ in range(repeats):
            for name in readers:
                command = [sys.executable, "-m", "benchmarks.open_set", name, str(folder / source)]
                done = subprocess.run(
                    command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
                )
                outputs[name].append(json.loads(done.stdout))
        times = {name: [output["seconds"] for output in outputs[name]] for name in readers}
        time_ratios = timing.ratios(times, OURS)
        for name in readers:
            kept, peak = (
                timing.spread([output[key] for output in outputs[name]]).median
                for key in ("kept", "peak")
            )
            kind = "folder" if source == "set" else "list"
            rows.append(
                [
                    f"{kind} of {outputs[name][0]['images']:,} files",
                    name,
                    f"{timing.spread(times[name]):.2f} s",
                    "–" if name == OURS else f"{time_ratios[name]:.2f}",
                    f"{kept:.0f}, {peak:.0f}",
                ]
            )
    return rows


def main(argv=None):
    """Runs the benchmark and prints the table."""
    options = parse_option(argv)
    timing.start(options)
    parent = options.folder and make_folder(options.folder)
    scratch = Path(tempfile.mkdtemp(prefix="benchmark_input_", dir=parent)).resolve()
    rows, repeats = [], options.repeats
    try:
        if count := options.images:
            for number, kind in enumerate(FILES):
                write_images(scratch / str(number), kind, count)
                passes = file_passes(scratch / str(number))
                rows += measure_images(kind, passes, count, repeats)
            count *= 8
            rows += measure_images(IN_MEMORY, memory_passes(count), count, repeats)
        if options.count:
            make_set(scratch, options.count)
            rows += measure_opening(scratch, repeats)
    finally:
        shutil.rmtree(scratch)
    header = ["input", "reader", "rate", "its time over ours", "MiB kept, peak"]
    print(timing.markdown(header, rows))
    print(f"\nMedian (lowest–highest) of {repeats} rounds.")


if __name__ == "__main__":
    sys.exit(run_script(main))
