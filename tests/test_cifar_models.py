"""The CIFAR networks of RepDistiller, mdistiller, Fast-Datafree and DM-KD: published layouts and
logits, and names that mean one network for small images and another for large ones.
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from test_published import basic_blocks, conv, linear, norm

import synthesize_baseline
import train_datafree
import train_student
import train_teacher
from helper import checkpoints
from helper.errors import UserError
from models import architectures
from models.architectures import create_model, published_statistics
from models.classifiers import (
    Statistics,
    architecture_of,
    load_teacher,
    make_student,
    statistics_of,
)

HALVES = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

# Tensors of the published networks, {name: shape}, from the layouts of their code bases


def grouped(key, c_in, c_out, groups):
    return {f"{key}.weight": (c_out, c_in // groups, 1, 1)}


def depthwise(key, channels):
    return {f"{key}.weight": (channels, 1, 3, 3)}


def resnet50(classes):
    tensors, c_in = conv("conv1", 3, 64) | norm("bn1", 64), 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 1):
        for block in range(blocks):
            key, c_out = f"layer{stage}.{block}", 4 * width
            tensors |= conv(f"{key}.conv1", c_in, width, 1) | norm(f"{key}.bn1", width)
            tensors |= conv(f"{key}.conv2", width, width) | norm(f"{key}.bn2", width)
            tensors |= conv(f"{key}.conv3", width, c_out, 1) | norm(f"{key}.bn3", c_out)
            if block == 0:
                tensors |= conv(f"{key}.shortcut.0", c_in, c_out, 1)
                tensors |= norm(f"{key}.shortcut.1", c_out)
            c_in = c_out
    return tensors | linear("linear", 2048, classes)


def half_mobilenet(classes):
    tensors, c_in = conv("conv1.0", 3, 16) | norm("conv1.1", 16), 16
    widths = [(1, 8, 1), (6, 12, 2), (6, 16, 3), (6, 32, 4), (6, 48, 3), (6, 80, 3), (6, 160, 1)]
    for stage, (expansion, c_out, blocks) in enumerate(widths):
        for block in range(blocks):
            key, hidden = f"blocks.{stage}.{block}.conv", expansion * c_in
            tensors |= conv(f"{key}.0", c_in, hidden, 1) | norm(f"{key}.1", hidden)
            tensors |= depthwise(f"{key}.3", hidden) | norm(f"{key}.4", hidden)
            tensors |= conv(f"{key}.6", hidden, c_out, 1) | norm(f"{key}.7", c_out)
            c_in = c_out
    tensors |= conv("conv2.0", 160, 1280, 1) | norm("conv2.1", 1280)
    return tensors | linear("classifier.0", 1280, classes)


def shuffle_v1(classes):
    tensors, c_in = conv("conv1", 3, 24, 1) | norm("bn1", 24), 24
    for stage, (width, blocks) in enumerate([(240, 4), (480, 8), (960, 4)], 1):
        for block in range(blocks):
            key, c_out = f"layer{stage}.{block}", width if block else width - c_in
            hidden = c_out // 4
            tensors |= grouped(f"{key}.conv1", c_in, hidden, 1 if c_in == 24 else 3)
            tensors |= norm(f"{key}.bn1", hidden)
            tensors |= depthwise(f"{key}.conv2", hidden) | norm(f"{key}.bn2", hidden)
            tensors |= grouped(f"{key}.conv3", hidden, c_out, 3) | norm(f"{key}.bn3", c_out)
            c_in = width
    return tensors | linear("linear", 960, classes)


def shuffle_v2(classes):
    tensors, c_in = conv("conv1", 3, 24, 1) | norm("bn1", 24), 24
    for stage, (width, blocks) in enumerate([(116, 4), (232, 8), (464, 4)], 1):
        half = width // 2
        layers = [("depthwise", c_in), (c_in, half), (c_in, half), ("depthwise", half)]
        layers.append((half, half))
        for block in range(blocks):
            for number, (source, channels) in enumerate(layers, 1):
                key = f"layer{stage}.{block}"
                if source == "depthwise":
                    tensors |= depthwise(f"{key}.conv{number}", channels)
                else:
                    tensors |= conv(f"{key}.conv{number}", source, channels, 1)
                tensors |= norm(f"{key}.bn{number}", channels)
            layers = [(half, half), ("depthwise", half), (half, half)]
        c_in = width
    tensors |= conv("conv2", 464, 1024, 1) | norm("bn2", 1024)
    return tensors | linear("linear", 1024, classes)


def wide_resnet8(classes):
    return basic_blocks((64, 128, 256, 512), (1, 1, 1), "downsample", "fc", classes)


# name: (layout, parameters for 100 classes, five of the 200 logits that the published code computes
# in double precision with the weights and images below)
PUBLISHED = {
    "resnet50": (
        resnet50,
        23_705_252,
        (-832.7757571, 535.6875982, 894.6141397, -652.9629952, 257.6927276),
    ),
    "MobileNetV2": (
        half_mobilenet,
        812_836,
        (94.0518015, -129.2113168, 44.1674523, 44.3344842, -22.8703397),
    ),
    "ShuffleV1": (
        shuffle_v1,
        949_258,
        (45.8266008, 19.9837149, -18.2937424, 34.765804, 20.8940844),
    ),
    "shufflenetv2": (
        shuffle_v2,
        1_355_528,
        (1.5454185, 6.7582289, 10.7946831, 1.0223364, 2.3636273),
    ),
    "resnet8x4_double": (
        wide_resnet8,
        4_875_428,
        (-4.171088, -3.8360476, -4.1780348, -4.0330274, 0.5843644),
    ),
}


def numbered_weights(tensors):
    """A state dict of these shapes in which every tensor affects the logits."""
    random, state = np.random.RandomState(0), {}  # its numbers never change
    for key, shape in tensors.items():
        value = random.standard_normal(shape)
        if key.endswith("running_var"):
            value = abs(value) + 0.5
        elif len(shape) == 1:
            value = 0.2 * value + key.endswith("weight")
        else:
            value *= (2 / value[0].size) ** 0.5
        state[key] = torch.tensor(value, dtype=torch.float32)
    return state


def numbered_images(size=32):
    squares = np.random.RandomState(1).standard_normal((2, 3, 4, 4))
    return torch.tensor(np.kron(squares, np.ones((size // 4, size // 4)))).float()


def test_layouts_have_the_published_parameter_counts():
    for name, (layout, parameters, _) in PUBLISHED.items():
        trained = [shape for key, shape in layout(100).items() if "running" not in key]
        assert sum(np.prod(shape) for shape in trained) == parameters, name


def logits_with(name, state):
    with torch.device("meta"):  # takes the tensors as they are
        net = create_model(name, 100).eval()
    missing, unknown = net.load_state_dict(state, strict=False, assign=True)
    assert not unknown and all(key.endswith("num_batches_tracked") for key in missing)
    with torch.no_grad():
        return net(numbered_images()).flatten()[[0, 1, 2, 100, 199]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_give_the_published_logits(name):
    layout, _, expected = PUBLISHED[name]
    got = logits_with(name, numbered_weights(layout(100)))
    scale = max(map(abs, expected))
    torch.testing.assert_close(got, torch.tensor(expected), rtol=0, atol=1e-5 * scale)


def test_every_tensor_affects_the_logits():
    layout, _, expected = PUBLISHED["shufflenetv2"]
    state = numbered_weights(layout(100))
    for key in list(state)[::17]:
        changed = {**state, key: state[key] * 1.1}
        got = logits_with("shufflenetv2", changed)
        assert (got - torch.tensor(expected)).abs().max() > 1e-3, key


@pytest.mark.parametrize("name", ["MobileNetV2", "ShuffleV1", "shufflenetv2", "mobilenetv2"])
def test_networks_train_on_small_images(name):
    torch.manual_seed(0)
    net = create_model(name, 7)
    for size in (32, 64):
        logits = net(torch.rand(2, 3, size, size))
        assert logits.shape == (2, 7) and logits.isfinite().all()
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_mobilenetv2_is_torchvisions_and_starts_as_published():
    keys = create_model("torchvision/mobilenet_v2", 10).state_dict().keys()
    assert create_model("mobilenetv2", 10).state_dict().keys() == keys
    torch.manual_seed(0)
    net = create_model("MobileNetV2", 100)
    assert net.conv2[0].weight.std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    assert net.blocks[6][0].conv[3].weight.std().item() == pytest.approx((2 / 4320) ** 0.5, rel=0.1)
    assert net.classifier[0].weight.std().item() == pytest.approx(0.01, rel=0.02)


# One name, two networks


def shapes_of(name, num_classes=10):
    """A state dict without values."""
    with torch.device("meta"):
        return create_model(name, num_classes).state_dict()


def kind(state):
    """The name, without a second meaning, of the network with this state dict."""
    return architectures.architecture_with(state, "network")


@pytest.mark.parametrize(
    "name, size, network",
    [
        ("ResNet50", None, "ResNet50"),
        ("ResNet50", 32, "resnet50"),
        ("ResNet50", 64, "resnet50"),
        ("ResNet50", 65, "ResNet50"),
        ("ResNet50", 224, "ResNet50"),
        ("ShuffleV2", None, "ShuffleV2"),
        ("ShuffleV2", 32, "shufflenetv2"),
        ("ShuffleV2", 224, "ShuffleV2"),
        ("ResNet18", 32, "ResNet18"),  # the released code's
        ("resnet50", 224, "resnet50"),
        ("torchvision/shufflenet_v2_x1_0", 32, "ShuffleV2"),
    ],
)
def test_small_images_choose_repdistillers_network(name, size, network, capsys):
    with torch.device("meta"):
        assert kind(create_model(name, 100, image_size=size).state_dict()) == network
    noted = capsys.readouterr().out
    two_meanings = name in ("ResNet50", "ShuffleV2", "ResNet18") and size in (32, 64)
    assert noted.startswith(f"note: {name} at {size} pixels") == two_meanings
    assert bool(noted) == two_meanings


def test_torchvisions_network_with_a_small_stem_is_pointed_out(tmp_path, capsys):
    """It has the tensors of a network without the ReLU after the stem."""
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    assert kind(network.state_dict()) == "cifarresnet18"
    noted = capsys.readouterr().out
    assert "torchvision's resnet18" in noted and "module:function" in noted
    torch.save(network.state_dict(), tmp_path / "t.pth")
    with pytest.raises(UserError, match="cifarresnet18.*torchvision's resnet18.*module:function"):
        create_model("torchvision/resnet18", 10, checkpoint=tmp_path / "t.pth")
    assert kind(shapes_of("resnet18")) == "resnet18" and not capsys.readouterr().out


@pytest.mark.parametrize("size", [None, 32, 224])
@pytest.mark.parametrize("name", ["ResNet50", "ShuffleV2", "ResNet18"])
def test_tensors_of_a_checkpoint_choose_before_the_size(name, size):
    small = {"ShuffleV2": "shufflenetv2"}.get(name, name.lower())
    for network in (small, name):
        content = {"model": shapes_of(network)}
        assert architectures.network_name(name, size, content) == network
        assert architectures.classes_of(name, content, "file") == 10


@pytest.mark.parametrize("network, size", [("shufflenetv2", 224), ("ShuffleV2", 32)])
def test_a_checkpoint_of_either_network_loads(network, size, tmp_path, capsys):
    saved, path = create_model(network, 10).state_dict(), tmp_path / "t.pth"
    torch.save(saved, path)
    loaded = create_model("ShuffleV2", 10, checkpoint=path, image_size=size).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in saved.items())
    assert not capsys.readouterr().out  # there was no choice


def test_published_weights_are_torchvisions_at_every_size(monkeypatch):
    weights = create_model("ShuffleV2", 1000).state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: weights
    )
    net = create_model("ShuffleV2", 1000, pretrained=True, image_size=32)
    assert kind(net.state_dict()) == "ShuffleV2"


def test_statistics_of_torchvision_are_for_torchvisions_network(tmp_path):
    own, path = Statistics(*HALVES, "the data set's"), tmp_path / "t.pth"
    for network, expected in (
        ("resnet50", HALVES),
        ("ResNet50", published_statistics("ResNet50")),
    ):
        torch.save(shapes_of(network, 1000), path)
        assert statistics_of(path, "ResNet50", own, published=True)[:2] == expected


FOLDERS = {  # file: (network in it, architecture)
    "ResNet50_vanilla/ckpt_epoch_240.pth": ("resnet50", "resnet50"),
    "ShuffleV2_vanilla/ckpt_epoch_240.pth": ("shufflenetv2", "shufflenetv2"),
    "ResNet18_vanilla/ti_res18": ("resnet18", "resnet18"),
    "ResNet50/resnet50.pth": ("ResNet50", "ResNet50"),
    "ShuffleV2/shufflev2.pth": ("ShuffleV2", "ShuffleV2"),
    "MobileNetV2_vanilla/ckpt_epoch_240.pth": ("MobileNetV2", "MobileNetV2"),
    "ShuffleV1_vanilla/ckpt_epoch_240.pth": ("ShuffleV1", "ShuffleV1"),
    "pretrained/cifar10_shufflenetv2.pth": ("shufflenetv2", "shufflenetv2"),
    "pretrained/cifar10_mobilenetv2.pth": ("mobilenetv2", "mobilenetv2"),
    "S:resnet8x4_double_T:resnet32x4_kd/best.pth": ("resnet8x4_double", "resnet8x4_double"),
    # Folders that had no meaning before these names had one
    "resnet50/resnet50.pth": ("ResNet50", "ResNet50"),
    "shufflenetv2/weights.pth": ("ShuffleV2", "ShuffleV2"),
    "MobileNetV2/mobilenet_v2-7ebf99e0.pth": ("mobilenetv2", "torchvision/mobilenet_v2"),
    "mobilenetv2/mobilenet_v2-7ebf99e0.pth": ("mobilenetv2", "torchvision/mobilenet_v2"),
}


@pytest.mark.parametrize("file", FOLDERS)
def test_folders_of_other_projects(file, tmp_path):
    network, name = FOLDERS[file]
    path = tmp_path / file
    path.parent.mkdir()
    torch.save({"model": shapes_of(network)}, path)
    assert architecture_of(path) == name


def test_a_folder_of_another_network_is_refused(tmp_path):
    path = tmp_path / "resnet50/t.pth"
    path.parent.mkdir()
    torch.save(create_model("resnet14", 10).state_dict(), path)
    with pytest.raises(UserError, match="is not a resnet50(.|\n)*use the name resnet14"):
        load_teacher(path, 10, *HALVES)


# Runs

TRAIN = "--epochs 1 --batch_size 8 --device cpu --val_split holdout --num_workers 0".split()


@pytest.fixture
def fashion_mnist(tiny_fashion_mnist, tmp_path, monkeypatch):
    """A working directory with a teacher; the flags of the data set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet8").mkdir()
    torch.save(create_model("resnet8", 10).state_dict(), "resnet8/t.pth")
    return ["--dataset", "fashion_mnist", "--data_root", str(tiny_fashion_mnist), *TRAIN]


def interrupt(monkeypatch, module):
    """Ends a run after its first epoch."""
    end_epoch = module.Run.end_epoch

    def end(run, *metrics):
        end_epoch(run, *metrics)
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Run, "end_epoch", end)
    return contextlib.suppress(KeyboardInterrupt)


SHUFFLE = "--path-t resnet8/t.pth --train_data real --data_amount 16 --model_s ShuffleV2".split()
LATEST = "save/student_model/fashion_mnist_ShuffleV2/fold-1/ShuffleV2_latest.pth"


def test_a_run_from_before_the_name_had_two_meanings_resumes(fashion_mnist, monkeypatch):
    command = [*SHUFFLE, *fashion_mnist, "--epochs", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(architectures, "BY_IMAGE_SIZE", ())
        with interrupt(patch, train_student):
            train_student.main(command)
    assert checkpoints.load(LATEST)["progress"]["epoch"] == 1
    train_student.main([*command, "--resume"])
    content = checkpoints.load(LATEST)
    assert kind(content) == "ShuffleV2" and content["progress"]["epoch"] == 2


def test_all_scripts_tell_the_size_and_the_run(fashion_mnist, monkeypatch):
    class Built(Exception):
        pass

    def make(name, *_, resumed, image_size, **__):
        raise Built(name, str(resumed), image_size)

    for module, command, latest in (
        (train_student, SHUFFLE, LATEST),
        (train_teacher, "--save_dir run --model ShuffleV2".split(), "run/ShuffleV2_latest.pth"),
        (
            train_datafree,
            "--method dafl --path-t resnet8/t.pth --model_s ShuffleV2".split(),
            LATEST.replace("fold-1", "dafl"),
        ),
    ):
        monkeypatch.setattr(module, "make_student", make)
        for flags, resumed in (([], "None"), (["--resume"], latest)):
            with pytest.raises(Built) as built:
                module.main([*command, *fashion_mnist, *flags])
            assert built.value.args == ("ShuffleV2", resumed, 32)


def test_a_run_on_small_images_has_repdistillers_network(fashion_mnist, capsys):
    command, path = [*SHUFFLE, *fashion_mnist], LATEST
    train_student.main(command)
    assert kind(checkpoints.load(path)) == "shufflenetv2"
    train_student.main([*command, "--resume"])
    assert "--learning_rate 0.02" in capsys.readouterr().out
    metrics = train_student.main(["--evaluate", path, *fashion_mnist])
    assert 0 <= metrics["top1"] <= 100
    cost = train_student.main([*command, "--estimate"])
    assert 8e7 < cost.student < 10e7  # 0.09 GFLOP; torchvision's network needs 0.006


def test_damaged_checkpoint_of_a_run_is_refused_by_the_run(fashion_mnist):
    command = ["--model", "ShuffleV2", "--save_dir", "run", *fashion_mnist]
    Path("run").mkdir()
    Path("run/ShuffleV2_latest.pth").write_bytes(b"damaged")
    with pytest.raises(UserError, match="run/ShuffleV2_latest.pth is damaged.*restore a copy"):
        train_teacher.main([*command, "--resume"])


# The entry `arch`


ARCH = [  # entry, network, architecture
    ("resnet10t", "timm/resnet10t", "timm/resnet10t"),
    ("resnet10t.c3_in1k", "timm/resnet10t", "timm/resnet10t.c3_in1k"),
    ("mobilenet_v3_small", "torchvision/mobilenet_v3_small", "torchvision/mobilenet_v3_small"),
    ("wrn40_2", "wrn_40_2", "wrn_40_2"),  # the tensors come first, as ever
    ("resnet18_imagenet", "ResNet18", "ResNet18"),
    ("resnet10t", "torchvision/mobilenet_v3_small", None),  # not its tensors
    ("no_such_network", "timm/resnet10t", None),
    ("mine:net", "timm/resnet10t", None),
    (3, "timm/resnet10t", None),
]


@pytest.mark.parametrize("arch, network, name", ARCH)
def test_the_entry_arch_names_the_architecture(arch, network, name, tmp_path):
    path = tmp_path / "model_best.pth.tar"
    torch.save({"arch": arch, "state_dict": create_model(network, 10).state_dict()}, path)
    if name:
        assert architecture_of(path) == name
        load_teacher(path, 10, *HALVES)
    else:
        with pytest.raises(UserError, match="--model_t"):
            architecture_of(path)


def test_without_timm_the_entry_arch_is_unknown(monkeypatch, tmp_path):
    path = tmp_path / "model_best.pth.tar"
    state = create_model("timm/resnet10t", 10).state_dict()
    torch.save({"arch": "resnet10t", "state_dict": state}, path)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="--model_t"):
        architecture_of(path)


# mdistiller's training states


def training_state(path, student, teacher):
    parts = (("module.student.", student), ("module.teacher.", teacher))
    state = {
        prefix + key: value
        for prefix, name in parts
        for key, value in create_model(name, 10).state_dict().items()
    }
    torch.save({"epoch": 3, "model": state, "optimizer": {}, "best_acc": 70.0}, path)


@pytest.mark.parametrize(
    "file, named", [("latest", "latest"), ("best", "best"), ("epoch_40", "40")]
)
@pytest.mark.parametrize("teacher", ["resnet14", "resnet8"])
def test_mdistillers_training_states_name_the_students_file(file, named, teacher, tmp_path):
    path = tmp_path / file
    training_state(path, "resnet8", teacher)
    with pytest.raises(UserError, match=f"student_{named}, "):
        load_teacher(path, 10, *HALVES)
    torch.save({"model": create_model("resnet8", 10).state_dict()}, tmp_path / f"student_{named}")
    assert architecture_of(tmp_path / f"student_{named}") == "resnet8"


def test_other_files_do_not_name_mdistillers(tmp_path):
    training_state(tmp_path / "both.pth", "resnet8", "resnet14")
    with pytest.raises(UserError) as refusal:
        architecture_of(tmp_path / "both.pth")
    assert "student_" not in str(refusal.value)


# The user's own networks

OWN = """
from torch import nn

LIMIT = 3

def make_net(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, num_classes),
    )

def needs_values(num_classes):
    assert nn.Linear(1, 1).weight.item() is not None
    return make_net(num_classes)

def double(num_classes): return make_net(num_classes).double()
def no_argument(): return nn.Linear(3, 3)
def returns_dict(num_classes): return {}
def fails(num_classes): return 1 / 0
def lazy(num_classes): return nn.LazyLinear(num_classes)
def frozen(num_classes): return make_net(num_classes).requires_grad_(False)
def seven(num_classes): return make_net(7)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of networks in the working directory, under a name that no other test imports."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def test_own_network_is_accepted_as_an_architecture(own, tmp_path, capsys):
    name = f"{own}:make_net"
    torch.manual_seed(1)
    student = make_student(name, 5, *HALVES, image_size=32)
    assert student(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert next(create_model(f"{own}:double", 5).parameters()).dtype == torch.float32
    save_file(create_model(name, 5).state_dict(), "own.safetensors")
    before = torch.random.get_rng_state()
    teacher = load_teacher("own.safetensors", mean=HALVES[0], std=HALVES[1], name=name)
    assert teacher(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    torch.random.set_rng_state(before)
    load_teacher("own.safetensors", mean=HALVES[0], std=HALVES[1], name=f"{own}:needs_values")
    with pytest.raises(UserError, match="for 5 classes, 9 are needed"):
        load_teacher("own.safetensors", 9, *HALVES, name=name)


def test_a_package_that_this_repository_hides_is_named(own):
    """Such as models/ of another project, in which the command is started."""
    Path("models").mkdir()
    Path("models/resnet.py").write_text(OWN)
    for name in ("models.resnet:make_net", "models:make_net"):
        with pytest.raises(UserError, match="models is hidden by .*own package models"):
            create_model(name, 5)
    Path(f"{own}_2.py").write_text(f"from {own} import make_net\n")
    create_model(f"{own}_2:make_net", 5)


REFUSED = {  # function: what the message names
    "make_nett": "no function 'make_nett' .nearest: make_net",
    "LIMIT": "no function 'LIMIT'",
    "": "module:function",
    "no-identifier": "module:function",
    "no_argument": r"no_argument.num_classes=5. failed: TypeError.*num_classes",
    "returns_dict": "returned dict, not a torch.nn.Module",
    "fails": r"ZeroDivisionError: .*own_\d+.py, line 19",
    "lazy": "lazy layers",
    "frozen": "nothing can be trained",
}


@pytest.mark.parametrize("function", REFUSED)
def test_own_functions_that_return_no_network_are_refused(own, function):
    with pytest.raises(UserError, match=REFUSED[function]) as refusal:
        make_student(f"{own}:{function}", 5, *HALVES)
    assert f"{own}:{function}" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


MODULES = {  # content of a module: what the message names
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'.*, line 1",
    "def f(:": "SyntaxError.*line 1",
    "import sys\nsys.exit(3)": "SystemExit: 3.*, line 2",
}


@pytest.mark.parametrize("content", MODULES)
def test_own_modules_that_cannot_be_imported_are_refused(own, content, tmp_path):
    (tmp_path / f"{own}.py").write_text(content)
    with pytest.raises(UserError, match=f"importing {own} failed: {MODULES[content]}"):
        create_model(f"{own}:f", 5)


def test_missing_own_module_is_refused_with_the_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, module in (("no_such_nets:f", "no_such_nets"), ("mine.nets.py:f", "mine")):
        with pytest.raises(UserError, match=f"no module '{module}'.*{tmp_path}.*PYTHONPATH"):
            create_model(name, 5)


def test_training_and_distilling_own_networks(own, fashion_mnist, tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/mine.py").write_text(OWN)
    # Any program may import the module from the path, too.
    monkeypatch.syspath_prepend(tmp_path / "nets")
    name = f"{own}:make_net"
    train_teacher.main(["--model", name, *fashion_mnist])
    path = f"save/models/fashion_mnist/{own}_make_net/{own}_make_net_latest.pth"
    # A checkpoint does not choose the code that runs.
    student = ["--path-t", path, "--train_data", "real", "--data_amount", "16"]
    with pytest.raises(UserError, match=f"--model_t {name}"):
        train_student.main([*student, *fashion_mnist])
    student += ["--model_t", name, "--model_s", "mine:make_net"]
    result = train_student.main([*student, *fashion_mnist])
    assert (result["teacher"], result["student"]) == (name, "mine:make_net")
    student[-1] = f"{own}:seven"
    with pytest.raises(UserError, match=r"returns \(2, 7\).*10 classes.*--model_s"):
        train_student.main([*student, *fashion_mnist])


def test_the_message_names_the_flag_of_this_network(own, fashion_mnist):
    """--model_t where that is given already, for the teacher, would be wrong."""
    name = f"{own}:make_net"
    torch.save({"model_name": name, "model": create_model(name, 10).state_dict()}, "own.pth")
    teacher = ["--path-t", "resnet8/t.pth", "--model_t", "resnet8"]
    with pytest.raises(UserError, match=f"--model_s {name}"):
        train_student.main(["--evaluate", "own.pth", *teacher, *fashion_mnist])
    with pytest.raises(UserError, match=f"--model_t {name}"):
        train_student.main(["--evaluate", "own.pth", *fashion_mnist])
    line = ["--method", "deepinversion", "--dataset", "fashion_mnist", "--data_amount", "10"]
    with pytest.raises(UserError, match=f"--model_s {name}"):
        synthesize_baseline.main([*line, *teacher, "--path-s", "own.pth", "--save_dir", "images"])


def test_resuming_with_other_code_of_the_network_is_refused(own, fashion_mnist, monkeypatch):
    command = ["--model", f"{own}:make_net", "--save_dir", "run", *fashion_mnist, "--epochs", "2"]
    with monkeypatch.context() as patch, interrupt(patch, train_teacher):
        train_teacher.main(command)
    monkeypatch.setattr(
        sys.modules[own], "make_net", lambda num_classes: create_model("resnet8", 10)
    )
    with pytest.raises(UserError, match="--resume: run/own.*latest.pth is of another model"):
        train_teacher.main([*command, "--resume"])
