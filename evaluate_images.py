"""Measures the fidelity of generated images with a classifier and writes the figures beside them.

    python evaluate_images.py --dataset fashion_mnist \\
        --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth \\
        --images syn_dataset/quickstart_DiT-6x160-2_dpmsolver++_s1_T5_leading_seed0
    torchrun --nproc_per_node 8 evaluate_images.py --dataset imagenet \\
        --path-t save/models/ResNet18/resnet18.pth \\
        --images syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0 \\
            syn_dataset/DiT-XL-2-256_ddpm_s4_T250_seed0

In the feature space of the classifier (the input of its last layer): the Fréchet distance to real
images (arXiv 1706.08500), and precision and recall by k nearest neighbours (arXiv 1904.06991) on
10,000 images of each set, which a fixed hash selects. From its outputs: its accuracy on the
intended labels and the mean entropy of its softmax. The memory for the features does not grow with
the number of images. The real images are read once for all sets.
"""

import os
import sys
import time
from pathlib import Path

from dataset import folders, real, transforms
from dataset.loader import make_loader
from helper import options as flags
from helper.checkpoints import weights_sha256
from helper.distributed import fix_kernels, session
from helper.errors import UserError, run_script
from helper.evaluate import accuracy_warning
from helper.files import file_stem, make_folder, write_json
from helper.run import environment
from models.classifiers import (
    architecture_of,
    check_classifier,
    image_statistics,
    load_teacher,
)
from report import fidelity
from report.inception import FEATURES, check_weights, inception_measures

SCHEMA = 1  # of the JSON files


def parse_option(argv=None):
    """Parses the flags. Raises UserError."""
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
        help="use a class-balanced prefix of this many images of each set (default: all)",
    )
    group.add_argument(
        "--ignore_labels",
        action="store_true",
        help="the images show other classes than the teacher's: do not measure its accuracy",
    )
    group.add_argument(
        "--real",
        default="train",
        metavar="train|test|holdout|PATH",
        help="the real images: a split of --dataset (test: the images of --val_data, if given), or "
        "any folder or list (default: train)",
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
        help="skip these measures, for example for small sets; without both no real images are "
        "read",
    )
    group.add_argument(
        "--inception",
        default=None,
        metavar="WEIGHTS",
        help="also compute FID and Inception score with the package torch-fidelity and its weights "
        "file weights-inception-2015-12-05-6726825d.pth from "
        "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0",
    )
    group = parser.add_argument_group("output and computing")
    group.add_argument(
        "--out",
        default=None,
        metavar="FILE",
        help="output file, for a single set (default: "
        "<images>/fidelity_<dataset>_<model_t>.json; for a list, <name of the list>_fidelity_… "
        "beside it)",
    )
    group.add_argument(
        "--batch_size",
        type=flags.positive_int,
        default=256,
        help="batch size of all processes (default: 256)",
    )
    group.add_argument(
        "--num_workers",
        type=flags.natural,
        default=None,
        help="decoding processes of all ranks (default: 0 for images in memory, else the number of "
        "cores)",
    )
    group.add_argument(
        "--amp",
        choices=["auto", "bf16", "off"],
        default="off",
        help="bf16 autocast, which changes the features slightly; auto: on a GPU only (default: "
        "off)",
    )
    real.add_flags(parser)
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    if options.path_t is None:
        raise UserError("--path-t is required: the checkpoint of the classifier")
    if options.out and len(options.images) > 1:
        raise UserError(
            f"--out is the file of a single set, and --images has {len(options.images)}: omit --out"
        )
    return options


def main(argv=None):
    """Measures the image sets of `argv` and returns their results, dicts as in the JSON files."""
    options = parse_option(argv)
    data = real.data_from(options)
    with session(flags.process_settings(options), argv) as world:
        fix_kernels(tf32=False)  # the figures must not depend on kernels chosen by timing

        # Real images, needed only by the measures that compare with them
        if options.inception:
            if world.size > 1:
                raise UserError("--inception runs in one process: start without torchrun")
            check_weights(options.inception)
        with_real = bool(options.inception or {"frechet", "precision_recall"} - set(options.skip))
        class_names = [] if data.num_classes else data.validation().class_names
        real_images = read_real(data, options.real, class_names) if with_real else None

        if not class_names and real_images is not None:
            class_names = real_images.class_names
        class_names = class_names or data.names_of_validation()

        # Where the figures of each set go
        name = options.model_t or architecture_of(options.path_t)
        files = [
            Path(options.out or default_file(path, data.name, name)) for path in options.images
        ]
        for file in files:
            if file.is_dir():
                raise UserError(f"--out {file} is a folder: give the name of a file in it")
            if file.parent.is_dir() and not os.access(file.parent, os.W_OK):
                raise UserError(f"cannot write to the folder {file.parent}: give --out FILE")

        # Classifier
        num_classes = data.num_classes or len(class_names)
        statistics = image_statistics(
            options.mean_t, options.std_t, "t", data.default_statistics, options.path_t, name
        )
        classifier = load_teacher(options.path_t, num_classes, *statistics[:2], name)
        classifier = classifier.to(world.device)
        check_classifier(classifier, name, "--model_t", data.image_size, num_classes)
        dimension = fidelity.feature_dimension(classifier, data.image_size, world.device)

        # Generated images
        image_sets = []
        for path in options.images:
            images = folders.read_training(
                path,
                num_classes,
                amount=options.data_amount,
                class_list=data.class_list,
                ignore_labels=options.ignore_labels,
                grey=data.grey,
                class_names=class_names,
            )
            image_sets.append(images)
        if with_real:
            minima = minimum_images(options.skip, options.neighbours, dimension, options.inception)
            for images in [real_images, *image_sets]:
                check_amount(images, minima)

        def outputs_for(images):
            """The classifier's outputs for all images of a set, with a warning if they do not fit
            its labels.
            """
            loader = make_loader(
                images,
                transforms.validation(data.image_size),
                options.batch_size,
                world,
                val_batch_size=options.val_batch_size,
                workers=options.num_workers,
            )
            outputs = fidelity.classifier_outputs(
                classifier, loader, world, dimension, options.amp, origin_of(images)
            )
            if outputs.confusion is not None:  # None without labels
                names = class_names or [str(label) for label in range(num_classes)]
                warning = accuracy_warning(outputs.confusion, names)
                if warning and world.is_main:
                    print(f"{origin_of(images)}: {warning}", flush=True)
            return outputs

        real_outputs = real_facts = None
        if with_real:
            real_outputs = outputs_for(real_images)
            real_facts = {
                "source": origin_of(real_images),
                "images": len(real_images),
                "label_top1": real_outputs.top1,
                "entropy": real_outputs.entropy,
            }
        teacher_facts = {
            "name": name,
            "path": options.path_t,
            "sha256": weights_sha256(options.path_t),
            **statistics._asdict(),
        }

        # Measure one set after the other
        results = []
        for path, file, images in zip(options.images, files, image_sets, strict=True):
            start = time.monotonic()
            outputs = outputs_for(images)
            figures = world.from_main(
                measures, outputs, real_outputs, options.skip, options.neighbours
            )
            if options.inception:
                figures |= inception_measures(
                    images,
                    real_images,
                    options.inception,
                    options.batch_size,
                    on_gpu=world.device.type == "cuda",
                )
            manifest = images.origin["manifest"] or {}
            result = {
                "schema": SCHEMA,
                "source": path,
                "images": len(images),
                "method": manifest.get("method"),
                "settings": manifest.get("settings"),
                **figures,
                "dataset": data.name,
                "image_size": data.image_size,
                "teacher": teacher_facts,
                "real": real_facts,
                "dimension": dimension,
                **environment(),
                "seconds": round(time.monotonic() - start, 1),
            }
            world.from_main(write_result, file, result)
            results.append(result)
        return results


def read_real(data, split_or_path, class_names):
    """The ImageSet of `--real`; the images of a path have no labels.

    class_names: of the validation images, if they are known.
    Raises UserError as `dataset.real` and `dataset.folders` do.
    """
    if split_or_path == "train":
        return data.training(class_names=class_names)
    if split_or_path == "holdout":
        return data.split("holdout")
    if split_or_path == "test":
        return data.validation()
    return folders.read_training(split_or_path, None, ignore_labels=True, grey=data.grey)


def origin_of(images):
    """The path of an ImageSet, or the name and split of its data set."""
    origin = images.origin
    return origin.get("source") or f"{origin['dataset']} ({origin['split']})"


def minimum_images(skip, neighbours, dimension, inception):
    """{measure: (images that it needs of each set, how to omit it)}."""
    minima = {}
    if "frechet" not in skip:
        count = fidelity.least_frechet_images(dimension)
        minima["the Fréchet distance"] = count, "use --skip frechet"
    if "precision_recall" not in skip:
        count = max(fidelity.LEAST_NEIGHBOUR_IMAGES, neighbours + 1)
        minima["precision and recall"] = count, "use --skip precision_recall"
    if inception:
        minima["Inception's FID"] = fidelity.least_frechet_images(FEATURES), "omit --inception"
    return minima


def check_amount(images, minima):
    """Raises UserError if a set has fewer images than one of the measures needs."""
    for measure, (count, remedy) in minima.items():
        if len(images) < count:
            raise UserError(
                f"{origin_of(images)} holds {len(images)} images, too few for {measure}, which "
                f"needs at least {count} of each set: use more images, or {remedy}"
            )


def measures(outputs, real_outputs, skip, neighbours):
    """The figures of a set as a dict; those of skipped measures are None."""
    figures = dict.fromkeys(["frechet", "precision", "recall", "neighbours", "neighbour_images"])
    figures |= {"label_top1": outputs.top1, "entropy": outputs.entropy}
    if "frechet" not in skip:
        figures["frechet"] = fidelity.frechet_distance(outputs.moments, real_outputs.moments)
    if "precision_recall" not in skip:
        count = min(len(outputs.features), len(real_outputs.features))
        figures["precision"], figures["recall"] = fidelity.precision_recall(
            outputs.features[:count], real_outputs.features[:count], neighbours
        )
        figures |= {"neighbours": neighbours, "neighbour_images": count}
    return figures


def default_file(path, dataset, name):
    """The output file for a set: in its folder, or beside its list."""
    path, ending = Path(path), f"fidelity_{dataset}_{file_stem(name)}.json"
    return path / ending if path.is_dir() else path.with_name(f"{path.stem}_{ending}")


def write_result(file, result):
    """Prints the figures of a set and writes them to `file`."""
    print(table(result), file, sep="\n", flush=True)
    make_folder(file.parent)
    write_json(file, result)


def table(result):
    """The figures of a set as text, in a column beside those of the real images."""
    real_figures = result["real"] or {}
    lines = [
        f"{result['source']}: {result['images']} images, classifier {result['teacher']['name']} "
        f"({result['dimension']} features)"
    ]
    if real_figures:
        lines.append(f"real: {real_figures['images']} images, {real_figures['source']}")
    settings = f"k = {result['neighbours']}, {result['neighbour_images']} images of each"
    rows = {
        "Fréchet distance": ("frechet", ".4f"),
        f"precision ({settings})": ("precision", ".4f"),
        f"recall ({settings})": ("recall", ".4f"),
        "accuracy on the intended label (%)": ("label_top1", ".2f"),
        "entropy of the softmax (nats)": ("entropy", ".4f"),
        "Inception FID": ("inception_fid", ".4f"),
        "Inception score": ("inception_score", ".4f"),
    }
    lines.append(f"{'':50}{'images':>12}{'real':>12}")
    for title, (key, form) in rows.items():
        if result.get(key) is None:
            continue
        line = f"{title:50}{result[key]:>12{form}}"
        value = real_figures.get(key)
        lines.append(line + ("–".rjust(12) if value is None else f"{value:>12{form}}"))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
