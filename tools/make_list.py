"""Writes the list of a folder of images: `python -m tools.make_list FOLDER
syn_dataset/s2_st100_200k.txt`.

The released sets are found by such a list: train_student.py without --train_data reads
syn_dataset/s{data_quality}_st{s_step}_{data_amount}.txt. Paths below the list's folder are written
relative to it.
"""

import sys

from dataset.class_list import IMAGENET_CLASSES
from dataset.folders import read_training
from dataset.lists import write_list
from dataset.paths import released_classes
from helper.errors import run
from helper.options import Parser, amount, positive_int


def main(argv=None):
    """Writes the list and says how many images it has."""
    parser = Parser(__doc__)
    parser.add_argument("folder", help="released set, or one folder a class")
    parser.add_argument("list", help="the file to write")
    parser.add_argument(
        "--data_amount", type=amount, default=None, help="a class-balanced prefix (default: all)"
    )
    parser.add_argument(
        "--num_classes", type=positive_int, default=IMAGENET_CLASSES, help="default: 1000"
    )
    options = parser.parse_args(argv)
    images = read_training(options.folder, options.num_classes, options.data_amount)
    named = (released_classes(images.images.names) >= 0).all()
    write_list(options.list, images.images, None if named else images.labels)
    print(f"{options.list}: {len(images)} images")


if __name__ == "__main__":
    sys.exit(run(main))
