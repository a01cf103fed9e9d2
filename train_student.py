"""Distils a student from a frozen teacher on a folder of images and evaluates it on the real
validation set.

    python train_student.py --dataset fashion_mnist --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth \\
        --model_s resnet8 --train_data syn_dataset/DiT-6x160-2_ddpm_s1.2_T25_seed0 --epochs 20
            --schedule cosine
    torchrun --nproc_per_node 8 train_student.py --dataset imagenet --path-t save/models/ResNet18/resnet18.pth \\
        --model_s ResNet18 --data_amount 200k --data_quality 2 --s_step 100 --batch_size 256
            --epochs 100 --kd_T 10

The method is DM-KD (arXiv 2305.12954): the loss is α·KL(teacher ‖ student)·τ² + γ·cross-entropy on
synthetic images.
"""

import sys
from pathlib import Path

import torch

from dataset import folders, real
from dataset.loader import Batches
from helper import distributed, loops
from helper import options as flags
from helper.cost import training_cost
from helper.errors import UserError, run
from helper.files import file_stem, sha256
from helper.run import RunFolder
from helper.shared import Shared
from models.classifiers import architecture_of, chosen_statistics, load_teacher, make_student

RELEASED_AMOUNT = 400_000  # images, the released script's default
SHUFFLE_RATE = (
    0.02  # the released script's learning rate of ShuffleV2 students, whatever its flag says
)


def parse_option(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("distillation")
    flags.add_network_flags(group)
    group.add_argument("--distill", choices=["kd"], default="kd")
    group.add_argument(
        "-a", "--alpha", type=flags.nonnegative_float, default=1.0, help="weight of the KL loss"
    )
    group.add_argument(
        "-r",
        "--gamma",
        type=flags.nonnegative_float,
        default=0.0,
        help="weight of the cross-entropy",
    )
    group.add_argument(
        "--kd_T", type=flags.positive_float, default=4.0, help="temperature τ (default: 4)"
    )
    group.add_argument(
        "--no_tau2", action="store_true", help="leave the factor τ² of the KL loss out (One-Image)"
    )
    group.add_argument(
        "--use_aug",
        choices=["none", "mixup", "cutmix"],
        default="none",
        help="mix the images of a batch (default: none)",
    )
    group.add_argument(
        "--mix_beta",
        type=flags.positive_float,
        default=None,
        help="c of the mixing weight's Beta(c, c) (default: 0.4 of mixup, 0.25 of cutmix)",
    )
    group.add_argument(
        "--augment",
        choices=["usual", "colour"],
        default=flags.LATER_FLAGS["augment"],
        help="colour: One-Image's crops and colours, of large images (default: usual)",
    )
    group = parser.add_argument_group("training images")
    group.add_argument(
        "--train_data",
        default=None,
        help="image folder, list of `path [label]` lines, or `real` "
        "(default: the list syn_dataset/s{data_quality}_st{s_step}_{data_amount}.txt)",
    )
    group.add_argument(
        "--data_amount",
        type=flags.amount,
        default=None,
        help="images, a class-balanced prefix (default: all of --train_data; 400k of the released list)",
    )
    group.add_argument(
        "--ignore_labels",
        action="store_true",
        help="the images' classes are others than the teacher's "
        "(an ImageNet generator's, say): they balance --data_amount and play no part in training",
    )
    group.add_argument(
        "--data_quality", type=float, default=4, help="guidance scale of the released list"
    )
    group.add_argument(
        "--s_step", type=int, default=100, help="sampling steps of the released list"
    )
    flags.add_training_flags(
        parser, epochs=240, batch_size=128, learning_rate=0.1, weight_decay=5e-4
    )
    flags.add_schedule_flags(parser, lr_decay_epochs=[150, 180, 210])
    real.add_flags(parser)
    group = parser.add_argument_group("run folder")
    group.add_argument("--experiments_dir", default=None, help="default: <dataset>_<model_s>")
    group.add_argument("--experiments_name", default="fold-1")
    group.add_argument(
        "--table", default=None, help="the table that the result belongs to, for result.json"
    )
    group.add_argument(
        "--row",
        default=None,
        help="its row there (default: KD of real images; what the manifest of "
        "the images says; else DM-KD)",
    )
    group.add_argument(
        "--save_model",
        action="store_true",
        help="accepted for old command lines: weights are saved",
    )
    group.add_argument(
        "--evaluate", default=None, metavar="CHECKPOINT", help="measure a student and leave"
    )
    group.add_argument(
        "--estimate", action="store_true", help="print what the run would cost and leave"
    )
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    if options.evaluate and options.estimate:
        raise UserError("--estimate is of a training and --evaluate makes none: leave one out")
    if (
        options.evaluate is None
        and options.path_t is None
        and not (options.estimate and options.model_t)
    ):
        raise UserError("--path-t is needed: the teacher's checkpoint")
    if options.alpha == options.gamma == 0:
        raise UserError("-a and -r are both 0: nothing would be learnt")
    if options.mix_beta and options.use_aug == "none":
        raise UserError("--mix_beta is of mixed images: give --use_aug mixup or cutmix")
    if options.model_s == "ShuffleV2" and options.learning_rate != SHUFFLE_RATE:
        print(
            f"ShuffleV2 students train at --learning_rate {SHUFFLE_RATE}, as in the released "
            "script",
            flush=True,
        )
        options.learning_rate = SHUFFLE_RATE
    if options.evaluate is None:
        options.model_s = options.model_s or "resnet8"
        options.experiments_dir = (
            options.experiments_dir or f"{options.dataset}_{file_stem(options.model_s)}"
        )
    return options


def real_key(options):
    """Returns the flags that choose the real images of a run."""
    return (
        options.dataset,
        options.data_root,
        options.class_list,
        options.val_data,
        options.val_split,
        options.image_size,
    )


def read_images(options, num_classes, shared=None):
    """Returns the training ImageSet that the flags name. Raises UserError as `dataset.folders`
    does.

    The classes of the released list are ImageNet's: for other data sets it sets
    `options.ignore_labels`.
    """
    if options.train_data == "real":
        images = (shared or Shared()).once(
            ("training", options.data_amount, real_key(options)),
            lambda: real.load_training(options),
        )
    else:
        amount, source, class_list = (
            options.data_amount,
            options.train_data,
            real.class_list(options),
        )
        if source is None:
            amount = amount or RELEASED_AMOUNT
            source = folders.find_released_list(options.data_quality, options.s_step, amount)
            options.ignore_labels |= options.dataset != "imagenet" and class_list is None
        images = folders.read_training(
            source, num_classes, amount, class_list, options.ignore_labels
        )
        images.grey = options.dataset == "fashion_mnist"
    if options.gamma > 0 and images.labels is None:
        why = (
            "has labels that play no part (--ignore_labels)"
            if options.ignore_labels
            else "has no labels"
        )
        raise UserError(
            f"-r {options.gamma:g} weighs a cross-entropy and {images.origin['source']} {why}: use "
            "-r 0"
        )
    return images


def main(argv=None, shared=None):
    """Runs the distillation of `argv` and returns its result (a dict); the metrics with --evaluate, the cost with
    --estimate. Several runs of one process may be given one `Shared`: real images are then read, and the teacher is
    evaluated, once.
    """
    options, shared = parse_option(argv), shared or Shared()
    if options.estimate:
        return estimate(options)

    with distributed.session(options, argv) as world:
        val_images = shared.once(
            ("validation", real_key(options)), lambda: real.load_validation(options)
        )
        val_loader = real.make_loader(val_images, options, world, train=False)
        if options.evaluate:
            return evaluate_checkpoint(options, val_loader, world)
        return distill(options, val_loader, world, shared)


def distill(options, val_loader, world, shared):
    """Trains the student and returns the result."""
    num_classes, default = len(val_loader.images.class_names), real.default_statistics(options)
    options.model_t = options.model_t or architecture_of(options.path_t)
    seen = {
        "teacher": chosen_statistics(options, "t", default, options.path_t, options.model_t),
        "student": chosen_statistics(options, "s", default),
    }
    teacher = load_teacher(options.path_t, num_classes, *seen["teacher"][:2], options.model_t).to(
        world.device
    )
    images = read_images(options, num_classes, shared)
    loader = real.make_loader(images, options, world, train=True)
    torch.manual_seed(options.seed)
    student = make_student(options.model_s, num_classes, *seen["student"][:2]).to(world.device)
    network, fixed = (
        loops.compiled(loops.parallel(student, world), options),
        loops.compiled(teacher, options),
    )
    optimizer = loops.make_optimizer(student, options)
    folder = Path("save/student_model") / options.experiments_dir / options.experiments_name
    inputs = {"teacher_sha256": sha256(options.path_t), "images": len(images)}
    run_folder = RunFolder(
        folder,
        options.model_s,
        {"model": student.net, "optimizer": optimizer},
        options,
        world,
        inputs,
        seen["student"].facts,
    )
    progress = run_folder.open(
        options.resume,
        {
            "teacher": inputs,
            "train": images.origin,
            "validation": val_loader.images.origin,
            "normalisation": {name: found._asdict() for name, found in seen.items()},
        },
    )
    if result := run_folder.finished_result(progress, options.epochs):
        return result

    run_folder.log(
        f"student {options.model_s}, {len(images)} images of "
        f"{images.origin.get('source', 'real')}, "
        f"{options.epochs} epochs of {len(loader)} steps"
    )
    for name, found in seen.items():
        run_folder.log(f"the {name}'s images are normalised with {found}")
    if options.ignore_labels:
        run_folder.log("the training images' own labels play no part")
    run_folder.log(
        str(
            training_cost(
                student,
                real.image_size(options),
                loader,
                len(val_loader.images),
                options.epochs,
                teacher,
            )
        )
    )
    # The batch size may change the last digits.
    measured = (
        "teacher",
        inputs["teacher_sha256"],
        options.model_t,
        str(seen["teacher"]._asdict()),
        options.amp,
        val_loader.ordered_share,
        world,
        real_key(options),
    )
    teacher_metrics, teacher_classes = shared.once(
        measured, lambda: loops.evaluate_classifier(teacher, val_loader, world, options.amp)
    )
    loops.report_teacher(run_folder, options.model_t, teacher_metrics["top1"], num_classes)
    step = loops.distillation_step(network, fixed, optimizer, options, world.device)

    def evaluate():
        metrics, _ = loops.evaluate_classifier(
            student, val_loader, world, options.amp, teacher_classes
        )
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
        method=options.row or method_of(options, images),
        teacher=options.model_t,
        student=options.model_s,
        source=images.origin.get("source", "real"),
        images=len(images),
        table=options.table,
        teacher_top1=teacher_metrics["top1"],
    )
    run_folder.finish(
        result,
        {
            "distillation loss": ["loss"],
            "agreement with the teacher (%)": ["train_agreement", "agreement"],
            "accuracy on real images (%)": ["top1"],
        },
    )
    run_folder.log(
        f"student top-1 {result['top1_last']:.2f} % (last epoch), best {result['top1_best']:.2f} "
        "%, "
        f"teacher {result['teacher_top1']:.2f} %: {folder}"
    )
    return result


def method_of(options, images):
    """Returns the name of the tables' row that a student of these images belongs to."""
    if options.train_data == "real":
        return "KD"
    return (images.origin.get("manifest") or {}).get("method", "DM-KD")


def evaluate_checkpoint(options, val_loader, world):
    """Measures the student in `--evaluate` and returns its metrics."""
    path = options.evaluate
    name = options.model_s or architecture_of(path)
    found = chosen_statistics(options, "s", real.default_statistics(options), path, name)
    student = load_teacher(path, len(val_loader.images.class_names), *found[:2], name).to(
        world.device
    )
    if world.is_main:
        print(f"{name}, its images normalised with {found}", flush=True)
    metrics, _ = loops.evaluate_classifier(student, val_loader, world, options.amp)
    if world.is_main:
        print(
            f"{path}: top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} % on "
            f"{len(val_loader.images)} images",
            flush=True,
        )
    return metrics


def estimate(options):
    """Prints what the distillation would take and returns its TrainingCost; no weights and, with
    --data_amount, no images need be there.
    """
    class_list, info = real.class_list(options), real.REAL_SETS[options.dataset]
    num_classes = info.num_classes if class_list is None else len(class_list)
    try:
        val_images = real.load_validation(options)
        num_classes, evaluated = len(val_images.class_names), len(val_images)
    except UserError as error:
        if num_classes is None:
            raise
        print(f"evaluation is not counted: {error}", flush=True)
        evaluated = 0
    amount = options.data_amount or (RELEASED_AMOUNT if options.train_data is None else None)
    batches = Batches(amount or len(read_images(options, num_classes)), options.batch_size)
    options.model_t = options.model_t or architecture_of(options.path_t)
    teacher, student = (
        make_student(name, num_classes, info.mean, info.std)
        for name in (options.model_t, options.model_s)
    )
    cost = training_cost(
        student, real.image_size(options), batches, evaluated, options.epochs, teacher
    )
    print(
        f"teacher {options.model_t}, student {options.model_s}, {batches.count} images, "
        f"{options.epochs} epochs of "
        f"{len(batches)} steps\n{cost}",
        flush=True,
    )
    return cost


if __name__ == "__main__":
    sys.exit(run(main))
