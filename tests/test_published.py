"""Published checkpoints: files with the published names and layouts load by their path alone."""

import argparse
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_models import (
    MEAN,
    PARAMETERS,
    STD,
    images,
    logits,
    reference_resnet,
    reference_vgg11,
    reference_wrn,
)

import train_student
import train_teacher
from dataset import real
from helper import checkpoints
from helper.errors import UserError
from models.architectures import architecture_with, create_model, model_names
from models.classifiers import Normalised, architecture_of, image_statistics, load_teacher

# Tensors of the published networks, {name: shape}, from the layouts of their code bases.


def norm(key, channels):
    return {
        f"{key}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")
    }


def conv(key, c_in, c_out, size=3):
    return {f"{key}.weight": (c_out, c_in, size, size)}


def linear(key, c_in, c_out):
    return {f"{key}.weight": (c_out, c_in), f"{key}.bias": (c_out,)}


def basic_blocks(widths, blocks, projection, head, classes):
    """ResNets of basic blocks: RepDistiller's with three stages, and the others' ResNet-18, -34."""
    tensors = conv("conv1", 3, widths[0]) | norm("bn1", widths[0])
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            key, c_in, c_out = (
                f"layer{stage}.{block}",
                widths[stage if block else stage - 1],
                widths[stage],
            )
            tensors |= conv(f"{key}.conv1", c_in, c_out) | norm(f"{key}.bn1", c_out)
            tensors |= conv(f"{key}.conv2", c_out, c_out) | norm(f"{key}.bn2", c_out)
            if c_in != c_out:
                tensors |= conv(f"{key}.{projection}.0", c_in, c_out, 1) | norm(
                    f"{key}.{projection}.1", c_out
                )
    return tensors | linear(head, widths[-1], classes)


def wide(depth, factor, classes):
    widths = (16, 16 * factor, 32 * factor, 64 * factor)
    tensors = conv("conv1", 3, 16)
    for stage in (1, 2, 3):
        for block in range((depth - 4) // 6):
            key, c_in, c_out = (
                f"block{stage}.layer.{block}",
                widths[stage if block else stage - 1],
                widths[stage],
            )
            tensors |= norm(f"{key}.bn1", c_in) | conv(f"{key}.conv1", c_in, c_out)
            tensors |= norm(f"{key}.bn2", c_out) | conv(f"{key}.conv2", c_out, c_out)
            if c_in != c_out:
                tensors |= conv(f"{key}.convShortcut", c_in, c_out, 1)
    return tensors | norm("bn1", widths[-1]) | linear("fc", widths[-1], classes)


def vgg11(classes):
    tensors, c_in = {}, 3
    for block, widths in enumerate([(64,), (128,), (256, 256), (512, 512), (512, 512)]):
        for place, c_out in enumerate(widths):  # convolution, norm and ReLU: three places each
            key = f"block{block}.{3 * place}"
            tensors |= (
                conv(key, c_in, c_out)
                | {f"{key}.bias": (c_out,)}
                | norm(f"block{block}.{3 * place + 1}", c_out)
            )
            c_in = c_out
    return tensors | linear("classifier", 512, classes)


SMALL, WIDE = (16, 16, 32, 64), (64, 64, 128, 256, 512)
NETWORKS = {  # name: (tensors for a number of classes, published forward pass)
    "resnet20": (
        lambda n: basic_blocks(SMALL, (3, 3, 3), "downsample", "fc", n),
        lambda state, x: reference_resnet(state, x, (3, 3, 3)),
    ),
    "resnet8x4": (
        lambda n: basic_blocks((32, 64, 128, 256), (1, 1, 1), "downsample", "fc", n),
        lambda state, x: reference_resnet(state, x, (1, 1, 1)),
    ),
    "wrn_16_2": (lambda n: wide(16, 2, n), lambda state, x: reference_wrn(state, x, 2)),
    "wrn_40_2": (lambda n: wide(40, 2, n), lambda state, x: reference_wrn(state, x, 6)),
    "vgg11": (vgg11, reference_vgg11),
    "resnet18": (
        lambda n: basic_blocks(WIDE, (2, 2, 2, 2), "shortcut", "linear", n),
        lambda state, x: reference_resnet(state, x, (2, 2, 2, 2), True, "shortcut", "linear"),
    ),
    "cifarresnet18": (
        lambda n: basic_blocks(WIDE, (2, 2, 2, 2), "downsample", "fc", n),
        lambda state, x: reference_resnet(state, x, (2, 2, 2, 2), False),
    ),
    "cifarresnet34": (
        lambda n: basic_blocks(WIDE, (3, 4, 6, 3), "downsample", "fc", n),
        lambda state, x: reference_resnet(state, x, (3, 4, 6, 3), False),
    ),
}


def random_weights(tensors, seed=0):
    """A random state dict of these shapes in which every tensor affects the logits."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for key, shape in tensors.items():
        value = torch.randn(shape, generator=generator)
        if key.endswith("running_var"):
            state[key] = value.abs() + 0.5
            state[key.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
        elif len(shape) == 1:
            state[key] = 0.2 * value + (key.endswith("weight") and 1)
        else:
            state[key] = value * (2 / value[0].numel()) ** 0.5
    return state


# How the code bases save their weights.

FLAGS = argparse.Namespace(
    learning_rate=0.05, lr_decay_epochs=[150, 180, 210], model="net", trial="0"
)
LAYOUTS = {
    "plain": lambda state: state,
    "RepDistiller": lambda state: {"epoch": 240, "model": state, "best_acc": torch.tensor(75.6)},
    "RepDistiller's last": lambda state: {
        "opt": FLAGS,
        "model": state,
        "accuracy": np.float64(75.6),
        "classes": np.int64(100),
    },
    "Fast-Datafree": lambda state: {
        "epoch": 200,
        "arch": "net",
        "state_dict": state,
        "best_acc1": 77.9,
        "optimizer": torch.optim.SGD([torch.zeros(1)], 0.1).state_dict(),
    },
    "parallel": lambda state: {
        "state_dict": {f"module.{key}": value for key, value in state.items()}
    },
    "compiled and parallel": lambda state: {
        "model": {f"_orig_mod.module.{k}": v for k, v in state.items()}
    },
    "state": lambda state: {"state": state, "epoch": 3},
    "net": lambda state: {"net": state, "acc": 93.1},
    "old": lambda state: {k: v for k, v in state.items() if "num_batches_tracked" not in k},
    "half": lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
}


def write(path, layout, state):
    path.parent.mkdir(parents=True)
    if path.suffix == ".safetensors":
        save_file(LAYOUTS[layout](state), path)
    else:
        torch.save(LAYOUTS[layout](state), path)


FILES = {  # path: (network, layout)
    "save/models/resnet8x4_vanilla/ckpt_epoch_240.pth": ("resnet8x4", "RepDistiller"),
    "save/models/wrn_40_2_vanilla/ckpt_epoch_240.pth": ("wrn_40_2", "RepDistiller's last"),
    "save/models/resnet20_vanilla/ckpt_epoch_240.safetensors": ("resnet20", "plain"),
    "checkpoints/pretrained/cifar100_vgg11.pth": ("vgg11", "Fast-Datafree"),
    "checkpoints/pretrained/cifar100_resnet18.pth": ("resnet18", "Fast-Datafree"),
    "checkpoints/pretrained/cifar100_wrn16_2.pth": ("wrn_16_2", "parallel"),
    "save/models/cifarresnet18_vanilla/best.pth": ("cifarresnet18", "state"),
    "teachers/cifarresnet34.pth": ("cifarresnet34", "plain"),
    "teachers/resnet20.pth": ("resnet20", "net"),
    "teachers/old.pth": ("resnet8x4", "old"),
    "teachers/both.pth": ("wrn_16_2", "compiled and parallel"),
    "teachers/half.pth": ("resnet20", "half"),
    "teachers/half.safetensors": ("resnet20", "half"),
}


@pytest.mark.parametrize("file", FILES)
def test_published_file_gives_the_published_logits(file, tmp_path):
    name, layout = FILES[file]
    tensors, forward = NETWORKS[name]
    state, x = random_weights(tensors(100)), images()
    write(tmp_path / file, layout, state)
    if layout == "half":
        state = {key: value.half().float() for key, value in state.items()}
    assert architecture_of(tmp_path / file) == name
    teacher = load_teacher(tmp_path / file, 100, MEAN, STD)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    expected = forward(state, (x - mean) / std)
    assert expected.std() > 1e-2
    torch.testing.assert_close(
        logits(teacher, x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
    )


def test_reference_tensors_have_the_published_parameter_counts():
    for name, (tensors, _) in NETWORKS.items():
        trained = [shape for key, shape in tensors(100).items() if "running" not in key]
        assert (
            name not in PARAMETERS or sum(np.prod(shape) for shape in trained) == PARAMETERS[name]
        ), name


def test_every_architecture_is_recognised_by_its_tensors():
    for name in model_names():
        with torch.device("meta"):
            state = create_model(name, 12).state_dict()
        assert architecture_with(state, "file") == name.replace("wrn4", "wrn_4").replace(
            "wrn1", "wrn_1"
        )
    assert architecture_with({"fc.weight": torch.zeros(3, 4)}, "file") is None


def test_files_of_old_torch_and_numpy_versions(tmp_path):
    """Most published files precede torch's zip format and use numpy 1's module names."""
    state = random_weights(NETWORKS["resnet8x4"][0](10))
    content = LAYOUTS["RepDistiller's last"](state)
    torch.save(content, tmp_path / "pickle.pth", _use_new_zipfile_serialization=False)
    torch.save(content, tmp_path / "zip.pth")
    with (
        zipfile.ZipFile(tmp_path / "zip.pth") as new,
        zipfile.ZipFile(tmp_path / "numpy1.pth", "w") as old,
    ):
        for entry in new.infolist():
            old.writestr(
                entry, new.read(entry).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            )
    assert b"numpy.core.multiarray" in (tmp_path / "numpy1.pth").read_bytes()
    for file in ("pickle", "numpy1"):
        loaded = checkpoints.load(tmp_path / f"{file}.pth")
        assert loaded["accuracy"] == 75.6 and loaded["opt"] == FLAGS
        assert architecture_of(tmp_path / f"{file}.pth") == "resnet8x4"
        net = create_model("resnet8x4", 10, checkpoint=tmp_path / f"{file}.pth")
        assert torch.equal(net.fc.weight, state["fc.weight"])


def test_a_file_of_another_network_than_its_folders_name_is_refused(tmp_path):
    path = tmp_path / "resnet34/cifar100.pth"
    write(path, "plain", random_weights(NETWORKS["cifarresnet34"][0](100)))
    with pytest.raises(UserError, match="use the name cifarresnet34"):
        load_teacher(path, 100, MEAN, STD)


# torchvision's and timm's files

LIBRARY_FILES = {  # path: name
    "ResNet18/resnet18.pth": "ResNet18",
    "downloads/resnet18-f37072fd.pth": "ResNet18",
    "downloads/weights.pth": "ShuffleV2",
    "downloads/mobilenet_v2-7ebf99e0.pth": "torchvision/mobilenet_v2",
    "downloads/efficientnet_b0_rwightman-7f5810bc.pth": "torchvision/efficientnet_b0",
    "torchvision_squeezenet1_1/best.pth": "torchvision/squeezenet1_1",
    "timm_resnet10t_cifar/best.safetensors": "timm/resnet10t",
    "models--timm--resnet10t.c3_in1k/snapshots/0123/model.safetensors": "timm/resnet10t.c3_in1k",
}


@pytest.mark.parametrize("file", LIBRARY_FILES)
def test_library_files_are_recognised_by_tensors_or_file_name(file, tmp_path):
    name = LIBRARY_FILES[file]
    torch.manual_seed(0)
    net = create_model(name, 1000).eval()
    write(tmp_path / file, "plain", net.state_dict())
    assert architecture_of(tmp_path / file) == name
    teacher = load_teacher(tmp_path / file, 1000, MEAN, STD)
    with torch.no_grad():
        torch.testing.assert_close(
            teacher(images(2, 64)), Normalised(net, MEAN, STD)(images(2, 64))
        )


def test_torchvisions_densenet_files_have_older_names(tmp_path):
    net = create_model("torchvision/densenet121", 10)
    state = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.")
        if "denselayer" in key
        else key: value
        for key, value in net.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "densenet121-a639ec97.pth")
    path = tmp_path / "densenet121-a639ec97.pth"
    loaded = create_model(architecture_of(path), 10, checkpoint=path).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in net.state_dict().items())


# Normalisation: flags, checkpoint, library, data set

IMAGENET = "mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225"


def teacher_statistics(*flags, path, name):
    options = train_student.parse_option(["--path-t", str(path), *flags])
    default = real.data_from(options).default_statistics
    return str(image_statistics(options.mean_t, options.std_t, "t", default, path, name))


def test_normalisation_of_a_teacher(tmp_path):
    plain, ours = tmp_path / "plain.pth", tmp_path / "ours.pth"
    # A tensor `mean` belongs to a network, not to the images.
    weights = {"mean": torch.zeros(3), "fc.weight": torch.zeros(1)}
    torch.save(weights, plain)
    torch.save({"model": weights, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}, ours)
    lite = "timm/tf_efficientnet_lite0"
    own = "mean 0.1, 0.2, 0.3, std 0.4, 0.5, 0.6 (the checkpoint's own)"
    library = f"mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5 (timm's for {lite})"
    cifar = "mean 0.5071, 0.4867, 0.4408, std 0.2675, 0.2565, 0.2761 (the data set's)"
    expected = [  # checkpoint, network, flags, statistics
        (ours, lite, [], own),
        (ours, lite, ["--dataset", "cifar100"], own),
        (plain, lite, [], library),
        (plain, lite, ["--dataset", "cifar100", "--image_size", "128"], library),
        (plain, lite, ["--image_size", "64"], library),  # ImageNet, small
        (plain, lite, ["--dataset", "cifar100"], cifar),
        (plain, "wrn_40_2", ["--dataset", "cifar100"], cifar),
        (plain, "ResNet18", [], f"{IMAGENET} (torchvision's for ResNet18)"),
        (ours, lite, ["--mean_t", "0.7"], "mean 0.7, 0.7, 0.7, std 0.4, 0.5, 0.6 (--mean_t)"),
    ]
    for path, name, flags, statistics in expected:
        assert teacher_statistics(*flags, path=path, name=name) == statistics, (path, name, flags)
    large = teacher_statistics(path=plain, name="torchvision/efficientnet_v2_l")
    assert large.startswith("mean 0.5, 0.5, 0.5, std")
    both = teacher_statistics("--mean_t", "0.7", "--std_t", "0.2", path=plain, name=lite)
    assert both.endswith("(--mean_t and --std_t)")


# Fine-tuning: published weights with a new last layer


@pytest.mark.parametrize("source", ["file", "torchvision"])
def test_fine_tuning_keeps_all_but_the_last_layer(
    source, monkeypatch, tmp_path, tiny_fashion_mnist, capsys
):
    torch.manual_seed(5)
    published = create_model("ResNet18", 1000).state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: published
    )
    torch.save({"model": published, "mean": [0.4] * 3, "std": [0.3] * 3}, tmp_path / "imagenet.pth")
    weights = [str(tmp_path / "imagenet.pth")] if source == "file" else []
    train_teacher.main(
        [
            "--dataset",
            "fashion_mnist",
            "--data_root",
            str(tiny_fashion_mnist),
            "--epochs",
            "1",
            "--model",
            "ResNet18",
            "--learning_rate",
            "1e-12",
            "--val_split",
            "holdout",
            "--device",
            "cpu",
            "--save_dir",
            str(tmp_path / "run"),
            "--pretrained",
            *weights,
        ]
    )
    saved = checkpoints.load(tmp_path / "run/ResNet18_latest.pth")
    for name, value in create_model("ResNet18", 10).named_parameters():
        if name.startswith("fc."):
            assert saved["model"][name].shape == value.shape
        else:
            torch.testing.assert_close(saved["model"][name], published[name])
    log = (tmp_path / "run/train.log").read_text()
    assert "the weights have 1000 classes, 10 are needed: the last layer is initialised" in log
    # The images are normalised as for the published weights.
    assert saved["mean"] == ([0.4] * 3 if source == "file" else [0.485, 0.456, 0.406])
    assert ("(the checkpoint's own)" if source == "file" else "(torchvision's for ResNet18)") in log


def test_teacher_of_another_number_of_classes_is_refused(tmp_path):
    write(tmp_path / "resnet20/t.pth", "plain", random_weights(NETWORKS["resnet20"][0](100)))
    with pytest.raises(UserError, match="is a resnet20 for 100 classes, 10 are needed"):
        load_teacher(tmp_path / "resnet20/t.pth", 10, MEAN, STD)


def test_without_timm_its_networks_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match="timm/resnet18 is a network of timm, which is not installed: pip install"
    ):
        create_model("timm/resnet18", 10)
