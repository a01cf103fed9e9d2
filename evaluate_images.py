"""Measures what the fidelity of generated images is to a classifier, and writes it beside them.

    python evaluate_images.py --dataset fashion_mnist --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth \\
        --images syn_dataset/quickstart_DiT-6x160-2_ddim_s1.2_T25_seed0
    torchrun --nproc_per_node 8 evaluate_images.py --dataset imagenet --path-t save/models/ResNet18/resnet18.pth \\
        --images syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0
            syn_dataset/DiT-XL-2-256_ddpm_s4_T250_seed0

In the space of the features that the classifier's last layer is given: the Fréchet distance to real
images (arXiv 1706.08500), and precision and recall by k nearest neighbours (arXiv 1904.06991) on
10,000 images of each set, chosen by a fixed hash. Of its outputs: how often it names the class that
an image was made for first, and the mean entropy of its softmax. What is kept of the features does
not grow with the images. Several sets share one pass over the real ones.
"""

import sys
import time
from pathlib import Path

from dataset import folders, real
from helper import distributed
from helper import options as flags
from helper.errors import UserError, run
from helper.files import file_stem, make_folder, sha256, write_json
from helper.run import environment
from models.classifiers import architecture_of, image_statistics, load_teacher
from report import fidelity
from report.inception import FEATURES, check_weights, inception_measures

SCHEMA = 1


def parse_option(argv=None):
    """Reads the flags. Raises UserError for a wrong one."""
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("classifier and images")
    flags.add_teacher_flags(group)
    group.add_argument(
        "--images", nargs="+", required=True, help="image folders, or lists of `path [label]` lines"
    )
    group.add_argument(
        "--data_amount",
        type=flags.amount,
        default=None,
        help="images of each, a class-balanced prefix (default: all)",
    )
    group.add_argument(
        "--ignore_labels",
        action="store_true",
        help="the images' classes are others than the teacher's: its accuracy is left out",
    )
    group.add_argument(
        "--real",
        default="train",
        metavar="train|test|holdout|PATH",
        help="the real images: a part of "
        "--dataset (test: as --val_data says), or any folder or list (default: train)",
    )
    group = parser.add_argument_group("measures")
    group.add_argument(
        "--neighbours",
        type=flags.positive_int,
        default=3,
        help="k of precision and recall (default: 3)",
    )
    group.add_argument(
        "--skip",
        nargs="+",
        choices=["frechet", "precision_recall"],
        default=[],
        help="leave these out, of sets too small for them; without both no real images are read",
    )
    group.add_argument(
        "--inception",
        default=None,
        metavar="WEIGHTS",
        help="also FID and Inception score, by the "
        "package torch-fidelity and with this file of its, "
        "weights-inception-2015-12-05-6726825d.pth of "
        "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0",
    )
    group = parser.add_argument_group("output and computing")
    group.add_argument(
        "--out",
        default=None,
        metavar="FILE",
        help="of one set (default: "
        "<images>/fidelity_<dataset>_<model_t>.json; beside a list, after its name)",
    )
    group.add_argument(
        "--batch_size",
        type=flags.positive_int,
        default=256,
        help="images a step, all processes (default: 256)",
    )
    group.add_argument(
        "--num_workers",
        type=flags.natural,
        default=None,
        help="decoding distributed, all ranks (default: 0 for sets kept in memory, else the cores)",
    )
    group.add_argument(
        "--amp",
        choices=["auto", "bf16", "off"],
        default="off",
        help="bf16 autocast, which changes the features a little; auto: on GPU only (default: off)",
    )
    real.add_flags(parser)
    flags.add_process_flags(parser)
    parser.set_defaults(seed=0)  # nothing here is random
    options = parser.parse_args(argv)
    if options.path_t is None:
        raise UserError("--path-t is needed: the classifier's checkpoint")
    if options.out and len(options.images) > 1:
        raise UserError(
            f"--out names one file and --images {len(options.images)} sets: leave --out out"
        )
    return options


def main(argv=None):
    """Measures the sets of `argv`; returns a list of dicts, one for each of --images, as their
    files hold them.
    """
    options = parse_option(argv)

    with distributed.session(options, argv) as world:
        distributed.fix_kernels(
            tf32=False
        )  # a figure is not to depend on the kernels that are fastest today
        return evaluate(options, world)


def evaluate(options, world):
    """Looks at the real images once and at each set after the other; returns what `main` does."""
    if options.inception:
        check_inception(options, world)
    compared = bool(options.inception or {"frechet", "precision_recall"} - set(options.skip))
    real_images, num_classes = read_real(options) if compared else None, class_count(options)
    classifier, common = open_classifier(options, num_classes, world)
    sets = [read_generated(path, options, num_classes) for path in options.images]
    for images in [real_images, *sets] if compared else []:
        check_amount(images, common["dimension"], options)

    def look(images):
        loader = real.make_loader(images, options, world, train=False)
        return fidelity.look(
            classifier, loader, world, common["dimension"], options.amp, source_of(images)
        )

    real_sight, results = look(real_images) if compared else None, []
    if compared:
        common["real"] = {
            "source": source_of(real_images),
            "images": len(real_images),
            "label_top1": real_sight.top1,
            "entropy": real_sight.entropy,
        }
    for path, images in zip(options.images, sets, strict=True):
        began, sight = time.monotonic(), look(images)
        figures = world.from_main(lambda: measures(sight, real_sight, options))
        if options.inception:
            figures |= inception(images, real_images, options, world)
        manifest = images.origin["manifest"] or {}
        result = {
            "schema": SCHEMA,
            "source": path,
            "images": len(images),
            "method": manifest.get("method"),
            "settings": manifest.get("settings"),
            **figures,
            **common,
            "seconds": round(time.monotonic() - began, 1),
        }
        world.from_main(lambda: report(result, options))
        results.append(result)
    return results


def open_classifier(options, num_classes, world):
    """Returns the classifier of --path-t, frozen and on the device, and the facts that all of the
    files have.
    """
    name, size = options.model_t or architecture_of(options.path_t), real.image_size(options)
    default = real.default_statistics(options)
    statistics = image_statistics(options.mean_t, options.std_t, "t", default, options.path_t, name)
    classifier = load_teacher(options.path_t, num_classes, *statistics[:2], name).to(world.device)
    facts = {
        "name": name,
        "path": options.path_t,
        "sha256": sha256(options.path_t),
        **statistics._asdict(),
    }
    return classifier, {
        "dataset": options.dataset,
        "image_size": size,
        "teacher": facts,
        "real": None,
        "dimension": fidelity.feature_dimension(classifier, size, world.device),
        **environment(),
    }


def report(result, options):
    """Prints the figures of a set and writes them to its file."""
    file = Path(
        options.out or default_file(result["source"], options.dataset, result["teacher"]["name"])
    )
    print(table(result), file, sep="\n", flush=True)
    make_folder(file.parent)
    write_json(file, result)


def check_inception(options, world):
    """Raises UserError if the Inception network's measures cannot be had."""
    if world.size > 1:
        raise UserError(
            "--inception is computed in one process: start without torchrun, or leave it out"
        )
    check_weights(options.inception)


def class_count(options):
    """Returns how many classes the classifier tells apart: those of --class-list or --dataset."""
    listed, known = real.class_list(options), real.REAL_SETS[options.dataset].num_classes
    if listed is not None:
        return len(listed)
    return known or len(real.load_validation(options).class_names)


def read_generated(path, options, num_classes):
    """Returns the ImageSet of one of --images. Raises UserError as `dataset.folders` does."""
    images = folders.read_training(
        path, num_classes, options.data_amount, real.class_list(options), options.ignore_labels
    )
    images.grey = options.dataset == "fashion_mnist"
    return images


def read_real(options):
    """Returns the ImageSet of --real; that of a path has no labels. Raises UserError as
    `dataset.real` does.
    """
    if options.real in ("train", "holdout"):
        return real.load_split(options, options.real)
    if options.real == "test":
        return real.load_validation(options)
    images = folders.read_training(options.real, None, ignore_labels=True)
    images.grey = options.dataset == "fashion_mnist"
    return images


def source_of(images):
    """Returns what an ImageSet was read from, in words."""
    origin = images.origin
    return origin.get("source") or f"{origin['dataset']} ({origin['split']})"


def check_amount(images, dimension, options):
    """Raises UserError if a measure that was asked for needs more images of this set."""
    needs = {}
    if "frechet" not in options.skip:
        needs["the Fréchet distance"] = (
            fidelity.least_frechet_images(dimension),
            "with --skip frechet",
        )
    if "precision_recall" not in options.skip:
        least = max(fidelity.LEAST_NEIGHBOUR_IMAGES, options.neighbours + 1)
        needs["precision and recall"] = least, "with --skip precision_recall"
    if options.inception:
        needs["Inception's FID"] = (
            fidelity.least_frechet_images(FEATURES),
            "by giving no --inception",
        )
    for measure, (least, remedy) in needs.items():
        if len(images) < least:
            raise UserError(
                f"{source_of(images)} holds {len(images)} images, too few for {measure}: at least "
                f"{least} "
                f"of each set are needed; take more, or leave it out {remedy}"
            )


def measures(sight, real_sight, options):
    """Returns the figures of a set by name, None for those that are left out."""
    figures = dict.fromkeys(["frechet", "precision", "recall", "neighbours", "neighbour_images"])
    figures |= {"label_top1": sight.top1, "entropy": sight.entropy}
    if "frechet" not in options.skip:
        figures["frechet"] = fidelity.frechet_distance(sight.moments, real_sight.moments)
    if "precision_recall" not in options.skip:
        count = min(len(sight.features), len(real_sight.features))
        precision, recall = fidelity.precision_recall(
            sight.features[:count], real_sight.features[:count], options.neighbours
        )
        figures |= {
            "precision": precision,
            "recall": recall,
            "neighbours": options.neighbours,
            "neighbour_images": count,
        }
    return figures


def inception(images, real_images, options, world):
    """Returns the Inception network's figures of a set by name."""
    return inception_measures(
        images, real_images, options.inception, options.batch_size, world.device.type == "cuda"
    )


def default_file(path, dataset, name):
    """Returns where the figures of a set go: into its folder, which remains an ImageFolder, or
    beside a list.
    """
    path, ending = Path(path), f"fidelity_{dataset}_{file_stem(name)}.json"
    return path / ending if path.is_dir() else path.with_name(f"{path.stem}_{ending}")


def table(result):
    """Returns the figures in words and columns, those of the real images beside those of the
    set.
    """
    real_ones = result["real"] or {}
    lines = [
        f"{result['source']}: {result['images']} images, seen by {result['teacher']['name']} "
        f"({result['dimension']} features)"
    ]
    if real_ones:
        lines += [f"real: {real_ones['images']} images, {real_ones['source']}"]
    near = f"k = {result['neighbours']}, {result['neighbour_images']} images of each"
    rows = {
        "Fréchet distance": ("frechet", ".4f"),
        f"precision ({near})": ("precision", ".4f"),
        f"recall ({near})": ("recall", ".4f"),
        "accuracy on the intended label (%)": ("label_top1", ".2f"),
        "entropy of the softmax (nats)": ("entropy", ".4f"),
        "Inception FID": ("inception_fid", ".4f"),
        "Inception score": ("inception_score", ".4f"),
    }
    lines += [f"{'':50}{'images':>12}{'real':>12}"]
    for title, (key, form) in rows.items():
        columns = [facts.get(key) for facts in (result, real_ones)]
        if columns[0] is not None:
            lines += [
                f"{title:50}"
                + "".join(
                    f"{'–' if value is None else format(value, form):>12}" for value in columns
                )
            ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main))
