"""Writes a list file of an image folder.

    python -m tools.make_list FOLDER syn_dataset/s2_st100_200k.txt

Without --train_data, train_student.py reads the list
syn_dataset/s{data_quality}_st{s_step}_{data_amount}.txt. Paths below the folder of the list are
written relative to it; with --root . they are relative to the repository, where the reader of the
released code looks for them.
"""

import sys

from dataset.class_list import IMAGENET_CLASSES
from dataset.folders import read_training
from dataset.lists import write_list
from dataset.pack import refuse_pack
from dataset.paths import released_classes
from helper.errors import run_script
from helper.options import Parser, amount, positive_int


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("folder", help="released flat folder, or one folder per class")
    parser.add_argument("list", help="list file to write")
    parser.add_argument(
        "--data_amount", type=amount, default=None, help="class-balanced prefix (default: all)"
    )
    parser.add_argument(
        "--num_classes", type=positive_int, default=IMAGENET_CLASSES, help="default: %(default)s"
    )
    parser.add_argument(
        "--root",
        default=None,
        help="write the paths relative to this folder (default: the list's, or absolute)",
    )
    options = parser.parse_args(argv)
    refuse_pack(options.folder)
    images = read_training(options.folder, options.num_classes, options.data_amount)
    names_have_classes = (released_classes(images.images.names) >= 0).all()
    labels = None if names_have_classes else images.labels
    write_list(options.list, images.images, labels, options.root)
    print(f"{options.list}: {len(images)} images")


if __name__ == "__main__":
    sys.exit(run_script(main))
