"""Distils a student without data: images are synthesised from the teacher during training.

    python train_datafree.py --method dfq --dataset fashion_mnist --model_s resnet8 --epochs 20 \\
        --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth
    torchrun --nproc_per_node 2 train_datafree.py --method fastdfkd --k 5 --dataset cifar100 \\
        --path-t save/models/cifar100_resnet34/resnet34.pth --model_s resnet18

dafl and dfq train a generator beside the student; each of its images is used once. fastdfkd and
deepinversion add rounds of images to a pool before every epoch, and the student trains on all of
it; the pool is an image folder that train_student.py reads too. The default settings are the
published ones for 32×32, see the files in datafree/.

The loss of the student is KL(teacher || student) * tau^2; for others see --distill. The run folder
is save/student_model/<experiments_dir>/<experiments_name>/.
"""

import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

import torch

from datafree import Stopped, dafl, deepinversion, dfq, fastdfkd
from dataset import folders, real, transforms
from dataset.contact_sheet import sheet_beside, sheet_rows, write_contact_sheet
from dataset.identity import images_sha256
from dataset.image_writer import ImageWriter, to_pixels
from dataset.loader import Batches, keep_in_memory, make_loader
from dataset.pool import Pool, RepeatedLoader
from helper import options as flags
from helper.capture import capturable_step, check_capture
from helper.checkpoints import weights_sha256
from helper.cost import SynthesisCost, forward_operations, training_cost
from helper.device import autocast, to_device
from helper.distributed import parallel, session
from helper.errors import UserError, run_script
from helper.evaluate import evaluate_classifier, evaluate_teacher
from helper.files import file_stem, make_folder, remove_parts
from helper.image_size import is_small
from helper.losses import loss_weight
from helper.optim import make_optimizer, update
from helper.run import Run, latest_path
from helper.seeds import seed_step
from models.classifiers import (
    architecture_of,
    check_classifier,
    check_start,
    image_statistics,
    load_teacher,
    make_student,
)


class Method(NamedTuple):
    """A method, and the defaults of its student's training."""

    row: str  # of the results tables
    settings: type  # dataclass whose fields are flags
    kind: type  # class of the method
    kd_T: float
    learning_rate: float
    has_pool: bool


METHODS = {
    "dafl": Method("DAFL", dafl.Settings, dafl.DAFL, 1.0, 0.1, False),
    "dfq": Method("DFQ", dfq.Settings, dfq.DFQ, 1.0, 0.1, False),
    "fastdfkd": Method("FastDFKD", fastdfkd.Settings, fastdfkd.FastDFKD, 20.0, 0.2, True),
    "deepinversion": Method(
        "DeepInv", deepinversion.Settings, deepinversion.DeepInversion, 20.0, 0.1, True
    ),
}
METHOD_SETTINGS = {name: method.settings for name, method in METHODS.items()}
SAMPLES = 100  # images of the final generator that are saved

# A resumed run must share these flags.
SETTINGS = (
    *flags.NETWORK_SETTINGS,
    *flags.TRAINING_SETTINGS,
    *flags.SCHEDULE_SETTINGS,
    *real.SETTINGS,
    *flags.DISTILLATION_SETTINGS,
    *"method kd_T steps_per_epoch rounds_per_epoch pool pool_data".split(),
    *(field.name for kind in METHOD_SETTINGS.values() for field in fields(kind)),
)
# The loss in the terms of train_student.py's flags, for config.json.
LOSS = {"alpha": 1.0, "gamma": 0.0, "no_tau2": False, "use_aug": "none", "mix_beta": None}
PANELS = {
    "distillation loss": ["loss"],
    "agreement with the teacher (%)": ["train_agreement", "agreement"],
    "accuracy on real images (%)": ["top1"],
}


def parse_option(argv=None):
    """Parses and checks the flags; fills in the defaults of the method. Raises UserError."""
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("distillation")
    group.add_argument("--method", choices=list(METHODS), required=True, help="see above")
    flags.add_network_flags(group)
    flags.add_distillation_flags(group)
    temperatures = ", ".join(f"{name} {method.kd_T:g}" for name, method in METHODS.items())
    group.add_argument(
        "--kd_T",
        type=flags.moderate_float,
        default=None,
        help=f"temperature tau (default: {temperatures})",
    )
    group.add_argument(
        "--steps_per_epoch",
        type=flags.positive_int,
        default=400,
        help="student steps per epoch (default: 400)",
    )
    group = parser.add_argument_group("pool of images (fastdfkd, deepinversion)")
    group.add_argument(
        "--rounds_per_epoch",
        type=flags.positive_int,
        default=None,
        help="rounds of images that are added to the pool before each epoch (default: 1)",
    )
    group.add_argument(
        "--pool", default=None, help="folder of the pool (default: pool/ in the run folder)"
    )
    group.add_argument(
        "--pool_data", default=None, help="image folder or list to train on besides the pool"
    )
    flags.add_settings_flags(parser, "settings of the methods", METHOD_SETTINGS)
    flags.add_training_flags(
        parser, epochs=200, batch_size=256, learning_rate=None, weight_decay=1e-4
    )
    flags.add_capture_flag(parser)
    flags.add_schedule_flags(parser, schedule="cosine", min_lr=2e-4)
    real.add_flags(parser)
    group = parser.add_argument_group("run folder")
    flags.add_run_folder_flags(group, None, "the method")
    flags.add_safetensors_flag(group)
    group.add_argument("--table", default=None, help="name of the results table, for result.json")
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    flags.check_schedule(parser, options)
    if options.path_t is None:
        raise UserError("--path-t is required: the checkpoint of the teacher")

    method = METHODS[options.method]
    for name in ("rounds_per_epoch", "pool", "pool_data"):
        if getattr(options, name) is not None and not method.has_pool:
            raise UserError(f"--{name} cannot be used with {options.method}, which has no pool")
    published = {}
    if options.method == "fastdfkd":
        published = fastdfkd.published_settings(options.k or fastdfkd.Settings.k)
    elif options.method == "deepinversion":
        published = deepinversion.published_settings(real.data_from(options).image_size)
    settings = flags.settings_of(options, options.method, METHOD_SETTINGS, published)
    vars(options).update(asdict(settings))  # a resumed run must share them
    options.kd_T = options.kd_T or method.kd_T
    options.learning_rate = options.learning_rate or method.learning_rate
    options.rounds_per_epoch = options.rounds_per_epoch or 1
    options.model_s = options.model_s or "resnet8"
    stem = file_stem(options.model_s)
    options.experiments_dir = options.experiments_dir or f"{options.dataset}_{stem}"
    options.experiments_name = options.experiments_name or options.method
    return options


def main(argv=None):
    """Distils the student of `argv` and returns its result (a dict)."""
    options = parse_option(argv)
    settings = flags.settings_of(options, options.method, METHOD_SETTINGS)
    distill = flags.distillation_of(options, options.kd_T)
    row, has_pool = METHODS[options.method].row, METHODS[options.method].has_pool
    data = real.data_from(options)
    size = data.image_size
    with session(flags.process_settings(options), argv) as world:
        device = world.device
        check_capture(options.capture, device)
        val_images = data.validation()
        val_loader = make_loader(
            val_images,
            transforms.validation(size),
            options.batch_size,
            world,
            val_batch_size=options.val_batch_size,
            workers=options.num_workers,
        )
        num_classes = len(val_loader.images.class_names)

        # Teacher, student, method
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
        torch.manual_seed(options.seed)
        folder = Path("save/student_model", options.experiments_dir, options.experiments_name)
        student = make_student(
            options.model_s,
            num_classes,
            *normalisation["student"][:2],
            resumed=latest_path(folder, options.model_s) if options.resume else None,
            image_size=size,
        ).to(device)
        optimizer = make_optimizer(
            options.optimizer,
            student.parameters(),
            options.learning_rate,
            options.weight_decay,
            options.momentum,
        )
        networks = [(teacher, options.model_t, "--model_t")]
        if getattr(settings, "adv", 0):  # then the images depend on the student too
            networks.append((student, options.model_s, "--model_s"))
        for divisor, _ in getattr(settings, "stages", ((1, None),)):
            for network, name, flag in networks:
                flag += " or --half_steps 0" * (divisor > 1)
                check_classifier(network, name, flag, size // divisor, num_classes)
        check_classifier(
            student,
            options.model_s,
            "--model_s",
            size,
            num_classes,
            options.batch_size // world.size,
        )
        check_start(student, size, options.distill, options.standardize_logits)
        method = METHODS[options.method].kind(
            teacher, num_classes, size, data.grey, settings, world
        )
        parts = {"model": student.net, "optimizer": optimizer, "method": method}

        # Pool
        inputs = {"teacher_sha256": weights_sha256(options.path_t)}
        contents = {"validation_images_sha256": world.from_main(images_sha256, val_images)}
        warmup_rounds = getattr(settings, "warmup_rounds", 0)
        if has_pool:
            beside = read_images_beside(options.pool_data, data) if options.pool_data else None
            if beside:
                contents["pool_data_sha256"] = world.from_main(images_sha256, beside)
            rounds = warmup_rounds + options.rounds_per_epoch
            images = rounds * settings.batch + (len(beside) if beside else 0)
            if images < options.batch_size:
                raise UserError(
                    f"--batch_size {options.batch_size} is more than the {images} images of the "
                    "first epoch: use a larger --batch or --rounds_per_epoch, or a smaller "
                    "--batch_size"
                )
            manifest = {
                "method": row,
                "run": str(folder),
                "settings": {
                    **inputs,
                    **asdict(settings),
                    "seed": options.seed,
                    "image_size": size,
                    "grey": data.grey,
                    "format": "png",
                },
            }
            pool = Pool(options.pool or folder / "pool", size, data.grey, world, manifest, beside)
            parts["pool"] = pool

        # Create or restore the run
        run = Run(
            folder,
            options.model_s,
            parts,
            world,
            normalisation["student"].facts,
            options.tracker,
        )
        run.open(
            flags.values_of(options, SETTINGS) | LOSS | inputs | contents,
            {
                "teacher": inputs,
                "validation": val_loader.images.origin,
                "normalisation": {name: value._asdict() for name, value in normalisation.items()},
            },
            options.resume,
        )
        if result := run.finished_result(options.epochs, PANELS, options.safetensors):
            return result
        if has_pool:
            pool.open()
        run.log(
            f"{row}: student {options.model_s}, {options.epochs} epochs of "
            f"{options.steps_per_epoch} steps"
        )
        for name, statistics in normalisation.items():
            run.log(f"images of the {name} are normalised with {statistics}")
        student_steps = options.epochs * options.steps_per_epoch
        image_steps = student_steps * options.batch_size
        batches = Batches(options.steps_per_epoch * options.batch_size, options.batch_size)
        cost = training_cost(
            student, size, batches, len(val_loader.images), options.epochs, teacher
        )
        run.log(str(cost))
        if has_pool:
            rounds = warmup_rounds + options.epochs * options.rounds_per_epoch
            # A step at half resolution costs a quarter.
            full_steps = sum(steps / divisor**2 for divisor, steps in settings.stages)
            work = synthesis_cost(method, int(rounds * settings.batch * full_steps), 0, cost)
        else:
            generator_steps = options.epochs * -(-options.steps_per_epoch // settings.student_steps)
            work = synthesis_cost(method, generator_steps * options.batch_size, image_steps, cost)
        run.log(str(work))
        teacher_metrics, teacher_classes = evaluate_teacher(
            teacher, options.model_t, val_loader, run, options.amp
        )

        # Train
        student_network, teacher_network = parallel(student, world), teacher
        if options.compile:
            student_network, teacher_network = map(
                torch.compile, (student_network, teacher_network)
            )

        ramp = torch.ones((), device=device)  # of the distillation loss

        def step(images):
            """One step of the student on images (N, 3, S, S) in [0, 1]."""
            with autocast(options.amp, device, cache=options.capture != "on"):
                with torch.no_grad():
                    teacher_logits = teacher_network(images)
                logits = student_network(images)
            loss = distill(logits, teacher_logits)
            if options.distill_warmup_epochs:
                loss = ramp * loss
            update(optimizer, loss)
            return loss, 100.0 * (logits.argmax(1) == teacher_logits.argmax(1))

        def evaluate():
            metrics, _ = evaluate_classifier(
                student, val_loader, world, options.amp, teacher_classes
            )
            return metrics, metrics["top1"]

        step = capturable_step(step, optimizer, options.capture, world, run.log)
        schedule = flags.schedule_of(options)
        epochs = run.epochs(options.epochs, schedule, options.seed, options.print_freq)
        if has_pool:
            for epoch in epochs:
                ramp.fill_(loss_weight(epoch, options.distill_warmup_epochs))
                # Add the missing rounds to the pool
                old_rounds = pool.rounds
                while pool.rounds < warmup_rounds + (epoch + 1) * options.rounds_per_epoch:
                    seed_step(options.seed, -1, pool.rounds, world.rank)  # not a student's epoch
                    try:
                        with autocast(options.amp, device, cache=False):
                            images, labels = method.synthesize(student, run.should_stop)
                    except Stopped:
                        run.exit_stopped(f"in round {pool.rounds + 1}, which is discarded")
                    pool.add(images, labels)
                    run.save()
                if pool.rounds > old_rounds:
                    run.log(f"{pool.rounds} rounds: {len(pool)} images in {pool.folder}")
                # Train on the whole pool
                loader = make_loader(
                    pool.images(),
                    transforms.training(size),
                    options.batch_size,
                    world,
                    seed=options.seed,
                    workers=options.num_workers,
                )
                loader = RepeatedLoader(loader, options.steps_per_epoch)
                for batch in run.batches(loader):  # seeds torch, sets the learning rate
                    images, _ = to_device(batch, device)
                    loss, agreement = step(images)
                    run.add(len(images), loss=loss, train_agreement=agreement)
                run.end_epoch(*evaluate())  # writes metrics.csv and the checkpoints
        else:
            count = options.batch_size // world.size
            for epoch in epochs:
                ramp.fill_(loss_weight(epoch, options.distill_warmup_epochs))
                # Seeds torch and sets the learning rate
                for number in run.steps(options.steps_per_epoch, options.batch_size):
                    with autocast(options.amp, device, cache=False):
                        if number % settings.student_steps == 0:
                            method.update(student, count)
                        images = method.images(count)
                    loss, agreement = step(images)
                    run.add(count, loss=loss, train_agreement=agreement, generator_loss=method.loss)
                run.end_epoch(*evaluate())  # writes metrics.csv and the checkpoints

        # Results
        if has_pool:
            generator_steps = pool.rounds * sum(steps for _, steps in settings.stages)
            if world.is_main:
                pool.write_manifest(complete=True)
        elif world.is_main:
            if "method" in run.absent_parts:
                run.log("samples/ is left as it is: the checkpoint no longer has the generator")
            else:
                seed_step(options.seed, options.epochs, 0, 0)
                write_samples(method.images(SAMPLES), folder / "samples", data.grey)
        if run.tracker:
            generated = pool.folder if has_pool else folder / "samples"
            write_contact_sheet(sheet_beside(generated), sheet_rows(generated))
            run.track_image("generated images", sheet_beside(generated))
        result = {
            "table": options.table,
            "method": row,
            "dataset": options.dataset,
            "teacher": options.model_t,
            "student": options.model_s,
            "source": options.method,
            "images": len(pool) if has_pool else image_steps,
            "epochs": options.epochs,
            "seed": options.seed,
            "val_split": options.val_split,
            "val_images": len(val_loader.images),
            **run.accuracies(),
            "teacher_top1": teacher_metrics["top1"],
            "image_steps": image_steps,
            "seconds": run.seconds,
            "generator_steps": generator_steps,
            "student_steps": student_steps,
        }
        run.finish(result, PANELS, options.safetensors)
        run.log(
            f"student: top-1 {result['top1_last']:.2f} % (last epoch), best "
            f"{result['top1_best']:.2f} %; teacher {result['teacher_top1']:.2f} %: {folder}"
        )
        return result


def read_images_beside(source, data):
    """Returns the ImageSet of `--pool_data`, small images in memory and at their size."""
    images = folders.read_training(source, None, ignore_labels=True, grey=data.grey)
    if not is_small(data.image_size):
        return images
    return keep_in_memory(images, transforms.training(data.image_size).shrink, float("inf"))


def synthesis_cost(method, image_steps, generated, training):
    """Returns the SynthesisCost of a run whose student has the TrainingCost `training`.

    image_steps: images times steps that optimise them or their generator, at full resolution;
    generated: images that a generator makes without such a step.
    """
    generator = getattr(method, "generator", None)  # DeepInversion has none
    operations = 0
    if generator is not None:  # BatchNorm in training mode needs two images
        operations = forward_operations(generator, torch.empty(2, *generator.z_shape)) // 2
    student = training.student if getattr(method.settings, "adv", 0) else 0
    return SynthesisCost(image_steps, generated, operations, training.teacher, student)


def write_samples(images, folder, grey):
    """Writes images (N, 3, S, S) in [0, 1] to `folder` as 00000.png, 00001.png, …"""
    folder = make_folder(folder)
    remove_parts(folder)
    pixels = to_pixels(2 * images - 1, grey).cpu().numpy()
    with ImageWriter("png") as writer:
        for index, image in enumerate(pixels):
            writer.put(folder / f"{index:05d}.png", image)


if __name__ == "__main__":
    sys.exit(run_script(main))
