"""Captured training steps: the same numbers as eager ones. The graph itself needs a GPU."""

import contextlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import train_datafree
import train_student
import train_teacher
from helper import capture
from helper.distributed import World
from helper.errors import UserError
from helper.losses import kd_loss, mixing
from helper.optim import make_optimizer, update
from helper.seeds import seed_step

CPU, GPU = torch.device("cpu"), torch.device("cuda")
aten = torch.ops.aten
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def small_network(device):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8 * 36, 5)).to(device)


def train(optimizer_name, device, mode, use_aug="cutmix", steps=12):
    """Trains with or without capture; returns the losses, the weights and the optimizer's state."""
    network, teacher = small_network(device), small_network(device).eval()
    optimizer = make_optimizer(optimizer_name, network.parameters(), 0.1, 1e-3)
    draw, mix = mixing(use_aug)

    def step(images, labels, *mixture):
        images = mix(images, *mixture)
        with torch.no_grad():
            teacher_logits = teacher(images)
        logits = network(images)
        loss = kd_loss(logits, teacher_logits, 4.0) + F.cross_entropy(logits, labels)
        update(optimizer, loss)
        return loss, logits.argmax(1)

    lines = []
    step = capture.capturable_step(step, optimizer, mode, World(0, 1, device), lines.append)
    data, losses = torch.Generator().manual_seed(1), []
    for number in range(steps):
        images = torch.rand(16, 3, 8, 8, generator=data).to(device)
        labels = torch.randint(5, (16,), generator=data).to(device)
        seed_step(0, 0, number, 0)
        for group in optimizer.param_groups:
            rate = 0.1 / (number + 1)
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        loss, _ = step(images, labels, *draw(images))
        losses.append(float(loss))
    assert not lines
    return torch.tensor(losses), network.state_dict(), optimizer.state_dict()


def assert_same_groups(state, other):
    """The learning rate of a captured step is a float32."""
    (group,), (other_group,) = state["param_groups"], other["param_groups"]
    assert group | {"lr": 0} == other_group | {"lr": 0}
    assert group["lr"] == pytest.approx(other_group["lr"])


@needs_gpu
def test_after_a_failed_capture_the_run_goes_on():
    """Reading a number is not possible in a capture. Random numbers and the stream still work."""
    network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1)).to(GPU)
    optimizer = make_optimizer("sgd", network.parameters(), 0.1, 0.0)
    stream, lines = torch.cuda.current_stream(), []

    def step(values):
        loss = network(values).square().mean()
        float(loss)
        update(optimizer, loss)
        return (loss,)

    captured = capture.CapturedStep(step, optimizer, lines.append)
    for _ in range(6):
        (loss,) = captured(torch.rand(4, 3, device=GPU))
        assert loss.isfinite() and torch.cuda.current_stream() == stream
    assert len(lines) == 1 and "previous error" not in lines[0]


@needs_gpu
@pytest.mark.parametrize("use_aug", ["none", "mixup", "cutmix"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_captured_step_is_the_eager_step(optimizer, use_aug):
    captured = train(optimizer, GPU, "on", use_aug)
    eager = train(optimizer, GPU, "off", use_aug)
    torch.testing.assert_close(captured[0], eager[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(captured[1], eager[1], rtol=1e-3, atol=1e-4)
    assert_same_groups(captured[2], eager[2])


class FakeGraph:
    """Stands for a CUDA graph: while it records, nothing is computed; replay computes."""

    recording = False

    def replay(self):
        self.replayed()


@pytest.fixture
def fake_cuda(monkeypatch):
    @contextlib.contextmanager
    def graph(*_, **__):
        FakeGraph.recording = True
        yield
        FakeGraph.recording = False

    class Stream:
        current = "the run's"

        def wait_stream(self, _):
            pass

    class Generator:
        state = "clean"

        def clone_state(self):
            return "clean"

        def graphsafe_set_state(self, state):
            self.state = state

    for name, value in {
        "CUDAGraph": FakeGraph,
        "graph": graph,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda _: contextlib.nullcontext(),
        "set_stream": lambda stream: setattr(Stream, "current", stream),
        "default_generators": [Generator()],
        "current_device": lambda: 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


def test_every_call_is_one_step_on_its_own_inputs(fake_cuda):
    """Warm-up, capture and replays: no step is lost or made twice, and inputs are copied."""
    network = nn.Linear(3, 1)
    optimizer = make_optimizer("sgd", network.parameters(), 0.1, 0.0)
    computed, result = [], torch.zeros(())

    def step(values):
        if not FakeGraph.recording:
            computed.append(values.clone())
            result.copy_(values.sum())
        return (result,)

    captured = capture.CapturedStep(step, optimizer, pytest.fail)
    FakeGraph.replayed = lambda graph: step(*captured._inputs)
    inputs = [torch.full((2,), float(number)) for number in range(8)]
    for values in inputs:
        assert float(captured(values)[0]) == float(values.sum())
    assert torch.equal(torch.stack(computed), torch.stack(inputs))


def test_a_step_that_cannot_be_captured_runs_eagerly(fake_cuda, monkeypatch):
    @contextlib.contextmanager
    def failing_graph(*_, **__):
        """As torch's: another stream and a generator in capture are left when its end fails too."""
        torch.cuda.Stream.current = "the capture's"
        torch.cuda.default_generators[0].state = "capturing"
        try:
            yield
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "graph", failing_graph)
    parameter = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer("sgd", [parameter], 0.1, 0.0)
    lines, calls = [], []

    def step(values):
        calls.append(values)
        return (values,)

    captured = capture.CapturedStep(step, optimizer, lines.append)
    for number in range(6):
        assert captured(torch.tensor(number))[0] == number
    assert len(lines) == 1 and "not permitted" in lines[0] and "more" not in lines[0]
    assert isinstance(torch.cuda.Stream.current, torch.cuda.Stream)
    assert torch.cuda.default_generators[0].state == "clean"


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_checkpoints_of_captured_steps_are_those_of_eager_ones(optimizer):
    """The state before and after the optimizer is prepared, and the one it writes, are equal."""
    network = small_network(CPU)
    ours = make_optimizer(optimizer, network.parameters(), 0.1, 1e-3)
    update(ours, network(torch.rand(4, 3, 8, 8)).square().mean())
    before = ours.state_dict()
    capture._keep_on_device(ours)
    assert all(torch.is_tensor(group["lr"]) for group in ours.param_groups)
    after = ours.state_dict()
    assert_same_groups(after, before)
    assert after["state"].keys() == before["state"].keys()
    other = make_optimizer(optimizer, network.parameters(), 0.1, 1e-3)
    other.load_state_dict(after)
    update(other, network(torch.rand(4, 3, 8, 8)).square().mean())


def test_capture_needs_one_process_on_a_gpu():
    lines = []
    with pytest.raises(UserError, match="--capture"):
        capture.check_capture("on", CPU)
    for mode, device in (("on", GPU), ("auto", CPU), ("off", CPU)):
        capture.check_capture(mode, device)
    assert capture.capturable_step(min, None, "on", World(0, 2, GPU), lines.append) is min
    assert len(lines) == 1
    assert capture.capturable_step(min, None, "auto", World(0, 1, GPU), lines.append) is min


class OnTheDevice(TorchDispatchMode):
    """Refuses what a capture refuses: numbers for the host, and shapes that depend on values."""

    REFUSED = (aten._local_scalar_dense.default, aten.nonzero.default, aten._unique2.default)

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        assert operation not in self.REFUSED
        return operation(*arguments, **(options or {}))


MIXED = ["--use_aug", "cutmix", "--gamma", "0", "--distill_warmup_epochs", "2"]
COMMANDS = {
    "kd": (train_student, ["--use_aug", "mixup", "--gamma", "0.5"]),
    "dkd": (train_student, ["--distill", "dkd", *MIXED]),
    "dist": (train_student, ["--distill", "dist", "--standardize_logits", *MIXED]),
    "teacher": (train_teacher, ["--model", "resnet8", "--label_smoothing", "0.1"]),
    "dafl": (train_datafree, ["--method", "dafl", "--steps_per_epoch", "4"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_steps_of_the_scripts_can_be_captured(
    name, tiny_fashion_mnist, tiny_image_folder, tmp_path, monkeypatch
):
    """They read no number, and the shapes of their inputs do not change."""
    script, flags = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    weights = Path(train_student.__file__).parent / "save/models/fashion_mnist/resnet8"
    argv = ["--dataset", "fashion_mnist", "--data_root", str(tiny_fashion_mnist), "--epochs", "2"]
    argv += ["--device", "cpu", "--batch_size", "24", *flags]
    if script is not train_teacher:
        argv += ["--path-t", str(weights / "resnet8_latest.pth")]
    if script is train_student:
        argv += ["--train_data", str(tiny_image_folder)]
    shapes = []

    def watched(step, *_):
        def call(*inputs):
            shapes.append([(value.shape, value.stride(), value.dtype) for value in inputs])
            with OnTheDevice():
                return step(*inputs)

        return call

    monkeypatch.setattr(script, "capturable_step", watched)
    script.main(argv)
    assert len(shapes) >= 8 and all(shape == shapes[0] for shape in shapes)
