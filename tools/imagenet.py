"""Writes true_dataset/imagenet_val.txt, the list of ImageNet's validation images, one `path label`
line per image.

    python -m tools.imagenet                    # unpacks the archives in true_dataset/imagenet/
    python -m tools.imagenet --images FOLDER    # one folder per class, named by synset
    python -m tools.imagenet --images FOLDER --solution LOC_val_solution.csv   # Kaggle's folder

The images are not copied. A label is the index of the synset in ImageNet-1K, 0…999.
"""

import csv
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from dataset.class_list import IMAGENET_CLASSES, imagenet_synsets
from dataset.folders import read_labelled
from dataset.lists import write_list
from dataset.paths import Paths
from dataset.scan import LeftOut, scan
from helper.errors import UserError, run_script
from helper.files import make_folder, read_text
from helper.options import Parser

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
ARCHIVES = {"val": "ILSVRC2012_img_val.tar", "train": "ILSVRC2012_img_train.tar"}
IMAGE_COUNTS = {"val": 50_000, "train": 1_281_167}


def parse_option(argv=None):
    parser = Parser(__doc__)
    parser.add_argument(
        "--split", choices=list(ARCHIVES), default="val", help="default: %(default)s"
    )
    parser.add_argument(
        "--images", default=None, metavar="FOLDER", help="folder of images already unpacked"
    )
    parser.add_argument(
        "--solution",
        default=None,
        metavar="CSV",
        help="LOC_val_solution.csv of Kaggle's copy, which has the labels of a flat folder",
    )
    parser.add_argument(
        "--root",
        default="true_dataset",
        help="folder of the data sets, to which the list is written (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    if options.solution is not None and options.images is None:
        raise UserError("--solution needs --images FOLDER, the folder whose images it labels")
    return options


def unpack(home, split):
    """Unpacks the archives of `split` to home/val or home/train, one folder per synset.

    The folder appears only when it is complete, and is not changed if it exists. torchvision does
    the unpacking. Raises UserError if scipy or an archive is missing, or an archive is damaged.
    """
    folder = home / split
    if folder.is_dir():
        return folder
    archives = [home / ARCHIVES[split], home / DEVKIT]
    missing = [str(archive) for archive in archives if not archive.is_file()]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} not found: download the archives from www.image-net.org, or "
            "give --images FOLDER for images already unpacked"
        )
    try:
        import scipy.io  # noqa: F401, torchvision reads a .mat file of the devkit
    except ImportError:
        raise UserError("unpacking ImageNet needs scipy: pip install scipy") from None
    from torchvision.datasets import ImageNet

    scratch = home / f"{split}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for archive in archives:
        (scratch / archive.name).symlink_to(archive.resolve())
    print(f"unpacking {archives[0]}", flush=True)
    try:
        ImageNet(scratch, split)
        os.replace(scratch / split, folder)
    except RuntimeError:  # torchvision compares the MD5 sums of the archives
        raise UserError(f"{archives[0]} or {archives[1]} is damaged: download it again") from None
    finally:
        shutil.rmtree(scratch)
    return folder


def read_solution(folder, solution):
    """Reads a flat folder with Kaggle's CSV of its labels: (Paths, int64 labels (N,)).

    A line of the CSV has an image name, and the synset and box of each object. Raises UserError if
    it is another file or has an unknown synset, or an image is missing.
    """
    index_of = {synset: index for index, synset in enumerate(imagenet_synsets())}
    label_of = {}
    try:
        lines = read_text(solution).splitlines()
        for line, row in enumerate(csv.DictReader(lines), 2):
            synset = row["PredictionString"].split()[0]
            if synset not in index_of:
                raise UserError(f"{solution}, line {line}: {synset} is not a synset of ImageNet-1K")
            label_of[row["ImageId"]] = index_of[synset]
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"no file {solution}: it is a part of Kaggle's ImageNet") from None
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, csv.Error):
        label_of = {}
    if not label_of:
        raise UserError(
            f"{solution} is not Kaggle's LOC_val_solution.csv with the columns ImageId and "
            "PredictionString"
        )
    name_of = {os.fsdecode(name).rpartition(".")[0]: name for name in scan(folder, LeftOut())[0]}
    missing = [stem for stem in label_of if stem not in name_of]
    if len(missing) == len(label_of):
        raise UserError(
            f"{folder} has none of the images of {solution}, such as {missing[0]}: give the CSV of "
            "these images (LOC_val_solution.csv is that of the validation images), or their folder"
        )
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of the {len(label_of)} images of {solution}, such as "
            f"{missing[0]}: complete the folder"
        )
    stems = sorted(label_of)
    paths = Paths.in_folders({folder: [name_of[stem] for stem in stems]})
    return paths, np.array([label_of[stem] for stem in stems])


def main(argv=None):
    """Writes the list and returns its path."""
    options = parse_option(argv)
    list_file = make_folder(options.root) / f"imagenet_{options.split}.txt"
    if options.images:
        folder = Path(options.images)
    else:
        folder = unpack(Path(options.root) / "imagenet", options.split)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder of the images with --images")
    if options.solution is not None:
        paths, labels = read_solution(folder, options.solution)
    else:
        images = read_labelled(folder, IMAGENET_CLASSES, kind="ImageNet")
        paths, labels = images.images, images.labels
    write_list(list_file, paths, labels)
    counts = np.bincount(labels, minlength=IMAGENET_CLASSES)
    print(
        f"{list_file}: {len(paths)} images of {np.count_nonzero(counts)} classes, {counts.min()} "
        f"to {counts.max()} per class"
    )
    complete = IMAGE_COUNTS[options.split]
    if len(paths) != complete:
        print(
            f"note: ImageNet has {complete} images in this split: accuracies on {len(paths)} are "
            "not comparable"
        )
    return list_file


if __name__ == "__main__":
    sys.exit(run_script(main))
