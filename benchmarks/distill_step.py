"""A step of distillation beside two references: what one takes, and how much of the machine it
uses.

    python -m benchmarks.distill_step                              # three pairs, on this machine's GPU or processor
    python -m benchmarks.distill_step --pairs wrn_16_2 --batch_size 128 --threads 1

Ours is train_student.py's own step (`helper.loops.distillation_step`) on the bytes that its loader hands over. The
references are written here from what is known of the published code, with the same architectures and weights:
* DM-KD: autograd records the teacher's pass and keeps it until the step ends; the teacher's logits are detached.
* RepDistiller: the teacher runs under no_grad; the cross-entropy is computed whatever its weight.
Both read loss, top-1 and top-5 with `.item()` in every step, and take contiguous (NCHW) float images which the host has
normalised already: that work is in their loader's time and not in the step's, while ours is charged for it.
"""

import copy
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks import timing
from helper import loops
from helper.cost import forward_operations
from helper.errors import UserError, run
from helper.options import Parser, positive_int
from models.architectures import create_model
from models.classifiers import load_teacher, make_student

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The released recipe of 32×32 images: τ = 4, SGD. Neither matters for the time.
RECIPE = {
    "alpha": 1.0,
    "gamma": 0.0,
    "kd_T": 4.0,
    "no_tau2": False,
    "use_aug": "none",
    "mix_beta": None,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
}
OURS, DMKD, REPDISTILLER = "ours", "DM-KD", "RepDistiller"
MATMUL = "matmul"


class Pair(NamedTuple):
    """A teacher, a student and their images: batch sizes for a processor and, the published ones,
    for a GPU.
    """

    teacher: str
    student: str
    classes: int
    size: int
    cpu_batch: int
    gpu_batch: int


PAIRS = {
    "wrn_16_2": Pair("wrn_40_2", "wrn_16_2", 100, 32, 64, 128),
    "wrn_16_1": Pair("wrn_40_2", "wrn_16_1", 100, 32, 64, 128),
    "ResNet18": Pair("ResNet18", "ResNet18", 1000, 224, 8, 256),
}


def parse_option(argv=None):
    """Reads the flags. Raises UserError for a wrong one."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--pairs",
        default=",".join(PAIRS),
        help="students, separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--batch_size", type=positive_int, help="images a step (default: by pair and device)"
    )
    parser.add_argument(
        "--steps", type=positive_int, help="steps a timed run (default: 1; 20 on a GPU)"
    )
    parser.add_argument(
        "--amp", choices=["off", "bf16"], default="off", help="bf16 autocast, for all three"
    )
    timing.add_flags(parser, repeats=15)
    options = parser.parse_args(argv)
    options.pairs = options.pairs.split(",")
    if unknown := [name for name in options.pairs if name not in PAIRS]:
        raise UserError(f"--pairs {unknown[0]} is none of {', '.join(PAIRS)}")
    return options


def make_steps(pair, batch_size, size, device, amp="off"):
    """Returns {name: step()} for our step and the references, on copies of the same networks and
    the same images.

    Every call makes one optimizer step on the batch. Ours returns what `distillation_step` says,
    sums over the batch on the device; the references return the numbers that they read: loss, top1,
    top5. size: pixels a side.
    """
    torch.manual_seed(0)
    images = torch.randint(
        0, 256, (batch_size, size, size, 3), dtype=torch.uint8
    )  # as the loader hands them over
    labels = torch.randint(0, pair.classes, (batch_size,))
    options = SimpleNamespace(amp=amp, **RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.pth"
        torch.save(_with_statistics(create_model(pair.teacher, pair.classes)).state_dict(), path)
        teacher = load_teacher(path, pair.classes, MEAN, STD, pair.teacher).to(device)
        their_teacher = create_model(pair.teacher, pair.classes, checkpoint=path).eval().to(device)
    student = make_student(pair.student, pair.classes, MEAN, STD).to(device)
    their_student = copy.deepcopy(student.net).to(memory_format=torch.contiguous_format)

    def on_host(*tensors):
        return [tensor.pin_memory() if device.type == "cuda" else tensor for tensor in tensors]

    our_batch = on_host(images, labels)
    our_step = loops.distillation_step(
        student, teacher, loops.make_optimizer(student, options), options, device
    )
    steps = {OURS: lambda: our_step(our_batch)}

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    their_batch = on_host(((images.permute(0, 3, 1, 2) / 255 - mean) / std).contiguous(), labels)
    for name, make in ((DMKD, dmkd_step), (REPDISTILLER, repdistiller_step)):
        network = copy.deepcopy(their_student)
        step = make(
            network,
            copy.deepcopy(their_teacher),
            loops.make_optimizer(network, options),
            options,
            device,
        )
        steps[name] = lambda step=step: step(their_batch)
    return steps


def _with_statistics(network):
    """Gives the BatchNorms of a new network statistics of their own, so that no term of them is
    zero or one.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def dmkd_step(network, teacher, optimizer, options, device):
    """Returns `step(batch)` as DM-KD's released loop takes it: no no_grad around the teacher.

    Its logits are detached: were they not, the backward pass would run through the teacher too, and
    cost more.
    """
    meters = Meters()

    def step(batch):
        images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        with loops.autocast(options.amp, device):
            logits = network(images)
            recorded = teacher(
                images
            )  # holds every activation of the teacher until this function returns
        loss = options.alpha * softened_kl(logits, recorded.detach(), options.kd_T)
        top1, top5 = accuracy(logits, labels)
        meters.add(loss=loss.item(), top1=top1.item(), top5=top5.item())
        update(loss, optimizer)
        return meters.last

    return step


def repdistiller_step(network, teacher, optimizer, options, device):
    """Returns `step(batch)` as RepDistiller's loop for plain distillation takes it."""
    meters = Meters()

    def step(batch):
        images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        with loops.autocast(options.amp, device):
            logits = network(images)
            with torch.no_grad():
                target = teacher(images)
        loss = options.gamma * F.cross_entropy(logits.float(), labels)
        loss = loss + options.alpha * softened_kl(logits, target, options.kd_T)
        top1, top5 = accuracy(logits, labels)
        meters.add(loss=loss.item(), top1=top1.item(), top5=top5.item())
        update(loss, optimizer)
        return meters.last

    return step


def softened_kl(logits, target, temperature):
    """KL divergence of the softened outputs, summed over classes, averaged over the batch, times
    τ².
    """
    log_p = F.log_softmax(logits.float() / temperature, dim=1)
    q = F.softmax(target.float() / temperature, dim=1)
    return F.kl_div(log_p, q, reduction="sum") * temperature**2 / len(logits)


def accuracy(logits, labels):
    """Returns top-1 and top-5 (or top-K of fewer classes), in percent, as 0-d tensors on the
    device.
    """
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (N, 5)
    hits = ranked.eq(labels[:, None])
    return 100 * hits[:, 0].float().mean(), 100 * hits.any(dim=1).float().mean()


def update(loss, optimizer):
    """The references' gradient step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Meters:
    """Running sums of numbers on the host, as both references keep them."""

    def __init__(self):
        self.sums, self.count, self.last = {}, 0, {}

    def add(self, **values):
        """Adds the numbers of one step."""
        self.last = values
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


def step_operations(pair, batch_size, size):
    """Returns the floating-point operations of a step: the teacher's pass, the student's, and its
    backward as two.
    """
    images = torch.empty(batch_size, 3, size, size, device="meta")
    teacher, student = (create_model(name, pair.classes) for name in (pair.teacher, pair.student))
    return forward_operations(teacher.eval(), images) + 3 * forward_operations(student, images)


def make_matmul(device, amp, size=None):
    """Returns (a function that multiplies two square matrices once, its floating-point operations).

    float32, as a GPU's convolutions round it by default (TF32), or bf16 if the steps run in it.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    dtype = torch.bfloat16 if amp == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: torch.matmul(a, b), 2 * size**3


def measure(pair, options, device):
    """Measures one pair and returns the rows of its three steps."""
    size, batch_size = (
        pair.size,
        options.batch_size or (pair.gpu_batch if device.type == "cuda" else pair.cpu_batch),
    )
    steps_a_run = options.steps or (20 if device.type == "cuda" else 1)
    if options.quick:
        size, batch_size, steps_a_run = min(size, 64), options.batch_size or 2, 1
    matmul, matmul_operations = make_matmul(device, options.amp, 256 if options.quick else None)
    functions = {**make_steps(pair, batch_size, size, device, options.amp), MATMUL: matmul}

    def repeated(function):
        return lambda: [function() for _ in range(steps_a_run)]

    times = timing.alternate(
        {name: repeated(function) for name, function in functions.items()}, options.repeats, 2
    )
    against_ours, against_matmul = timing.ratios(times, OURS), timing.ratios(times, MATMUL)
    work = step_operations(pair, batch_size, size) / matmul_operations  # a step in matrix products
    rows = []
    for name in (OURS, DMKD, REPDISTILLER):
        seconds = timing.spread([value / steps_a_run for value in times[name]])
        rows.append(
            [
                f"{pair.teacher} → {pair.student}, {size}×{size}, batch {batch_size}",
                name,
                f"{seconds:.4f}",
                f"{batch_size / seconds.median:.1f}",
                "–" if name == OURS else f"{against_ours[name]:.2f}",
                f"{100 * work / against_matmul[name].median:.0f} %",
            ]
        )
    return rows


def main(argv=None):
    """Measures the pairs of `argv` and prints the table."""
    options = parse_option(argv)
    device = timing.start(options)
    torch.set_float32_matmul_precision("high")
    rows = [row for name in options.pairs for row in measure(PAIRS[name], options, device)]
    print(
        timing.markdown(
            [
                "pair",
                "step",
                "seconds a step",
                "images/s",
                "its time over ours",
                "share of the matmul rate",
            ],
            rows,
        )
    )
    print(
        f"\nMedian (lowest–highest) of {options.repeats} rounds; "
        f"{'bf16' if options.amp == 'bf16' else 'float32'}."
    )


if __name__ == "__main__":
    sys.exit(run(main))
