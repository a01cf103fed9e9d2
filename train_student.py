"""Distils a student from a frozen teacher on a folder of images (DM-KD, arXiv 2305.12954) and
evaluates it on the real validation set.

    python train_student.py --dataset fashion_mnist --model_s resnet8 --epochs 20 \\
        --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth --schedule cosine \\
        --train_data syn_dataset/DiT-6x160-2_ddpm_s1.2_T25_seed0
    torchrun --nproc_per_node 8 train_student.py --dataset imagenet --model_s ResNet18 \\
        --path-t save/models/ResNet18/resnet18.pth --data_amount 200k --data_quality 2 \\
        --s_step 100 --batch_size 256 --epochs 100 --kd_T 10

The loss is alpha * KL(teacher || student) * tau^2 + gamma * cross-entropy; for others than KL see
--distill. The run folder is
save/student_model/<experiments_dir>/<experiments_name>/.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from dataset import folders, real, transforms
from dataset.contact_sheet import sheet_beside
from dataset.identity import images_sha256
from dataset.loader import Batches, make_loader
from helper import options as flags
from helper.capture import capturable_step, check_capture
from helper.checkpoints import weights_sha256
from helper.cost import training_cost
from helper.device import autocast, to_device
from helper.distributed import parallel, session
from helper.errors import UserError, note, run_script
from helper.evaluate import (
    accuracy_warning,
    confusion_matrix,
    evaluate_classifier,
    evaluate_teacher,
)
from helper.files import file_stem
from helper.losses import loss_weight, mixing
from helper.optim import make_optimizer, update
from helper.run import Run, latest_path
from models.classifiers import (
    architecture_of,
    check_classifier,
    check_start,
    image_statistics,
    load_teacher,
    make_student,
)

RELEASED_AMOUNT = 400_000  # images, default of the released script
# The released script's learning rate of these students, always
SHUFFLE_RATE, SHUFFLE_STUDENTS = 0.02, ("MobileNetV2", "ShuffleV1", "ShuffleV2")

# A resumed run must share these flags.
SETTINGS = (
    *flags.NETWORK_SETTINGS,
    *flags.TRAINING_SETTINGS,
    *flags.SCHEDULE_SETTINGS,
    *real.SETTINGS,
    *flags.DISTILLATION_SETTINGS,
    *"alpha gamma kd_T no_tau2 use_aug mix_beta augment".split(),
    *"train_data data_amount ignore_labels data_quality s_step".split(),
)
PANELS = {
    "distillation loss": ["loss"],
    "agreement with the teacher (%)": ["train_agreement", "agreement"],
    "accuracy on real images (%)": ["top1"],
}


def parse_option(argv=None):
    """Parses and checks the flags. Raises UserError."""
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("distillation")
    flags.add_network_flags(
        group,
        model_s="resnet8; with --evaluate, that of the checkpoint",
        statistics_s="the data set's; with --evaluate, the checkpoint's or library's, if any",
    )
    flags.add_distillation_flags(group)
    group.add_argument(
        "-a",
        "--alpha",
        type=flags.nonnegative_float,
        default=1.0,
        help="weight of the distillation loss (default: 1)",
    )
    group.add_argument(
        "-r",
        "--gamma",
        type=flags.nonnegative_float,
        default=0.0,
        help="weight of the cross-entropy (default: 0)",
    )
    group.add_argument(
        "--kd_T", type=flags.moderate_float, default=4.0, help="temperature tau (default: 4)"
    )
    group.add_argument(
        "--no_tau2", action="store_true", help="omit the factor tau^2 of the KL loss (One-Image)"
    )
    group.add_argument(
        "--use_aug",
        choices=["none", "mixup", "cutmix"],
        default="none",
        help="mix the images of a batch (default: none)",
    )
    group.add_argument(
        "--mix_beta",
        type=flags.moderate_float,
        default=None,
        help="parameter c of the mixing weight's Beta(c, c) distribution (default: 0.4 for mixup, "
        "0.25 for cutmix)",
    )
    group.add_argument(
        "--augment",
        choices=["usual", "colour"],
        default="usual",
        help="colour: crops and colour jitter of One-Image, for images above 64 "
        "pixels (default: usual)",
    )
    group = parser.add_argument_group("training images")
    group.add_argument(
        "--train_data",
        default=None,
        help="image folder, list of `path [label]` lines, or `real` (default: the "
        "list syn_dataset/s{data_quality}_st{s_step}_{data_amount}.txt)",
    )
    group.add_argument(
        "--data_amount",
        type=flags.amount,
        default=None,
        help="use a class-balanced prefix of this many images, such as 200k "
        "(default: all; 400k of the released list)",
    )
    group.add_argument(
        "--ignore_labels",
        action="store_true",
        help="the images show other classes than the teacher's, for example "
        "ImageNet's: labels only balance --data_amount",
    )
    group.add_argument(
        "--data_quality",
        type=float,
        default=4,
        help="guidance scale of the released list (default: 4)",
    )
    group.add_argument(
        "--s_step", type=int, default=100, help="sampling steps of the released list (default: 100)"
    )
    flags.add_training_flags(
        parser, epochs=240, batch_size=128, learning_rate=0.1, weight_decay=5e-4
    )
    flags.add_capture_flag(parser)
    flags.add_schedule_flags(parser, lr_decay_epochs=[150, 180, 210])
    real.add_flags(parser)
    group = parser.add_argument_group("run folder and other modes")
    flags.add_run_folder_flags(group, "fold-1", "fold-1")
    group.add_argument("--table", default=None, help="name of the results table, for result.json")
    group.add_argument(
        "--row",
        default=None,
        help="row of the results table (default: KD for real images, else the "
        "method named in the images' manifest, else DM-KD)",
    )
    group.add_argument(
        "--save_model", action="store_true", help="ignored: weights are always saved"
    )
    flags.add_safetensors_flag(group)
    group.add_argument(
        "--evaluate",
        default=None,
        metavar="CHECKPOINT",
        help="evaluate a student or teacher and exit",
    )
    group.add_argument(
        "--estimate", action="store_true", help="print the estimated cost of the run and exit"
    )
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    flags.check_schedule(parser, options)
    if options.evaluate and options.estimate:
        raise UserError("--estimate and --evaluate cannot be combined")
    # An estimate needs no weights, only the name of the teacher
    needs_teacher = options.evaluate is None and not (options.estimate and options.model_t)
    if needs_teacher and options.path_t is None:
        raise UserError("--path-t is required: the checkpoint of the teacher")
    if options.alpha == options.gamma == 0:
        raise UserError("-a and -r are both 0: there is no loss to minimise")
    if options.ignore_labels and options.train_data == "real":
        note("--ignore_labels has no effect on --train_data real")
    if options.mix_beta and options.use_aug == "none":
        raise UserError("--mix_beta needs --use_aug mixup or cutmix")
    if options.model_s in SHUFFLE_STUDENTS and options.learning_rate != SHUFFLE_RATE:
        print(
            f"{options.model_s} students use --learning_rate {SHUFFLE_RATE}, as in the released "
            "script",
            flush=True,
        )
        options.learning_rate = SHUFFLE_RATE
    if options.evaluate and options.path_t is None:
        # Without a teacher its flags describe the checkpoint, which may be that of a teacher.
        options.model_s = options.model_s or options.model_t
        options.mean_s = options.mean_s or options.mean_t
        options.std_s = options.std_s or options.std_t
    if options.evaluate is None:
        options.model_s = options.model_s or "resnet8"
        stem = file_stem(options.model_s)
        options.experiments_dir = options.experiments_dir or f"{options.dataset}_{stem}"
    return options


def main(argv=None):
    """Distils the student of `argv` and returns its result (a dict); with --evaluate the metrics,
    with --estimate the TrainingCost.
    """
    options = parse_option(argv)
    distill = flags.distillation_of(options, options.kd_T, scaled=not options.no_tau2)
    data = real.data_from(options)
    source, amount = options.train_data, options.data_amount
    if source is None and options.evaluate is None:
        # The released list; its classes are ImageNet's.
        amount = amount or RELEASED_AMOUNT
        source = folders.released_list_path(options.data_quality, options.s_step, amount)
        options.ignore_labels |= options.dataset != "imagenet" and data.class_list is None
    if options.estimate:
        num_classes, class_names, val_images = data.num_classes, (), 0
        try:
            images = data.validation()
            class_names, val_images = images.class_names, len(images)
            num_classes = len(class_names)
        except UserError as error:
            if num_classes is None:
                raise
            print(f"the evaluation is not included: {error}", flush=True)
        if amount is None:
            images = read_images(
                data, source, None, num_classes, options.ignore_labels, class_names
            )
            amount = len(images)
        names = options.model_t or architecture_of(options.path_t), options.model_s
        return estimate(
            data,
            names,
            num_classes,
            val_images,
            Batches(amount, options.batch_size),
            options.epochs,
        )
    with session(flags.process_settings(options), argv) as world:
        device = world.device
        check_capture(options.capture, device)
        val_images = data.validation()
        val_loader = make_loader(
            val_images,
            transforms.validation(data.image_size),
            options.batch_size,
            world,
            val_batch_size=options.val_batch_size,
            workers=options.num_workers,
        )
        class_names = val_loader.images.class_names
        num_classes = len(class_names)
        if options.evaluate:
            flag = "--model_s" if options.path_t else "--model_t"
            name = options.model_s or architecture_of(options.evaluate, flag)
            statistics = image_statistics(
                options.mean_s, options.std_s, "s", data.default_statistics, options.evaluate, name
            )
            return evaluate_checkpoint(
                options.evaluate, name, statistics, val_loader, world, options.amp
            )

        # Teacher, training images, student
        options.model_t = options.model_t or architecture_of(options.path_t)
        normalisation = {
            "teacher": image_statistics(
                options.mean_t,
                options.std_t,
                "t",
                data.default_statistics,
                options.path_t,
                options.model_t,
            ),
            "student": image_statistics(
                options.mean_s, options.std_s, "s", data.default_statistics
            ),
        }
        teacher = load_teacher(
            options.path_t, num_classes, *normalisation["teacher"][:2], options.model_t
        ).to(device)
        check_classifier(teacher, options.model_t, "--model_t", data.image_size, num_classes)
        images = read_images(data, source, amount, num_classes, options.ignore_labels, class_names)
        if options.gamma and images.labels is None:
            why, remedy = f"{source} has none", "use -r 0"
            if options.ignore_labels:
                why = f"those of {source} are ignored (--ignore_labels)"
            elif images.why_unlabelled:
                why = f"those of {source} do not fit the validation images: {images.why_unlabelled}"
                remedy = "rename or add class folders (they may be empty), or use -r 0"
            raise UserError(f"-r {options.gamma:g} needs labels, but {why}: {remedy}")
        train_loader = make_loader(
            images,
            transforms.training(data.image_size, options.augment == "colour"),
            options.batch_size,
            world,
            seed=options.seed,
            workers=options.num_workers,
        )
        torch.manual_seed(options.seed)
        folder = Path("save/student_model", options.experiments_dir, options.experiments_name)
        student = make_student(
            options.model_s,
            num_classes,
            *normalisation["student"][:2],
            resumed=latest_path(folder, options.model_s) if options.resume else None,
            image_size=data.image_size,
        ).to(device)
        check_classifier(
            student,
            options.model_s,
            "--model_s",
            data.image_size,
            num_classes,
            train_loader.rank_batch_size,
        )
        check_start(student, data.image_size, options.distill, options.standardize_logits)
        optimizer = make_optimizer(
            options.optimizer,
            student.parameters(),
            options.learning_rate,
            options.weight_decay,
            options.momentum,
        )

        # Create or restore the run
        run = Run(
            folder,
            options.model_s,
            {"model": student.net, "optimizer": optimizer},
            world,
            normalisation["student"].facts,
            options.tracker,
        )
        inputs = {"teacher_sha256": weights_sha256(options.path_t), "images": len(images)}
        run.open(
            flags.values_of(options, SETTINGS)
            | inputs
            | {
                "training_images_sha256": world.from_main(images_sha256, images),
                "validation_images_sha256": world.from_main(images_sha256, val_images),
            },
            {
                "teacher": inputs,
                "train": images.origin,
                "validation": val_loader.images.origin,
                "normalisation": {name: value._asdict() for name, value in normalisation.items()},
            },
            options.resume,
        )
        if result := run.finished_result(options.epochs, PANELS, options.safetensors):
            return result
        run.track_image("training images", sheet_beside(source))
        origin = images.origin.get("source", "real")
        run.log(
            f"student {options.model_s}, {len(images)} images of {origin}, "
            f"{options.epochs} epochs of {len(train_loader)} steps"
        )
        for name, statistics in normalisation.items():
            run.log(f"images of the {name} are normalised with {statistics}")
        if options.ignore_labels:
            run.log("labels of the training images are ignored")
        run.log(
            str(
                training_cost(
                    student,
                    data.image_size,
                    train_loader,
                    len(val_loader.images),
                    options.epochs,
                    teacher,
                )
            )
        )
        teacher_metrics, teacher_classes = evaluate_teacher(
            teacher, options.model_t, val_loader, run, options.amp
        )

        # Train
        student_network, teacher_network = parallel(student, world), teacher
        if options.compile:
            student_network, teacher_network = map(
                torch.compile, (student_network, teacher_network)
            )
        draw, mix = mixing(options.use_aug, options.mix_beta)
        has_targets = images.labels is not None and options.use_aug == "none"
        ramp = torch.ones((), device=device)  # of the distillation loss

        def step(images, labels, *mixture):
            """One optimisation step (arXiv 2305.12954, eq. 4): images (N, 3, H, W) in [0, 1]."""
            images = mix(images, *mixture)
            with autocast(options.amp, device, cache=options.capture != "on"):
                with torch.no_grad():
                    teacher_logits = teacher_network(images)
                logits = student_network(images)
            loss = options.alpha * distill(logits, teacher_logits, labels if has_targets else None)
            if options.distill_warmup_epochs:
                loss = ramp * loss
            if options.gamma:
                loss = loss + options.gamma * F.cross_entropy(logits.float(), labels)
            update(optimizer, loss)
            return loss, logits.argmax(1) == teacher_logits.argmax(1)

        step = capturable_step(step, optimizer, options.capture, world, run.log)
        schedule = flags.schedule_of(options)
        for epoch in run.epochs(options.epochs, schedule, options.seed, options.print_freq):
            ramp.fill_(loss_weight(epoch, options.distill_warmup_epochs))
            for batch in run.batches(train_loader):  # seeds torch, sets the learning rate
                inputs, labels = to_device(batch, device)
                loss, agreement = step(inputs, labels, *draw(inputs))
                run.add(len(agreement), loss=loss, train_agreement=100.0 * agreement)
            metrics, _ = evaluate_classifier(
                student, val_loader, world, options.amp, teacher_classes
            )
            run.end_epoch(metrics, metrics["top1"])  # writes metrics.csv and the checkpoints

        # Results
        result = {
            "table": options.table,
            "method": options.row or method_of(images, source),
            "dataset": options.dataset,
            "teacher": options.model_t,
            "student": options.model_s,
            "source": origin,
            "images": len(images),
            "epochs": options.epochs,
            "seed": options.seed,
            "val_split": options.val_split,
            "val_images": len(val_loader.images),
            **run.accuracies(),
            "teacher_top1": teacher_metrics["top1"],
            "image_steps": options.epochs * len(train_loader) * train_loader.batch_size,
            "seconds": run.seconds,
        }
        run.finish(result, PANELS, options.safetensors)
        run.log(
            f"student: top-1 {result['top1_last']:.2f} % (last epoch), best "
            f"{result['top1_best']:.2f} %; teacher {result['teacher_top1']:.2f} %: {folder}"
        )
        return result


def read_images(data, source, amount, num_classes, ignore_labels, class_names=()):
    """Returns the training ImageSet: 'real', or a folder or list of images.

    class_names: of the validation images.

    Raises UserError as `dataset.folders.read_training`.
    """
    if source == "real":
        return data.training(amount, class_names)
    return folders.read_training(
        source, num_classes, amount, data.class_list, ignore_labels, data.grey, class_names
    )


def method_of(images, source):
    """Returns the row of the results table for a student trained on these images."""
    if source == "real":
        return "KD"
    return (images.origin.get("manifest") or {}).get("method", "DM-KD")


def evaluate_checkpoint(path, name, statistics, val_loader, world, amp):
    """Prints and returns the metrics of the classifier `name` in the checkpoint `path`."""
    num_classes = len(val_loader.images.class_names)
    student = load_teacher(path, num_classes, *statistics[:2], name).to(world.device)
    check_classifier(student, name, "--model_s", val_loader.transform.size, num_classes)
    metrics, classes = evaluate_classifier(student, val_loader, world, amp)
    confusion = confusion_matrix(classes, val_loader.images, num_classes, world)
    if world.is_main:
        print(f"{name}: images are normalised with {statistics}")
        print(
            f"{path}: top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} % on "
            f"{len(val_loader.images)} images",
            flush=True,
        )
        if warning := accuracy_warning(confusion, val_loader.images.class_names):
            print(warning, flush=True)
    return metrics


def estimate(data, names, num_classes, val_images, batches, epochs):
    """Prints and returns the TrainingCost of a distillation, computed without any weights.

    names: of teacher and student; batches: the Batches of an epoch.
    """
    teacher, student = (
        make_student(name, num_classes, data.info.mean, data.info.std, image_size=data.image_size)
        for name in names
    )
    for network, name, flag in zip((teacher, student), names, ("--model_t", "--model_s")):
        check_classifier(network, name, flag, data.image_size, num_classes)
    cost = training_cost(student, data.image_size, batches, val_images, epochs, teacher)
    print(
        f"teacher {names[0]}, student {names[1]}, {batches.count} images, {epochs} epochs of "
        f"{len(batches)} steps\n{cost}",
        flush=True,
    )
    return cost


if __name__ == "__main__":
    sys.exit(run_script(main))
