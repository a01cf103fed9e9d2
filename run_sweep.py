"""Varies one setting of DM-KD over paired seeds: images, students, table and plot.

    python run_sweep.py --sweep scale
    python run_sweep.py --sweep temperature --values 1,4,16 --data_amount 4k --epochs 20 --fidelity
    python run_sweep.py --sweep temperature --jobs 2
    python run_sweep.py --dataset imagenet --sweep fidelity --gpus 8

A cell is one value with one seed. The seed sets the noise of the images and the initialisation of
the student, so values are compared at equal seeds. All other settings are those of the recipe or of
the flags. A value of several flags joins them with colons: 2:100.

Fashion-MNIST runs in this process, with the settings that --help lists.
ImageNet and CIFAR-100 run scripts/imagenet_synthesize.sh and scripts/<dataset>_distill.sh, whose
other variables (CKPT, VAE, …) can be given in the environment.

Run it again with the same flags to continue: finished cells are read, a stopped one is resumed.
Sweeps share the cells that they have in common, so run them one after the other. Writes
<out>/<sweep>.csv, .md and .png, for ImageNet and CIFAR-100 <out>/<dataset>_<sweep>.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

import evaluate_images
import synthesize_dit
import train_student
from dataset import fashion_mnist
from dataset.class_list import IMAGENET_CLASSES
from diffusion.pipeline import read_pipeline
from diffusion.sampler import Sampler, check_steps
from diffusion.schedule import DEFAULT_SCHEDULE
from helper import options as flags
from helper.checkpoints import weights_sha256
from helper.cost import duration
from helper.errors import UserError, run_script
from helper.files import make_folder
from helper.jobs import Jobs, device_slots, last_line
from models.classifiers import architecture_of
from report import sweeps
from report.fidelity import LEAST_FRECHET_IMAGES, LEAST_NEIGHBOUR_IMAGES
from report.results import read_run

ROOT = Path(__file__).resolve().parent
WEIGHTS = "save/models/fashion_mnist"
TITLES = {"fashion_mnist": "Fashion-MNIST", "imagenet": "ImageNet", "cifar100": "CIFAR-100"}
SAMPLING_BATCH = 100  # of Fashion-MNIST
# Flags of synthesize_dit.py, the rest are those of train_student.py
SAMPLING_FLAGS = ("cfg_scale", "num_sampling_steps", "sampler", "timestep_spacing", "cfg_interval")
NOT_GIVEN = "-"  # the value of a flag that is not given
YES = "yes"  # the value of a flag that takes none, if it is given

# The flags that each sweep varies. What their values are called: report.sweeps.LABELS.
FLAGS = {
    "scale": ("cfg_scale",),
    "steps": ("num_sampling_steps",),
    "fidelity": ("cfg_scale", "num_sampling_steps"),
    "teacher": ("path_t",),
    "images": ("data_amount",),
    "epochs": ("epochs",),
    "temperature": ("kd_T",),
    "augmentation": ("use_aug",),
    "labels": ("alpha", "gamma"),
    "loss": ("distill", "standardize_logits", "kd_T", "alpha"),
    "source": ("train_data",),
    "spacing": ("sampler", "timestep_spacing", "num_sampling_steps"),
    "interval": ("cfg_scale", "cfg_interval", "num_sampling_steps"),
    "frontier": (
        "sampler",
        "timestep_spacing",
        "num_sampling_steps",
        "data_amount",
        "epochs",
        "warmup_epochs",
    ),
}
# Default settings by flag of synthesize_dit.py and train_student.py. `generated` stands for the
# image folder of the cell. For ImageNet and CIFAR-100 the recipes hold all other settings, and
# `path_t` is the name of a teacher.
SETTINGS = {
    "fashion_mnist": {
        "cfg_scale": "1",
        "num_sampling_steps": "25",
        "sampler": "ddim",
        "timestep_spacing": NOT_GIVEN,
        "cfg_interval": NOT_GIVEN,
        "path_t": f"{WEIGHTS}/resnet20/resnet20_latest.pth",
        "model_s": "resnet8",
        "train_data": "generated",
        "data_amount": "1000",
        "epochs": "10",
        "batch_size": "32",
        "learning_rate": "0.05",
        "schedule": "cosine",
        "warmup_epochs": "1",
        "weight_decay": "5e-4",
        "kd_T": "4",
        "use_aug": "mixup",
        "alpha": "1",
        "gamma": "0",
        "distill": NOT_GIVEN,
        "standardize_logits": NOT_GIVEN,
        "amp": NOT_GIVEN,
    },
    "imagenet": {
        "cfg_scale": "2",
        "num_sampling_steps": "100",
        "path_t": "ResNet18",
        "model_s": "ResNet18",
        "train_data": "generated",
        "data_amount": "200k",
        "epochs": "100",
        "kd_T": "10",
        "use_aug": "none",
        "alpha": "1",
        "gamma": "0",
    },
    # Without alpha and gamma: the images' classes are ImageNet's, so there are no hard labels.
    "cifar100": {
        "cfg_scale": "2",
        "num_sampling_steps": "100",
        "path_t": "resnet34",
        "model_s": "resnet18",
        "train_data": "generated",
        "data_amount": "50k",
        "epochs": "240",
        "kd_T": "4",
        "use_aug": "none",
    },
}


class Values(NamedTuple):
    """Default values of a sweep, the one that the others are compared with, and settings that
    differ from SETTINGS.
    """

    text: str
    baseline: str
    settings: dict = {}


VALUES = {
    "fashion_mnist": {
        "scale": Values("1,1.5,2,4", "1"),
        "steps": Values("5,10,25,50", "25"),
        "fidelity": Values("1:10,1:25,2:10,2:25,4:10,4:25", "1:25"),
        "teacher": Values(
            f"{WEIGHTS}/resnet20/resnet20_latest.pth,{WEIGHTS}/resnet8/resnet8_latest.pth",
            f"{WEIGHTS}/resnet20/resnet20_latest.pth",
        ),
        "images": Values("500,1000,2000,4000", "1000"),
        "epochs": Values("5,10,20,40", "10"),
        "temperature": Values("1,2,4,8,16", "4"),
        "augmentation": Values("none,mixup,cutmix", "none"),
        # A mixed image has no hard label.
        "labels": Values("1:0,0:1", "1:0", {"use_aug": "none"}),
        # At the published weight of standardised logits and of the others, and two temperatures
        "loss": Values(
            ",".join(
                f"{loss}:{temperature}:{alpha}"
                for loss, alpha in (("kd:-", 1), ("kd:yes", 9), ("dkd:-", 1), ("dist:-", 1))
                for temperature in (2, 4)
            ),
            "kd:-:4:1",
        ),
        "source": Values("generated,real", "generated"),
        "spacing": Values(
            ",".join(
                f"{sampler}:{spacing}:{steps}"
                for sampler, other in (("ddim", "trailing"), ("dpmsolver++", NOT_GIVEN))
                for spacing in ("leading", other)
                for steps in (2, 3, 5, 8)
            ),
            "ddim:leading:8",
        ),
        # An interval has no comma here, which separates the values
        "interval": Values("1:-:8,1.5:-:8,2:-:8,1.5:0.2-0.8:8,2:0.2-0.8:8,2:0.4-0.8:8", "1:-:8"),
        # 128,000 image-steps of the student in every cell, 8,000 of them with warm-up
        "frontier": Values(
            ",".join(
                f"{sampler}:leading:{steps}:{amount}k:{128 // amount}:{8 / amount:g}"
                for amount in (8, 16, 32, 64)
                for sampler in ("ddim", "dpmsolver++")
                for steps in (2, 3, 5, 8, 12, 25)
            ),
            "ddim:leading:25:8k:16:1",
        ),
    },
    # Stated by the paper or its code: s:T of 2:100 and 4:250; RN-18 and RN-50 as teachers; 140K,
    # 200K and 1.28M images; 100 and 200 epochs; τ = 10; mixup and cutmix. Assumed: all others.
    "imagenet": {
        "fidelity": Values("2:100,2:250,3:100,3:250,4:100,4:250", "2:100"),
        "teacher": Values("ResNet18,ResNet34,ResNet50", "ResNet18"),
        "images": Values("200k,140k,1280k", "200k"),
        "epochs": Values("100,50,200", "100"),
        "temperature": Values("10,1,4,20", "10"),
        "augmentation": Values("none,mixup,cutmix", "none"),
        "labels": Values("1:0,0:1", "1:0"),
        "source": Values("generated,real", "generated"),
    },
    # Stated: s:T of 2:100 and 4:250; 50K images, 240 epochs, τ = 4; RN-34 and VGG-11 as teachers
    # of this student; mixup and cutmix. Assumed: all others.
    "cifar100": {
        "fidelity": Values("2:100,2:250,3:100,3:250,4:100,4:250", "2:100"),
        "teacher": Values("resnet34,wrn_40_2,vgg11", "resnet34"),
        "images": Values("50k,100k,200k", "50k"),
        "epochs": Values("240,120,480", "240"),
        "temperature": Values("4,1,10,20", "4"),
        "augmentation": Values("none,mixup,cutmix", "none"),
        "source": Values("generated,real", "generated"),
    },
}
# Where the learning rate drops: after 3/10, 6/10 and 9/10 of the epochs, or 5/8, 6/8 and 7/8.
# Assumed for other epochs than the recipe's.
DROPS = {"imagenet": (10, (3, 6, 9)), "cifar100": (8, (5, 6, 7))}


@dataclass(frozen=True)
class Sweep:
    """A sweep as its flags describe it.

    file_name: of the results. settings: those of all cells, by flag; the sweep's own flags are
    replaced by each value.
    generator, val_split, data_root, device: of Fashion-MNIST; gpus: of the recipes.
    """

    dataset: str
    name: str
    file_name: str
    values: list
    baseline: str
    seeds: list
    settings: dict
    generator: str
    val_split: str
    data_root: str
    device: str
    gpus: int

    @property
    def by_recipe(self):
        return self.dataset != "fashion_mnist"


@dataclass(frozen=True, eq=False)
class Cell:
    """One value with one seed, and the commands that run it.

    run: the run folder; images: the image folder, None for real images. sampling (without the
    number of images) and student: flags of synthesize_dit.py and train_student.py, or a dict of
    variables for the recipes. amount: images; evaluations: of the network, per image; steps:
    image-steps of the student; settings: the flags that describe the cell, for its record.
    """

    value: str
    seed: int
    run: Path
    images: Path | None
    sampling: list | dict
    student: list | dict
    amount: int
    evaluations: int
    steps: int
    settings: str


def parse_option(argv=None):
    """Parses and checks the flags. Raises UserError."""
    parser = flags.Parser(__doc__)
    parser.add_argument(
        "--dataset", choices=list(SETTINGS), default="fashion_mnist", help="(default: %(default)s)"
    )
    parser.add_argument("--sweep", choices=sorted(FLAGS), required=True)
    parser.add_argument(
        "--values",
        help="separated by commas (default for fashion_mnist: "
        + "; ".join(f"{name} {values.text}" for name, values in VALUES["fashion_mnist"].items())
        + ")",
    )
    parser.add_argument(
        "--baseline",
        help="the value that the others are compared with (default: the sweep's own if it is among "
        "the values, else the first)",
    )
    parser.add_argument(
        "--seeds", type=flags.int_list, help="(default: 0,1,2 for fashion_mnist, else 0)"
    )
    parser.add_argument(
        "--fidelity", action="store_true", help="also measure the images with evaluate_images.py"
    )
    parser.add_argument(
        "--jobs",
        type=flags.positive_int,
        help="cells at a time, each with one CPU thread, whatever this number is, and on a GPU of "
        "its own as far as there are enough (default: one cell at a time with all CPU threads)",
    )
    parser.add_argument(
        "--out",
        default="results/sweeps",
        help="folder of the results (default: %(default)s)",
    )
    parser.add_argument(
        "--name",
        help="name of the files of the results (default: that of the sweep, after the data set's "
        "unless that is fashion_mnist)",
    )
    group = parser.add_argument_group("fixed settings (synthesize_dit.py, train_student.py)")
    for name, default in SETTINGS["fashion_mnist"].items():
        group.add_argument(f"--{name}", help=f"(default for fashion_mnist: {default})")
    group = parser.add_argument_group("fashion_mnist")
    group.add_argument(
        "--model",
        default=f"{WEIGHTS}/DiT-6x160-2",
        help="folder of the generator (default: %(default)s)",
    )
    group.add_argument(
        "--val_split",
        choices=["test", "holdout"],
        default="holdout",
        help="real images that students are evaluated on: holdout to choose settings, test to "
        "report (default: holdout)",
    )
    group.add_argument("--data_root", default="true_dataset", help="(default: %(default)s)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group = parser.add_argument_group("imagenet and cifar100")
    group.add_argument(
        "--gpus",
        type=flags.positive_int,
        help="processes of a cell (default: 8 for imagenet without --jobs, else 1)",
    )
    options = parser.parse_args(argv)
    if options.dataset != "fashion_mnist":
        for name in ("model", "val_split", "data_root", "device"):
            if getattr(options, name) != parser.get_default(name):
                raise UserError(f"--{name} applies to --dataset fashion_mnist only")
    elif options.gpus:
        raise UserError("--gpus applies to --dataset imagenet and cifar100 only: use --device")
    if options.fidelity and options.dataset == "cifar100":
        raise UserError("--fidelity: the classes of CIFAR-100's generated images are ImageNet's")
    return options


def read_sweep(options):
    """Converts the flags to a Sweep. Raises UserError for invalid values, seeds or settings."""
    dataset, name = options.dataset, options.sweep
    if name not in VALUES[dataset]:
        raise UserError(
            f"--sweep {name} does not exist for {dataset}, which has {', '.join(VALUES[dataset])}"
        )
    default = VALUES[dataset][name]
    values = [text.strip() for text in (options.values or default.text).split(",") if text.strip()]
    seeds = options.seeds
    if seeds is None:
        seeds = [0, 1, 2] if dataset == "fashion_mnist" else [0]
    for flag, items in (("values", [short_name(value) for value in values]), ("seeds", seeds)):
        if not items:
            raise UserError(f"--{flag} is empty: give at least one, separated by commas")
        if len(set(items)) < len(items):
            raise UserError(
                f"--{flag}: one is given twice: list each once (checkpoints are named by their "
                "folders)"
            )
    baseline = options.baseline
    if baseline is None:
        baseline = default.baseline if default.baseline in values else values[0]
    if baseline not in values:
        raise UserError(f"--baseline {baseline} is not one of the values {', '.join(values)}")
    settings = SETTINGS[dataset] | default.settings
    for flag in SETTINGS["fashion_mnist"]:
        setting = getattr(options, flag)
        if setting is None:
            continue
        if flag in FLAGS[name]:
            raise UserError(f"--{flag} is what the sweep {name} varies: use --values")
        if flag not in settings:
            raise UserError(f"--{flag}: for {dataset} see scripts/{dataset}_distill.sh")
        settings[flag] = setting
    varied = sorted(set(FLAGS[name]) & set(SAMPLING_FLAGS))
    if settings["train_data"] == "real" and varied:
        raise UserError(
            f"--sweep {name} varies the sampling (--{varied[0]}), and --train_data real has none: "
            "omit it"
        )
    return Sweep(
        dataset,
        name,
        options.name or (name if dataset == "fashion_mnist" else f"{dataset}_{name}"),
        values,
        baseline,
        seeds,
        settings,
        generator=options.model,
        val_split=options.val_split,
        data_root=options.data_root,
        device=options.device,
        gpus=options.gpus or (8 if dataset == "imagenet" and not options.jobs else 1),
    )


def main(argv=None):
    """Runs the unfinished cells of the sweep `argv`; returns its records, dicts of
    `report.sweeps.COLUMNS`.
    """
    options = parse_option(argv)
    sweep = read_sweep(options)
    cells = make_cells(sweep)
    check_files(sweep, options.fidelity)
    make_folder(options.out)
    runs = {cell: result for cell in cells if (result := finished_run(cell.run))}
    if options.jobs:
        run_side_by_side(sweep, cells, runs, options.jobs, Path(options.out, "logs"))
    else:
        run_cells(sweep, cells, runs)
    folders = list(dict.fromkeys(cell.images for cell in cells if cell.images))
    if options.fidelity:
        measure(sweep, folders)
    figures = read_fidelity(sweep, folders)
    return write_report(sweep, cells, runs, figures, Path(options.out))


def short_name(value):
    """The name of a value in table and plot: for a checkpoint's path the name of its folder."""
    return Path(value).parent.name if "/" in value else value


# Cells


def make_cells(sweep):
    """The Cells of a sweep, seed by seed.

    Raises UserError for a value that its script rejects and for a missing file.
    """
    cells, generator = [], None
    for seed in sweep.seeds:
        for value in sweep.values:
            try:
                settings = cell_settings(sweep, value)
                if sweep.by_recipe:
                    cells.append(recipe_cell(sweep, value, seed, settings))
                    continue
                if settings["train_data"] == "generated":
                    generator = generator or read_pipeline(sweep.generator)
                cells.append(fashion_mnist_cell(sweep, value, seed, settings, generator))
            except UserError as error:
                raise UserError(
                    f"--sweep {sweep.name}, value {value}, seed {seed}: {error}"
                ) from None
    return cells


def cell_settings(sweep, value):
    """The settings of a value, by flag. Raises UserError if the value has another number of parts
    than the sweep has flags.
    """
    names = FLAGS[sweep.name]
    parts = value.split(":") if len(names) > 1 else [value]
    parts = [re.sub(r"^([\d.]+)-([\d.]+)$", r"\1,\2", part) for part in parts]  # an interval
    if len(parts) != len(names):
        raise UserError(
            f"{len(parts)} parts for {len(names)} flags ({', '.join(names)}): separate them by "
            "colons"
        )
    settings = sweep.settings | dict(zip(names, parts, strict=True))
    if settings.get("standardize_logits", NOT_GIVEN) not in (YES, NOT_GIVEN):
        raise UserError(
            f"--standardize_logits {settings['standardize_logits']}: give {YES} or {NOT_GIVEN}"
        )
    if settings["train_data"] not in ("real", "generated"):
        raise UserError(
            f"--train_data {settings['train_data']}: a sweep takes `generated` or `real` images"
        )
    return settings


def command_line(settings, names):
    """The flags `names` with their settings, without those that are not given."""
    words = []
    for name in names:
        setting = settings.get(name, NOT_GIVEN)
        if setting != NOT_GIVEN:
            words += [f"--{name}"] if setting == YES else [f"--{name}", setting]
    return words


def text_of(settings):
    """The settings of a cell as flags, a text; without those of the sampling for real images."""
    real = settings["train_data"] == "real"
    names = [name for name in settings if not (real and name in SAMPLING_FLAGS)]
    return " ".join(command_line(settings, names))


def fashion_mnist_cell(sweep, value, seed, settings, generator):
    """The Cell of a value on Fashion-MNIST.

    generator: a PipelineDescription, None for real images. The name of the run folder contains a
    digest of everything that the result depends on, so that sweeps share it.
    """
    teacher = settings["path_t"]
    if not Path(teacher).is_file():
        flag = "--values" if "path_t" in FLAGS[sweep.name] else "--path-t"
        raise UserError(f"checkpoint of the teacher not found: {teacher}: give its path in {flag}")
    student_names = [
        name
        for name, setting in settings.items()
        if name not in SAMPLING_FLAGS and setting != NOT_GIVEN
    ]
    common = ["--seed", str(seed), "--device", sweep.device]
    sampling_line = [*command_line(settings, SAMPLING_FLAGS), *common]
    sampling_line += ["--model", sweep.generator, "--batch_size", str(SAMPLING_BATCH)]
    student_line = [*command_line(settings, student_names), *common]
    student_line += ["--dataset", "fashion_mnist", "--data_root", sweep.data_root]
    student_line += ["--val_split", sweep.val_split, "--table", "sweeps", "--resume"]
    student_line += ["--experiments_dir", "sweeps"]

    # The scripts' own parsers check the flags before any work
    sampling = synthesize_dit.parse_option(
        [*sampling_line, "--data_amount", settings["data_amount"]]
    )
    student = train_student.parse_option(student_line)

    data, images = "real", None
    key = {name: getattr(student, name) for name in student_names}
    key |= {"path_t": weights_sha256(teacher), "val_split": student.val_split}
    if settings["train_data"] == "generated":
        check_steps(
            sampling.sampler,
            sampling.num_sampling_steps,
            generator.schedule,
            sampling.timestep_spacing,
        )
        data = f"s{sampling.cfg_scale:g}_T{sampling.num_sampling_steps}"
        more = {name: getattr(sampling, name) for name in ("timestep_spacing", "cfg_interval")}
        more = {name: setting for name, setting in more.items() if setting is not None}
        for setting in more.values():
            data += f"_{setting}" if isinstance(setting, str) else "_i{:g}-{:g}".format(*setting)
        images = Path(f"syn_dataset/sweep_{generator.name}_{sampling.sampler}_{data}_seed{seed}")
        key |= {name: getattr(sampling, name) for name in SAMPLING_FLAGS[:3]} | more
        key |= {"generator": generator.weights_sha256}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{data}_{student.data_amount}x{student.epochs}_{digest}_seed{seed}"
    batch = min(student.batch_size, student.data_amount)
    return Cell(
        short_name(value),
        seed,
        Path("save/student_model/sweeps") / name,
        images,
        sampling=[*sampling_line, "--save_dir", str(images)],
        student=[*student_line, "--train_data", str(images or data), "--experiments_name", name],
        amount=student.data_amount,
        evaluations=evaluations_per_image(sampling, generator),
        steps=student.epochs * (student.data_amount // batch) * batch,
        settings=text_of(settings),
    )


def recipe_cell(sweep, value, seed, settings):
    """The Cell of a value on ImageNet or CIFAR-100: variables of its recipes."""
    # The scripts' own parsers check the flags before any work
    student_names = [name for name in settings if name not in SAMPLING_FLAGS]
    common = ["--seed", str(seed), "--data_amount", settings["data_amount"]]
    sampling = synthesize_dit.parse_option(
        [*command_line(settings, ("cfg_scale", "num_sampling_steps")), *common]
    )
    check_steps("ddpm", sampling.num_sampling_steps, DEFAULT_SCHEDULE)
    student = train_student.parse_option(
        [*command_line(settings, student_names), *common, "--dataset", sweep.dataset]
    )

    # Names keep the settings as they are spelled.
    scale, steps, amount = (
        settings[name] for name in ("cfg_scale", "num_sampling_steps", "data_amount")
    )
    images = None
    if settings["train_data"] == "generated":
        images = Path(f"syn_dataset/DiT-XL-2-256_ddpm_s{scale}_T{steps}_seed{seed}")
    teacher, network = settings["path_t"], settings["model_s"]
    name = f"{images.name if images else 'real'}_{amount}x{settings['epochs']}"
    name += f"_tau{settings['kd_T']}_{settings['use_aug']}"
    whole, parts = DROPS[sweep.dataset]
    variables = {
        "IMAGES": str(images or "real"),
        "AMOUNT": amount,
        "EPOCHS": settings["epochs"],
        "DECAY": ",".join(str(max(1, student.epochs * part // whole)) for part in parts),
        "TEMPERATURE": settings["kd_T"],
        "AUGMENTATION": settings["use_aug"],
        "SEED": str(seed),
        "TABLE": "sweeps",
        "ROW": "",
    }
    if sweep.dataset == "imagenet":
        name = f"sweep_{teacher}_{name}_a{settings['alpha']}_r{settings['gamma']}_seed{seed}"
        folder = f"imagenet_{network}"
        variables |= {
            "TEACHER": teacher_path(sweep.dataset, teacher),
            "STUDENT": network,
            "GPUS": str(sweep.gpus),
            "MORE": f"-a {settings['alpha']} -r {settings['gamma']}",
        }
    else:
        name = f"sweep_{name}_seed{seed}"
        folder = f"cifar100_{teacher}-{network}"
        variables |= {"PAIRS": f"{teacher}:{network}", "MORE": ""}
    return Cell(
        value,
        seed,
        Path("save/student_model") / folder / name,
        images,
        sampling={
            "SCALE": scale,
            "STEPS": steps,
            "SEED": str(seed),
            "GPUS": str(sweep.gpus),
            "SAVE_DIR": str(images),
        },
        student=variables | {"NAME": name},
        amount=student.data_amount,
        evaluations=evaluations_per_image(sampling),
        steps=student.epochs * student.data_amount,
        settings=text_of(settings),
    )


def evaluations_per_image(sampling, generator=None):
    """Evaluations of the network for one image: guidance doubles them, where it applies."""
    if sampling.cfg_interval is None:
        return sampling.num_sampling_steps * (1 if sampling.cfg_scale == 1 else 2)
    sampler = Sampler(
        sampling.sampler,
        sampling.num_sampling_steps,
        generator.schedule,
        sampling.timestep_spacing,
        sampling.cfg_interval,
    )
    return sampler.evaluations(sampling.cfg_scale)


def teacher_path(dataset, name):
    """The checkpoint of the teacher that the setting `path_t` names."""
    return {
        "fashion_mnist": name,
        "imagenet": f"save/models/{name}/{name.lower()}.pth",
        "cifar100": f"save/models/cifar100/{name}/{name}_latest.pth",
    }[dataset]


def check_files(sweep, fidelity):
    """Raises UserError for missing files that would stop the sweep later."""
    if sweep.by_recipe:
        names = {cell_settings(sweep, value)["path_t"] for value in sweep.values}
        for path in (teacher_path(sweep.dataset, name) for name in sorted(names)):
            if not Path(path).is_file():
                raise UserError(
                    f"checkpoint of the teacher not found: {path}: run "
                    f"scripts/{sweep.dataset}_teachers.sh with its name in NAMES"
                )
        return
    if not fashion_mnist.is_complete(sweep.data_root):
        raise fashion_mnist.missing_error(sweep.data_root)
    if fidelity and not Path(sweep.settings["path_t"]).is_file():
        raise UserError(
            f"--fidelity measures with the teacher {sweep.settings['path_t']}, which does not "
            "exist: omit --fidelity"
        )


# Running


def finished_run(folder):
    """The RunResult of a run folder, None if the run is not finished.

    A damaged result is reported and renamed: the run then continues from its last checkpoint.
    """
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        result = read_run(folder)
        problem = None if result else f"result {path} is not a classifier's"
    except UserError as error:
        problem = str(error)
    if problem is None:
        return result
    path.replace(kept := path.with_name("result.json.bad"))
    print(f"{problem}\nkept as {kept}: the run continues from its checkpoint", file=sys.stderr)
    return None


def plan(sweep, cells, runs):
    """The cells that are not in `runs`, {Cell: images that its folder is to have}, and {folder:
    images that it has}. Prints the cost.
    """
    todo = [cell for cell in cells if cell not in runs]
    # Fashion-MNIST's folders are filled at once for all cells: the batches, and so the images, do
    # not depend on what is finished. On ImageNet's scale each cell samples what it needs.
    largest = max(cell.amount for cell in cells)
    amounts = {cell: cell.amount if sweep.by_recipe else largest for cell in todo}
    existing = {cell.images: image_count(cell.images) for cell in todo if cell.images}
    steps, images, evaluations = work_of(todo, amounts, existing)
    print(
        f"sweep {sweep.name}: {len(cells)} cells, {len(sweep.values)} values by "
        f"{len(sweep.seeds)} seeds; {len(runs)} are finished\n"
        f"to do: {len(todo)} cells, {steps} image-steps, {images} images to sample "
        f"({evaluations} network evaluations)",
        flush=True,
    )
    if todo and runs:
        earlier = sweeps.Clock()
        for result in runs.values():
            earlier.add_training(result.image_steps, result.seconds)
        estimate = duration(earlier.seconds(steps, 0)[0])
        print(f"at the speed of the finished cells: {estimate} of training", flush=True)
    return todo, amounts, existing


def run_cells(sweep, cells, runs):
    """Runs the cells that are not in `runs` {Cell: RunResult} one by one and adds them."""
    todo, amounts, existing = plan(sweep, cells, runs)
    clock = sweeps.Clock()
    sampled = {}  # image folder: images that have been sampled or checked
    for number, cell in enumerate(todo, 1):
        print(f"\n[{number}/{len(todo)}] {sweep.name} {cell.value}, seed {cell.seed}", flush=True)
        # Even if no image is missing: the script checks that they are this generator's.
        if cell.images and sampled.get(cell.images, 0) < amounts[cell]:
            start = time.monotonic()
            sample(cell, amounts[cell])
            sampled[cell.images] = amounts[cell]
            count = image_count(cell.images)
            new_images = count - existing[cell.images]
            existing[cell.images] = count
            if new_images:
                clock.add_sampling(new_images * cell.evaluations, time.monotonic() - start)
        start = time.monotonic()
        train(cell, sweep.dataset)
        runs[cell] = read_run(cell.run)
        clock.add_training(cell.steps, time.monotonic() - start)

        steps, _, evaluations = work_of(todo[number:], amounts, existing)
        training, sampling = clock.seconds(steps, evaluations)
        estimate = f"about {duration(training)} of training"
        if sampling:
            estimate += f" and {duration(sampling)} of sampling"
        print(
            f"{clock.cells_per_hour:.3g} cells per hour; {len(todo) - number} left, {estimate}",
            flush=True,
        )


def run_side_by_side(sweep, cells, runs, jobs, logs):
    """Runs the cells that are not in `runs` {Cell: RunResult}, `jobs` at a time, and adds them.

    Their output is written to the folder `logs`. A cell that fails does not stop the others.
    Raises UserError at the end if cells have failed.
    """
    todo, amounts, existing = plan(sweep, cells, runs)
    needed = {}  # image folder: the cell that wants most of its images
    for cell in todo:
        if cell.images:
            needed[cell.images] = max(needed.get(cell.images, cell), cell, key=amounts.get)
    waiting, clock, failed = list(todo), sweeps.Clock(), []
    # With cuda:N all cells share that GPU
    gpus = torch.cuda.device_count() if sweep.device in ("auto", "cuda") else 0
    with ended_by_signals(), Jobs(device_slots(jobs, gpus, sweep.gpus)) as running:
        while waiting or running.keys:
            # Start what can be started
            while running.has_room and (task := next_task(waiting, needed, running.keys)):
                if isinstance(task, Cell):
                    waiting.remove(task)
                    command = training_command(task, sweep.dataset)
                else:
                    command = sampling_command(needed[task], amounts[needed[task]])
                running.start(task, *command, logs / f"{name_of(task)}.log")
                print(f"started {name_of(task)}", flush=True)

            # Wait until something has ended
            task, code, seconds = running.wait()
            if code:
                log = logs / f"{name_of(task)}.log"
                reason = last_line(log) if code > 0 else f"ended by signal {-code}"
                print(f"failed: {name_of(task)}: {reason} ({log})", flush=True)
                failed += [cell for cell in todo if task in (cell, cell.images)]
                waiting = [cell for cell in waiting if cell not in failed]
            elif isinstance(task, Cell):
                runs[task] = read_run(task.run)
                clock.add_training(task.steps, seconds)
                left = waiting + [cell for cell in running.keys if isinstance(cell, Cell)]
                steps, _, evaluations = work_of(left, amounts, existing)
                rest = sum(part or 0 for part in clock.seconds(steps, evaluations)) / jobs
                print(
                    f"{sweep.name} {task.value}, seed {task.seed}: {duration(seconds)}, top-1 "
                    f"{runs[task].top1_last:.2f} %; {len(left)} left, about {duration(rest)}",
                    flush=True,
                )
            else:
                new_images = max(0, amounts[needed[task]] - existing[task])
                clock.add_sampling(new_images * needed.pop(task).evaluations, seconds)
                existing[task] += new_images
                print(f"sampled {name_of(task)} in {duration(seconds)}", flush=True)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(todo)} cells have failed, see the messages above and {logs}: "
            "correct the cause and run the sweep again; the finished ones are kept"
        )


def next_task(waiting, needed, running):
    """The next Cell to train or image folder to sample, None if all must wait.

    waiting: Cells; needed: image folders that are not complete; running: tasks. A cell whose images
    are complete comes first. Values such as 1 and 1.0 have one run folder, used by one at a time.
    """
    folders = [task.run for task in running if isinstance(task, Cell)]
    for cell in waiting:
        if cell.images not in needed and cell.run not in folders:
            return cell
    for cell in waiting:
        if cell.images in needed and cell.images not in running:
            return cell.images
    return None


def name_of(task):
    """The name of a cell's run folder, or of an image folder."""
    return task.run.name if isinstance(task, Cell) else task.name


def sampling_command(cell, amount):
    """(command, environment) that sample the images of a cell."""
    if isinstance(cell.sampling, dict):
        per_class = -(-amount // IMAGENET_CLASSES)
        variables = cell.sampling | {"IMAGES_PER_CLASS": str(per_class)}
        return recipe_command("imagenet_synthesize.sh", variables)
    script = [sys.executable, str(ROOT / "synthesize_dit.py")]
    return [*script, *cell.sampling, "--data_amount", str(amount)], {}


def training_command(cell, dataset):
    """(command, environment) that distil the student of a cell."""
    if isinstance(cell.student, dict):
        return recipe_command(f"{dataset}_distill.sh", cell.student)
    return [sys.executable, str(ROOT / "train_student.py"), *cell.student], {}


def recipe_command(script, variables):
    """(command, environment) of a script of scripts/ with variables."""
    python = os.environ.get("PYTHON", sys.executable)
    return ["sh", str(ROOT / "scripts" / script)], {"PYTHON": python, **variables}


@contextlib.contextmanager
def ended_by_signals():
    """SIGTERM raises SystemExit(143) within the context; so does SIGHUP, with 129: the cells do not
    get it when the terminal is closed.
    """

    def stop(number, _):
        raise SystemExit(128 + number)

    names = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        names.append(signal.SIGHUP)
    previous = {name: signal.signal(name, stop) for name in names}
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def work_of(cells, amounts, existing):
    """(image-steps, images to sample, network evaluations) of cells; existing: images that each
    folder has.
    """
    missing = {}  # image folder: (images, evaluations)
    for cell in cells:
        if cell.images:
            count = max(0, amounts[cell] - existing[cell.images])
            missing[cell.images] = max(
                missing.get(cell.images, (0, 0)), (count, count * cell.evaluations)
            )
    return (
        sum(cell.steps for cell in cells),
        sum(images for images, _ in missing.values()),
        sum(evaluations for _, evaluations in missing.values()),
    )


def sample(cell, amount):
    """Samples the images that are missing among the first `amount` of the cell's folder."""
    if isinstance(cell.sampling, dict):
        run_recipe(*sampling_command(cell, amount))
    else:
        synthesize_dit.main([*cell.sampling, "--data_amount", str(amount)])


def train(cell, dataset):
    """Distils the student of a cell, or resumes it."""
    if isinstance(cell.student, dict):
        run_recipe(*training_command(cell, dataset))
    else:
        train_student.main(cell.student)


def run_recipe(command, variables):
    """Runs a script of scripts/ with variables; exits with its exit code if it fails."""
    code = subprocess.run(command, env={**os.environ, **variables}).returncode
    if code:
        print(f"{command[-1]} failed: run the sweep again to continue", file=sys.stderr)
        sys.exit(code if code > 0 else 128 - code)


def image_count(folder):
    """The number of images in a folder by class."""
    return sum(1 for _ in folder.glob("*/*.png"))


# Results


def measure(sweep, folders):
    """Measures the image folders that have no figures by this teacher yet.

    Measures for which a folder is too small are skipped.
    """
    figures_of = read_fidelity(sweep, folders)
    new = [folder for folder in folders if folder not in figures_of]
    if not new:
        return
    fewest, skipped = min(map(image_count, new)), []
    for name, least in (
        ("frechet", LEAST_FRECHET_IMAGES),
        ("precision_recall", LEAST_NEIGHBOUR_IMAGES),
    ):
        if fewest < least:
            print(f"{name} is skipped: {fewest} images, it needs at least {least}", flush=True)
            skipped.append(name)
    command = ["--dataset", sweep.dataset, "--path-t", teacher_of(sweep)]
    command += ["--data_root", sweep.data_root, "--device", sweep.device]
    command += ["--images", *map(str, new)]
    if sweep.by_recipe:
        command += ["--real", "test"]
    if skipped:
        command += ["--skip", *skipped]
    evaluate_images.main(command)


def teacher_of(sweep):
    """The checkpoint that measures the images: the default teacher, even if the sweep varies it."""
    return teacher_path(sweep.dataset, sweep.settings["path_t"])


def read_fidelity(sweep, folders):
    """Figures of evaluate_images.py, {image folder: dict}: those of the folder as it is now, by the
    teacher of the settings. Damaged files are reported.
    """
    teacher, figures_of = teacher_of(sweep), {}
    if not Path(teacher).is_file():
        return figures_of
    name, digest = architecture_of(teacher), weights_sha256(teacher)
    for folder in folders:
        try:
            figures = sweeps.read_figures(evaluate_images.default_file(folder, sweep.dataset, name))
        except UserError as error:
            print(f"ignored: {error}", file=sys.stderr, flush=True)
            continue
        if figures and (figures["teacher"]["sha256"], figures["images"]) == (
            digest,
            image_count(folder),
        ):
            figures_of[folder] = figures
    return figures_of


def write_report(sweep, cells, runs, fidelity, out):
    """Writes CSV, page and plot of the cells; returns the records. runs: {Cell: RunResult}."""
    records = [
        sweeps.record_of(
            runs[cell],
            cell.value,
            sweep.file_name,
            fidelity.get(cell.images),
            cell.evaluations if cell.images else None,
            cell.settings,
        )
        for cell in cells
    ]
    varied = FLAGS[sweep.name]
    common = {
        name: short_name(value) for name, value in sweep.settings.items() if name not in varied
    }
    label = sweeps.LABELS[sweep.name]
    title = (
        f"{TITLES[sweep.dataset]}, {label}: {records[0]['student']} distilled from "
        f"{common.get('path_t', 'each teacher')}"
    )
    for name, word in (("data_amount", "images"), ("epochs", "epochs")):
        if name in common:
            title += f", {word}: {common[name]}"
    settings = " ".join(command_line(common, common))
    note = (
        "The seed sets the noise of the images and the initialisation of the student. Settings of "
        f"all cells: `{settings}`. One line per cell: "
        f"[{sweep.file_name}.csv]({sweep.file_name}.csv)."
    )
    sweeps.write(
        out / sweep.file_name,
        records,
        short_name(sweep.baseline),
        label,
        title,
        note=note,
        # The images' figures are plotted only if the images differ
        fidelity=bool(set(varied) & set(SAMPLING_FLAGS)),
    )
    return records


if __name__ == "__main__":
    sys.exit(run_script(main))
