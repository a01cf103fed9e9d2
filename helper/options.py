"""Flags: a parser whose names take `-` or `_`, whose errors are one line, and the flags that
scripts share.
"""

import argparse
import dataclasses
import math
import sys

from helper.distributed import ProcessSettings
from helper.errors import UserError
from helper.optim import Schedule

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
NETWORK_SETTINGS = ("model_t", "mean_t", "std_t", "model_s", "mean_s", "std_s")


class Parser(argparse.ArgumentParser):
    """argparse with `--some-flag` and `--some_flag` as one name, no abbreviations, and one-line
    errors.
    """

    def __init__(self, description):
        """`description` is the script's docstring, shown by --help as it is written."""
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

        return super().parse_known_args(
            [canonical(w) for w in (sys.argv[1:] if args is None else args)], namespace
        )

    def error(self, message):
        raise UserError(f"{message} (see --help)")


def positive_int(text):
    """argparse type: an integer ≥ 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return value


def natural(text):
    """argparse type: an integer ≥ 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def positive_float(text):
    """argparse type: a finite number > 0."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def nonnegative_float(text):
    """argparse type: a finite number ≥ 0."""
    value = float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def share(text):
    """argparse type: a number in [0, 1]."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return value


def amount(text):
    """argparse type: a count of images, `200000` or `200k` or `1.28m`."""
    factor = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    value = float(text[:-1] if factor > 1 else text) * factor
    if value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is not a count of images (such as 3000, 200k)")
    return int(value)


def int_list(text):
    """argparse type: integers separated by commas, `150,180,210`; an empty text is an empty
    list.
    """
    return [int(part) for part in text.split(",") if part.strip()]


def float_list(text):
    """argparse type: three numbers separated by commas, `0.5,0.5,0.5` (one number stands for
    three).
    """
    values = [float(part) for part in text.split(",")]
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3:
        raise argparse.ArgumentTypeError(
            f"{text} is not one number or three, such as 0.485,0.456,0.406"
        )
    return values


def index_ranges(text):
    """argparse type: indices and inclusive ranges, `0-9,17` → [0, …, 9, 17], sorted, each once."""
    indices = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        indices.update(range(int(first), int(last or first) + 1))
    if not indices:
        raise argparse.ArgumentTypeError(f"{text} holds no index (such as 0-9,17)")
    return sorted(indices)


def add_process_flags(parser):
    """Device and process flags, the same in every script."""
    group = parser.add_argument_group("device and processes")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument(
        "--gpu_id", default="0", help="GPU ids of --multiprocessing-distributed (default: 0)"
    )
    group.add_argument(
        "--multiprocessing-distributed",
        action="store_true",
        dest="multiprocessing_distributed",
        help="run under torchrun, one process for each id in --gpu_id",
    )
    group.add_argument(
        "--dist-url",
        default=None,
        help="tcp://host:port of the first machine (default: this machine)",
    )
    group.add_argument("--world-size", type=int, default=1, help="number of machines (default: 1)")
    group.add_argument(
        "--rank", type=int, default=0, help="this machine's number among them (default: 0)"
    )
    group.add_argument(
        "--deterministic", action="store_true", help="deterministic GPU kernels (slower)"
    )


def process_settings(options):
    """Returns the ProcessSettings of the flags of `add_process_flags`."""
    names = [field.name for field in dataclasses.fields(ProcessSettings)]
    return ProcessSettings(**{name: getattr(options, name) for name in names})


def schedule_of(options):
    """Returns the learning-rate Schedule of the flags of `add_schedule_flags`."""
    return Schedule(
        options.schedule,
        options.learning_rate,
        options.epochs,
        options.warmup_epochs,
        tuple(options.lr_decay_epochs),
        options.lr_decay_rate,
        options.min_lr,
    )


def values_of(options, names):
    """Returns {name: value} of some flags."""
    return {name: getattr(options, name) for name in names}


def add_training_flags(parser, *, epochs, batch_size, learning_rate, weight_decay):
    """Flags of the training scripts: data loading, precision, saving and resuming."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive_int, default=epochs)
    group.add_argument(
        "--batch_size", type=positive_int, default=batch_size, help="images a step, all processes"
    )
    group.add_argument("--learning_rate", type=positive_float, default=learning_rate)
    group.add_argument("--weight_decay", type=nonnegative_float, default=weight_decay)
    group.add_argument(
        "--warmup_epochs", type=nonnegative_float, default=0, help="linear warm-up, in epochs"
    )
    group.add_argument(
        "--seed", type=natural, default=0, help="initialisation, order, augmentation (default: 0)"
    )
    group.add_argument(
        "--num_workers",
        type=natural,
        default=None,
        help="decoding processes, all ranks (default: 0 for sets kept in memory, else the cores)",
    )
    group.add_argument(
        "--amp",
        choices=["auto", "bf16", "off"],
        default="auto",
        help="bf16 autocast; auto: on GPU only (default: auto)",
    )
    group.add_argument("--compile", action="store_true", help="torch.compile the networks")
    group.add_argument(
        "--print-freq",
        type=positive_int,
        default=50,
        help="steps between updates of the loss shown",
    )
    group.add_argument(
        "--resume", action="store_true", help="go on from the run folder's last checkpoint"
    )


def add_teacher_flags(group):
    """The teacher, and what its images are normalised with."""
    group.add_argument(
        "--path-t",
        default=None,
        help="teacher checkpoint; the architecture is its folder's name, or "
        "else recognised by its tensors",
    )
    group.add_argument(
        "--model_t", default=None, help="teacher architecture, where neither says it"
    )
    _add_statistics_flags(
        group, "t", "teacher", "its checkpoint's or library's own, else the data set's"
    )


def add_network_flags(group):
    """Teacher and student of a distillation, and what their images are normalised with."""
    add_teacher_flags(group)
    group.add_argument(
        "--model_s",
        default=None,
        help="student: a name of models/, torchvision/NAME or timm/NAME "
        "(default: resnet8; with --evaluate, the checkpoint's own)",
    )
    _add_statistics_flags(group, "s", "student", "the data set's")


def _add_statistics_flags(group, who, name, default):
    for what in ("mean", "std"):
        group.add_argument(
            f"--{what}_{who}",
            type=float_list,
            default=None,
            help=f"{what} of the {name}'s images in [0, 1] (default: {default})",
        )


def add_schedule_flags(
    parser, *, lr_decay_epochs=(), lr_decay_rate=0.1, schedule="step", min_lr=0.0
):
    """Optimizer and learning-rate schedule of the classifiers."""
    group = parser.add_argument_group("optimizer and schedule")
    group.add_argument("--optimizer", choices=["sgd", "adam", "adamw"], default="sgd")
    group.add_argument("--schedule", choices=["step", "cosine"], default=schedule)
    group.add_argument(
        "--lr_decay_epochs",
        type=int_list,
        default=list(lr_decay_epochs),
        help="the rate drops after these epochs",
    )
    group.add_argument("--lr_decay_rate", type=positive_float, default=lr_decay_rate)
    group.add_argument(
        "--min_lr", type=nonnegative_float, default=min_lr, help="where the cosine ends"
    )
    group.add_argument("--momentum", type=nonnegative_float, default=0.9, help="of sgd")


def one_of(*names):
    """Returns an argparse type: one of `names`, for a setting (a flag's own `choices` say it
    better).
    """

    def chosen(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(names)}")
        return text

    return chosen


def setting(default, kind, text):
    """Returns a field of a `Settings` dataclass: its default, the argparse type and the help of its
    flag.
    """
    return dataclasses.field(default=default, metadata={"type": kind, "help": text})


def add_settings_flags(parser, title, settings):
    """Adds a flag for each field of the dataclasses in `settings` {method: dataclass}, one flag for
    fields of one name.

    A field's metadata may hold `help` and `type` (an argparse type; default: the type of the
    field's default). Flags that are not given are None: `settings_of` then takes the method's own
    value.
    """
    group = parser.add_argument_group(title)
    methods_of = {}
    for method, kind in settings.items():
        for field in dataclasses.fields(kind):
            methods_of.setdefault(field.name, []).append((method, field))
    for name, users in methods_of.items():
        field = users[0][1]
        values = ", ".join(f"{method} {_shown(field.default)}" for method, field in users)
        group.add_argument(
            f"--{name}",
            type=field.metadata.get("type", type(field.default)),
            default=None,
            help=f"{field.metadata.get('help', '')} ({values})".strip(),
        )


def _shown(value):
    """A default as it would be given on the command line."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def settings_of(options, method, settings, defaults=None):
    """Returns the dataclass `settings[method]` filled from the flags; `defaults` {field: value} go
    before its own.

    Raises UserError for a flag that is given and belongs to other methods only.
    """
    own = {field.name for field in dataclasses.fields(settings[method])}
    for name in sorted(
        {field.name for kind in settings.values() for field in dataclasses.fields(kind)} - own
    ):
        if getattr(options, name) is not None:
            users = [
                other
                for other, kind in settings.items()
                if name in {f.name for f in dataclasses.fields(kind)}
            ]
            raise UserError(
                f"--{name} is a setting of {', '.join(users)} and plays no part in {method}: leave "
                "it out"
            )
    given = {name: getattr(options, name) for name in own if getattr(options, name) is not None}
    return settings[method](**{**(defaults or {}), **given})
