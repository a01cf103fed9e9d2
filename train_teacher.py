"""Supervised training on real images: the teachers, and the tables' "Student" rows.

    python train_teacher.py --dataset cifar100 --model wrn_40_2
    python train_teacher.py --dataset fashion_mnist --model resnet20 --epochs 4 --schedule cosine --batch_size 128

The run folder is save/models/<dataset>/<model>/; its checkpoint is a teacher for train_student.py --path-t.
"""

import sys

from dataset import real
from helper import options as flags
from helper.errors import run
from helper.files import file_stem


def parse_option(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--model", required=True, help="architecture: a name of models/, torchvision/NAME or timm/NAME")
    parser.add_argument("--pretrained", action="store_true", help="start from the library's published weights")
    parser.add_argument("--label_smoothing", type=flags.share, default=0.0)
    parser.add_argument("--save_dir", default=None, help="default: save/models/<dataset>/<model>")
    flags.add_training_flags(parser, epochs=200, batch_size=256, learning_rate=0.1, weight_decay=5e-4)
    flags.add_schedule_flags(parser, lr_decay_epochs=[120, 150, 180], lr_decay_rate=0.2)
    real.add_flags(parser)
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    options.save_dir = options.save_dir or f"save/models/{options.dataset}/{file_stem(options.model)}"
    return options


def main(argv=None):
    """Trains the classifier of `argv` and returns its result (a dict)."""
    options = parse_option(argv)
    import torch
    import torch.nn.functional as F

    from helper import loops, processes
    from helper.runs import RunFolder
    from models.classifiers import make_student

    processes.relaunch_under_torchrun(options, argv)
    world = processes.start(options)
    try:
        train_images, val_images = real.load_split(options, "train"), real.load_validation(options)
        real.check_classes(train_images, val_images, options)
        num_classes, info = len(val_images.class_names), real.REAL_SETS[options.dataset]
        loader = real.make_loader(train_images, options, world, train=True)
        val_loader = real.make_loader(val_images, options, world, train=False)

        torch.manual_seed(options.seed)
        model = make_student(options.model, num_classes, info.mean, info.std, options.pretrained).to(world.device)
        network = loops.compiled(loops.parallel(model, world), options)
        optimizer = loops.make_sgd(model, options)
        run_folder = RunFolder(options.save_dir, options.model, {"model": model.net, "optimizer": optimizer},
                               options, world, {"images": len(train_images)})
        progress = run_folder.open(options.resume, {"train": train_images.origin, "validation": val_images.origin})
        if result := run_folder.finished_result(progress, options.epochs):
            return result
        run_folder.log(f"{options.model} on {len(train_images)} real images of {options.dataset}, "
                       f"validated on {len(val_images)} ({options.val_split})")

        def step(batch):
            model.train()
            images, labels = loops.to_device(batch, world.device)
            with loops.autocast(options.amp, world.device):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=options.label_smoothing)
            loops.gradient_step(loss, optimizer)
            count = len(images)
            return {"loss": loss.detach() * count, "train_top1": 100.0 * (logits.argmax(1) == labels).sum(),
                    "count": count}

        def evaluate():
            metrics, _ = loops.evaluate_classifier(model, val_loader, world, options.amp)
            return metrics, metrics["top1"]

        loops.fit(run_folder, progress, loader, step, evaluate, optimizer, loops.make_schedule(options), options)
        result = loops.classifier_result(progress, options, loader, val_loader, method="Teacher", teacher=None,
                                         student=options.model, source="real", images=len(train_images))
        run_folder.finish(result, {"cross-entropy": ["loss", "val_loss"], "accuracy (%)": ["train_top1", "top1"]})
        return result
    finally:
        world.close()


if __name__ == "__main__":
    sys.exit(run(main))
