"""Real sets, image folders and lists, transforms, and the order in which images reach the networks."""

import argparse
import math

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import fashion_mnist, folders, loader, real, transforms
from dataset.image_set import ImageSet, average_channels, decode
from helper.errors import UserError


def random_set(count=23, size=32, seed=0):
    """An ImageSet in memory whose labels number its images."""
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    return ImageSet(images, np.arange(count), [str(i) for i in range(count)])


def seen(batches):
    """Returns [(labels, pixels as bytes)] a batch."""
    return [(labels.tolist(), images.numpy().tobytes()) for images, labels in batches]


def by_image(batches):
    """Returns {label: pixels as bytes}; no image may come twice."""
    pairs = [(int(label), image.numpy().tobytes()) for images, labels in batches
             for image, label in zip(images, labels, strict=True)]
    assert len({label for label, _ in pairs}) == len(pairs)
    return dict(pairs)


def make(images=None, batch_size=8, size=32, **settings):
    return loader.Loader(images or random_set(), transforms.training(size), batch_size, **{"workers": 0, **settings})


# Order, crop and flip


def test_an_epoch_is_a_function_of_seed_and_epoch():
    first = seen(make(seed=3).epoch_batches(5))
    assert seen(make(seed=3).epoch_batches(5)) == first
    again = make(seed=3)
    list(again.epoch_batches(0))
    torch.manual_seed(99)
    np.random.seed(99)
    assert seen(again.epoch_batches(5)) == first  # nothing is left over from other epochs or global generators
    assert seen(make(seed=4).epoch_batches(5)) != first and seen(again.epoch_batches(6)) != first
    orders = [sum((labels for labels, _ in seen(make(seed=3).epoch_batches(epoch))), []) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    assert len({frozenset(order) for order in orders}) > 1  # not the same images are dropped every time


def test_order_is_independent_of_workers(tmp_path):
    paths = write_images(tmp_path, [f"{i}.png" for i in range(23)])
    images = ImageSet(paths, np.arange(23))
    alone = seen(make(images).epoch_batches(2))
    assert seen(make(images, workers=2).epoch_batches(2)) == alone
    assert seen(make(images, workers=1).epoch_batches(2)) == alone
    assert seen(make(images, workers=2).ordered_batches()) == seen(make(images).ordered_batches())


def test_crop_and_flip_are_independent_of_the_place_in_the_batch():
    reference = by_image(make(batch_size=1, seed=1).epoch_batches(3))
    assert len(reference) == 23
    for settings in ({"batch_size": 8}, {"batch_size": 5}, {"batch_size": 8, "world_size": 2, "rank": 1}):
        found = by_image(make(seed=1, **settings).epoch_batches(3))
        assert len(found) >= 8 and found.items() <= reference.items()
    other = by_image(make(batch_size=1, seed=1).epoch_batches(4))
    assert sum(other[label] == reference[label] for label in reference) <= 3  # each epoch crops anew


def test_an_epoch_goes_on_from_any_step():
    whole = seen(make().epoch_batches(1))
    assert len(whole) == len(make()) == 2
    for step in range(3):
        assert seen(make().epoch_batches(1, step)) == whole[step:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_sees(world_size):
    one = list(make(batch_size=8, seed=2).epoch_batches(0))
    ranks = [list(make(batch_size=8, seed=2, rank=rank, world_size=world_size).epoch_batches(0))
             for rank in range(world_size)]
    for step, (images, labels) in enumerate(one):
        shares = [rank[step] for rank in ranks]
        assert {len(share[1]) for share in shares} == {8 // world_size}
        assert torch.equal(torch.cat([share[1] for share in shares]), labels)
        assert torch.equal(torch.cat([share[0] for share in shares]), images)


def test_the_last_incomplete_batch_is_dropped():
    for count, batch_size, steps in ((23, 8, 2), (24, 8, 3), (7, 8, 1), (8, 8, 1)):
        batches = seen(make(random_set(count), batch_size).epoch_batches(0))
        assert len(batches) == len(make(random_set(count), batch_size)) == steps
        assert {len(labels) for labels, _ in batches} == {min(count, batch_size)}
    # A set smaller than a batch: what two processes can share of it.
    assert [len(make(random_set(7), 8, rank=r, world_size=2).epoch_batches(0).__next__()[1]) for r in (0, 1)] == [3, 3]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [23, 24, 5])
def test_validation_counts_every_image_once(world_size, count):
    images = random_set(count)
    labels = []
    for rank in range(world_size):
        val = loader.Loader(images, transforms.validation(32), 6, rank=rank, world_size=world_size, workers=0)
        for batch, targets in val.ordered_batches():
            assert torch.equal(batch, torch.from_numpy(images.images[targets.numpy()]))  # as it is
            labels += targets.tolist()
    assert sorted(labels) == list(range(count))


def test_sharing_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="--batch_size 9 cannot be shared among 2"):
        make(batch_size=9, world_size=2)
    with pytest.raises(UserError, match="too few for 4"):
        make(random_set(3), world_size=4)
    with pytest.raises(UserError, match="--batch_size 9 cannot be shared among 2"):
        loader.TensorLoader(torch.zeros(20, 2), batch_size=9, seed=0, world_size=2)


def test_tensor_batches_follow_the_same_order():
    tensors = torch.arange(23), torch.arange(23) * 10
    batches = list(loader.TensorLoader(*tensors, batch_size=8, seed=3).epoch_batches(2))
    assert [first.tolist() for first, _ in batches] == [labels for labels, _ in seen(make(seed=3).epoch_batches(2))]
    assert all(torch.equal(10 * first, second) for first, second in batches)


# Transforms


def test_small_crop_and_flip():
    images = ImageSet(np.broadcast_to(np.arange(1, 33, dtype=np.uint8)[None, None, :, None] +
                                      np.zeros((400, 32, 1, 3), np.uint8), (400, 32, 32, 3)).copy(), np.arange(400))
    (batch, _), = make(images, 400).epoch_batches(0)
    shifts, flips = [], 0
    for image in batch.numpy():
        row = image[16, :, 0].astype(int)  # the column numbers of the original, 0 in the padding
        kept = row[row > 0]
        flips += kept[0] > kept[-1]
        straight = row[::-1] if kept[0] > kept[-1] else row
        shift = int(straight[16]) - 17
        expected = np.arange(1, 33) + shift
        assert np.array_equal(straight, np.where((expected >= 1) & (expected <= 32), expected, 0))
        shifts.append(shift)
    assert set(shifts) == set(range(-4, 5))  # padding of an eighth
    assert 150 < flips < 250


def test_small_validation_is_the_image_and_large_images_are_shrunk():
    image = Image.fromarray(random_set(1).images[0])
    assert np.array_equal(transforms.validation(32)(transforms.validation(32).shrink(image), None), image)
    big = Image.fromarray(np.full((256, 200, 3), 77, np.uint8))
    assert transforms.training(32).shrink(big).size == (32, 32)
    assert (np.asarray(transforms.training(32).shrink(big)) == 77).all()


@pytest.mark.parametrize("width, height", [(256, 256), (100, 300), (300, 100), (37, 41), (1000, 3), (1, 1)])
def test_large_crop_box(width, height):
    large, rng, areas = transforms.training(224), np.random.default_rng(0), []
    for _ in range(500):
        left, top, right, bottom = large.crop_box(width, height, rng)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        areas.append((right - left) * (bottom - top) / (width * height))
        if min(width, height) > 90:
            assert 0.72 < (right - left) / (bottom - top) < 1.4
    if width == height == 256:
        assert 0.078 < min(areas) < 0.15 and 0.9 < max(areas) <= 1 and np.mean(areas) == pytest.approx(0.5, abs=0.06)


def test_large_transforms():
    gradient = np.zeros((300, 400, 3), np.uint8)
    gradient[..., 0] = np.linspace(0, 255, 400)[None]
    gradient[..., 1] = np.linspace(0, 255, 300)[:, None]
    image = Image.fromarray(gradient)
    train, flips = transforms.training(224), 0
    for seed in range(40):
        crop = np.asarray(train(train.shrink(image), np.random.default_rng(seed))).astype(int)
        assert crop.shape == (224, 224, 3)
        assert crop[-1, 0, 1] > crop[0, 0, 1]  # never upside down
        flips += crop[0, -1, 0] < crop[0, 0, 0]
    assert 8 < flips < 32
    val = transforms.validation(224)
    centre = np.asarray(val(val.shrink(image), None)).astype(float)
    assert centre.shape == (224, 224, 3)
    # The shorter side is 256 and the centre is kept: the colours at its corners follow.
    for row, column in ((0, 0), (0, 223), (223, 0), (223, 223)):
        x, y = (column + 0.5 - 112) / (256 / 300) + 200, (row + 0.5 - 112) / (256 / 300) + 150
        assert centre[row, column, 0] == pytest.approx(255 * x / 400, abs=2)
        assert centre[row, column, 1] == pytest.approx(255 * y / 300, abs=2)
    assert np.asarray(val.shrink(Image.new("RGB", (17, 900)))).shape == (224, 224, 3)


# Folders and lists


def write_images(folder, names, size=32):
    """Writes noise images and returns their paths."""
    rng = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3)).astype(np.uint8)).save(folder / name)
    return [str(folder / name) for name in names]


def names_of(images):
    return [path.rpartition("/")[2] for path in images.images]


def test_class_folders_by_number_and_by_name(tmp_path):
    write_images(tmp_path / "numbers", ["0007/00000.png", "0002/00001.png", "0002/00000.jpg"])
    (tmp_path / "numbers/contact_sheet.png").write_bytes(b"not one of the images")
    images = folders.read_training(tmp_path / "numbers", 10)
    assert names_of(images) == ["00000.jpg", "00001.png", "00000.png"] and images.labels.tolist() == [2, 2, 7]
    write_images(tmp_path / "names", ["zebra/a.png", "ant/c.png", "cat/b.png", "ant/b.png", ".hidden/x.png"])
    images = folders.read_training(tmp_path / "names", 3)
    assert names_of(images) == ["b.png", "c.png", "b.png", "a.png"] and images.labels.tolist() == [0, 0, 1, 2]
    with pytest.raises(UserError, match="class 7 and there are 5 classes"):
        folders.read_training(tmp_path / "numbers", 5)


def test_unlabelled_folders_at_any_depth(tmp_path):
    write_images(tmp_path, ["a.png", "shard_b/c.png", "shard_a/deep/er/b.png", "shard_a/d.jpeg"])
    (tmp_path / "contact_sheet.png").write_bytes(b"not one of the images")
    (tmp_path / "shard_a/notes.txt").write_text("nor this")
    images = folders.read_training(tmp_path, 10)
    assert images.labels is None and sorted(names_of(images)) == ["a.png", "b.png", "c.png", "d.jpeg"]
    assert images.label(0) == -1
    three = folders.read_training(tmp_path, 10, amount=3)
    assert set(three.images) < set(images.images) and len(three) == 3


def test_numbered_shards_of_an_unlabelled_set_are_no_classes(tmp_path):
    write_images(tmp_path, ["0000/00000.png", "0001/00000.png"])
    assert folders.read_training(tmp_path, 10).labels.tolist() == [0, 1]
    (tmp_path / "manifest.json").write_text('{"complete": true, "labelled": false}')
    assert folders.read_training(tmp_path, 10).labels is None


def test_training_and_validation_have_the_same_classes():
    def named(*names):
        return ImageSet([], None, list(names))

    options = argparse.Namespace(dataset="imagefolder")
    real.check_classes(named("cat", "dog"), named("cat", "dog"), options)
    real.check_classes(named("cat", "dog"), named("0", "1"), options)  # a list has no names
    with pytest.raises(UserError, match="training class dog stands where validation has cow"):
        real.check_classes(named("cat", "dog"), named("cat", "cow"), options)
    with pytest.raises(UserError, match="2 training classes and 3 validation classes"):
        real.check_classes(named("cat", "dog"), named("0", "1", "2"), options)


def test_released_names_flat_and_in_lists(tmp_path, monkeypatch):
    names = [f"class_{c}_seed_{s}_num_{n}.png" for c in (0, 1, 11) for s in (0, 2, 10) for n in (0, 1)]
    write_images(tmp_path / "flat", names)
    flat = folders.read_training(tmp_path / "flat", 12)
    assert sorted(names_of(flat)) == sorted(names) and sorted(set(flat.labels.tolist())) == [0, 1, 11]
    assert all(f"class_{label}_" in path for path, label in zip(flat.images, flat.labels, strict=True))
    prefix = folders.read_training(tmp_path / "flat", 12, amount=10)  # (seed, num) are numbers: 2 comes before 10
    assert names_of(prefix) == [f"class_{c}_seed_{s}_num_{n}.png" for c, count in ((0, 4), (1, 3), (11, 3))
                                for s, n in [(0, 0), (0, 1), (2, 0), (2, 1)][:count]]
    # A list: relative to the working directory first, then to the list.
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/s2_st100_1k.txt").write_text("".join(f"flat/{name}\n\n" for name in names))
    monkeypatch.chdir(tmp_path)
    listed = folders.read_training("lists/s2_st100_1k.txt", 12)
    assert sorted(names_of(listed)) == sorted(names) and listed.labels.tolist() == flat.labels.tolist()
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match=r"line 1: image not found: flat/class_0_seed_0_num_0.png"):
        folders.read_training(tmp_path / "lists/s2_st100_1k.txt", 12)
    (tmp_path / "beside.txt").write_text("".join(f"flat/{name}\n" for name in names))
    assert len(folders.read_training(tmp_path / "beside.txt", 12)) == len(names)
    assert str(folders.find_released_list(2.0, 100, 200_000)) == "syn_dataset/s2_st100_200k.txt"
    assert str(folders.find_released_list(1.5, 250, 1_234)) == "syn_dataset/s1.5_st250_1234.txt"


def test_lists_of_path_and_label(tmp_path):
    write_images(tmp_path, ["one.png", "with space.png", "three.png"])
    (tmp_path / "list.txt").write_text("with space.png 4\none.png 2\n three.png  4 \n")
    images = folders.read_training(tmp_path / "list.txt", 5)
    assert dict(zip(names_of(images), images.labels.tolist(), strict=True)) == \
        {"one.png": 2, "with space.png": 4, "three.png": 4}
    validation = folders.read_validation(tmp_path / "list.txt", 5)
    assert names_of(validation) == ["with space.png", "one.png", "three.png"]  # in the list's order
    (tmp_path / "plain.txt").write_text("one.png\nthree.png\n")
    assert folders.read_training(tmp_path / "plain.txt", 5).labels is None
    (tmp_path / "mixed.txt").write_text("one.png 2\nthree.png\n")
    with pytest.raises(UserError, match="line 2 has none"):
        folders.read_training(tmp_path / "mixed.txt", 5)


def test_a_larger_amount_contains_every_smaller(tmp_path):
    write_images(tmp_path, [f"{c:04d}/{i:05d}.png" for c in range(3) for i in range(5)], size=4)
    previous = set()
    for amount in range(1, 16):
        images = folders.read_training(tmp_path, 3, amount)
        counts = np.bincount(images.labels, minlength=3)
        assert len(images) == amount and previous < set(images.images)
        assert counts.tolist() == [amount // 3 + (c < amount % 3) for c in range(3)]
        previous = set(images.images)
    assert set(folders.read_training(tmp_path, 3).images) == previous
    for amount in (16, 14, 1000):
        if amount == 14:
            (tmp_path / "0001/00004.png").unlink()
        with pytest.raises(UserError, match=f"--data_amount {amount} needs .* in class"):
            folders.read_training(tmp_path, 3, amount)


def test_validation_folders(tmp_path):
    write_images(tmp_path / "val", [f"{name}/{i}.png" for name in ("b", "a", "c") for i in range(2)])
    images = folders.read_validation(tmp_path / "val", None)
    assert images.class_names == ["a", "b", "c"] and images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match="3 class folders and the data set has 10"):
        folders.read_validation(tmp_path / "val", 10)
    # Class folders that are numbers count as numbers: 2 before 10.
    write_images(tmp_path / "numbers", [f"{c}/0.png" for c in range(11)], size=4)
    images = folders.read_validation(tmp_path / "numbers", 11)
    assert [int(path.split("/")[-2]) for path in images.images] == images.labels.tolist() == list(range(11))


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    for read in (folders.read_training, folders.read_validation):
        with pytest.raises(UserError, match="not found"):
            read(tmp_path / "absent", 3)
        with pytest.raises(UserError, match="no .*images in"):
            read(tmp_path / "empty", 3)
        with pytest.raises(UserError, match="not a text file"):
            read(tmp_path / "binary.txt", 3)
    write_images(tmp_path, ["x.png"])
    (tmp_path / "list.txt").write_text("x.png 0\nabsent/y.png 1\n")
    with pytest.raises(UserError, match=r"list.txt, line 2: image not found: absent/y.png"):
        folders.read_training(tmp_path / "list.txt", 3)


# Decoding


def test_grey_is_the_rounded_mean_of_the_channels(tmp_path):
    pixels = random_set(1, 16).images[0]
    expected = np.floor(pixels.astype(float).mean(axis=2) + 0.5)
    averaged = np.asarray(average_channels(Image.fromarray(pixels)))
    assert np.array_equal(averaged, np.repeat(expected[..., None], 3, axis=2))
    Image.fromarray(pixels).save(tmp_path / "x.png")
    grey = ImageSet([str(tmp_path / "x.png")], np.zeros(1, np.int64), grey=True)
    assert np.array_equal(np.asarray(grey.load(0))[..., 1], expected)
    kept = loader.keep_in_memory(grey, transforms.training(16).shrink)
    assert np.array_equal(np.asarray(kept.load(0))[..., 2], expected)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "l.png")
    assert np.asarray(decode(tmp_path / "l.png")).shape == (16, 16, 3)


def test_large_files_are_shrunk_once_in_memory(tmp_path, monkeypatch):
    images = ImageSet(write_images(tmp_path, [f"{i}.png" for i in range(6)], size=256), np.arange(6))
    shrink = transforms.training(32).shrink
    expected = by_image(make(images, 6).epoch_batches(0))
    decoded = []
    monkeypatch.setattr("dataset.image_set.decode", lambda path: decoded.append(path) or decode(path))
    kept = loader.keep_in_memory(images, shrink)
    assert kept.in_memory and kept.images.shape == (6, 32, 32, 3) and len(decoded) <= 7
    read = len(decoded)
    assert by_image(make(kept, 6).epoch_batches(0)) == expected
    by_image(make(kept, 6).epoch_batches(1))
    assert len(decoded) == read  # never again
    assert loader.keep_in_memory(images, shrink, limit=6 * 32 * 32 * 3 - 1) is images  # too large
    assert loader.keep_in_memory(kept, shrink) is kept


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_image_stops_at_its_first_decoding(tmp_path, workers):
    paths = write_images(tmp_path, [f"{i:02d}.png" for i in range(12)], size=96)
    damaged = tmp_path / "07.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    images = ImageSet(paths, np.arange(12))
    order = [label for step in loader.Batches(12, 3).indices(0) for label in step]
    batches, read = make(images, 3, size=96, workers=workers).epoch_batches(0), []
    with pytest.raises(UserError, match="damaged image .*07.png"):
        for _, labels in batches:
            read += labels.tolist()
    assert read == order[:order.index(7) // 3 * 3]  # all batches before its own were trained on
    if not workers:
        with pytest.raises(UserError, match="damaged image .*07.png"):
            loader.keep_in_memory(images, transforms.training(32).shrink)
        with pytest.raises(UserError, match="image not found: absent.png"):
            decode("absent.png")
        (tmp_path / "text.png").write_text("no image")
        with pytest.raises(UserError, match="damaged image .*text.png"):
            decode(tmp_path / "text.png")


# Fashion-MNIST


def raw(root, name):
    content = (fashion_mnist.folder(root) / name).read_bytes()
    return np.frombuffer(content, np.uint8, offset=16 if "images" in name else 8)


def test_fashion_mnist_splits_and_padding(tiny_fashion_mnist):
    sets = {split: fashion_mnist.load(tiny_fashion_mnist, split) for split in ("train", "holdout", "test")}
    assert {split: len(images) for split, images in sets.items()} == {"train": 330, "holdout": 30, "test": 203}
    labels = raw(tiny_fashion_mnist, "train-labels-idx1-ubyte")
    assert sets["train"].labels.tolist() == labels[:330].tolist()
    assert sets["holdout"].labels.tolist() == labels[330:].tolist()  # the last twelfth
    pixels = raw(tiny_fashion_mnist, "train-images-idx3-ubyte").reshape(360, 28, 28)
    assert np.array_equal(sets["train"].images[:, 2:30, 2:30, 1], pixels[:330])
    assert np.array_equal(sets["holdout"].images[:, 2:30, 2:30, 0], pixels[330:])
    for images in sets.values():
        array = images.images
        assert array.shape[1:] == (32, 32, 3) and (array == array[..., :1]).all() and images.grey
        assert array.sum() == array[:, 2:30, 2:30].sum()  # zeros around
        assert len(images.class_names) == 10
    trained = {image.tobytes() for image in sets["train"].images}
    assert not any(image.tobytes() in trained for image in sets["holdout"].images)
    # Of the real set's 60,000, that share is the 5,000 from 55,000 on.
    assert 60_000 // fashion_mnist.HOLDOUT_SHARE == 5_000


def test_fashion_mnist_that_is_not_there(tiny_fashion_mnist, tmp_path):
    with pytest.raises(UserError, match="python -m dataset.fashion_mnist --root"):
        fashion_mnist.load(tmp_path, "test")
    target = fashion_mnist.folder(tmp_path)
    target.mkdir(parents=True)
    for name in fashion_mnist.FILES:
        content = (fashion_mnist.folder(tiny_fashion_mnist) / name).read_bytes()
        (target / name).write_bytes(content[:-1] if name.startswith("t10k-images") else content)
    assert not fashion_mnist.is_complete(tmp_path)
    with pytest.raises(UserError, match="python -m dataset.fashion_mnist --root"):  # cut short
        fashion_mnist.load(tmp_path, "test")


def test_statistics_are_those_of_the_padded_images():
    """The real set's, known from its files: only their relation to the unpadded ones can be checked without them."""
    mean, std = 0.2860, 0.3530  # of the 28×28 training images, as published
    share = (28 / 32) ** 2
    padded = mean * share, math.sqrt((std**2 + mean**2) * share - (mean * share) ** 2)
    info = real.REAL_SETS["fashion_mnist"]
    assert info.mean == (pytest.approx(padded[0], abs=2e-4),) * 3
    assert info.std == (pytest.approx(padded[1], abs=2e-4),) * 3


def test_holdout_is_never_in_train(tiny_fashion_mnist):
    from helper.options import Parser

    parser = Parser("")
    real.add_flags(parser)
    options = parser.parse_args(["--dataset", "fashion_mnist", "--data_root", str(tiny_fashion_mnist),
                                 "--val_split", "holdout"])
    train, val = real.load_split(options, "train"), real.load_validation(options)
    assert len(val) == 30 and val.origin["split"] == "holdout"
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in val.images}
    real.check_classes(train, val, options)
