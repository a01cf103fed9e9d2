"""ImageNet's images made ready: writes the list true_dataset/imagenet_val.txt, a line `path label`
an image.

    python -m tools.imagenet                                  # the archives in true_dataset/imagenet/, unpacked there
    python -m tools.imagenet --images FOLDER                  # one folder a class, named by synset
    python -m tools.imagenet --images FOLDER --solution LOC_val_solution.csv    # Kaggle's flat validation folder

Images stay where they are. The label is the synset's place in ImageNet's order, 0…999.
"""

import csv
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from dataset.class_list import IMAGENET_CLASSES, imagenet_synsets
from dataset.folders import read_validation
from dataset.lists import write_list
from dataset.paths import Paths, image_names
from helper.errors import UserError, run
from helper.files import make_folder
from helper.options import Parser

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
ARCHIVES = {"val": "ILSVRC2012_img_val.tar", "train": "ILSVRC2012_img_train.tar"}
WHOLE = {"val": 50_000, "train": 1_281_167}  # images


def parse_option(argv=None):
    parser = Parser(__doc__)
    parser.add_argument(
        "--split", choices=list(ARCHIVES), default="val", help="which images (default: val)"
    )
    parser.add_argument(
        "--images", default=None, metavar="FOLDER", help="images that are unpacked already"
    )
    parser.add_argument(
        "--solution",
        default=None,
        metavar="CSV",
        help="LOC_val_solution.csv of Kaggle's copy, which has the classes of a flat folder",
    )
    parser.add_argument(
        "--root", default="true_dataset", help="where the list goes (default: true_dataset)"
    )
    options = parser.parse_args(argv)
    if options.solution is not None and options.images is None:
        raise UserError(
            "--solution says the classes of the images in a folder: give that with --images"
        )
    return options


def unpack(home, split):
    """Unpacks the archives of `split` in `home` to `home`/val or train, one folder a synset, and
    returns that folder.

    The folder appears when all is in it; one that is there is left as it is. torchvision does the
    work. Raises UserError if scipy or an archive is missing or damaged.
    """
    folder = home / split
    if folder.is_dir():
        return folder
    absent = [str(home / name) for name in (ARCHIVES[split], DEVKIT) if not (home / name).is_file()]
    if absent:
        raise UserError(
            f"{' and '.join(absent)} not found: put the archives there (www.image-net.org), or "
            "give "
            "--images FOLDER for images that are unpacked"
        )
    try:
        import scipy.io  # noqa: F401, for torchvision: the devkit's class table is a .mat file
    except ImportError:
        raise UserError(
            "unpacking ImageNet takes scipy, which is not installed: pip install scipy"
        ) from None
    from torchvision.datasets import ImageNet

    scratch = home / f"{split}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for name in (ARCHIVES[split], DEVKIT):
        (scratch / name).symlink_to((home / name).resolve())
    print(f"unpacking {home / ARCHIVES[split]}", flush=True)
    try:
        ImageNet(scratch, split)
        os.replace(scratch / split, folder)
    except RuntimeError:  # torchvision compares the archives' MD5 with the published ones
        raise UserError(
            f"{home / ARCHIVES[split]} or {home / DEVKIT} is damaged: fetch it again"
        ) from None
    finally:
        shutil.rmtree(scratch)
    return folder


def read_solution(folder, solution):
    """Returns (Paths, int64 labels (N,)) of a flat folder whose images' classes are in Kaggle's
    CSV.

    Its lines: image name, then the synset and box of each object. Raises UserError if it is no such
    file, names an unknown synset, or an image is missing.
    """
    index_of = {synset: index for index, synset in enumerate(imagenet_synsets())}
    label_of = {}
    try:
        with open(solution, newline="") as file:
            for line, row in enumerate(csv.DictReader(file), 2):
                synset = row["PredictionString"].split()[0]
                if synset not in index_of:
                    raise UserError(
                        f"{solution}, line {line}: {synset} is no synset of ImageNet-1K"
                    )
                label_of[row["ImageId"]] = index_of[synset]
    except FileNotFoundError:
        raise UserError(f"{solution} not found: it comes with Kaggle's copy of ImageNet") from None
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, csv.Error):
        label_of = {}
    if not label_of:
        raise UserError(
            f"{solution} is not LOC_val_solution.csv, whose columns are ImageId and "
            "PredictionString: "
            "give Kaggle's file"
        )
    names = {os.fsdecode(name).rpartition(".")[0]: name for name in image_names(folder)}
    lacking = [stem for stem in label_of if stem not in names]
    if lacking:
        raise UserError(
            f"{folder} lacks {len(lacking)} of the {len(label_of)} images of {solution}, "
            f"{lacking[0]} "
            "among them: complete it"
        )
    stems = sorted(label_of)
    return Paths.in_folders({folder: [names[stem] for stem in stems]}), np.array(
        [label_of[stem] for stem in stems]
    )


def main(argv=None):
    """Writes the list, says what is in it, and returns its path."""
    options = parse_option(argv)
    file = make_folder(options.root) / f"imagenet_{options.split}.txt"
    folder = (
        Path(options.images)
        if options.images
        else unpack(Path(options.root) / "imagenet", options.split)
    )
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the images' folder with --images")
    if options.solution is not None:
        paths, labels = read_solution(folder, options.solution)
    else:
        images = read_validation(folder, IMAGENET_CLASSES)
        paths, labels = images.images, images.labels
    write_list(file, paths, labels)
    counts = np.bincount(labels, minlength=IMAGENET_CLASSES)
    print(
        f"{file}: {len(paths)} images of {np.count_nonzero(counts)} classes, {counts.min()} to "
        f"{counts.max()} each"
    )
    if len(paths) != WHOLE[options.split]:
        print(
            f"note: the whole set has {WHOLE[options.split]} images: accuracies on this one are "
            "not comparable"
        )
    return file


if __name__ == "__main__":
    sys.exit(run(main))
