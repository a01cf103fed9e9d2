"""Trains a classifier on labelled real images: the teachers, and the "Student" rows of the tables.

    python train_teacher.py --dataset cifar100 --model wrn_40_2
    python train_teacher.py --dataset fashion_mnist --model resnet20 --epochs 4 \\
        --schedule cosine --batch_size 128
    python train_teacher.py --dataset flowers102 --model ResNet18 --pretrained --learning_rate 0.01

The run folder is save/models/<dataset>/<model>/. Its checkpoint is a teacher for
train_student.py --path-t.
"""

import sys

import torch
import torch.nn.functional as F

from dataset import folders, real, transforms
from dataset.identity import images_sha256
from dataset.loader import make_loader
from helper import options as flags
from helper.capture import capturable_step, check_capture
from helper.checkpoints import weights_sha256
from helper.cost import training_cost
from helper.device import autocast, to_device
from helper.distributed import parallel, session
from helper.errors import UserError, run_script
from helper.evaluate import evaluate_classifier
from helper.files import file_stem
from helper.optim import make_optimizer, update
from helper.run import Run, latest_path
from models.classifiers import (
    Statistics,
    check_classifier,
    library_statistics,
    make_student,
    statistics_of,
)

# A resumed run must share these flags.
SETTINGS = (
    *flags.TRAINING_SETTINGS,
    *flags.SCHEDULE_SETTINGS,
    *real.SETTINGS,
    *"model pretrained train_data label_smoothing".split(),
)
PANELS = {"cross-entropy": ["loss", "val_loss"], "accuracy (%)": ["train_top1", "top1"]}


def parse_option(argv=None):
    """Parses the flags. Raises UserError."""
    parser = flags.Parser(__doc__)
    parser.add_argument(
        "--model",
        required=True,
        help="architecture: a name of models/, torchvision/NAME, timm/NAME, or module:function for "
        "your own",
    )
    parser.add_argument(
        "--pretrained",
        nargs="?",
        const=True,
        default=False,
        metavar="CHECKPOINT",
        help="start from the library's published weights, or from those of a "
        "file; with another number of classes the last layer is re-initialised",
    )
    parser.add_argument(
        "--train_data",
        default=None,
        help="labelled training images: an ImageFolder or a list of `path label` "
        "lines (default: those of the data set)",
    )
    parser.add_argument(
        "--label_smoothing",
        type=flags.fraction_below_one,
        default=0.0,
        help="label smoothing of the cross-entropy, in [0, 1) (default: 0)",
    )
    parser.add_argument(
        "--save_dir",
        default=None,
        help="run folder (default: save/models/<dataset>/<model>)",
    )
    flags.add_safetensors_flag(parser)
    parser.add_argument("--table", default=None, help="name of the results table, for result.json")
    parser.add_argument(
        "--row",
        choices=["Teacher", "Student"],
        default="Teacher",
        help="row of the results table (default: Teacher)",
    )
    flags.add_training_flags(
        parser, epochs=200, batch_size=256, learning_rate=0.1, weight_decay=5e-4
    )
    flags.add_capture_flag(parser)
    flags.add_schedule_flags(parser, lr_decay_epochs=[120, 150, 180], lr_decay_rate=0.2)
    real.add_flags(parser)
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    flags.check_schedule(parser, options)
    stem = file_stem(options.model)
    options.save_dir = options.save_dir or f"save/models/{options.dataset}/{stem}"
    return options


def main(argv=None):
    """Trains the classifier of `argv` and returns its result (a dict)."""
    options = parse_option(argv)
    data = real.data_from(options)
    with session(flags.process_settings(options), argv) as world:
        device = world.device
        check_capture(options.capture, device)

        # Data
        val_images = data.validation()
        num_classes = len(val_images.class_names)
        if options.train_data is None:
            images = data.training(class_names=val_images.class_names)
        else:
            images = folders.read_training(
                options.train_data,
                num_classes,
                class_list=data.class_list,
                grey=data.grey,
                class_names=val_images.class_names,
            )
        if images.labels is None:
            source = options.train_data or f"the training set of {options.dataset}"
            remedy = "give an ImageFolder"
            if images.why_unlabelled:
                remedy = (
                    f"{images.why_unlabelled}: check --val_data, or rename or add class folders "
                    "(they may be empty)"
                )
            raise UserError(
                f"{source} has no labels for the classes of the validation images: {remedy}"
            )
        size, workers = data.image_size, options.num_workers
        loader = make_loader(
            images,
            transforms.training(size),
            options.batch_size,
            world,
            options.seed,
            workers=workers,
        )
        val_loader = make_loader(
            val_images,
            transforms.validation(size),
            options.batch_size,
            world,
            val_batch_size=options.val_batch_size,
            workers=workers,
        )

        # Network
        notes = []
        file = options.pretrained if isinstance(options.pretrained, str) else None
        statistics = Statistics(data.info.mean, data.info.std, "the data set's")
        if file:
            statistics = statistics_of(file, options.model, statistics, published=True)
        elif options.pretrained:
            statistics = library_statistics(options.model) or statistics
        torch.manual_seed(options.seed)
        model = make_student(
            options.model,
            num_classes,
            *statistics[:2],
            resumed=latest_path(options.save_dir, options.model) if options.resume else None,
            image_size=size,
            checkpoint=file,
            new_head=notes.append,
            pretrained=options.pretrained is True,
        ).to(device)
        check_classifier(model, options.model, "--model", size, num_classes, loader.rank_batch_size)
        optimizer = make_optimizer(
            options.optimizer,
            model.parameters(),
            options.learning_rate,
            options.weight_decay,
            options.momentum,
        )

        # Create or restore the run
        run = Run(
            options.save_dir,
            options.model,
            {"model": model.net, "optimizer": optimizer},
            world,
            statistics.facts,
            options.tracker,
        )
        config = {
            "train": images.origin,
            "validation": val_images.origin,
            "normalisation": statistics._asdict(),
        }
        settings = flags.values_of(options, SETTINGS) | {
            "images": len(images),
            "training_images_sha256": world.from_main(images_sha256, images),
            "validation_images_sha256": world.from_main(images_sha256, val_images),
        }
        if file:
            settings["pretrained_sha256"] = weights_sha256(file)
        run.open(settings, config, options.resume)
        if result := run.finished_result(options.epochs, PANELS, options.safetensors):
            return result
        run.log(
            f"{options.model} on {len(images)} images of "
            f"{options.train_data or options.dataset}, validated on {len(val_images)} "
            f"({options.val_split})"
        )
        for note in [*notes, f"images are normalised with {statistics}"]:
            run.log(note)
        run.log(str(training_cost(model, size, loader, len(val_images), options.epochs)))

        # Train
        network = parallel(model, world)
        if options.compile:
            network = torch.compile(network)

        def step(images, labels):
            """One optimisation step: images (N, 3, H, W) in [0, 1], labels (N,)."""
            with autocast(options.amp, device, cache=options.capture != "on"):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=options.label_smoothing)
            update(optimizer, loss)
            return loss, logits.argmax(1) == labels

        step = capturable_step(step, optimizer, options.capture, world, run.log)
        schedule = flags.schedule_of(options)
        for _ in run.epochs(options.epochs, schedule, options.seed, options.print_freq):
            for batch in run.batches(loader):  # seeds torch, sets the learning rate
                loss, correct = step(*to_device(batch, device))
                run.add(len(correct), loss=loss, train_top1=100.0 * correct)
            metrics, _ = evaluate_classifier(model, val_loader, world, options.amp)
            run.end_epoch(metrics, metrics["top1"])  # writes metrics.csv and the checkpoints

        # Results
        result = {
            "table": options.table,
            "method": options.row,
            "dataset": options.dataset,
            "teacher": None,
            "student": options.model,
            "source": options.train_data or "real",
            "images": len(images),
            "epochs": options.epochs,
            "seed": options.seed,
            "val_split": options.val_split,
            "val_images": len(val_images),
            **run.accuracies(),
            "teacher_top1": None,
            "image_steps": options.epochs * len(loader) * loader.batch_size,
            "seconds": run.seconds,
        }
        run.finish(result, PANELS, options.safetensors)
        return result


if __name__ == "__main__":
    sys.exit(run_script(main))
