"""Fidelity measures against independent computations, and the command line of
evaluate_images.py.
"""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import evaluate_images
from helper import checkpoints
from helper.distributed import World
from helper.errors import UserError
from helper.features import LastFeatures
from models.architectures import create_model
from report import fidelity
from report.fidelity import Moments, frechet_distance, precision_recall, sample_indices
from report.inception import SquareImages

ROOT = Path(__file__).resolve().parent.parent


def correlated(count, dimension, seed, mean=0.0):
    """Float32 features with different variances, and correlations between them."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimension, dimension)) * rng.uniform(0.1, 2, dimension)
    return (rng.normal(size=(count, dimension)) @ mixing + mean).astype(np.float32)


def moments_of(features, batch=None):
    moments = Moments(features.shape[1])
    for part in torch.as_tensor(features).split(batch or len(features)):
        moments.update(part)
    return moments


def nearest_by_hand(points, others, k):
    """Fraction of `points` in the k-th-neighbour ball of one of `others`, point by point."""
    points, others = np.asarray(points, np.float64), np.asarray(others, np.float64)
    radii = [
        sorted(np.linalg.norm(other - rest) for j, rest in enumerate(others) if j != i)[k - 1]
        for i, other in enumerate(others)
    ]
    return np.mean(
        [
            any(np.linalg.norm(p - other) <= r for other, r in zip(others, radii, strict=True))
            for p in points
        ]
    )


@pytest.mark.parametrize("batch", [1, 7, 100, 301])
def test_mean_and_covariance_equal_numpys_for_any_batch_size(batch):
    # Far from 0, sums of squares in fp32 would lose the variance.
    features = correlated(301, 5, 0, mean=3000.0)
    moments = moments_of(features, batch)
    assert moments.count == 301 and moments.mean.dtype == torch.float64
    exact = features.astype(np.float64)
    np.testing.assert_allclose(moments.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(exact.T), rtol=1e-9)
    alone = moments.merged(World(0, 1, torch.device("cpu")))
    assert alone.count == 301 and torch.equal(alone.mean, moments.mean)
    assert torch.equal(alone.covariance, moments.covariance)


def test_frechet_distance_equals_that_by_scipys_matrix_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    first, second = correlated(400, 12, 1), correlated(300, 12, 2, mean=0.3)
    covariances = [np.cov(features.astype(np.float64).T) for features in (first, second)]
    shift = first.mean(0, dtype=np.float64) - second.mean(0, dtype=np.float64)
    expected = shift @ shift + np.trace(
        covariances[0] + covariances[1] - 2 * linalg.sqrtm(covariances[0] @ covariances[1]).real
    )
    assert frechet_distance(moments_of(first), moments_of(second)) == pytest.approx(
        expected, rel=1e-9
    )
    assert frechet_distance(moments_of(second), moments_of(first)) == pytest.approx(
        expected, rel=1e-9
    )


def test_frechet_distance_of_shifted_and_scaled_gaussians():
    """A shift adds its squared length, a scale a of all features (a − 1)² times the trace."""
    features = torch.as_tensor(correlated(500, 6, 3)).double()
    centred = features - features.mean(0)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0, 3.0])
    moved = frechet_distance(moments_of(features), moments_of(features + shift))
    assert moved == pytest.approx(1 + 4 + 0.25 + 9, rel=1e-9)
    trace = np.trace(np.cov(features.numpy().T))
    scaled = frechet_distance(moments_of(centred), moments_of(1.5 * centred + shift))
    assert scaled == pytest.approx(14.25 + 0.25 * trace, rel=1e-9)


def test_equal_sets_have_distance_0_precision_1_and_recall_1():
    features = torch.as_tensor(correlated(200, 8, 4))
    features[:, 5] = 0  # a dead ReLU: the covariance is singular
    assert frechet_distance(moments_of(features), moments_of(features.flip(0))) == pytest.approx(
        0, abs=1e-6
    )
    assert precision_recall(features, features.flip(0), 3) == (1, 1)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_equal_their_definition(monkeypatch, k):
    monkeypatch.setattr(fidelity, "_BLOCK", 7)  # divides neither set
    generated, real = correlated(40, 4, 5)[:, :3], correlated(33, 4, 6, mean=1.0)[:, :3]
    expected = nearest_by_hand(generated, real, k), nearest_by_hand(real, generated, k)
    assert 0 < expected[0] < 1 and 0 < expected[1] < 1 and expected[0] != expected[1]
    assert precision_recall(torch.as_tensor(generated), torch.as_tensor(real), k) == pytest.approx(
        expected
    )


def test_precision_and_recall_of_points_on_a_line():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    generated = torch.tensor([[-0.5], [2.5], [4.0], [17.0], [18.5]])
    # The real balls have radii 1, 1, 1 and 8 and cover [-1, 3] and [2, 18]; the generated ones
    # have radii 3, 1.5, 1.5, 1.5 and 1.5 and cover [-3.5, 5.5] and [15.5, 20].
    assert precision_recall(generated, real, 1) == (4 / 5, 3 / 4)


def test_balls_of_repeated_images_hold_these_and_no_others():
    """Four or more equal features have balls of radius 0, whatever the rounding."""
    one = torch.as_tensor(correlated(1, 64, 7, mean=50.0))
    others = one + torch.as_tensor(correlated(30, 64, 8))
    assert precision_recall(others, one.repeat(30, 1), 3)[0] == 0
    assert (
        precision_recall(one.repeat(30, 1), torch.cat([one.repeat(4, 1), others + 1e4]), 3)[0] == 1
    )


def test_images_are_sampled_by_a_hash_of_their_index():
    def hash_of(index):
        x = (index + 1) * 0x9E3779B97F4A7C15 % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    assert hash_of(0) == 0xE220A8397B1DCDAF  # SplitMix64's first number from seed 0
    sample = sample_indices(3000, 1000)
    assert sample.tolist() == sorted(range(3000), key=hash_of)[:1000]
    assert sample_indices(3000, 200).tolist() == sample[:200].tolist()
    assert sorted(sample_indices(50, 1000)) == list(range(50))
    thirds = np.bincount(sample // 1000)  # images are ordered by class: the sample is balanced
    assert (np.abs(thirds - 1000 / 3) < 60).all()


@pytest.mark.parametrize(
    "name, head, size",
    [
        ("resnet8", "fc", 32),
        ("wrn_16_1", "fc", 32),
        ("vgg8", "classifier", 32),
        ("ShuffleV2", "fc", 64),
        ("torchvision/mobilenet_v3_small", "classifier.3", 64),
        ("timm/test_vit", "head", 160),
    ],
)
def test_features_are_the_input_of_the_last_layer(name, head, size):
    net = create_model(name, 5).eval()
    with torch.no_grad(), LastFeatures(net) as last:
        assert last.value is None
        logits = net(torch.rand(2, 3, size, size))
        torch.testing.assert_close(net.get_submodule(head)(last.value), logits)
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_features_of_a_final_convolution_are_averaged_over_the_map():
    net = create_model("torchvision/squeezenet1_1", 5).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad(), LastFeatures(net) as last:
        net(images)
        torch.testing.assert_close(last.value, net.features(images).mean((2, 3)))


def test_a_network_without_layers_has_no_features():
    with pytest.raises(UserError, match="no linear layer and no convolution"):
        LastFeatures(torch.nn.Flatten())


# The command line. The tiny sets have 330 real training images and 200 generated ones; resnet8 has
# 64 features.


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_minimum(monkeypatch):
    monkeypatch.setattr(fidelity, "LEAST_FRECHET_IMAGES", 100)
    monkeypatch.setattr(fidelity, "LEAST_NEIGHBOUR_IMAGES", 100)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A random resnet8: its checkpoint, and the network itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = create_model("resnet8", 10)
        with torch.no_grad():
            # BatchNorm statistics of noise, so that the features are of order 1
            net.train()
            for _ in range(20):
                net(torch.randn(64, 3, 32, 32))
    path = tmp_path_factory.mktemp("teachers") / "resnet8" / "resnet8.pth"
    path.parent.mkdir()
    checkpoints.save(path, {"model": net.state_dict()})
    return path, net.eval()


@pytest.fixture
def data(teacher, tiny_fashion_mnist):
    return [
        "--dataset",
        "fashion_mnist",
        "--data_root",
        str(tiny_fashion_mnist),
        "--path-t",
        str(teacher[0]),
        "--device",
        "cpu",
        "--batch_size",
        "64",
    ]


def write_images(folder, pixels, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(pixels, start):
        Image.fromarray(image).save(folder / f"{index:05d}.png")


def outputs_by_hand(net, pixels):
    """Features (N, 64) and softmax (N, 10) in float64 for grey pixels (N, 32, 32)."""
    images = torch.as_tensor(np.stack([pixels] * 3, 1)).float() / 255
    x = (images - 0.2190) / 0.3318
    with torch.no_grad():
        features = []
        handle = net.fc.register_forward_hook(lambda _, inputs, output: features.append(inputs[0]))
        logits = net(x)
        handle.remove()
    return features[0].double().numpy(), F.softmax(logits.double(), 1).numpy()


def generated_pixels(folder):
    files = sorted(Path(folder).glob("*/*.png"))
    return np.stack([np.asarray(Image.open(file)) for file in files]), [
        int(file.parent.name) for file in files
    ]


def real_pixels(root):
    from dataset import fashion_mnist

    images = fashion_mnist.load(root, "train")
    return images.images[..., 0], images.labels


def test_the_command_writes_the_figures(
    workspace, small_minimum, data, teacher, tiny_image_folder, tiny_fashion_mnist, capsys
):
    linalg = pytest.importorskip("scipy.linalg")
    folder = workspace / "s2_T100"
    pixels, labels = generated_pixels(tiny_image_folder)
    for label in range(10):
        write_images(folder / f"{label:04d}", pixels[np.array(labels) == label])
    settings = {"generator": "DiT", "cfg_scale": 2.0, "num_sampling_steps": 100, "seed": 7}
    (folder / "manifest.json").write_text(json.dumps({"complete": True, "settings": settings}))
    (result,) = evaluate_images.main([*data, "--images", str(folder)])

    features, softmax = outputs_by_hand(teacher[1], pixels)
    real_features, real_softmax = outputs_by_hand(
        teacher[1], (real := real_pixels(tiny_fashion_mnist))[0]
    )
    covariances = [np.cov(each.T) for each in (features, real_features)]
    shift = features.mean(0) - real_features.mean(0)
    root = linalg.sqrtm(covariances[0] @ covariances[1] + 1e-12 * np.eye(64)).real
    assert result["frechet"] == pytest.approx(
        shift @ shift + np.trace(sum(covariances)) - 2 * np.trace(root), rel=1e-4
    )
    assert result["label_top1"] == pytest.approx(100 * np.mean(softmax.argmax(1) == labels))
    assert result["entropy"] == pytest.approx(-(softmax * np.log(softmax)).sum(1).mean(), rel=1e-5)
    sample = real_features[sample_indices(330, 200)]  # as many as there are generated images
    assert result["precision"] == pytest.approx(nearest_by_hand(features, sample, 3))
    assert result["recall"] == pytest.approx(nearest_by_hand(sample, features, 3))
    assert 0 < result["precision"] < 1 and (result["neighbours"], result["neighbour_images"]) == (
        3,
        200,
    )
    assert result["real"] == {
        "source": "fashion_mnist (train)",
        "images": 330,
        "label_top1": pytest.approx(100 * np.mean(real_softmax.argmax(1) == real[1])),
        "entropy": pytest.approx(-(real_softmax * np.log(real_softmax)).sum(1).mean(), rel=1e-5),
    }
    assert (result["images"], result["dimension"], result["settings"]) == (200, 64, settings)
    assert result["teacher"]["name"] == "resnet8" and len(result["teacher"]["sha256"]) == 64
    assert list(result["teacher"]["mean"]) == [0.2190] * 3

    file = folder / "fidelity_fashion_mnist_resnet8.json"
    written = json.loads(file.read_text())
    assert written == json.loads(json.dumps(result)) and written["schema"] == 1
    output = capsys.readouterr().out
    for figure in (
        f"{result['frechet']:.4f}",
        f"{result['precision']:.4f}",
        f"{result['label_top1']:.2f}",
        str(file),
    ):
        assert figure in output
    # The folder is still an ImageFolder of as many images.
    from torchvision.datasets import ImageFolder

    assert len(ImageFolder(folder)) == 200
    assert evaluate_images.main([*data, "--images", str(folder)])[0]["images"] == 200


def test_figures_do_not_depend_on_batches_and_processes(
    workspace, small_minimum, data, tiny_image_folder, monkeypatch
):
    monkeypatch.setattr(fidelity, "NEIGHBOUR_IMAGES", 150)
    argv = [*data, "--images", str(tiny_image_folder), "--out"]
    whole = evaluate_images.main([*argv, "one.json", "--batch_size", "400"])[0]
    pieces = evaluate_images.main([*argv, "pieces.json", "--batch_size", "14"])[0]
    (workspace / "two.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        "import evaluate_images\nfrom report import fidelity\n"
        "fidelity.LEAST_FRECHET_IMAGES = fidelity.LEAST_NEIGHBOUR_IMAGES = "
        "100\nfidelity.NEIGHBOUR_IMAGES = 150\n"
        f"evaluate_images.main({[*argv, 'two.json', '--batch_size', '14']!r})\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "two.py",
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Fréchet distance") == 1  # only rank 0 prints
    two = json.loads(Path("two.json").read_text())
    assert whole["neighbour_images"] == 150
    for other in (pieces, two):
        for name in ("frechet", "precision", "recall", "entropy", "label_top1"):
            assert other[name] == pytest.approx(whole[name], rel=1e-5), name
        assert other["real"]["entropy"] == pytest.approx(whole["real"]["entropy"], rel=1e-6)


def test_real_images_are_read_once_for_several_sets(
    workspace, small_minimum, data, tiny_image_folder, monkeypatch
):
    pixels, labels = generated_pixels(tiny_image_folder)
    write_images(workspace / "plain", pixels)
    inverted = workspace / "inverted.txt"
    for label in range(10):
        write_images(workspace / f"pictures/{label}", 255 - pixels[np.array(labels) == label])
    files = sorted((workspace / "pictures").glob("*/*"))
    inverted.write_text("".join(f"{path} {path.parent.name}\n" for path in files))
    titles, classifier_outputs = [], fidelity.classifier_outputs
    monkeypatch.setattr(
        fidelity,
        "classifier_outputs",
        lambda *args: titles.append(args[-1]) or classifier_outputs(*args),
    )
    plain, other = evaluate_images.main([*data, "--images", "plain", "inverted.txt"])
    assert titles == ["fashion_mnist (train)", "plain", "inverted.txt"]
    # Without labels there is no accuracy; the rest equals that of the same images with labels.
    labelled = evaluate_images.main(
        [*data, "--images", str(tiny_image_folder), "--out", "labelled.json"]
    )[0]
    assert plain["label_top1"] is None and labelled["label_top1"] is not None
    assert plain["frechet"] == pytest.approx(labelled["frechet"], rel=1e-6)
    assert other["frechet"] > 2 * plain["frechet"] and other["label_top1"] is not None
    assert (
        json.loads(Path("inverted_fidelity_fashion_mnist_resnet8.json").read_text())["frechet"]
        == other["frechet"]
    )
    argv = [*data, "--images", str(tiny_image_folder), "--ignore_labels", "--out", "ignoring.json"]
    ignoring = evaluate_images.main(argv)[0]
    assert ignoring["label_top1"] is None and ignoring["entropy"] == pytest.approx(
        labelled["entropy"]
    )


def test_real_images_of_a_path_or_split(workspace, small_minimum, data, tiny_image_folder):
    """A set compared with itself has distance 0, precision 1 and recall 1."""
    argv = [*data, "--images", str(tiny_image_folder), "--out", "new/out.json", "--real"]
    itself = evaluate_images.main([*argv, str(tiny_image_folder)])[0]
    assert (
        itself["frechet"] == pytest.approx(0, abs=1e-6)
        and itself["precision"] == itself["recall"] == 1
    )
    assert itself["real"]["images"] == 200 and itself["real"]["label_top1"] is None
    assert Path("new/out.json").is_file()
    assert evaluate_images.main([*argv, "test"])[0]["real"]["images"] == 203
    with pytest.raises(
        UserError,
        match=r"fashion_mnist \(holdout\) holds 30 images, too few for the Fréchet distance",
    ):
        evaluate_images.main([*argv, "holdout"])
    part = evaluate_images.main([*argv, "test", "--data_amount", "130", "--neighbours", "5"])[0]
    assert (part["images"], part["neighbour_images"], part["neighbours"]) == (130, 130, 5)


def test_bf16_is_close(workspace, small_minimum, data, tiny_image_folder):
    argv = [*data, "--images", str(tiny_image_folder), "--out", "out.json"]
    exact, rough = (evaluate_images.main([*argv, "--amp", amp])[0] for amp in ("off", "bf16"))
    assert rough["entropy"] != exact["entropy"]
    assert rough["entropy"] == pytest.approx(exact["entropy"], rel=0.02)
    assert rough["frechet"] == pytest.approx(exact["frechet"], rel=0.05)


def test_too_few_images_are_refused_by_name_and_number(workspace, data, tiny_image_folder, capsys):
    argv = [*data, "--images", str(tiny_image_folder), "--out", "out.json"]
    with pytest.raises(
        UserError,
        match="330 images, too few for the Fréchet distance.* 2048 .*--skip frechet",
    ):
        evaluate_images.main(argv)
    with pytest.raises(
        UserError,
        match="330 images, too few for precision and recall.* 1000 .*--skip precision_recall",
    ):
        evaluate_images.main([*argv, "--skip", "frechet"])
    assert not Path("out.json").exists()
    # Without these measures no real images are needed.
    argv[argv.index("--data_root") + 1] = "nowhere"
    result = evaluate_images.main([*argv, "--skip", "frechet", "precision_recall"])[0]
    assert result["frechet"] is None and result["precision"] is None and result["real"] is None
    assert 0 <= result["label_top1"] <= 100 and 0 < result["entropy"] < np.log(10)
    assert "Fréchet" not in capsys.readouterr().out


def test_the_minimum_grows_with_the_features():
    assert [fidelity.least_frechet_images(features) for features in (64, 1024, 1025, 2048)] == [
        2048,
        2048,
        2050,
        4096,
    ]


def test_more_neighbours_need_more_images(workspace, small_minimum, data, tiny_image_folder):
    with pytest.raises(UserError, match="200 images, too few for precision and recall.* 201 "):
        evaluate_images.main([*data, "--images", str(tiny_image_folder), "--neighbours", "200"])


def test_outputs_that_are_not_finite_are_refused(
    workspace, small_minimum, data, teacher, tiny_image_folder, tmp_path
):
    state = {name: value.clone() for name, value in teacher[1].state_dict().items()}
    state["fc.bias"][3] = float("nan")
    broken = tmp_path / "resnet8" / "broken.pth"
    broken.parent.mkdir()
    checkpoints.save(broken, {"model": state})
    argv = [*data, "--path-t", str(broken), "--images", str(tiny_image_folder), "--out", "out.json"]
    with pytest.raises(UserError, match="not all finite"):
        evaluate_images.main(argv)
    assert not Path("out.json").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (["--images", "a", "b", "--out", "c.json"], "--out .*--images has 2"),
        (
            ["--images", "nowhere", "--skip", "frechet", "precision_recall"],
            "images not found: nowhere",
        ),
        (["--images", "a", "--real", "nowhere"], "images not found: nowhere"),
        (
            ["--images", "a", "--inception", "weights.pth"],
            "torch-fidelity, which is not installed: pip install",
        ),
    ],
)
def test_wrong_input(workspace, data, change, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        evaluate_images.main([*data, *change])
    with pytest.raises(UserError, match="--path-t"):
        evaluate_images.main(["--images", "a"])


@pytest.fixture
def torch_fidelity(monkeypatch):
    """A replacement of torch-fidelity that records its arguments and returns three figures."""
    calls = []

    def calculate_metrics(**arguments):
        calls.append(arguments)
        return {
            "frechet_inception_distance": 12.5,
            "inception_score_mean": 3.25,
            "inception_score_std": 0.5,
        }

    module = types.ModuleType("torch_fidelity")
    module.calculate_metrics = calculate_metrics
    module.__spec__ = types.SimpleNamespace(name="torch_fidelity")
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    return calls


def test_inception_gets_both_sets(
    workspace, small_minimum, data, tiny_image_folder, torch_fidelity, monkeypatch, capsys
):
    from report import inception

    monkeypatch.setattr(inception, "FEATURES", 64)
    monkeypatch.setattr(evaluate_images, "FEATURES", 64)
    checkpoints.save("weights.pth", {"fc.weight": torch.zeros(1008, 64)})
    argv = [
        *data,
        "--images",
        str(tiny_image_folder),
        "--out",
        "out.json",
        "--inception",
        "weights.pth",
    ]
    result = evaluate_images.main(argv)[0]
    (arguments,) = torch_fidelity
    assert (
        arguments["isc"] and arguments["fid"] and not arguments["cuda"] and not arguments["cache"]
    )
    assert arguments["feature_extractor_weights_path"] == "weights.pth"
    first, second = arguments["input1"], arguments["input2"]
    assert isinstance(first, torch.utils.data.Dataset) and (len(first), len(second)) == (200, 330)
    pixels, _ = generated_pixels(tiny_image_folder)
    assert first[5].dtype == second[0].dtype == torch.uint8 and second[0].shape == (3, 32, 32)
    for index in (0, 5, 199):
        np.testing.assert_array_equal(first[index], np.stack([pixels[index]] * 3))
    assert (result["inception_fid"], result["inception_score"], result["inception_score_std"]) == (
        12.5,
        3.25,
        0.5,
    )
    assert json.loads(Path("out.json").read_text())["inception_fid"] == 12.5
    assert "Inception FID" in capsys.readouterr().out


def test_inception_crops_real_images_and_resizes_them_to_the_generated_size(tmp_path):
    from dataset.image_set import ImageSet

    wide = np.zeros((48, 80, 3), np.uint8)
    wide[:, 16:64] = 200  # the square in its middle
    assert (SquareImages(ImageSet(wide[None], None), 24)[0] == 200).all()


def test_other_files_and_code_are_refused_as_inception_weights(
    workspace, small_minimum, data, tiny_image_folder, torch_fidelity
):
    argv = [*data, "--images", str(tiny_image_folder), "--inception", "weights.pth"]
    checkpoints.save("weights.pth", {"fc.weight": torch.zeros(10, 64)})
    with pytest.raises(UserError, match="does not hold torch-fidelity's Inception network"):
        evaluate_images.main(argv)
    torch.save(
        {"fc.weight": torch.zeros(1008, 2048), "code": types.SimpleNamespace(a=1)}, "weights.pth"
    )
    with pytest.raises(UserError, match="code"):
        evaluate_images.main(argv)
    checkpoints.save("weights.pth", {"fc.weight": torch.zeros(1008, 2048)})
    with pytest.raises(
        UserError, match="330 images, too few for Inception's FID.* 4096 .*--inception"
    ):
        evaluate_images.main(argv)
    assert torch_fidelity == []
