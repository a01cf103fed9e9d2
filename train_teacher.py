"""Supervised training on real images: the teachers, and the tables' "Student" rows.

    python train_teacher.py --dataset cifar100 --model wrn_40_2
    python train_teacher.py --dataset fashion_mnist --model resnet20 --epochs 4 --schedule cosine --batch_size 128
    python train_teacher.py --dataset flowers102 --model ResNet18 --pretrained --learning_rate 0.01

The run folder is save/models/<dataset>/<model>/; its checkpoint is a teacher for train_student.py
--path-t.
"""

import sys

import torch
import torch.nn.functional as F

from dataset import folders, real
from helper import distributed, loops
from helper import options as flags
from helper.cost import training_cost
from helper.errors import UserError, run
from helper.files import file_stem
from helper.run import RunFolder
from models.classifiers import Statistics, library_statistics, make_student, statistics_of


def parse_option(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument(
        "--model",
        required=True,
        help="architecture: a name of models/, torchvision/NAME or timm/NAME",
    )
    parser.add_argument(
        "--pretrained",
        nargs="?",
        const=True,
        default=False,
        metavar="CHECKPOINT",
        help="start from the library's published weights, or those of a file; for another class count "
        "the last layer starts at random",
    )
    parser.add_argument(
        "--train_data",
        default=None,
        help="labelled training images: a folder by class, or a list of "
        "`path label` lines (default: the data set's own)",
    )
    parser.add_argument("--label_smoothing", type=flags.share, default=0.0)
    parser.add_argument("--save_dir", default=None, help="default: save/models/<dataset>/<model>")
    parser.add_argument(
        "--table", default=None, help="the table that the result belongs to, for result.json"
    )
    parser.add_argument(
        "--row", choices=["Teacher", "Student"], default="Teacher", help="its row there"
    )
    flags.add_training_flags(
        parser, epochs=200, batch_size=256, learning_rate=0.1, weight_decay=5e-4
    )
    flags.add_schedule_flags(parser, lr_decay_epochs=[120, 150, 180], lr_decay_rate=0.2)
    real.add_flags(parser)
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    options.save_dir = (
        options.save_dir or f"save/models/{options.dataset}/{file_stem(options.model)}"
    )
    return options


def read_images(options, val_images):
    """Returns the training ImageSet, of the classes of `val_images`. Raises UserError as
    `dataset.folders` does.
    """
    if options.train_data is None:
        images = real.load_split(options, "train")
        real.check_classes(images, val_images, options)
        return images
    images = folders.read_training(
        options.train_data, len(val_images.class_names), class_list=real.class_list(options)
    )
    images.grey = options.dataset == "fashion_mnist"
    if images.labels is None:
        raise UserError(
            f"{options.train_data} has no labels, which a teacher learns from: give a folder by "
            "class"
        )
    return images


def main(argv=None):
    """Trains the classifier of `argv` and returns its result (a dict)."""
    options = parse_option(argv)

    with distributed.session(options, argv) as world:
        val_images = real.load_validation(options)
        train_images = read_images(options, val_images)
        num_classes, info = len(val_images.class_names), real.REAL_SETS[options.dataset]
        loader = real.make_loader(train_images, options, world, train=True)
        val_loader = real.make_loader(val_images, options, world, train=False)

        notes, file = [], options.pretrained if isinstance(options.pretrained, str) else None
        seen = Statistics(info.mean, info.std, "the data set's")
        if file:
            seen = statistics_of(file, options.model, seen, published=True)
        elif options.pretrained:
            seen = library_statistics(options.model) or seen
        torch.manual_seed(options.seed)
        model = make_student(
            options.model,
            num_classes,
            *seen[:2],
            checkpoint=file,
            new_head=notes.append,
            pretrained=options.pretrained is True,
        ).to(world.device)
        network = loops.compiled(loops.parallel(model, world), options)
        optimizer = loops.make_optimizer(model, options)
        run_folder = RunFolder(
            options.save_dir,
            options.model,
            {"model": model.net, "optimizer": optimizer},
            options,
            world,
            {"images": len(train_images)},
            seen.facts,
        )
        progress = run_folder.open(
            options.resume,
            {
                "train": train_images.origin,
                "validation": val_images.origin,
                "normalisation": seen._asdict(),
            },
        )
        if result := run_folder.finished_result(progress, options.epochs):
            return result
        run_folder.log(
            f"{options.model} on {len(train_images)} images of "
            f"{options.train_data or options.dataset}, "
            f"validated on {len(val_images)} ({options.val_split})"
        )
        for note in [*notes, f"the images are normalised with {seen}"]:
            run_folder.log(note)
        run_folder.log(
            str(
                training_cost(
                    model, real.image_size(options), loader, len(val_images), options.epochs
                )
            )
        )

        def step(batch):
            images, labels = loops.to_device(batch, world.device)
            with loops.autocast(options.amp, world.device):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=options.label_smoothing)
            loops.gradient_step(loss, optimizer)
            count = len(images)
            return {
                "loss": loss.detach() * count,
                "train_top1": 100.0 * (logits.argmax(1) == labels).sum(),
                "count": count,
            }

        def evaluate():
            metrics, _ = loops.evaluate_classifier(model, val_loader, world, options.amp)
            return metrics, metrics["top1"]

        loops.fit(
            run_folder,
            progress,
            loader,
            step,
            evaluate,
            optimizer,
            loops.make_schedule(options),
            options,
        )
        result = loops.classifier_result(
            progress,
            options,
            loader,
            val_loader,
            method=options.row,
            teacher=None,
            student=options.model,
            table=options.table,
            source=options.train_data or "real",
            images=len(train_images),
        )
        run_folder.finish(
            result, {"cross-entropy": ["loss", "val_loss"], "accuracy (%)": ["train_top1", "top1"]}
        )
        return result


if __name__ == "__main__":
    sys.exit(run(main))
