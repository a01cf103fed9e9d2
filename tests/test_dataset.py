"""Real data sets, image folders and lists, transforms, and the order of the batches."""

import errno
import gzip
import hashlib
import math
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import fashion_mnist, folders, lists, loader, real, transforms
from dataset.image_set import ImageSet, average_channels, decode
from dataset.paths import Paths
from helper.distributed import World
from helper.errors import UserError, describe_os_error
from helper.options import Parser
from tools import fashion_mnist as fashion_mnist_tool


def random_set(count=23, size=32, seed=0):
    """An ImageSet in memory; the label of an image is its index."""
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    return ImageSet(images, np.arange(count), [str(i) for i in range(count)])


def contents(batches):
    """[(labels, pixels as bytes)] of the batches."""
    return [(labels.tolist(), images.numpy().tobytes()) for images, labels in batches]


def by_image(batches):
    """{label: pixels as bytes}; checks that no image appears twice."""
    pairs = [
        (int(label), image.numpy().tobytes())
        for images, labels in batches
        for image, label in zip(images, labels, strict=True)
    ]
    assert len({label for label, _ in pairs}) == len(pairs)
    return dict(pairs)


def make(images=None, batch_size=8, size=32, **settings):
    return loader.Loader(
        images or random_set(), transforms.training(size), batch_size, **{"workers": 0, **settings}
    )


# Order, crop and flip


def test_an_epoch_is_a_function_of_seed_and_epoch():
    first = contents(make(seed=3).epoch_batches(5))
    assert contents(make(seed=3).epoch_batches(5)) == first
    again = make(seed=3)
    list(again.epoch_batches(0))
    torch.manual_seed(99)
    np.random.seed(99)
    # Neither other epochs nor global generators have an influence.
    assert contents(again.epoch_batches(5)) == first
    assert (
        contents(make(seed=4).epoch_batches(5)) != first
        and contents(again.epoch_batches(6)) != first
    )
    orders = [
        sum((labels for labels, _ in contents(make(seed=3).epoch_batches(epoch))), [])
        for epoch in range(4)
    ]
    assert len({tuple(order) for order in orders}) == 4
    # The dropped images vary.
    assert len({frozenset(order) for order in orders}) > 1


def test_order_is_independent_of_workers(tmp_path):
    paths = write_images(tmp_path, [f"{i}.png" for i in range(23)])
    images = ImageSet(paths, np.arange(23))
    alone = contents(make(images).epoch_batches(2))
    assert contents(make(images, workers=2).epoch_batches(2)) == alone
    assert contents(make(images, workers=1).epoch_batches(2)) == alone
    assert contents(make(images, workers=2).ordered_batches()) == contents(
        make(images).ordered_batches()
    )


def test_crop_and_flip_are_independent_of_the_place_in_the_batch():
    reference = by_image(make(batch_size=1, seed=1).epoch_batches(3))
    assert len(reference) == 23
    for settings in (
        {"batch_size": 8},
        {"batch_size": 5},
        {"batch_size": 8, "world_size": 2, "rank": 1},
    ):
        found = by_image(make(seed=1, **settings).epoch_batches(3))
        assert len(found) >= 8 and found.items() <= reference.items()
    other = by_image(make(batch_size=1, seed=1).epoch_batches(4))
    # Each epoch has other crops.
    assert sum(other[label] == reference[label] for label in reference) <= 3


def test_an_epoch_continues_from_any_step():
    whole = contents(make().epoch_batches(1))
    assert len(whole) == len(make()) == 2
    for step in range(3):
        assert contents(make().epoch_batches(1, step)) == whole[step:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_batches_of_the_ranks_form_those_of_one_process(world_size):
    one = list(make(batch_size=8, seed=2).epoch_batches(0))
    ranks = [
        list(make(batch_size=8, seed=2, rank=rank, world_size=world_size).epoch_batches(0))
        for rank in range(world_size)
    ]
    for step, (images, labels) in enumerate(one):
        parts = [rank[step] for rank in ranks]
        assert {len(part[1]) for part in parts} == {8 // world_size}
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)
        assert torch.equal(torch.cat([part[0] for part in parts]), images)


def test_the_last_incomplete_batch_is_dropped():
    for count, batch_size, steps in ((23, 8, 2), (24, 8, 3), (7, 8, 1), (8, 8, 1)):
        batches = contents(make(random_set(count), batch_size).epoch_batches(0))
        assert len(batches) == len(make(random_set(count), batch_size)) == steps
        assert {len(labels) for labels, _ in batches} == {min(count, batch_size)}
    # A set smaller than a batch: two processes divide as much of it as they can equally.
    assert [
        len(make(random_set(7), 8, rank=r, world_size=2).epoch_batches(0).__next__()[1])
        for r in (0, 1)
    ] == [3, 3]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [23, 24, 5])
def test_validation_counts_every_image_once(world_size, count):
    images = random_set(count)
    labels = []
    for rank in range(world_size):
        val = loader.Loader(
            images, transforms.validation(32), 6, rank=rank, world_size=world_size, workers=0
        )
        for batch, targets in val.ordered_batches():
            assert torch.equal(batch, torch.from_numpy(images.images[targets.numpy()]))  # as it is
            labels += targets.tolist()
    assert sorted(labels) == list(range(count))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_has_its_own_batch_size(world_size):
    labels, sizes = [], set()
    for rank in range(world_size):
        val = loader.Loader(
            random_set(23),
            transforms.validation(32),
            6,
            rank=rank,
            world_size=world_size,
            workers=0,
            val_batch_size=10,
        )
        assert len(val) == 3  # training batches are not affected
        batches = [targets.tolist() for _, targets in val.ordered_batches()]
        labels += sum(batches, [])
        sizes |= {len(batch) for batch in batches[:-1]}
    assert sorted(labels) == list(range(23)) and sizes <= {-(-10 // world_size)}


def test_validation_batch_size_by_flag_device_and_size():
    def rank_batch_size(val_batch_size=None, size=32, device="cpu", processes=1):
        world = World(0, processes, torch.device(device))
        images, transform = random_set(1000, size), transforms.validation(size)
        made = loader.make_loader(images, transform, 8, world, val_batch_size=val_batch_size)
        return made.rank_val_batch_size

    assert rank_batch_size() == rank_batch_size(size=96) == 8 and rank_batch_size(100) == 100
    assert rank_batch_size(100, processes=8) == 13
    assert rank_batch_size(device="cuda") == rank_batch_size(device="cuda", processes=4) == 512
    assert rank_batch_size(size=96, device="cuda") == 8


def test_batches_that_cannot_be_divided_are_refused():
    with pytest.raises(UserError, match="--batch_size 9 .* 2 processes"):
        make(batch_size=9, world_size=2)
    with pytest.raises(UserError, match="3 images .* 4 processes"):
        make(random_set(3), world_size=4)
    with pytest.raises(UserError, match="--batch_size 9 .* 2 processes"):
        loader.TensorLoader(torch.zeros(20, 2), batch_size=9, seed=0, world_size=2)


def test_tensor_batches_follow_the_same_order():
    tensors = torch.arange(23), torch.arange(23) * 10
    batches = list(loader.TensorLoader(*tensors, batch_size=8, seed=3).epoch_batches(2))
    assert [first.tolist() for first, _ in batches] == [
        labels for labels, _ in contents(make(seed=3).epoch_batches(2))
    ]
    assert all(torch.equal(10 * first, second) for first, second in batches)


# Transforms


def by_definition(images, seed, epoch):
    """Yields (image, label) of an epoch, one by one, computed from the definition."""
    size, places = images.images.shape[1], 2 * (images.images.shape[1] // 8) + 1
    uniform = np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=(0,))).random(
        3 * len(images)
    )
    for index in np.random.default_rng((seed, epoch)).permutation(len(images)).tolist():
        top, left = (int(places * number) for number in uniform[3 * index : 3 * index + 2])
        padded = np.pad(images.images[index], ((size // 8,) * 2, (size // 8,) * 2, (0, 0)))
        crop = padded[top : top + size, left : left + size]
        yield (crop[:, ::-1] if uniform[3 * index + 2] < 0.5 else crop), int(images.labels[index])


@pytest.mark.parametrize("size", [32, 17, 7])  # 7: no padding, one place
def test_batches_from_memory_follow_the_definition(size):
    images = random_set(96, size)
    for seed, epoch in ((0, 0), (3, 12), (2**40, 1)):
        batches = list(make(images, 32, size, seed=seed).epoch_batches(epoch))
        expected = list(by_definition(images, seed, epoch))
        assert torch.cat([labels for _, labels in batches]).tolist() == [
            label for _, label in expected
        ]
        assert np.array_equal(
            torch.cat([pixels for pixels, _ in batches]), np.stack([crop for crop, _ in expected])
        )


def test_batches_from_memory_are_those_of_files(tmp_path):
    paths = write_images(tmp_path, [f"{i}.png" for i in range(23)])
    files = ImageSet(paths, np.arange(23))
    memory = loader.keep_in_memory(files, transforms.training(32).shrink)
    assert memory.in_memory
    for epoch in range(3):
        assert contents(make(memory).epoch_batches(epoch)) == contents(
            make(files).epoch_batches(epoch)
        )
    assert contents(make(memory).ordered_batches()) == contents(make(files).ordered_batches())


def test_batches_have_not_changed():
    """Published results and the resuming of older runs depend on this checksum."""
    digest = hashlib.sha256()
    for labels, pixels in contents(make(random_set(3000), 32).epoch_batches(5)):
        digest.update(np.array(labels).tobytes() + pixels)
    assert digest.hexdigest() == "7809d39f1be80986c618b4d05ecd2b25a3582ace052504bce61d6c8dc2698848"


def test_small_crop_and_flip():
    images = ImageSet(
        np.broadcast_to(
            np.arange(1, 33, dtype=np.uint8)[None, None, :, None]
            + np.zeros((400, 32, 1, 3), np.uint8),
            (400, 32, 32, 3),
        ).copy(),
        np.arange(400),
    )
    ((batch, _),) = make(images, 400).epoch_batches(0)
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
    assert np.array_equal(
        transforms.validation(32)(transforms.validation(32).shrink(image), None), image
    )
    big = Image.fromarray(np.full((256, 200, 3), 77, np.uint8))
    assert transforms.training(32).shrink(big).size == (32, 32)
    assert (np.asarray(transforms.training(32).shrink(big)) == 77).all()


@pytest.mark.parametrize(
    "width, height", [(256, 256), (100, 300), (300, 100), (37, 41), (1000, 3), (1, 1)]
)
def test_large_crop_box(width, height):
    large, rng, areas = transforms.training(224), np.random.default_rng(0), []
    for _ in range(500):
        left, top, right, bottom = large.crop_box(width, height, rng)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        areas.append((right - left) * (bottom - top) / (width * height))
        if min(width, height) > 90:
            assert 0.72 < (right - left) / (bottom - top) < 1.4
    if width == height == 256:
        assert (
            0.078 < min(areas) < 0.15
            and 0.9 < max(areas) <= 1
            and np.mean(areas) == pytest.approx(0.5, abs=0.06)
        )


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
    (tmp_path / "numbers/contact_sheet.png").write_bytes(b"not an image of the set")
    images = folders.read_training(tmp_path / "numbers", 10)
    assert names_of(images) == [
        "00000.jpg",
        "00001.png",
        "00000.png",
    ] and images.labels.tolist() == [2, 2, 7]
    write_images(
        tmp_path / "names", ["zebra/a.png", "ant/c.png", "cat/b.png", "ant/b.png", ".hidden/x.png"]
    )
    images = folders.read_training(tmp_path / "names", 3)
    assert names_of(images) == ["b.png", "c.png", "b.png", "a.png"] and images.labels.tolist() == [
        0,
        0,
        1,
        2,
    ]
    with pytest.raises(UserError, match="numbers .*class 7 .*5 classes"):
        folders.read_training(tmp_path / "numbers", 5)


def test_unlabelled_folders_at_any_depth(tmp_path):
    write_images(tmp_path, ["a.png", "shard_b/c.png", "shard_a/deep/er/b.png", "shard_a/d.jpeg"])
    for name in ("contact_sheet.png", "shard_a_contact_sheet.png"):
        (tmp_path / name).write_bytes(b"not an image of the set")
    (tmp_path / "shard_a/notes.txt").write_text("no image")
    images = folders.read_training(tmp_path, 10)
    assert images.labels is None and sorted(names_of(images)) == [
        "a.png",
        "b.png",
        "c.png",
        "d.jpeg",
    ]
    assert images.label(0) == -1
    three = folders.read_training(tmp_path, 10, amount=3)
    assert set(three.images) < set(images.images) and len(three) == 3


def test_numbered_shards_of_an_unlabelled_set_are_no_classes(tmp_path):
    write_images(tmp_path, ["0000/00000.png", "0001/00000.png"])
    assert folders.read_training(tmp_path, 10).labels.tolist() == [0, 1]
    (tmp_path / "manifest.json").write_text('{"complete": true, "labelled": false}')
    assert folders.read_training(tmp_path, 10).labels is None


def test_released_names_flat_and_in_lists(tmp_path, monkeypatch):
    names = [
        f"class_{c}_seed_{s}_num_{n}.png" for c in (0, 1, 11) for s in (0, 2, 10) for n in (0, 1)
    ]
    write_images(tmp_path / "flat", names)
    flat = folders.read_training(tmp_path / "flat", 12)
    assert sorted(names_of(flat)) == sorted(names) and sorted(set(flat.labels.tolist())) == [
        0,
        1,
        11,
    ]
    assert all(
        f"class_{label}_" in path for path, label in zip(flat.images, flat.labels, strict=True)
    )
    (tmp_path / "flat/contact_sheet.png").write_bytes(b"not an image of the set")
    assert folders.read_training(tmp_path / "flat", 12).labels.tolist() == flat.labels.tolist()
    prefix = folders.read_training(
        tmp_path / "flat", 12, amount=10
    )  # (seed, num) are numbers: 2 comes before 10
    assert names_of(prefix) == [
        f"class_{c}_seed_{s}_num_{n}.png"
        for c, count in ((0, 4), (1, 3), (11, 3))
        for s, n in [(0, 0), (0, 1), (2, 0), (2, 1)][:count]
    ]
    # A list: relative to the working directory first, then to the list.
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/s2_st100_1k.txt").write_text("".join(f"flat/{name}\n\n" for name in names))
    monkeypatch.chdir(tmp_path)
    listed = folders.read_training("lists/s2_st100_1k.txt", 12)
    assert (
        sorted(names_of(listed)) == sorted(names) and listed.labels.tolist() == flat.labels.tolist()
    )
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match=r"1k.txt, line 1: .*flat/class_0_seed_0_num_0.png"):
        folders.read_training(tmp_path / "lists/s2_st100_1k.txt", 12)
    (tmp_path / "beside.txt").write_text("".join(f"flat/{name}\n" for name in names))
    assert len(folders.read_training(tmp_path / "beside.txt", 12)) == len(names)
    assert str(folders.released_list_path(2.0, 100, 200_000)) == "syn_dataset/s2_st100_200k.txt"
    assert str(folders.released_list_path(1.5, 250, 1_234)) == "syn_dataset/s1.5_st250_1234.txt"


def test_lists_of_path_and_label(tmp_path):
    write_images(tmp_path, ["one.png", "with space.png", "three.png"])
    (tmp_path / "list.txt").write_text("with space.png 4\none.png 2\n three.png  4 \n")
    images = folders.read_training(tmp_path / "list.txt", 5)
    assert dict(zip(names_of(images), images.labels.tolist(), strict=True)) == {
        "one.png": 2,
        "with space.png": 4,
        "three.png": 4,
    }
    validation = folders.read_labelled(tmp_path / "list.txt", 5)
    assert names_of(validation) == ["with space.png", "one.png", "three.png"]  # in the list's order
    (tmp_path / "plain.txt").write_text("one.png\nthree.png\n")
    assert folders.read_training(tmp_path / "plain.txt", 5).labels is None
    (tmp_path / "mixed.txt").write_text("one.png 2\nthree.png\n")
    with pytest.raises(UserError, match="mixed.txt.* line 2 "):
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
        with pytest.raises(UserError, match=f"--data_amount {amount} .*class"):
            folders.read_training(tmp_path, 3, amount)


def test_validation_folders(tmp_path):
    write_images(
        tmp_path / "val", [f"{name}/{i}.png" for name in ("b", "a", "c") for i in range(2)]
    )
    images = folders.read_labelled(tmp_path / "val", None)
    assert images.class_names == ["a", "b", "c"] and images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match="val .*3 .*10 classes"):
        folders.read_labelled(tmp_path / "val", 10)
    # Class folders that are numbers count as numbers: 2 before 10.
    write_images(tmp_path / "numbers", [f"{c}/0.png" for c in range(11)], size=4)
    images = folders.read_labelled(tmp_path / "numbers", 11)
    assert (
        [int(path.split("/")[-2]) for path in images.images]
        == images.labels.tolist()
        == list(range(11))
    )


def test_images_that_cannot_be_read(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    for read in (folders.read_training, folders.read_labelled):
        for name in ("absent", "empty", "binary.txt"):
            with pytest.raises(UserError, match=f"{tmp_path}/{name}"):
                read(tmp_path / name, 3)
    write_images(tmp_path, ["x.png"])
    (tmp_path / "list.txt").write_text("x.png 0\nabsent/y.png 1\n")
    with pytest.raises(UserError, match=r"list.txt, line 2: .*absent/y.png"):
        folders.read_training(tmp_path / "list.txt", 3)


def reference_order(path):
    """The sorting key of a file within its class, computed from the definition."""
    name = path.rpartition("/")[2]
    released, stem = (
        re.search(r"class_(\d+)_seed_(\d+)_num_(\d+)\.\w+$", name),
        name.rpartition(".")[0],
    )
    if released:
        return int(released[2]), int(released[3]), name
    return (0, int(stem), name) if re.fullmatch("[0-9]{1,18}", stem) else (1, 0, name)


def odd_names(rng, count):
    """File names of all forms, including misleading ones."""
    forms = [
        "class_{}_seed_{}_num_{}.png",
        "my_class_{}_seed_{}_num_{}.jpeg",
        "class_{}_seed_{}_num_{}.tar.gz",
        "class_{}.png",
        "{}_seed_{}_num_{}.png",
        "{:05d}.png",
        "{}.jpg",
        "b{}.png",
        "é{}.webp",
        "{}.{}.png",
        "with space {}.png",
        "0{}.bmp",
        "n{}_{}.JPEG",
    ]
    return [
        forms[rng.integers(len(forms))].format(*rng.integers(0, 30, 3).tolist())
        for _ in range(count)
    ]


def test_order_of_names():
    rng = np.random.default_rng(0)
    names = [f"{'ab'[rng.integers(2)]}/{name}" for name in odd_names(rng, 600)]
    names += ["/root.png", "none.png", "9" * 25 + ".png"]
    paths = Paths.of(names)
    assert (
        list(paths) == names
        and paths[-1] == names[-1]
        and list(paths[np.array([2, 0])]) == [names[2], names[0]]
    )
    assert list(paths[5:9]) == names[5:9]
    expected = sorted(range(len(names)), key=lambda i: (reference_order(names[i]), i))
    assert np.argsort(paths.order()).tolist() == expected
    assert not len(Paths.of([])) and not len(Paths.of([]).order()) and not len(Paths.in_folders({}))


def test_balanced_prefix_follows_the_definition():
    rng = np.random.default_rng(1)
    labels, order = rng.integers(0, 7, 200) ** 2, rng.permutation(200)
    classes = sorted(set(labels.tolist()))
    for amount in (1, 6, 7, 50, 99, None):
        kept = folders.class_balanced_prefix(order, labels, amount, "x")
        expected = []
        for number, label in enumerate(classes):
            mine = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: order[i])
            if amount is not None:
                mine = mine[: amount // len(classes) + (number < amount % len(classes))]
            expected += mine
        assert kept.tolist() == expected
    assert folders.class_balanced_prefix(range(5), None, 3, "x").tolist() == [0, 1, 2]


@pytest.mark.parametrize("chunk", [1 << 22, 40])
def test_lists_of_any_form(tmp_path, monkeypatch, chunk):
    """Folders, spaces, accents, blank lines and carriage returns; chunks end anywhere."""
    monkeypatch.setattr(lists, "_CHUNK", chunk)
    rng, lines, expected = np.random.default_rng(2), [], []
    places = ["here", "here/deep er", "beside", "elsewhere"]
    for name in dict.fromkeys(odd_names(rng, 150)):
        place = places[rng.integers(4)]
        base = {"here": ".", "beside": "list", "elsewhere": "root"}[place.split("/")[0]]
        (tmp_path / base / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / base / place / name).touch()
        label = int(rng.integers(0, 2000))
        lines += [
            f"{' ' * rng.integers(2)}{place}/{name} {label}{' ' * rng.integers(3)}",
            *[""] * rng.integers(2),
        ]
        expected.append((os.path.normpath(os.path.join(base, place, name)), label))
    (tmp_path / "list").mkdir(exist_ok=True)
    (tmp_path / "list/all.txt").write_bytes("\r\n".join(lines).encode())  # no final newline
    monkeypatch.chdir(tmp_path)
    paths, labels = lists.read_list("list/all.txt", ["root"])
    assert list(zip(map(os.path.normpath, paths), labels.tolist(), strict=True)) == expected
    missing = expected[70][0]
    (tmp_path / missing).unlink()
    number = next(n for n, line in enumerate(lines, 1) if f"/{os.path.basename(missing)} " in line)
    with pytest.raises(
        UserError,
        match=rf"all.txt, line {number}: .*{re.escape(os.path.basename(missing))} .*list/, root/",
    ):
        lists.read_list("list/all.txt", ["root"])


def test_written_lists_are_read_back(tmp_path, monkeypatch):
    paths = [
        *write_images(tmp_path / "lists/set", ["a.png", "b c.png"]),
        *write_images(tmp_path, ["d.png"]),
    ]
    for labels in (None, [4, 0, 999]):
        lists.write_list(tmp_path / "lists/x.txt", Paths.of(paths), labels)
        monkeypatch.chdir("/")
        found, numbers = lists.read_list(tmp_path / "lists/x.txt")
        assert list(found) == paths and (numbers is None) == (labels is None)
        assert labels is None or numbers.tolist() == labels
    assert (
        tmp_path / "lists/x.txt"
    ).read_text() == f"set/a.png 4\nset/b c.png 0\n{tmp_path}/d.png 999\n"


def test_the_working_directory_comes_first(tmp_path, monkeypatch):
    for place in ("here", "list", "root"):
        write_images(tmp_path / place, ["x.png"], size=4)
    (tmp_path / "list/all.txt").write_text("x.png 1\n")
    monkeypatch.chdir(tmp_path / "here")
    for gone, expected in ((None, "x.png"), ("here", "../list/x.png"), ("list", "../root/x.png")):
        if gone:
            (tmp_path / gone / "x.png").unlink()
        assert list(lists.read_list("../list/all.txt", ["../root"])[0]) == [expected]


def test_labels_in_names(tmp_path):
    names = [
        "class_3_seed_0_num_1.png",
        "class_12_dog.png",
        "a_class_7_b.png",
        "class_0_seed_9_num_9.jpeg",
    ]
    write_images(tmp_path, [*names, "12_seed_0_num_0.png"], size=4)
    (tmp_path / "x.txt").write_text("\n".join(names))
    assert lists.read_list(tmp_path / "x.txt")[1].tolist() == [3, 12, 7, 0]
    (tmp_path / "y.txt").write_text("\n".join([*names, "12_seed_0_num_0.png"]))
    with pytest.raises(UserError, match="y.txt.* line 5 "):
        lists.read_list(tmp_path / "y.txt")


def test_files_that_are_not_lists(tmp_path):
    (tmp_path / "long.txt").write_text("x.png 1\n" + "y" * 10_000)
    with pytest.raises(UserError, match="long.txt .*10000 bytes .*line 1"):
        lists.read_list(tmp_path / "long.txt")
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(UserError, match="blank.txt"):
        folders.read_training(tmp_path / "blank.txt", 3)
    write_images(tmp_path, ["x.png"], size=4)
    (tmp_path / "mixed.txt").write_text("x.png 2\n\n\nx.png\n")
    with pytest.raises(UserError, match="mixed.txt.* line 4 "):
        lists.read_list(tmp_path / "mixed.txt")
    with pytest.raises(UserError, match=f"training images in {tmp_path}"):
        folders.read_labelled(tmp_path, 3, kind="training")
    with pytest.raises(UserError, match=f"training images .*{tmp_path}/absent"):
        folders.read_labelled(tmp_path / "absent", 3, kind="training")


def test_paths_take_little_memory(tmp_path):
    """At most 40 bytes per path: no Python object for each."""
    import tracemalloc

    for folder in range(20):
        (tmp_path / f"set/{folder:04d}").mkdir(parents=True)
        for name in range(250):
            (tmp_path / f"set/{folder:04d}/{name:05d}.png").touch()
    tracemalloc.start()
    try:
        images = folders.read_training(tmp_path / "set", 20)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(images) == 5000 and kept < 5000 * 40 + 50_000


# Decoding


def test_grey_images_are_the_rounded_mean_of_the_channels(tmp_path):
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
    images = ImageSet(
        write_images(tmp_path, [f"{i}.png" for i in range(6)], size=256), np.arange(6)
    )
    shrink = transforms.training(32).shrink
    expected = by_image(make(images, 6).epoch_batches(0))
    decoded = []
    monkeypatch.setattr(
        "dataset.image_set.decode", lambda path: decoded.append(path) or decode(path)
    )
    kept = loader.keep_in_memory(images, shrink)
    assert kept.in_memory and kept.images.shape == (6, 32, 32, 3) and len(decoded) <= 7
    read = len(decoded)
    assert by_image(make(kept, 6).epoch_batches(0)) == expected
    by_image(make(kept, 6).epoch_batches(1))
    assert len(decoded) == read  # not decoded again
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
    with pytest.raises(UserError, match="damaged .*07.png"):
        for _, labels in batches:
            read += labels.tolist()
    assert read == order[: order.index(7) // 3 * 3]  # all batches before its own
    if not workers:
        with pytest.raises(UserError, match="damaged .*07.png"):
            loader.keep_in_memory(images, transforms.training(32).shrink)
        with pytest.raises(UserError, match="absent.png"):
            decode("absent.png")
        (tmp_path / "text.png").write_text("not an image")
        with pytest.raises(UserError, match="damaged .*text.png"):
            decode(tmp_path / "text.png")


def test_files_without_permission(tmp_path, monkeypatch):
    (path,) = write_images(tmp_path, ["x.png"], size=8)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("dataset.image_set.Image.open", refuse)
    with pytest.raises(UserError, match=f"read image {path}.*permission"):
        decode(path)
    # Lists and folders: the OSError is described.
    monkeypatch.setattr(os, "access", lambda name, mode: mode != os.R_OK)
    assert describe_os_error(PermissionError(errno.EACCES, "", path)).startswith(
        f"cannot read {path}"
    )
    monkeypatch.setattr(os, "access", lambda name, mode: True)
    assert describe_os_error(PermissionError(errno.EACCES, "", path)).startswith(
        f"cannot write {path}"
    )


def test_benchmark_of_the_input_path(capsys):
    from benchmarks import input as benchmark

    benchmark.main(["--quick", "--images", "2", "--count", "2000"])
    table = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")
    ]
    assert len(table) == 2 + 4 * 3 + 2 + 3 and {len(line) for line in table} == {5}
    assert sum(line[0].endswith("2,000 files") for line in table) == 5


# Fashion-MNIST


def raw(root, name):
    content = (fashion_mnist.folder(root) / name).read_bytes()
    return np.frombuffer(content, np.uint8, offset=16 if "images" in name else 8)


def test_fashion_mnist_splits_and_padding(tiny_fashion_mnist):
    sets = {
        split: fashion_mnist.load(tiny_fashion_mnist, split)
        for split in ("train", "holdout", "test")
    }
    assert {split: len(images) for split, images in sets.items()} == {
        "train": 330,
        "holdout": 30,
        "test": 203,
    }
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
    assert 60_000 // fashion_mnist.HOLDOUT_DIVISOR == 5_000  # of the real set


def test_missing_fashion_mnist(tiny_fashion_mnist, tmp_path):
    with pytest.raises(UserError, match="python -m tools.fashion_mnist --root"):
        fashion_mnist.load(tmp_path, "test")
    target = fashion_mnist.folder(tmp_path)
    target.mkdir(parents=True)
    for name in fashion_mnist.FILES:
        content = (fashion_mnist.folder(tiny_fashion_mnist) / name).read_bytes()
        (target / name).write_bytes(content[:-1] if name.startswith("t10k-images") else content)
    assert not fashion_mnist.is_complete(tmp_path)
    with pytest.raises(UserError, match="python -m tools.fashion_mnist --root"):  # truncated
        fashion_mnist.load(tmp_path, "test")


def test_statistics_are_those_of_the_padded_images():
    """Checked by their relation to the published statistics of the unpadded images."""
    mean, std = 0.2860, 0.3530  # of the 28×28 training images, as published
    area = (28 / 32) ** 2
    padded = mean * area, math.sqrt((std**2 + mean**2) * area - (mean * area) ** 2)
    info = real.REAL_SETS["fashion_mnist"]
    assert info.mean == (pytest.approx(padded[0], abs=2e-4),) * 3
    assert info.std == (pytest.approx(padded[1], abs=2e-4),) * 3


def test_holdout_is_never_in_train(tiny_fashion_mnist):
    data = real.RealData("fashion_mnist", str(tiny_fashion_mnist), val_split="holdout")
    train, val = data.split("train"), data.validation()
    assert len(val) == 30 and val.origin["split"] == "holdout"
    assert not {image.tobytes() for image in train.images} & {
        image.tobytes() for image in val.images
    }
    assert folders.labels_by_name(train.class_names, val.class_names)[1] == ""


def test_the_holdout_split_is_not_combined_with_other_validation_images():
    parser = Parser("")
    real.add_flags(parser)
    with pytest.raises(UserError, match="--val_split holdout .*--val_data"):
        real.data_from(parser.parse_args(["--val_split", "holdout", "--val_data", "mine"]))


def test_the_package_is_downloaded_without_package_lists(tiny_fashion_mnist, tmp_path, monkeypatch):
    """A new machine: nothing is installed, torchvision's download fails, and apt-get has no package
    lists.
    """
    programs, package, root = tmp_path / "bin", tmp_path / "package", tmp_path / "data"
    programs.mkdir()
    (package / fashion_mnist_tool.DEBIAN_FOLDER).mkdir(parents=True)
    for name in fashion_mnist.FILES:
        content = (fashion_mnist.folder(tiny_fashion_mnist) / name).read_bytes()
        (package / fashion_mnist_tool.DEBIAN_FOLDER / f"{name}.gz").write_bytes(
            gzip.compress(content)
        )
    apt_get = """
for word in "$@"; do case $word in
    -oDir::State::Lists=*) lists=${word#*=} ;;
    update) [ -d "$lists/partial" ] && touch "$lists/known" ;;
    download) [ -e "$lists/known" ] && touch package.deb ;;
esac || exit 100; done"""
    dpkg = f'[ "$1" = -x ] && [ -e "$2" ] && cp -r {package}/. "$3"'
    for name, body in {"apt-get": apt_get, "dpkg": dpkg}.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(fashion_mnist_tool, "_unpack_installed_package", lambda *_: None)
    monkeypatch.setattr(fashion_mnist_tool, "_download_with_torchvision", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    assert fashion_mnist_tool.prepare("data", 20) == "the Debian package, downloaded"
    assert len(fashion_mnist.load(root, "test")) == 203
    assert sorted(path.name for path in fashion_mnist.folder(root).iterdir()) == sorted(
        fashion_mnist.FILES
    )
