"""datafree/deepinversion.py: its loss against a float64 formula, the views, the images that are
kept, and rounds for a student.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from datafree import Stopped, deepinversion
from datafree.batchnorm import BatchNormMatch
from datafree.deepinversion import DeepInversion, Settings, invert, objective, published_settings
from helper.errors import UserError
from helper.options import Parser, add_settings_flags, settings_of
from models.classifiers import Normalised

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CLASSES, SIZE = 3, 12
FEW = Settings(batch=6, steps=12, jitter=1)
STILL = replace(FEW, jitter=0, flip=0.0)  # the view is the pixels themselves


def network(seed):
    """A frozen network with two BatchNorm layers: images (N, 3, S, S) in [0, 1] → logits (N, 3)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(5, CLASSES),
        )
        for norm in (net[1], net[4]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
        nn.init.normal_(net[-1].weight)
    return Normalised(net, MEAN, STD).eval().requires_grad_(False)


@pytest.fixture
def teacher():
    return network(1)


@pytest.fixture
def student():
    return network(2)


def images_of(teacher, settings, student=None, **arguments):
    """Two images of each class, always from the same noise."""
    torch.manual_seed(0)
    return invert(teacher, torch.arange(6) % CLASSES, SIZE, settings, student, **arguments)


def loss_of(teacher, images, settings):
    labels = torch.arange(6) % CLASSES
    view = (images - teacher.mean) / teacher.std
    with BatchNormMatch(teacher) as match:
        logits = teacher(view * teacher.std + teacher.mean)
        return objective(view, logits, labels, match, settings).item()


def hooks_on(net):
    return sum(
        len(module._forward_pre_hooks) + len(module._forward_hooks) for module in net.modules()
    )


class Formula:
    """The network above in float64; it keeps the inputs of its BatchNorm layers."""

    def __init__(self, net):
        self.net, self.norm_inputs = net.net, []

    def array(self, layer, name):
        return getattr(self.net[layer], name).double().numpy()

    def conv(self, x, layer):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
        return (
            np.einsum("nchwij,ocij->nohw", windows, self.array(layer, "weight"))
            + self.array(layer, "bias")[:, None, None]
        )

    def norm_relu(self, x, layer):
        self.norm_inputs.append((layer, x))
        mean, var, gain, shift = (
            self.array(layer, name)[:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * gain + shift, 0)

    def logits(self, x):
        x = self.norm_relu(self.conv(x, 0), 1)
        x = self.norm_relu(self.conv(x, 3), 4)
        return x.mean((2, 3)) @ self.array(8, "weight").T + self.array(8, "bias")

    def distances(self):
        return [
            np.linalg.norm(self.array(layer, "running_mean") - x.mean((0, 2, 3)))
            + np.linalg.norm(self.array(layer, "running_var") - x.var((0, 2, 3)))
            for layer, x in self.norm_inputs
        ]


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("adaptive", [False, True])
def test_objective_is_the_published_formula(teacher, student, adaptive):
    settings = Settings(oh=0.7, bn=3.0, first_bn=10.0, adv=2.5, temperature=2.0, tv=0.3, l2=0.2)
    x = np.random.default_rng(0).normal(size=(5, 3, SIZE, SIZE))
    labels = np.array([0, 1, 2, 2, 1])
    ours, theirs = Formula(teacher), Formula(student)
    logits = ours.logits(x)
    first, second = ours.distances()
    expected = -0.7 * np.log(softmax(logits)[np.arange(5), labels]).mean() + 3 * (
        10 * first + second
    )
    neighbours = (
        x[..., 1:] - x[..., :-1],
        x[:, :, 1:] - x[:, :, :-1],
        x[:, :, 1:, 1:] - x[:, :, :-1, :-1],
        x[:, :, 1:, :-1] - x[:, :, :-1, 1:],
    )
    expected += 0.3 * sum(np.sqrt((difference**2).sum()) for difference in neighbours)
    expected += 0.2 * np.sqrt((x**2).sum((1, 2, 3))).mean()
    if adaptive:
        p, q = softmax(logits / 2), softmax(theirs.logits(x) / 2)
        middle = (p + q) / 2
        divergence = ((p * np.log(p / middle)).sum(1) + (q * np.log(q / middle)).sum(1)) / 2
        assert divergence.mean() > 0.01
        expected -= 2.5 * divergence.mean()
    view, labels = torch.from_numpy(x).float(), torch.from_numpy(labels)
    images = view * teacher.std + teacher.mean
    student_logits = student(images) if adaptive else None
    with BatchNormMatch(teacher) as match:
        loss = objective(view, teacher(images), labels, match, settings, student_logits)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "settings", [STILL, replace(STILL, steps=8, half_steps=8, tv=0.01, warmup=2, decay="cosine")]
)
def test_inversion_lowers_its_loss(teacher, settings):
    images = images_of(teacher, settings)
    assert images.shape == (6, 3, SIZE, SIZE) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    torch.manual_seed(0)
    start = torch.randn(6, 3, SIZE, SIZE) * teacher.std + teacher.mean
    assert loss_of(teacher, images, settings) < 0.9 * loss_of(teacher, start, settings)


def test_the_lowest_loss_is_kept(teacher, monkeypatch):
    losses = []

    def recorded(*arguments):
        losses.append(objective(*arguments))
        return losses[-1]

    monkeypatch.setattr(deepinversion, "objective", recorded)
    settings = replace(STILL, lr=30.0)  # so large that the loss oscillates
    images = images_of(teacher, settings)
    losses = [loss.item() for loss in losses]
    assert len(losses) == settings.steps and min(losses[1:]) < losses[-1]
    # The pixels are clipped to valid ones after each step, not before the first.
    assert loss_of(teacher, images, settings) == pytest.approx(min(losses), rel=1e-5)


def test_steps_see_rolled_and_mirrored_images_at_their_resolution(teacher):
    views = []
    handle = teacher.register_forward_pre_hook(lambda _, inputs: views.append(inputs[0].clone()))
    settings = replace(FEW, lr=1e-12, steps=40, half_steps=30, jitter=3)
    result = images_of(teacher, settings)
    handle.remove()
    assert [len(images[0, 0]) for images in views] == [SIZE // 2] * 30 + [SIZE] * 40
    assert result.shape[-1] == SIZE
    torch.manual_seed(0)
    start = torch.randn(6, 3, SIZE, SIZE) * teacher.std + teacher.mean
    # With so small a learning rate the pixels are only clipped, after the first step.
    for divisor, jitter, stage in ((2, 1, views[1:30]), (1, 3, views[31:])):
        base = torch.nn.functional.avg_pool2d(start.clamp(0, 1), divisor)
        shifts = range(-jitter, jitter + 1)
        possible = {
            (dy, dx, flip): base.roll((dy, dx), (2, 3)).flip([3] * flip)
            if flip
            else base.roll((dy, dx), (2, 3))
            for dy in shifts
            for dx in shifts
            for flip in (0, 1)
        }
        found = [
            [key for key, image in possible.items() if torch.allclose(image, view, atol=1e-4)]
            for view in stage
        ]
        assert all(len(keys) == 1 for keys in found)
        assert {keys[0][2] for keys in found} == {0, 1}
        for axis in (0, 1):
            assert {keys[0][axis] for keys in found} == set(shifts)


def test_the_learning_rate_warms_up_and_decays(teacher, monkeypatch):
    rates = []

    class Recorded(torch.optim.Adam):
        def step(self):
            rates.append((self.param_groups[0]["lr"], self.param_groups[0]["betas"]))
            return super().step()

    monkeypatch.setattr(torch.optim, "Adam", Recorded)
    images_of(
        teacher, replace(FEW, half_steps=6, steps=5, warmup=2, decay="cosine", lr=0.4, beta2=0.9)
    )
    expected = [
        0.4 * factor
        for steps in (6, 5)
        for factor in [
            0.5,
            1.0,
            *((1 + math.cos(math.pi * i / (steps - 2))) / 2 for i in range(steps - 2)),
        ]
    ]
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert {betas for _, betas in rates} == {(0.5, 0.9)}
    rates.clear()
    images_of(teacher, replace(FEW, steps=3))
    assert [rate for rate, _ in rates] == [0.1] * 3


def test_adaptive_images_increase_the_divergence_from_the_student(teacher, student):
    def divergence(images):
        ours, theirs = (torch.softmax(net(images).double() / 3, 1) for net in (teacher, student))
        middle = (ours + theirs) / 2
        return (
            ((ours * (ours / middle).log() + theirs * (theirs / middle).log()).sum(1) / 2)
            .mean()
            .item()
        )

    alone = images_of(teacher, STILL)
    assert torch.equal(images_of(teacher, replace(STILL, adv=0.0), student), alone)
    adaptive = images_of(teacher, replace(STILL, adv=1000.0), student)
    assert divergence(adaptive) > 1.2 * divergence(alone)


def test_hooks_are_removed(teacher):
    images_of(teacher, FEW)
    assert hooks_on(teacher) == 0
    calls = []
    with pytest.raises(Stopped):
        images_of(teacher, FEW, should_stop=lambda: calls.append(1) or len(calls) == 4)
    assert len(calls) == 4 and hooks_on(teacher) == 0
    with pytest.raises(ZeroDivisionError):
        images_of(teacher, FEW, should_stop=lambda: 1 / 0)
    assert hooks_on(teacher) == 0


def test_grey_images_have_one_channel_for_three(teacher):
    images = images_of(teacher, FEW, grey=True)
    assert images.shape == (6, 3, SIZE, SIZE)
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])


def test_a_teacher_without_batch_norm_is_refused():
    plain = Normalised(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES)), MEAN, STD
    ).eval()
    with pytest.raises(UserError, match="BatchNorm"):
        images_of(plain, FEW)
    with pytest.raises(UserError, match="BatchNorm"):
        DeepInversion(plain, CLASSES, SIZE, False, FEW, SimpleNamespace(rank=0, size=1))


def test_rounds_for_a_student_in_training(teacher):
    student = network(3).requires_grad_(True).train()
    world = SimpleNamespace(rank=0, size=1)
    method = DeepInversion(teacher, CLASSES, SIZE, False, replace(FEW, batch=8), world)
    torch.manual_seed(5)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    images, labels = method.synthesize(student, lambda: False)
    assert (
        images.shape == (8, 3, SIZE, SIZE)
        and images.dtype == torch.float32
        and not images.requires_grad
    )
    assert labels.dtype == torch.int64 and sorted(np.bincount(labels, minlength=3)) == [2, 3, 3]
    assert student.training and all(parameter.grad is None for parameter in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    again, _ = method.synthesize(student)
    assert not torch.equal(again, images)
    torch.manual_seed(5)
    repeated, same_labels = method.synthesize(student)
    assert torch.equal(repeated, images) and torch.equal(same_labels, labels)
    assert method.state_dict() == {"rounds": 3}
    with pytest.raises(Stopped):
        method.synthesize(student, lambda: True)
    assert method.rounds == 3 and student.training
    other = DeepInversion(teacher, CLASSES, SIZE, True, FEW, world)
    other.load_state_dict(method.state_dict())
    grey, _ = other.synthesize(student)
    assert other.rounds == 4 and torch.equal(grey[:, 0], grey[:, 2])


def test_processes_divide_a_round(teacher):
    method = DeepInversion(teacher, CLASSES, SIZE, False, FEW, SimpleNamespace(rank=1, size=2))
    images, labels = method.synthesize(network(3))
    assert len(images) == 3 and sorted(labels.tolist()) == [0, 1, 2]
    with pytest.raises(UserError, match="--batch 6 .* multiple of 4"):
        DeepInversion(teacher, CLASSES, SIZE, False, FEW, SimpleNamespace(rank=0, size=4))


@pytest.mark.parametrize(
    ("given", "size", "message"),
    [
        ({"jitter": 8}, 8, "--jitter 8 .* 8 pixels"),
        ({"half_steps": 5}, 7, "--half_steps 5 .* 7 pixels"),
        ({"beta1": 1.0}, 8, "--beta1 1"),
        ({"beta2": 1.0}, 8, "--beta2 1"),
        ({"warmup": 12}, 8, "--warmup 12 .* 12 steps of --steps"),
        (
            {"warmup": 6, "half_steps": 6},
            8,
            "--warmup 6 .* 6 steps of --half_steps",
        ),
    ],
)
def test_settings_out_of_range(teacher, given, size, message):
    settings = replace(FEW, **given)
    with pytest.raises(UserError, match=message):
        settings.check(size)
    with pytest.raises(UserError, match=message):
        DeepInversion(teacher, CLASSES, size, False, settings, SimpleNamespace(rank=0, size=1))


def read_settings(flags, defaults=None):
    parser = Parser("")
    add_settings_flags(parser, "settings", {"deepinversion": Settings})
    return settings_of(
        parser.parse_args(flags), "deepinversion", {"deepinversion": Settings}, defaults
    )


def test_settings_from_flags():
    cifar = read_settings([], published_settings(32))
    assert cifar == Settings() and (cifar.steps, cifar.lr, cifar.bn, cifar.oh, cifar.adv) == (
        1000,
        0.1,
        10,
        1,
        1,
    )
    assert (cifar.beta1, cifar.beta2, cifar.tv, cifar.l2, cifar.jitter) == (0.5, 0.99, 0, 0, 4)
    assert cifar.stages == ((1, 1000),)
    imagenet = read_settings(["--bn", "0.05"], published_settings(224))
    assert imagenet.stages == ((2, 2000), (1, 1000)) and (imagenet.warmup, imagenet.decay) == (
        100,
        "cosine",
    )
    assert (imagenet.bn, imagenet.first_bn, imagenet.tv, imagenet.l2, imagenet.jitter) == (
        0.05,
        10,
        1e-4,
        1e-5,
        30,
    )
    for flags in (
        ["--steps", "0"],
        ["--lr", "0"],
        ["--flip", "1.5"],
        ["--bn", "-1"],
        ["--decay", "linear"],
        ["--temperature", "0"],
        ["--jitter", "-1"],
    ):
        with pytest.raises(UserError, match=flags[0]):
            read_settings(flags)
