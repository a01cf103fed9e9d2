"""Varies one setting of DM-KD on Fashion-MNIST over paired seeds, in one process: images, students,
table and plot.

    python run_sweep.py --sweep scale
    python run_sweep.py --sweep temperature --values 1,4,16 --seeds 0,1,2,3,4 --data_amount 4k --epochs 20 --fidelity

A cell is a value with a seed, which sets the noise of the images and the student's initialisation:
so values are compared at equal seeds. Everything else is the quickstart's recipe or as its flag
says. A value of several flags has them with colons, as 2:100. Run again with the same flags,
finished cells are read and the one that was stopped goes on. Sweeps share the cells that they have
in common: run them one after the other. Writes <out>/<sweep>.csv, .md and .png.
"""

import hashlib
import json
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import evaluate_images
import synthesize_dit
import train_student
from dataset import fashion_mnist
from diffusion.pipeline import read_pipeline
from diffusion.sampler import check_steps
from helper import options as flags
from helper.cost import duration
from helper.errors import UserError, run
from helper.files import make_folder, sha256
from helper.shared import Shared
from models.classifiers import architecture_of
from report import sweeps
from report.fidelity import LEAST_FRECHET_IMAGES, LEAST_NEIGHBOUR_IMAGES
from report.results import read_run

WEIGHTS = "save/models/fashion_mnist"
SAMPLING_BATCH = 100
# Flags of synthesize_dit.py and of train_student.py: the quickstart's values, of fewer images and
# epochs. `generated` stands for the cell's image folder.
SAMPLING = {"cfg_scale": "1", "num_sampling_steps": "25", "sampler": "ddim"}
STUDENT = {
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
}


@dataclass(frozen=True)
class Sweep:
    """flags: what a value sets; values; baseline: the one that others are compared with; fixed:
    settings other than the quickstart's. What the values are is in `report.sweeps.LABELS`.
    """

    flags: tuple
    values: str
    baseline: str
    fixed: tuple = ()


SWEEPS = {
    "scale": Sweep(("cfg_scale",), "1,1.5,2,4", "1"),
    "steps": Sweep(("num_sampling_steps",), "5,10,25,50", "25"),
    "fidelity": Sweep(("cfg_scale", "num_sampling_steps"), "1:10,1:25,2:10,2:25,4:10,4:25", "1:25"),
    "teacher": Sweep(
        ("path_t",), f"{STUDENT['path_t']},{WEIGHTS}/resnet8/resnet8_latest.pth", STUDENT["path_t"]
    ),
    "images": Sweep(("data_amount",), "500,1000,2000,4000", "1000"),
    "epochs": Sweep(("epochs",), "5,10,20,40", "10"),
    "temperature": Sweep(("kd_T",), "1,2,4,8,16", "4"),
    "augmentation": Sweep(("use_aug",), "none,mixup,cutmix", "none"),
    # Mixed images have no label of their own.
    "labels": Sweep(("alpha", "gamma"), "1:0,0:1", "1:0", (("use_aug", "none"),)),
    "source": Sweep(("train_data",), "generated,real", "generated"),
}


@dataclass(frozen=True)
class Cell:
    """A value with a seed: argv of its two scripts, and what they cost.

    run: the run folder; images: the image folder, None for real images, whose `sampling` lacks only
    --data_amount; amount: images; evaluations: of the network for one image; steps: image-steps of
    the student.
    """

    value: str
    seed: int
    run: Path
    student: tuple
    steps: int
    images: Path | None
    sampling: tuple
    amount: int
    evaluations: int

    def __str__(self):
        return f"{self.value}, seed {self.seed}"


def parse_option(argv=None):
    """Reads the flags. Raises UserError for a wrong one."""
    parser = flags.Parser(__doc__)
    parser.add_argument("--sweep", choices=sorted(SWEEPS), required=True)
    parser.add_argument(
        "--values",
        default=None,
        help="separated by commas (default: the sweep's own: "
        + "; ".join(f"{name} {sweep.values}" for name, sweep in SWEEPS.items())
        + ")",
    )
    parser.add_argument(
        "--baseline",
        default=None,
        help="the value that others are compared with (default: the "
        "sweep's own, or else the first)",
    )
    parser.add_argument("--seeds", type=flags.int_list, default=[0, 1, 2], help="(default: 0,1,2)")
    parser.add_argument(
        "--fidelity", action="store_true", help="measure the images with evaluate_images.py as well"
    )
    parser.add_argument(
        "--out", default="results/sweeps", help="folder of the results (default: results/sweeps)"
    )
    group = parser.add_argument_group(
        "what does not vary, flags of synthesize_dit.py and train_student.py"
    )
    for name, default in {**SAMPLING, **STUDENT}.items():
        group.add_argument(f"--{name}", default=None, help=f"(default: {default})")
    group.add_argument(
        "--model",
        default=f"{WEIGHTS}/DiT-6x160-2",
        help="the generator's folder (default: %(default)s)",
    )
    group.add_argument(
        "--val_split",
        choices=["test", "holdout"],
        default="holdout",
        help="real images that students are measured on; settings are chosen on holdout, test images "
        "report (default: holdout)",
    )
    group.add_argument("--data_root", default="true_dataset")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    options = parser.parse_args(argv)
    check_values(options)
    return options


def check_values(options):
    """Makes a list of `options.values`, sets the baseline and the settings that do not vary. Raises
    UserError.
    """
    sweep = SWEEPS[options.sweep]
    options.values = [
        text.strip() for text in (options.values or sweep.values).split(",") if text.strip()
    ]
    for what, found in (("values", list(map(shown, options.values))), ("seeds", options.seeds)):
        if not found or len(set(found)) < len(found):
            raise UserError(
                f"--{what}: {'none are given' if not found else 'one is given twice'}: name each "
                "once, "
                "with commas between them (checkpoints go by the names of their folders)"
            )
    if options.baseline is None:
        options.baseline = sweep.baseline if sweep.baseline in options.values else options.values[0]
    if options.baseline not in options.values:
        raise UserError(
            f"--baseline {options.baseline} is none of the values {', '.join(options.values)}"
        )
    options.settings = {**SAMPLING, **STUDENT, **dict(sweep.fixed)}
    for name in options.settings:
        if (given := getattr(options, name)) is not None:
            if name in sweep.flags:
                raise UserError(f"--{name} is what the sweep {options.sweep} varies: give --values")
            options.settings[name] = given


def main(argv=None):
    """Runs the cells of `argv` that are not finished; returns the records, dicts of
    `report.sweeps.COLUMNS`.
    """
    options = parse_option(argv)
    cells = make_cells(options)
    check_files(options)
    runs = {cell: found for cell in cells if (found := finished(cell))}
    run_cells(options, cells, runs)
    folders = list(dict.fromkeys(cell.images for cell in cells if cell.images))
    if options.fidelity:
        measure(options, folders)
    return report(options, cells, runs, read_fidelity(options, folders))


def make_cells(options):
    """Returns the Cells, seed after seed. Raises UserError for a value that its script refuses or a
    missing file.
    """

    @cache
    def teacher_hash(path):
        if not Path(path).is_file():
            raise UserError(f"teacher's checkpoint not found: {path}: give --path-t")
        return sha256(path)

    generator = cache(lambda: read_pipeline(options.model))
    cells = []
    for seed in options.seeds:
        for value in options.values:
            try:
                made, taught = cell_options(options, value, seed)
                real = taught.train_data == "real"
                if not real:
                    check_steps(made.sampler, made.num_sampling_steps, generator().schedule)
                cells.append(
                    make_cell(
                        options,
                        value,
                        made,
                        taught,
                        teacher_hash(taught.path_t),
                        None if real else generator(),
                    )
                )
            except UserError as error:
                raise UserError(
                    f"--sweep {options.sweep}, value {value}, seed {seed}: {error}"
                ) from None
    return cells


def cell_options(options, value, seed):
    """Returns the options of a cell's two scripts, each with its command line as `argv`.

    Raises UserError as they do, or for a value of another number of parts than the sweep has flags.
    """
    names = SWEEPS[options.sweep].flags
    parts = value.split(":") if len(names) > 1 else [value]
    if len(parts) != len(names):
        raise UserError(
            f"{len(parts)} parts for {len(names)} flags ({', '.join(names)}): put colons between "
            "them"
        )
    settings = options.settings | dict(zip(names, parts, strict=True))
    if settings["train_data"] not in ("real", "generated"):
        raise UserError(
            f"--train_data {settings['train_data']}: the images of a sweep are `generated` or "
            "`real`"
        )

    def read(script, flags_of, *more):
        words = [word for name in flags_of for word in (f"--{name}", settings[name])]
        argv = [*words, *more, "--seed", str(seed), "--device", options.device]
        read_options = script.parse_option([*argv, "--data_amount", settings["data_amount"]])
        read_options.argv = argv
        return read_options

    return (
        read(
            synthesize_dit, SAMPLING, "--model", options.model, "--batch_size", str(SAMPLING_BATCH)
        ),
        read(
            train_student,
            STUDENT,
            "--dataset",
            "fashion_mnist",
            "--data_root",
            options.data_root,
            "--val_split",
            options.val_split,
            "--table",
            "sweeps",
            "--resume",
            "--experiments_dir",
            "sweeps",
        ),
    )


def make_cell(options, value, made, taught, teacher_sha256, generator):
    """Returns the Cell of a value from its scripts' options; generator: its PipelineSource, None
    for real images.

    The run folder's name has a digest of all that the result depends on and is the same in every
    sweep.
    """
    source, images = "real", None
    key = {name: getattr(taught, name) for name in STUDENT} | {
        "path_t": teacher_sha256,
        "val_split": taught.val_split,
    }
    if generator:
        source = f"s{made.cfg_scale:g}_T{made.num_sampling_steps}"
        images = (
            Path("syn_dataset") / f"sweep_{generator.name}_{made.sampler}_{source}_seed{made.seed}"
        )
        key |= {name: getattr(made, name) for name in SAMPLING} | {
            "generator": generator.weights_sha256
        }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{source}_{taught.data_amount}x{taught.epochs}_{digest}_seed{taught.seed}"
    batch = min(taught.batch_size, taught.data_amount)
    return Cell(
        value=shown(value),
        seed=taught.seed,
        run=Path("save/student_model/sweeps") / name,
        student=(*taught.argv, "--train_data", str(images or source), "--experiments_name", name),
        steps=taught.epochs * (taught.data_amount // batch) * batch,
        images=images,
        sampling=(*made.argv, "--save_dir", str(images)),
        amount=taught.data_amount,
        evaluations=made.num_sampling_steps * (1 if made.cfg_scale == 1 else 2),
    )


def shown(value):
    """Returns a value as table and plot have it: of a checkpoint's path, the folder's name."""
    return Path(value).parent.name if "/" in value else value


def check_files(options):
    """Makes the folder of the results. Raises UserError for what would stop the sweep after some
    cells, or all.
    """
    if not fashion_mnist.is_complete(options.data_root):
        raise UserError(
            f"Fashion-MNIST is not in {fashion_mnist.folder(options.data_root)}: run  "
            f"python -m tools.fashion_mnist --root {options.data_root}"
        )
    make_folder(options.out)
    if options.fidelity and not Path(options.settings["path_t"]).is_file():
        raise UserError(
            f"--fidelity measures with the teacher --path-t, {options.settings['path_t']}, which "
            "is not "
            "there: leave it out, or name another folder for this sweep's teachers"
        )


def finished(cell):
    """Returns the Run of a finished cell, or None. A damaged result is named and removed: the cell
    is finished again, from its last checkpoint.
    """
    path = cell.run / "result.json"
    if not path.exists():
        return None
    try:
        found = read_run(cell.run)
        problem = None if found else f"result {path} is of no classifier"
    except UserError as error:
        problem = str(error)
    if problem is None:
        return found
    print(f"{problem}\nit is made again from the cell's checkpoint", file=sys.stderr, flush=True)
    path.unlink()
    return None


def run_cells(options, cells, runs):
    """Says the cost, runs the cells that `runs` {Cell: Run} lacks and puts their Runs there."""
    todo, amounts, ready = [cell for cell in cells if cell not in runs], {}, set()
    clock, shared = sweeps.Clock(), Shared()
    for cell in cells:
        # At once as many as any cell takes: the batches, and so the images, are the same whatever
        # is finished.
        amounts[cell.images] = max(amounts.get(cell.images, 0), cell.amount)
    wanted = {cell.images: cell for cell in todo if cell.images}
    missing = {folder: max(0, amounts[folder] - image_count(folder)) for folder in wanted}

    def left(remaining):
        """(image-steps, network evaluations) of the cells that remain."""
        return (
            sum(cell.steps for cell in remaining),
            sum(count * wanted[folder].evaluations for folder, count in missing.items()),
        )

    print(
        f"sweep {options.sweep}: {len(cells)} cells, {len(options.values)} values by "
        f"{len(options.seeds)} seeds; "
        f"{len(runs)} are finished\nto do: {len(todo)} cells, {left(todo)[0]} image-steps, "
        f"{sum(missing.values())} "
        f"images to sample ({left(todo)[1]} network evaluations)",
        flush=True,
    )
    if todo and runs:
        before = sweeps.Clock()
        for found in runs.values():
            before.trained(found.image_steps, found.seconds)
        print(
            f"at the finished cells' rate, {duration(before.seconds(*left(todo))[0])} of training",
            flush=True,
        )
    for number, cell in enumerate(todo, 1):
        print(f"\n[{number}/{len(todo)}] {options.sweep} {cell}", flush=True)
        if cell.images and cell.images not in ready:
            # Also where nothing seems to be missing: another generator's images, or damaged ones,
            # are not taken.
            made = synthesize_dit.main([*cell.sampling, "--data_amount", str(amounts[cell.images])])
            clock.sampled(made["made"] * cell.evaluations, made["seconds"])
            ready.add(cell.images)
            missing[cell.images] = 0
        began = time.monotonic()
        train_student.main(list(cell.student), shared)
        runs[cell] = read_run(cell.run)
        clock.trained(cell.steps, time.monotonic() - began)
        training, sampling = clock.seconds(*left(todo[number:]))
        print(
            f"{clock.cells_an_hour:.3g} cells an hour; {len(todo) - number} left, about "
            f"{duration(training)} of "
            f"training" + (f" and {duration(sampling)} of sampling" if sampling else ""),
            flush=True,
        )


def image_count(folder):
    """Returns how many images a folder by class holds."""
    return sum(1 for _ in folder.glob("*/*.png"))


def measure(options, folders):
    """Measures the image folders that have no figures of this teacher yet; says what they are too
    small for.
    """
    known = read_fidelity(options, folders)
    lacking = [folder for folder in folders if folder not in known]
    if not lacking:
        return
    fewest, skip = min(map(image_count, lacking)), []
    for name, least in (
        ("frechet", LEAST_FRECHET_IMAGES),
        ("precision_recall", LEAST_NEIGHBOUR_IMAGES),
    ):
        if fewest < least:
            print(
                f"{name} is left out: it needs {least} images of each set, there are {fewest}",
                flush=True,
            )
            skip.append(name)
    evaluate_images.main(
        [
            "--dataset",
            "fashion_mnist",
            "--data_root",
            options.data_root,
            "--device",
            options.device,
            "--path-t",
            options.settings["path_t"],
            "--images",
            *map(str, lacking),
            *(["--skip", *skip] if skip else []),
        ]
    )


def read_fidelity(options, folders):
    """Returns {image folder: the figures that evaluate_images.py wrote for it as it is now and for the teacher
    --path-t}; damaged files are named.
    """
    teacher, found = options.settings["path_t"], {}
    if not Path(teacher).is_file():
        return found
    name, digest = architecture_of(teacher), sha256(teacher)
    for folder in folders:
        try:
            figures = sweeps.read_figures(
                evaluate_images.default_file(folder, "fashion_mnist", name)
            )
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
            continue
        if figures and (figures["teacher"]["sha256"], figures["images"]) == (
            digest,
            image_count(folder),
        ):
            found[folder] = figures
    return found


def report(options, cells, runs, fidelity):
    """Writes CSV, page and plot; returns the records."""
    sweep, label = SWEEPS[options.sweep], sweeps.LABELS[options.sweep]
    records = [
        sweeps.record_of(runs[cell], cell.value, options.sweep, fidelity.get(cell.images))
        for cell in cells
    ]
    constant = {
        name: shown(value) for name, value in options.settings.items() if name not in sweep.flags
    }
    title = (
        f"Fashion-MNIST, {label}: {records[0]['student']} distilled from "
        f"{constant.get('path_t', 'each teacher')}"
    )
    title += "".join(
        f", {word} {constant[name]}"
        for name, word in (("data_amount", "images:"), ("epochs", "epochs:"))
        if name in constant
    )
    settings = ", ".join(f"`--{name} {value}`" for name, value in constant.items())
    note = (
        "A seed sets the images' noise and the student's initialisation. The same in all cells: "
        f"{settings}. A "
        f"line a cell: [{options.sweep}.csv]({options.sweep}.csv)."
    )
    # Where no flag of the sampling varies, the images of all values are the same.
    sweeps.write(
        Path(options.out) / options.sweep,
        records,
        shown(options.baseline),
        label,
        title,
        note,
        fidelity=bool(set(sweep.flags) & set(SAMPLING)),
    )
    return records


if __name__ == "__main__":
    sys.exit(run(main))
