"""Distils a student on images that are made while it learns, from the teacher alone.

    python train_datafree.py --method dfq --dataset fashion_mnist \\
        --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth --model_s resnet8 --epochs
            20
    torchrun --nproc_per_node 2 train_datafree.py --method fastdfkd --k 5 --dataset cifar100 \\
        --path-t save/models/cifar100_resnet34/resnet34.pth --model_s resnet18

dafl and dfq train a generator beside the student, whose images are seen once. fastdfkd and
deepinversion add a batch of images to a pool every epoch, an image folder that train_student.py
reads too, and the student trains on all of it. Without flags the settings are the published ones
for 32×32; the files in datafree/ say whose.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from datafree import Stopped, dafl, deepinversion, dfq, fastdfkd
from dataset import folders, real, transforms
from dataset.image_writer import ImageWriter, to_pixels
from dataset.loader import keep_in_memory
from dataset.pool import Pool, PoolLoader
from helper import distributed, loops
from helper import options as flags
from helper.cost import SynthesisCost, forward_operations, training_cost
from helper.errors import UserError, run
from helper.files import file_stem, make_folder, sha256
from helper.loops import to_device
from helper.run_old import RunFolder
from helper.seeds import seed_step
from models.classifiers import architecture_of, image_statistics, load_teacher, make_student
from models.generators import make_generator


class Method(NamedTuple):
    """A method, and how its student trains if no flag says."""

    row: str  # of the tables
    module: object
    kd_T: float
    learning_rate: float
    has_pool: bool


METHODS = {
    "dafl": Method("DAFL", dafl, 1.0, 0.1, False),
    "dfq": Method("DFQ", dfq, 1.0, 0.1, False),
    "fastdfkd": Method("FastDFKD", fastdfkd, 20.0, 0.2, True),
    "deepinversion": Method("DeepInv", deepinversion, 20.0, 0.1, True),
}
SAMPLES = 100  # of a generator whose images are seen once
SETTINGS = {name: method.module.Settings for name, method in METHODS.items()}


def _by_method(field):
    return ", ".join(f"{name} {getattr(method, field):g}" for name, method in METHODS.items())


def parse_option(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("distillation")
    group.add_argument("--method", choices=list(METHODS), required=True)
    flags.add_network_flags(group)
    group.add_argument(
        "--kd_T",
        type=flags.positive_float,
        default=None,
        help=f"temperature τ (default: {_by_method('kd_T')})",
    )
    group.add_argument(
        "--steps_per_epoch",
        type=flags.positive_int,
        default=400,
        help="of the student (default: 400)",
    )
    group = parser.add_argument_group("pool of images (fastdfkd, deepinversion)")
    group.add_argument(
        "--rounds_per_epoch",
        type=flags.positive_int,
        default=None,
        help="batches of images that join it before an epoch (default: 1)",
    )
    group.add_argument("--pool", default=None, help="its folder (default: pool/ in the run folder)")
    group.add_argument(
        "--pool_data", default=None, help="a folder or list of images that are used besides"
    )
    flags.add_settings_flags(parser, "settings of the methods (their own defaults)", SETTINGS)
    flags.add_training_flags(
        parser, epochs=200, batch_size=256, learning_rate=None, weight_decay=1e-4
    )
    flags.add_schedule_flags(parser, schedule="cosine", min_lr=2e-4)
    real.add_flags(parser)
    group = parser.add_argument_group("run folder")
    group.add_argument("--experiments_dir", default=None, help="default: <dataset>_<model_s>")
    group.add_argument("--experiments_name", default=None, help="default: the method")
    group.add_argument(
        "--table", default=None, help="the table that the result belongs to, for result.json"
    )
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    if options.path_t is None:
        raise UserError("--path-t is needed: the teacher's checkpoint")
    return _with_defaults(options)


def _with_defaults(options):
    """Fills in what the method says where no flag does, and the fields of its Settings; checks what
    belongs to it.
    """
    method = METHODS[options.method]
    for name in ("kd_T", "learning_rate"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(method, name))
    for name in ("rounds_per_epoch", "pool", "pool_data"):
        if getattr(options, name) is not None and not method.has_pool:
            raise UserError(f"--{name} is of a pool and {options.method} has none: leave it out")
    published = {
        "fastdfkd": lambda: fastdfkd.published_settings(options.k or fastdfkd.Settings.k),
        "deepinversion": lambda: deepinversion.published_settings(real.image_size(options)),
    }
    settings = flags.settings_of(
        options, options.method, SETTINGS, published.get(options.method, dict)()
    )
    vars(options).update(asdict(settings))  # what a resumed run must share, whoever said it
    options.rounds_per_epoch = options.rounds_per_epoch or 1
    options.model_s = options.model_s or "resnet8"
    options.experiments_dir = (
        options.experiments_dir or f"{options.dataset}_{file_stem(options.model_s)}"
    )
    options.experiments_name = options.experiments_name or options.method
    # helper.loops.distillation_step: the KL loss alone, of images as they are.
    vars(options).update(alpha=1.0, gamma=0.0, no_tau2=False, use_aug="none", mix_beta=None)
    return options


def main(argv=None):
    """Runs the distillation of `argv` and returns its result (a dict)."""
    options = parse_option(argv)

    with distributed.session(options, argv) as world:
        for name in (
            ("batch_size", "batch") if METHODS[options.method].has_pool else ("batch_size",)
        ):
            if getattr(options, name) % world.size:
                raise UserError(
                    f"--{name} {getattr(options, name)} cannot be shared among {world.size} "
                    "processes: "
                    f"give a multiple of {world.size}"
                )
        val_loader = real.make_loader(real.load_validation(options), options, world, train=False)
        return distill(options, val_loader, world)


def distill(options, val_loader, world):
    """Trains the student on the images of the method and returns the result."""
    row, folder = (
        METHODS[options.method].row,
        Path("save/student_model", options.experiments_dir, options.experiments_name),
    )
    num_classes, default = len(val_loader.images.class_names), real.default_statistics(options)
    options.model_t = options.model_t or architecture_of(options.path_t)
    seen = {
        "teacher": image_statistics(
            options.mean_t, options.std_t, "t", default, options.path_t, options.model_t
        ),
        "student": image_statistics(options.mean_s, options.std_s, "s", default),
    }
    teacher = load_teacher(options.path_t, num_classes, *seen["teacher"][:2], options.model_t).to(
        world.device
    )
    torch.manual_seed(options.seed)
    student = make_student(options.model_s, num_classes, *seen["student"][:2]).to(world.device)
    network, fixed = (
        loops.compiled(loops.parallel(student, world), options),
        loops.compiled(teacher, options),
    )
    optimizer = loops.make_optimizer(student, options)
    inputs = {"teacher_sha256": sha256(options.path_t)}
    source = make_source(options, teacher, student, num_classes, folder, world, inputs)
    run_folder = RunFolder(
        folder,
        options.model_s,
        {"model": student.net, "optimizer": optimizer, **source.parts},
        options,
        world,
        inputs,
        seen["student"].facts,
    )
    progress = run_folder.open(
        options.resume,
        {
            "teacher": inputs,
            "validation": val_loader.images.origin,
            "normalisation": {name: found._asdict() for name, found in seen.items()},
        },
    )
    if result := run_folder.finished_result(progress, options.epochs):
        return result

    source.open()
    run_folder.log(
        f"{row}: student {options.model_s}, {options.epochs} epochs of {options.steps_per_epoch} "
        "steps"
    )
    for name, found in seen.items():
        run_folder.log(f"the {name}'s images are normalised with {found}")
    cost = training_cost(
        student,
        real.image_size(options),
        source.loader,
        len(val_loader.images),
        options.epochs,
        teacher,
    )
    run_folder.log(str(cost))
    run_folder.log(str(source.cost(cost)))
    teacher_metrics, teacher_classes = loops.evaluate_classifier(
        teacher, val_loader, world, options.amp
    )
    loops.report_teacher(run_folder, options.model_t, teacher_metrics["top1"], num_classes)
    step = source.watched(
        loops.distillation_step(network, fixed, optimizer, options, world.device, source.take)
    )

    def evaluate():
        metrics, _ = loops.evaluate_classifier(
            student, val_loader, world, options.amp, teacher_classes
        )
        return metrics, metrics["top1"]

    loops.fit(
        run_folder,
        progress,
        source.loader,
        step,
        evaluate,
        optimizer,
        loops.make_schedule(options),
        options,
        lambda progress, stop: source.prepare(run_folder, progress, stop),
    )
    result = loops.classifier_result(
        progress,
        options,
        source.loader,
        val_loader,
        method=row,
        teacher=options.model_t,
        student=options.model_s,
        source=options.method,
        images=source.image_count(),
        table=options.table,
        teacher_top1=teacher_metrics["top1"],
    )
    result |= {
        "generator_steps": source.generator_steps(),
        "student_steps": options.epochs * options.steps_per_epoch,
    }
    source.close()
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


def make_source(options, teacher, student, num_classes, folder, world, inputs):
    """Returns the FreshImages or PoolImages of `--method`. Raises UserError if teacher, size or
    settings do not fit.
    """
    method, size, grey = (
        METHODS[options.method],
        real.image_size(options),
        options.dataset == "fashion_mnist",
    )
    settings = SETTINGS[options.method](
        **{name: getattr(options, name) for name in SETTINGS[options.method].__dataclass_fields__}
    )
    made = (teacher, num_classes, size, settings, world)
    if options.method == "deepinversion":
        synthesizer = deepinversion.DeepInversion(*made, grey=grey)
    else:
        kind = {"dafl": dafl.DAFL, "dfq": dfq.DFQ, "fastdfkd": fastdfkd.FastDFKD}[options.method]
        generator = make_generator(settings.z_dim, size, grey).to(world.device)
        synthesizer = kind(*made, generator=generator)
    if not method.has_pool:
        return FreshImages(synthesizer, student, options, world, folder)
    manifest = {
        "method": method.row,
        "run": str(folder),
        "settings": {
            **inputs,
            **asdict(settings),
            "seed": options.seed,
            "image_size": size,
            "grey": grey,
            "format": "png",
        },
    }
    return PoolImages(synthesizer, student, options, world, manifest)


def synthesis_cost(source, image_steps, generated, training):
    """Returns the SynthesisCost of a source beside the student's TrainingCost `training`."""
    generator = getattr(source.method, "generator", None)  # DeepInversion has none
    operations = (
        forward_operations(generator, torch.empty(2, *generator.z_shape)) // 2 if generator else 0
    )
    return SynthesisCost(
        image_steps,
        generated,
        operations,
        training.teacher,
        training.student if source.options.adv else 0,
    )


class FreshImages:
    """Images from a generator that takes a step of its own before every `student_steps` of the
    student's.

    What is drawn follows from (seed, epoch, step, rank), as `helper.loops.train_epoch` seeds it.
    """

    def __init__(self, method, student, options, world, folder):
        self.method, self.student, self.options, self.world, self.folder = (
            method,
            student,
            options,
            world,
            folder,
        )
        self.share = options.batch_size // world.size
        self.loader, self.parts = (
            StepNumbers(options.steps_per_epoch, options.batch_size),
            {"method": method},
        )

    def open(self):
        """Nothing is on the disk."""

    def close(self):
        """Writes SAMPLES images of the finished generator, which leave with it otherwise: <run
        folder>/samples/.
        """
        if not self.world.is_main:
            return
        seed_step(self.options.seed, self.options.epochs, 0, 0)
        images = 2 * self.method.images(SAMPLES) - 1
        folder = make_folder(self.folder / "samples")
        with ImageWriter("png") as writer:
            for index, pixels in enumerate(
                to_pixels(images, self.options.dataset == "fashion_mnist").cpu().numpy()
            ):
                writer.put(folder / f"{index:05d}.png", pixels)

    def prepare(self, run_folder, progress, stop):
        """Nothing is made before an epoch."""

    def take(self, step, device):
        """Returns new images (N, 3, S, S) for the student's step `step` of an epoch, and no
        labels.
        """
        with loops.autocast(self.options.amp, device, cache=False):
            if step % self.options.student_steps == 0:
                self.method.update(self.student, self.share)
            return self.method.images(self.share), None

    def watched(self, step):
        """Returns the student's `step`, which also sums the generator's loss."""

        def both(batch):
            sums = step(batch)
            return {**sums, "generator_loss": self.method.loss * sums["count"]}

        return both

    def cost(self, training):
        """Returns the SynthesisCost beside the student's TrainingCost `training`."""
        return synthesis_cost(
            self, self.generator_steps() * self.options.batch_size, self.image_count(), training
        )

    def image_count(self):
        return self.options.epochs * self.options.steps_per_epoch * self.options.batch_size

    def generator_steps(self):
        return self.options.epochs * -(-self.options.steps_per_epoch // self.options.student_steps)


class StepNumbers:
    """A loader whose batches are the numbers of an epoch's steps."""

    def __init__(self, steps, batch_size):
        self.steps, self.batch_size = steps, batch_size

    def __len__(self):
        return self.steps

    def epoch_batches(self, epoch, first_step=0):
        return iter(range(first_step, self.steps))


class PoolImages:
    """Images of a pool that grows by `rounds_per_epoch` rounds before an epoch, and by those of the
    warm-up at first.

    A round follows from (seed, its number, rank) and the state of method and student; a checkpoint
    follows on it.
    """

    def __init__(self, method, student, options, world, manifest):
        """Raises UserError if the first epoch would have fewer images than a batch."""
        self.method, self.student, self.options, self.world = method, student, options, world
        beside = self._read_beside()
        self.warmup = getattr(options, "warmup_rounds", None) or 0
        images = (self.warmup + options.rounds_per_epoch) * options.batch + (
            len(beside) if beside else 0
        )
        if images < options.batch_size:
            raise UserError(
                f"the first epoch would have {images} images and --batch_size is "
                f"{options.batch_size}: "
                "give a larger --batch or --rounds_per_epoch, or a smaller --batch_size"
            )
        self.pool = Pool(
            options.pool or Path(manifest["run"], "pool"),
            real.image_size(options),
            options.dataset == "fashion_mnist",
            world,
            manifest,
            beside,
        )
        self.loader = PoolLoader(
            self.pool,
            lambda images: real.make_loader(images, options, world, train=True),
            options.steps_per_epoch,
            options.batch_size,
        )
        self.parts, self.take, self._asked = {"method": method, "pool": self.pool}, to_device, 0

    def _read_beside(self):
        """Returns the ImageSet of `--pool_data`, None without it."""
        if self.options.pool_data is None:
            return None
        images = folders.read_training(self.options.pool_data, None, ignore_labels=True)
        images.grey, size = self.options.dataset == "fashion_mnist", real.image_size(self.options)
        return (
            keep_in_memory(images, transforms.training(size).shrink, float("inf"))
            if size <= 64
            else images
        )

    def open(self):
        self.pool.open()

    def close(self):
        if self.world.is_main:
            self.pool.write_manifest(complete=True)

    def prepare(self, run_folder, progress, stop):
        """Makes the rounds that come before the steps of epoch `progress.epoch`, as far as they
        have not been made.

        Asked to stop, it gives up the round and leaves with the exit code of SIGTERM: the last
        checkpoint stands.
        """
        first = self.pool.rounds
        wanted = self.warmup + (progress.epoch + 1) * self.options.rounds_per_epoch
        while self.pool.rounds < wanted:
            started = time.monotonic()
            # Epoch −1 is none of the student's.
            seed_step(self.options.seed, -1, self.pool.rounds, self.world.rank)
            try:
                with loops.autocast(self.options.amp, self.world.device, cache=False):
                    images, labels = self.method.synthesize(
                        self.student, lambda: self._should_stop(stop)
                    )
            except Stopped:
                run_folder.log(
                    f"stopped by SIGTERM in round {self.pool.rounds + 1}, which is given up: go on "
                    "with "
                    "--resume"
                )
                raise SystemExit(loops.SIGTERM_EXIT) from None
            self.pool.add(images, labels)
            progress.seconds += time.monotonic() - started
            run_folder.save(progress)
        if self.pool.rounds > first:
            run_folder.log(
                f"{self.pool.rounds} rounds: {len(self.pool)} images in {self.pool.folder}"
            )

    def _should_stop(self, stop):
        """Whether to give up the round; several processes agree on it every `--print-freq` times
        that they ask.
        """
        self._asked += 1
        return stop.agreed(self.world, self._asked % self.options.print_freq == 0)

    def watched(self, step):
        return step

    def cost(self, training):
        """Returns the SynthesisCost of all rounds; a step at half the resolution is a quarter of
        one. Those of the warm-up, which do without the student, count as the others.
        """
        rounds = self.warmup + self.options.epochs * self.options.rounds_per_epoch
        half, full = self._stages()
        return synthesis_cost(
            self, rounds * self.options.batch * (4 * full + half) // 4, 0, training
        )

    def image_count(self):
        return len(self.pool)

    def generator_steps(self):
        return self.pool.rounds * sum(self._stages())

    def _stages(self):
        """The steps of a round at half and at full resolution."""
        options = self.options
        return (
            (0, options.k) if options.method == "fastdfkd" else (options.half_steps, options.steps)
        )


if __name__ == "__main__":
    sys.exit(run(main))
