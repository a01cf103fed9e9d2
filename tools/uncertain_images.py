"""Selects the generated images on which a student is least certain and writes a list of them.

    python -m tools.uncertain_images syn_dataset/POOL syn_dataset/uncertain.txt --data_amount 8k \\
        --dataset fashion_mnist --student save/student_model/DIR/NAME/resnet8_latest.pth

Sample more images than are needed, select, and train on the list (--train_data). This is a round of
Deliberate Practice (arXiv 2502.15588) that filters the images after sampling. Uncertainty is the
entropy of the student's softmax. An equal number is taken from each class, the most uncertain
first; a set without labels counts as one class.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from dataset import real, transforms
from dataset.folders import class_balanced_prefix, read_training
from dataset.lists import write_list
from dataset.loader import make_loader
from dataset.pack import refuse_pack
from helper import checkpoints
from helper import options as flags
from helper.distributed import session
from helper.errors import UserError, run_script
from helper.evaluate import predict
from models.architectures import classes_of
from models.classifiers import architecture_of, check_classifier, image_statistics, load_teacher


def entropies(logits):
    """The entropy of the softmax, in nats, for logits (N, K): (N,)."""
    return torch.special.entr(logits.softmax(1)).sum(1)


def main(argv=None):
    """Writes the list; returns the entropies (M,) of its images, in its order, and those (N,) of
    all images.

    Raises UserError as `dataset.folders.read_training` and `models.classifiers.load_teacher`.
    """
    parser = flags.Parser(__doc__)
    parser.add_argument("images", help="image folder, or list of `path [label]` lines")
    parser.add_argument("list", help="list file to write")
    parser.add_argument(
        "--student", required=True, metavar="CHECKPOINT", help="checkpoint of the student"
    )
    flags.add_student_flags(
        parser,
        model_s="inferred from the checkpoint, the name of its folder, or its tensors",
        statistics_s="the checkpoint's or library's, else the data set's",
    )
    parser.add_argument(
        "--data_amount", type=flags.amount, required=True, help="images to select, such as 8k"
    )
    parser.add_argument(
        "--certain",
        action="store_true",
        help="select the most certain images instead, for comparison",
    )
    parser.add_argument("--batch_size", type=flags.positive_int, default=256, help="(default: 256)")
    parser.add_argument(
        "--num_workers",
        type=flags.natural,
        help="decoding processes (default: 0 for images in memory, else the number of cores)",
    )
    real.add_flags(parser)
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    data = real.data_from(options)
    refuse_pack(options.images)
    if Path(options.list).is_dir():
        raise UserError(f"{options.list} is a folder: give the name of a file in it")
    if Path(options.list).resolve() == Path(options.images).resolve():
        raise UserError(f"{options.list} is the list of all images: give another name to write to")
    with session(flags.process_settings(options), argv) as world:
        if world.size > 1:
            raise UserError("the images are selected in one process: start without torchrun")

        # Student and images
        name = options.model_s or architecture_of(options.student, "--model_s")
        mean, std, _ = image_statistics(
            options.mean_s, options.std_s, "s", data.default_statistics, options.student, name
        )
        student = load_teacher(options.student, data.num_classes, mean, std, name)
        student = student.to(world.device)
        num_classes = data.num_classes or classes_of(
            name, checkpoints.load(options.student, mmap=True), f"checkpoint {options.student}"
        )
        check_classifier(student, name, "--model_s", data.image_size, num_classes)
        images = read_training(
            options.images,
            num_classes,
            class_list=data.class_list,
            grey=data.grey,
            class_names=data.names_of_validation(),
        )

        # Entropies
        loader = make_loader(
            images,
            transforms.validation(data.image_size),
            options.batch_size,
            world,
            workers=options.num_workers,
        )
        logits, _ = predict(student, loader, world)
        entropy = entropies(logits).numpy()

        # List; with a class list, the classes in it are ImageNet's
        key = entropy if options.certain else -entropy
        chosen = class_balanced_prefix(key, images.labels, options.data_amount, options.images)
        labels = None if images.labels is None else images.labels[chosen]
        if labels is not None and data.class_list is not None:
            labels = np.array(data.class_list.indices)[labels]
        write_list(options.list, images.images[chosen], labels)
        print(
            f"{options.list}: {len(chosen)} of {len(images)} images; mean entropy of the student "
            f"{entropy[chosen].mean():.3f} nats, of all images {entropy.mean():.3f}"
        )
        return entropy[chosen], entropy


if __name__ == "__main__":
    sys.exit(run_script(main))
