"""Distils a student from a frozen teacher on a folder of images and evaluates it on the real validation set.

    python train_student.py --dataset fashion_mnist --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth \\
        --model_s resnet8 --train_data syn_dataset/DiT-6x128-2_ddpm_s1.2_T25_seed0 --epochs 20 --schedule cosine
    torchrun --nproc_per_node 8 train_student.py --dataset imagenet --path-t save/models/ResNet18/resnet18.pth \\
        --model_s ResNet18 --data_amount 200k --data_quality 2 --s_step 100 --batch_size 256 --epochs 100 --kd_T 10

The method is DM-KD (arXiv 2305.12954): the loss is α·KL(teacher ‖ student)·τ² + γ·cross-entropy on synthetic images.
"""

import sys
from pathlib import Path

from dataset import folders, real
from helper import options as flags
from helper.errors import UserError, run
from helper.files import file_stem

SHUFFLE_RATE = 0.02  # the released script's learning rate of ShuffleV2 students, whatever its flag says


def parse_option(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("distillation")
    group.add_argument("--path-t", default=None, help="teacher checkpoint; its folder's name is the architecture")
    group.add_argument("--model_t", default=None, help="teacher architecture, where the folder's name does not say it")
    group.add_argument("--model_s", default=None, help="student: a name of models/, torchvision/NAME or timm/NAME "
                       "(default: resnet8; with --evaluate, the checkpoint's own)")
    group.add_argument("--distill", choices=["kd"], default="kd")
    group.add_argument("-a", "--alpha", type=flags.nonnegative_float, default=1.0, help="weight of the KL loss")
    group.add_argument("-r", "--gamma", type=flags.nonnegative_float, default=0.0, help="weight of the cross-entropy")
    group.add_argument("--kd_T", type=flags.positive_float, default=4.0, help="temperature τ (default: 4)")
    group.add_argument("--use_aug", choices=["none", "mixup", "cutmix"], default="none")
    for who, name in (("t", "teacher"), ("s", "student")):
        for what in ("mean", "std"):
            group.add_argument(f"--{what}_{who}", type=flags.float_list, default=None,
                               help=f"{what} of the {name}'s images in [0, 1] (default: the data set's)")
    group = parser.add_argument_group("training images")
    group.add_argument("--train_data", default=None, help="image folder, list of `path [label]` lines, or `real` "
                       "(default: the list syn_dataset/s{data_quality}_st{s_step}_{data_amount}.txt)")
    group.add_argument("--data_amount", type=flags.amount, default=None,
                       help="images, a class-balanced prefix (default: all of --train_data; 400k of the released list)")
    group.add_argument("--data_quality", type=float, default=4, help="guidance scale of the released list")
    group.add_argument("--s_step", type=int, default=100, help="sampling steps of the released list")
    flags.add_training_flags(parser, epochs=240, batch_size=128, learning_rate=0.1, weight_decay=5e-4)
    flags.add_schedule_flags(parser, lr_decay_epochs=[150, 180, 210])
    real.add_flags(parser)
    group = parser.add_argument_group("run folder")
    group.add_argument("--experiments_dir", default=None, help="default: <dataset>_<model_s>")
    group.add_argument("--experiments_name", default="fold-1")
    group.add_argument("--table", default=None, help="the table that the result belongs to, for result.json")
    group.add_argument("--save_model", action="store_true", help="accepted for old command lines: weights are saved")
    group.add_argument("--evaluate", default=None, metavar="CHECKPOINT", help="measure a student and leave")
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    if options.evaluate is None and options.path_t is None:
        raise UserError("--path-t is needed: the teacher's checkpoint")
    if options.alpha == options.gamma == 0:
        raise UserError("-a and -r are both 0: nothing would be learnt")
    if options.model_s == "ShuffleV2" and options.learning_rate != SHUFFLE_RATE:
        print(f"ShuffleV2 students train at --learning_rate {SHUFFLE_RATE}, as in the released script", flush=True)
        options.learning_rate = SHUFFLE_RATE
    if options.evaluate is None:
        options.model_s = options.model_s or "resnet8"
        options.experiments_dir = options.experiments_dir or f"{options.dataset}_{file_stem(options.model_s)}"
    return options


def read_images(options, num_classes):
    """Returns the training ImageSet that the flags name. Raises UserError as `dataset.folders` does."""
    if options.train_data == "real":
        images = real.load_split(options, "train")
        if options.data_amount is not None:
            images = images.subset(folders.class_balanced_prefix(range(len(images)), images.labels,
                                                                 options.data_amount, f"the real {options.dataset}"))
    else:
        amount = options.data_amount
        source = options.train_data
        if source is None:
            amount = amount or 400_000
            source = folders.find_released_list(options.data_quality, options.s_step, amount)
        images = folders.read_training(source, num_classes, amount)
        images.grey = options.dataset == "fashion_mnist"
    if options.gamma > 0 and images.labels is None:
        raise UserError(f"-r {options.gamma:g} weighs a cross-entropy and {options.train_data} has no labels: use -r 0")
    return images


def main(argv=None):
    """Runs the distillation of `argv` and returns its result (a dict); with --evaluate, the metrics."""
    options = parse_option(argv)
    from helper import processes

    processes.relaunch_under_torchrun(options, argv)
    world = processes.start(options)
    try:
        val_images = real.load_validation(options)
        val_loader = real.make_loader(val_images, options, world, train=False)
        if options.evaluate:
            return evaluate_checkpoint(options, val_loader, world)
        return distill(options, val_loader, world)
    finally:
        world.close()


def statistics(options, who):
    """Returns (mean, std) of the teacher ('t') or the student ('s'): the flags', else the data set's."""
    info = real.REAL_SETS[options.dataset]
    return getattr(options, f"mean_{who}") or info.mean, getattr(options, f"std_{who}") or info.std


def distill(options, val_loader, world):
    """Trains the student and returns the result."""
    import torch
    import torch.nn.functional as F

    from helper import loops
    from helper.files import sha256
    from helper.losses import MIXING, kd_loss
    from helper.runs import RunFolder
    from models.classifiers import architecture_of, load_teacher, make_student

    num_classes = len(val_loader.images.class_names)
    options.model_t = options.model_t or architecture_of(options.path_t)
    teacher = load_teacher(options.path_t, num_classes, *statistics(options, "t"), options.model_t).to(world.device)
    images = read_images(options, num_classes)
    loader = real.make_loader(images, options, world, train=True)
    torch.manual_seed(options.seed)
    student = make_student(options.model_s, num_classes, *statistics(options, "s")).to(world.device)
    network, fixed = loops.compiled(loops.parallel(student, world), options), loops.compiled(teacher, options)
    optimizer = loops.make_sgd(student, options)
    folder = Path("save/student_model") / options.experiments_dir / options.experiments_name
    inputs = {"teacher_sha256": sha256(options.path_t), "images": len(images)}
    run_folder = RunFolder(folder, options.model_s, {"model": student.net, "optimizer": optimizer}, options,
                           world, inputs)
    progress = run_folder.open(options.resume, {"teacher": inputs, "train": images.origin,
                                                "validation": val_loader.images.origin})
    if result := run_folder.finished_result(progress, options.epochs):
        return result

    teacher_metrics, teacher_classes = loops.evaluate_classifier(teacher, val_loader, world, options.amp)
    report_teacher(run_folder, options, teacher_metrics["top1"], num_classes)
    run_folder.log(f"student {options.model_s}, {len(images)} images of {images.origin.get('source', 'real')}, "
                   f"{options.epochs} epochs of {len(loader)} steps")
    mix = MIXING[options.use_aug]

    def step(batch):
        student.train()
        inputs, labels = loops.to_device(batch, world.device)
        inputs = mix(inputs)
        with loops.autocast(options.amp, world.device):
            with torch.no_grad():
                teacher_logits = fixed(inputs)
            logits = network(inputs)
        loss = options.alpha * kd_loss(logits, teacher_logits, options.kd_T)
        if options.gamma:
            loss = loss + options.gamma * F.cross_entropy(logits.float(), labels)
        loops.gradient_step(loss, optimizer)
        count = len(inputs)
        agreed = (logits.argmax(1) == teacher_logits.argmax(1)).sum()
        return {"loss": loss.detach() * count, "train_agreement": 100.0 * agreed, "count": count}

    def evaluate():
        metrics, _ = loops.evaluate_classifier(student, val_loader, world, options.amp, teacher_classes)
        return metrics, metrics["top1"]

    loops.fit(run_folder, progress, loader, step, evaluate, optimizer, loops.make_schedule(options), options)
    result = loops.classifier_result(
        progress, options, loader, val_loader, method="KD" if options.train_data == "real" else "DM-KD",
        teacher=options.model_t, student=options.model_s, source=images.origin.get("source", "real"),
        images=len(images), table=options.table, teacher_top1=teacher_metrics["top1"])
    run_folder.finish(result, {"distillation loss": ["loss"], "agreement with the teacher (%)":
                               ["train_agreement", "agreement"], "accuracy on real images (%)": ["top1"]})
    run_folder.log(f"student top-1 {result['top1_last']:.2f} % (last epoch), best {result['top1_best']:.2f} %, "
                   f"teacher {result['teacher_top1']:.2f} %: {folder}")
    return result


def report_teacher(run_folder, options, top1, num_classes):
    """Logs the teacher's own accuracy, with a warning where it is hardly better than chance."""
    run_folder.log(f"teacher {options.model_t}: top-1 {top1:.2f} % on the real validation set")
    if top1 < 3 * 100 / num_classes:
        run_folder.log("warning: the teacher is below three times chance: its classes may be in another order, or its "
                       "images normalised otherwise (--mean_t, --std_t)")


def evaluate_checkpoint(options, val_loader, world):
    """Measures the student in `--evaluate` and returns its metrics."""
    from helper import checkpoints, loops
    from models.classifiers import load_teacher

    content = checkpoints.load(options.evaluate)
    # Our checkpoints name their architecture; for others it is that of their folder.
    name = options.model_s or (content.get("model_name") if isinstance(content, dict) else None)
    student = load_teacher(options.evaluate, len(val_loader.images.class_names), *statistics(options, "s"),
                           name).to(world.device)
    metrics, _ = loops.evaluate_classifier(student, val_loader, world, options.amp)
    if world.is_main:
        print(f"{options.evaluate}: top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} % on "
              f"{len(val_loader.images)} images", flush=True)
    return metrics


if __name__ == "__main__":
    sys.exit(run(main))
