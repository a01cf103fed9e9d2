"""Command-line flags: the parser, argparse types, and the flags that several scripts have.

`process_settings`, `schedule_of` and `settings_of` turn the parsed flags into values.
"""

import argparse
import dataclasses
import math
import re
import sys
from decimal import Decimal, InvalidOperation

from helper.distributed import ProcessSettings
from helper.errors import UserError, note
from helper.losses import DISTILLATIONS, distillation
from helper.optim import Schedule
from helper.tracker import TRACKERS, is_installed

MAX_INT = 2**63 - 1
MAX_INDEX = 10**6 - 1  # of a class

# Flags of the functions below that change the result of a run: a resumed run must share them.
TRAINING_SETTINGS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "warmup_epochs",
    "seed",
    "amp",
    "compile",
)
SCHEDULE_SETTINGS = (
    "optimizer",
    "schedule",
    "lr_decay_epochs",
    "lr_decay_rate",
    "min_lr",
    "momentum",
)
LARGEST = 1e30  # of a float: torch refuses factors that overflow float32
DISTILLATION_SETTINGS = (
    "distill",
    "standardize_logits",
    "dkd_alpha",
    "dkd_beta",
    "dist_beta",
    "dist_gamma",
    "distill_warmup_epochs",
)
NETWORK_SETTINGS = ("model_t", "mean_t", "std_t", "model_s", "mean_s", "std_s")


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, with one-line errors; `--some-flag` is `--some_flag`.

    description: the docstring of the script, which --help prints unchanged.
    """

    def __init__(self, description):
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_known_args(self, args=None, namespace=None):
        known = {
            option.replace("-", "_"): option
            for option in self._option_string_actions
            if option[:2] == "--"
        }

        def canonical(word):
            if not word.startswith("--"):
                return word
            name, equals, value = word.partition("=")
            return known.get(name.replace("-", "_"), name) + equals + value

        words = sys.argv[1:] if args is None else args
        for before, word in zip(["", *words], words):
            _check_word(word, before)
        return super().parse_known_args([canonical(word) for word in words], namespace)

    def error(self, message):
        if re.fullmatch(r"unrecognized arguments:[-+0-9.e ]+", message):
            message += ": numbers are separated by commas, without blanks"
        raise UserError(f"{message} (see --help)")


def _check_word(word, before):
    """Raises UserError for a word of the command line that was not meant as it arrives.

    before: the word before it.
    """
    flag, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
    if value == "" and (equals or not word) and flag.replace("-", "_") != "__lr_decay_epochs":
        of = f" of {flag}" if flag.startswith("--") else ""
        raise UserError(f"the value{of} is empty: was a variable of the shell not set?")
    if word.endswith("\r"):
        after = f" after {word.rstrip()!r}" if word.strip() else ""
        raise UserError(
            f"the command has a carriage return{after}: convert the script that has it from "
            "Windows line endings (sed -i 's/\\r$//' SCRIPT)"
        )
    if re.match(r"([\w-]+=)?~/", word):
        raise UserError(f"{word}: the shell has not replaced ~: write $HOME, or the whole path")


def positive_int(text):
    """argparse type: an integer ≥ 1 that fits an int64."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return natural(text)


def natural(text):
    """argparse type: an integer ≥ 0 that fits an int64."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    if value > MAX_INT:
        raise argparse.ArgumentTypeError(f"{text} is larger than {MAX_INT}")
    return value


def positive_float(text):
    """argparse type: a number > 0, up to LARGEST."""
    value = float(text)
    if not 0 < value <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number (up to {LARGEST:g})")
    return value


def nonnegative_float(text):
    """argparse type: a number ≥ 0, up to LARGEST."""
    value = float(text)
    if not 0 <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text} is not a number in 0 to {LARGEST:g}")
    return value


def moderate_float(text):
    """argparse type: a number in [1e-4, 1e4]: beyond, a temperature or a Beta distribution is lost
    in the rounding of float32.
    """
    value = float(text)
    if not 1e-4 <= value <= 1e4:
        raise argparse.ArgumentTypeError(f"{text} is not in 0.0001 to 10000")
    return value


def fraction(text):
    """argparse type: a number in [0, 1]."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return value


def fraction_below_one(text):
    """argparse type: a number in [0, 1)."""
    if fraction(text) == 1:
        raise argparse.ArgumentTypeError(f"{text} is not below 1")
    return float(text)


def interval(text):
    """argparse type: two numbers LOW,HIGH with 0 ≤ LOW < HIGH ≤ 1."""
    values = [float(part) for part in text.split(",")]
    if len(values) != 2 or not 0 <= values[0] < values[1] <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not LOW,HIGH with 0 <= LOW < HIGH <= 1")
    return values


def amount(text):
    """argparse type: a number of images, `200000` or `200k` or `1.28m`."""
    factor = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    try:
        value = Decimal(text[:-1] if factor > 1 else text) * factor
    except InvalidOperation:
        value = Decimal("nan")
    if not (value.is_finite() and 1 <= value <= MAX_INT and value == int(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a number of images (such as 3000 or 200k)")
    return int(value)


def int_list(text):
    """argparse type: comma-separated integers, `150,180,210`; an empty string is an empty list."""
    return [int(part) for part in text.split(",") if part.strip()]


def epoch_list(text):
    """argparse type: epochs, which count from 1, as in `int_list`."""
    values = int_list(text)
    if min(values, default=1) < 1:
        raise argparse.ArgumentTypeError(f"{text}: epochs count from 1 (an empty list: '')")
    return values


def mean_list(text):
    """argparse type: three comma-separated means of images in [0, 1], `0.5,0.5,0.5`; a single one
    is repeated.
    """
    return _checked_statistics(text, "mean")


def std_list(text):
    """argparse type: standard deviations, as in `mean_list`."""
    return _checked_statistics(text, "std")


def _checked_statistics(text, kind):
    try:
        values = [float(part) for part in text.strip("[]()").split(",")]
    except ValueError:
        values = []
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3:
        raise argparse.ArgumentTypeError(
            f"{text} must be one number or three, such as 0.485,0.456,0.406"
        )
    if fault := statistics_fault(values, kind):
        raise argparse.ArgumentTypeError(f"{text} {fault}")
    return values


def statistics_fault(values, kind):
    """What is wrong with the three values of a `mean` or `std` of images in [0, 1], or None."""
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        return "has a value that is not a finite number"
    if max(values) > 1:
        return f"exceeds 1, but images are in [0, 1]: a {kind} on the 0–255 scale? divide by 255"
    if kind == "std" and min(values) <= 0:
        return "has a standard deviation that is not above 0"
    if min(values) < 0:
        return "has a negative mean, but images are in [0, 1]"
    return None


def index_ranges(text):
    """argparse type: indices and inclusive ranges, `0-9,17` → [0, …, 9, 17], sorted and unique."""
    indices = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        first, last = int(first), int(last or first)
        if not first <= last <= MAX_INDEX:
            raise argparse.ArgumentTypeError(
                f"{part} is not a range of indices such as 0-9, up to {MAX_INDEX}"
            )
        indices.update(range(first, last + 1))
    return sorted(indices)


def installed_tracker(text):
    """argparse type: a tracker of TRACKERS whose package is installed, or none."""
    if text in TRACKERS and text != "none" and not is_installed(text):
        raise argparse.ArgumentTypeError(f"{text} is not installed: pip install {text}")
    return text


def values_of(options, names):
    """Returns {name: value} of some flags."""
    return {name: getattr(options, name) for name in names}


def add_process_flags(parser):
    """Adds the flags of device and processes, which `process_settings` reads."""
    group = parser.add_argument_group("device and processes")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument(
        "--gpu_id",
        default="0",
        help="number of the GPU; with --multiprocessing-distributed several, separated by commas "
        "(default: 0)",
    )
    group.add_argument(
        "--multiprocessing-distributed",
        action="store_true",
        dest="multiprocessing_distributed",
        help="run under torchrun with one process per GPU of --gpu_id",
    )
    group.add_argument(
        "--dist-url",
        default=None,
        help="tcp://host:port of the first machine (default: this machine)",
    )
    group.add_argument(
        "--world-size", type=positive_int, default=1, help="number of machines (default: 1)"
    )
    group.add_argument("--rank", type=natural, default=0, help="rank of this machine (default: 0)")
    group.add_argument(
        "--deterministic", action="store_true", help="use deterministic GPU kernels (slower)"
    )


def process_settings(options):
    """Returns the ProcessSettings of the flags of `add_process_flags`."""
    names = [field.name for field in dataclasses.fields(ProcessSettings)]
    return ProcessSettings(**{name: getattr(options, name) for name in names})


def add_training_flags(parser, *, epochs, batch_size, learning_rate, weight_decay):
    """Adds the flags of every training script, with the given defaults.

    learning_rate: None if the default depends on the method.
    """
    group = parser.add_argument_group("training")
    group.add_argument(
        "--epochs",
        type=positive_int,
        default=epochs,
        help=f"number of epochs {_default(epochs)}",
    )
    group.add_argument(
        "--batch_size",
        type=positive_int,
        default=batch_size,
        help=f"batch size over all processes {_default(batch_size)}",
    )
    group.add_argument(
        "--learning_rate",
        type=positive_float,
        default=learning_rate,
        help="base learning rate "
        + ("(default: that of the method)" if learning_rate is None else _default(learning_rate)),
    )
    group.add_argument(
        "--weight_decay",
        type=nonnegative_float,
        default=weight_decay,
        help=f"weight decay {_default(weight_decay)}",
    )
    group.add_argument(
        "--warmup_epochs",
        type=nonnegative_float,
        default=0,
        help="epochs of linear learning-rate warm-up (default: 0)",
    )
    group.add_argument(
        "--seed",
        type=natural,
        default=0,
        help="seed of initialisation, data order and augmentation (default: 0)",
    )
    group.add_argument(
        "--num_workers",
        type=natural,
        default=None,
        help="data loading processes over all ranks (default: 0 for images kept in memory, else "
        "the number of cores)",
    )
    group.add_argument(
        "--amp",
        choices=["auto", "bf16", "off"],
        default="auto",
        help="bf16 autocast; auto: on a GPU only (default: auto)",
    )
    group.add_argument("--compile", action="store_true", help="use torch.compile")
    group.add_argument(
        "--print-freq",
        type=positive_int,
        default=50,
        help="steps between updates of the printed loss (default: 50)",
    )
    group.add_argument(
        "--tracker",
        type=installed_tracker,
        choices=TRACKERS,
        default="none",
        help="also show curves, settings and contact sheet in TensorBoard, Weights & Biases or "
        "Trackio (default: none)",
    )
    group.add_argument(
        "--resume", action="store_true", help="continue from the latest checkpoint, if there is one"
    )


def _default(value):
    return f"(default: {value:g})"


def add_teacher_flags(group):
    """Adds the flags of the teacher and of the normalisation of its images."""
    group.add_argument(
        "--path-t",
        default=None,
        help="checkpoint of the teacher",
    )
    group.add_argument(
        "--model_t",
        default=None,
        help="architecture of the teacher (default: inferred from the checkpoint, the name of its "
        "folder, or its tensors)",
    )
    _add_statistics_flags(
        group, "t", "teacher", "the checkpoint's or library's, else the data set's"
    )


def add_network_flags(group, model_s="resnet8", statistics_s="the data set's"):
    """Adds the flags of teacher and student and of the normalisation of their images.

    model_s, statistics_s: descriptions of the student's defaults.
    """
    add_teacher_flags(group)
    add_student_flags(group, model_s, statistics_s)


def add_student_flags(group, model_s, statistics_s):
    """Adds the flags of the student and of the normalisation of its images.

    model_s, statistics_s: descriptions of their defaults.
    """
    group.add_argument(
        "--model_s",
        default=None,
        help="architecture of the student: a name of models/, torchvision/NAME, timm/NAME, or "
        f"module:function for your own (default: {model_s})",
    )
    _add_statistics_flags(group, "s", "student", statistics_s)


def _add_statistics_flags(group, suffix, name, default):
    for what, kind in (("mean", mean_list), ("std", std_list)):
        group.add_argument(
            f"--{what}_{suffix}",
            type=kind,
            default=None,
            help=f"{what} that normalises the images of the {name} (default: {default})",
        )


def add_capture_flag(parser):
    """Adds the flag of `helper.capture.capturable_step`."""
    parser.add_argument(
        "--capture",
        choices=["auto", "on", "off"],
        default="auto",
        help="on: run the training step as a CUDA graph, which is faster for small images; auto is "
        "off until this has been tested on a GPU (default: auto)",
    )


def add_run_folder_flags(group, name, meaning):
    """Adds the flags of the run folder of a student.

    name: the default of its name; meaning: of that default, for --help.
    """
    group.add_argument(
        "--experiments_dir",
        default=None,
        help="see above (default: <dataset>_<model_s>)",
    )
    group.add_argument("--experiments_name", default=name, help=f"see above (default: {meaning})")


def add_safetensors_flag(group):
    """Adds the flag of `Run.finish`, for the scripts that train classifiers."""
    group.add_argument(
        "--safetensors",
        action="store_true",
        help="write the weights of the last and the best epoch as .safetensors too; with --resume, "
        "also those of a finished run",
    )


def add_distillation_flags(group):
    """Adds the flags of the distillation loss, which `distillation_of` reads."""
    group.add_argument(
        "--distill",
        choices=DISTILLATIONS,
        default="kd",
        help="distillation loss: KL divergence, DKD or DIST (default: kd)",
    )
    group.add_argument(
        "--standardize_logits",
        action="store_true",
        help="give the logits of each image mean 0 and deviation 1 before the loss; with kd the "
        "published settings are --kd_T 2 -a 9",
    )
    for name, default, text in (
        ("dkd_alpha", 1.0, "weight of the target class in dkd"),
        ("dkd_beta", 8.0, "weight of the other classes in dkd; published: 2 to 8"),
        ("dist_beta", 2.0, "weight of the correlation over classes in dist; ImageNet: 1"),
        ("dist_gamma", 2.0, "weight of the correlation over images in dist; ImageNet: 1"),
    ):
        group.add_argument(
            f"--{name}", type=nonnegative_float, default=None, help=f"{text} {_default(default)}"
        )
    group.add_argument(
        "--distill_warmup_epochs",
        type=natural,
        default=0,
        help="epochs over which the weight of the distillation loss rises linearly; published for "
        "dkd: a twelfth of the epochs (default: 0)",
    )


def distillation_of(options, temperature, scaled=True):
    """Returns the loss function of the flags of `add_distillation_flags`, see
    `helper.losses.distillation`.

    Raises UserError for a weight of another loss.
    """
    weights = {}
    for name in ("dkd_alpha", "dkd_beta", "dist_beta", "dist_gamma"):
        loss, _, weight = name.partition("_")
        value = getattr(options, name)
        if value is not None and loss != options.distill:
            raise UserError(f"--{name} applies to --distill {loss}, not to {options.distill}")
        if value is not None:
            weights[weight] = value
    if len(weights) == 2 and not any(weights.values()):
        raise UserError(f"both weights of --distill {options.distill} are 0: nothing is distilled")
    if not scaled and options.distill != "kd":
        raise UserError(f"--no_tau2 applies to --distill kd, not to {options.distill}")
    return distillation(options.distill, temperature, options.standardize_logits, scaled, **weights)


def add_schedule_flags(
    parser, *, lr_decay_epochs=(), lr_decay_rate=0.1, schedule="step", min_lr=0.0
):
    """Adds the flags of optimizer and learning-rate schedule, which `schedule_of` reads."""
    group = parser.add_argument_group("optimizer and schedule")
    group.add_argument(
        "--optimizer",
        choices=["sgd", "adam", "adamw"],
        default="sgd",
        help="optimizer (default: sgd)",
    )
    group.add_argument(
        "--schedule",
        choices=["step", "cosine"],
        default=schedule,
        help=f"learning-rate schedule (default: {schedule})",
    )
    group.add_argument(
        "--lr_decay_epochs",
        type=epoch_list,
        default=list(lr_decay_epochs),
        help="epochs after which the step schedule lowers the learning rate "
        f"(default: {','.join(map(str, lr_decay_epochs)) or 'none'})",
    )
    group.add_argument(
        "--lr_decay_rate",
        type=fraction,
        default=lr_decay_rate,
        help=f"learning-rate factor of the step schedule, in [0, 1] {_default(lr_decay_rate)}",
    )
    group.add_argument(
        "--min_lr",
        type=nonnegative_float,
        default=min_lr,
        help=f"final learning rate of the cosine schedule {_default(min_lr)}",
    )
    group.add_argument(
        "--momentum",
        type=fraction_below_one,
        default=0.9,
        help="momentum of SGD, in [0, 1) (default: 0.9)",
    )


def check_schedule(parser, options):
    """Notes flags of the optimizer and the schedule that have no effect with the chosen ones.

    Raises UserError as `check_warmup`.
    """
    check_warmup(options)
    for name, flag, value in (
        ("lr_decay_epochs", "schedule", "step"),
        ("lr_decay_rate", "schedule", "step"),
        ("min_lr", "schedule", "cosine"),
        ("momentum", "optimizer", "sgd"),
    ):
        given = getattr(options, name) != parser.get_default(name)
        if given and getattr(options, flag) != value:
            chosen = getattr(options, flag)
            note(f"--{name} applies to --{flag} {value} and has no effect with {chosen}")


def check_warmup(options):
    """Raises UserError for a warm-up that is longer than the training."""
    for name in ("warmup_epochs", "distill_warmup_epochs"):
        if getattr(options, name, 0) > options.epochs:
            raise UserError(
                f"--{name} {getattr(options, name):g} is above --epochs {options.epochs}: the "
                "warm-up would not end"
            )


def schedule_of(options):
    """Returns the learning-rate Schedule of the flags of `add_schedule_flags`. Prints a note if the
    learning rate looks unintended.
    """
    drops = options.lr_decay_epochs
    if options.schedule == "step" and drops and min(drops) >= options.epochs > 1:
        note(
            f"the learning rate never drops: --lr_decay_epochs {','.join(map(str, drops))} is not "
            f"below --epochs {options.epochs}; give earlier epochs, or --schedule cosine"
        )
    if options.optimizer != "sgd" and options.learning_rate >= 0.1:
        note(
            f"--learning_rate {options.learning_rate:g} is large for {options.optimizer}; usual is "
            "1e-3"
        )
    return Schedule(
        options.schedule,
        options.learning_rate,
        options.epochs,
        options.warmup_epochs,
        tuple(options.lr_decay_epochs),
        options.lr_decay_rate,
        options.min_lr,
    )


def one_of(*names):
    """Returns an argparse type that accepts `names`, for a field of a Settings dataclass."""

    def checked(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text} is not one of {', '.join(names)}")
        return text

    return checked


def setting(default, kind, text):
    """Returns a dataclass field with the default, argparse type and help text of its flag."""
    return dataclasses.field(default=default, metadata={"type": kind, "help": text})


def add_settings_flags(parser, title, settings):
    """Adds a flag for each field of the dataclasses `settings` {method: dataclass of `setting`s}.

    Fields of the same name share a flag. The default of every flag is None, which means the
    method's own default; `settings_of` reads them.
    """
    group = parser.add_argument_group(title)
    fields = {}
    for method, kind in settings.items():
        for field in dataclasses.fields(kind):
            fields.setdefault(field.name, []).append((method, field))
    for name, users in fields.items():
        field = users[0][1]
        defaults = ", ".join(f"{method} {field.default}" for method, field in users)
        if len(settings) == 1:
            defaults = field.default
        group.add_argument(
            f"--{name}",
            type=field.metadata["type"],
            default=None,
            help=f"{field.metadata['help']} (default: {defaults})",
        )


def settings_of(options, method, settings, defaults=None):
    """Returns the dataclass `settings[method]` with the values of the flags.

    defaults: {field: value} that replace the dataclass's own defaults.
    Raises UserError for a flag that belongs to other methods only.
    """
    names = {
        method: [field.name for field in dataclasses.fields(kind)]
        for method, kind in settings.items()
    }
    for name in sorted({name for others in names.values() for name in others}):
        if name not in names[method] and getattr(options, name) is not None:
            users = ", ".join(other for other in names if name in names[other])
            raise UserError(f"--{name} applies to {users}, not to {method}")
    values = values_of(options, names[method])
    given = {name: value for name, value in values.items() if value is not None}
    return settings[method](**{**(defaults or {}), **given})
