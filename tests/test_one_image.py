"""Patches of One-Image: the chain against Pillow and numpy, random parameters, errors."""

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from dataset import one_image
from helper.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def scene(width=180, height=140, seed=0):
    """A smooth image with colours and edges, PIL in RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


# The chain


def adjusted(image, name, value):
    """One change of colour by Pillow's own means."""
    if name == "adjust_hue":  # 256 levels of hue around the circle, the shift truncated
        hue, *rest = image.convert("HSV").split()
        turned = (np.asarray(hue, int) + math.trunc(value * 255)) % 256
        return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), *rest)).convert("RGB")
    kinds = {
        "adjust_brightness": ImageEnhance.Brightness,
        "adjust_contrast": ImageEnhance.Contrast,
        "adjust_saturation": ImageEnhance.Color,
    }
    return kinds[name](image).enhance(value)


def by_definition(photograph, size, parameters):
    """The patch that its parameters describe, with the affine map written out: shear, then
    rotation, about the centre.
    """
    wide = int(math.sqrt(2) * size)
    image = photograph.crop(parameters.box).resize((wide, wide), Image.BICUBIC)
    angle, shear = math.radians(parameters.angle), math.radians(parameters.shear)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    back = np.linalg.inv(
        turn @ np.array([[1, -math.tan(shear)], [0, 1]])
    )  # Pillow asks where a pixel comes from
    shift = np.full(2, wide / 2) - back @ np.full(2, wide / 2)
    image = image.transform(
        (wide, wide), Image.AFFINE, (*back[0], shift[0], *back[1], shift[1]), Image.BILINEAR
    )
    edge = round((wide - size) / 2)
    image = image.crop((edge, edge, edge + size, edge + size))
    for name, value in parameters.changes:
        image = adjusted(image, name, value)
    return np.asarray(image)


def test_a_patch_is_what_its_parameters_describe():
    photograph, coloured = scene(), 0
    for index in range(24):
        parameters = one_image.draw_parameters(*photograph.size, 7, index)
        pixels = one_image.patch(photograph, 32, 7, index)
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
        expected = by_definition(photograph, 32, parameters)
        # The affine map's coefficients differ in the last bits, and a rounding with them here and
        # there.
        difference = np.abs(pixels.astype(int) - expected)
        assert difference.max() <= 4 and (difference > 0).mean() < 0.005, (index, parameters)
        coloured += bool(parameters.changes)
    assert 6 < coloured < 18


def test_a_patch_is_a_function_of_photograph_seed_and_index():
    photograph = scene()
    first = {index: one_image.patch(photograph, 16, 3, index).tobytes() for index in range(12)}
    np.random.seed(1)
    assert {
        index: one_image.patch(photograph, 16, 3, index).tobytes() for index in reversed(range(12))
    } == first
    assert len(set(first.values())) == 12
    assert one_image.patch(photograph, 16, 4, 0).tobytes() != first[0]
    assert one_image.patch(scene(seed=1), 16, 3, 0).tobytes() != first[0]
    # What is drawn does not depend on the patch's size: a larger patch shows the same part of the
    # photograph.
    small, large = (Image.fromarray(one_image.patch(photograph, size, 3, 5)) for size in (16, 48))
    assert np.abs(np.asarray(large.resize((16, 16)), int) - np.asarray(small, int)).mean() < 8


def test_another_process_makes_the_same_patch(tmp_path):
    scene().save(tmp_path / "scene.png")
    code = (
        "import sys, hashlib; from dataset import one_image; "
        f"photograph = one_image.load_photograph({str(tmp_path / 'scene.png')!r}, 32); "
        "print(hashlib.sha256(one_image.patch(photograph, 32, 5, 10**9).tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.strip()
        == hashlib.sha256(one_image.patch(scene(), 32, 5, 10**9).tobytes()).hexdigest()
    )


@pytest.mark.parametrize("size", [1, 7, 32, 70])
def test_sizes(size):
    assert one_image.patch(scene(), size, 0, 0).shape == (size, size, 3)


def test_a_grey_photograph_gives_grey_patches():
    grey = Image.fromarray(np.asarray(scene().convert("L"))).convert("RGB")
    for index in range(6):
        pixels = one_image.patch(grey, 24, 0, index).astype(int)
        assert np.ptp(pixels, axis=2).max() <= 1


# Random parameters


def test_boxes_areas_and_angles():
    width, height, half = 300, 240, 120
    drawn = [one_image.draw_parameters(width, height, 0, index) for index in range(600)]
    areas, centres = [], []
    for left, top, right, bottom in (one.box for one in drawn):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert right - left <= half and bottom - top <= half  # inside of the square
        areas.append((right - left) * (bottom - top) / half**2)
        if areas[-1] > 0.02:  # in small boxes the rounding to whole pixels shows
            assert 0.72 < (right - left) / (bottom - top) < 1.39
        centres.append(((left + right) / 2 / width, (top + bottom) / 2 / height))
    assert 1 / 500 * 0.8 < min(areas) < 0.03 and 0.9 < max(areas) <= 1
    assert (
        0.4 < np.mean(areas) < 0.52
    )  # uniform but for boxes that do not fit, which are large ones
    assert np.abs(np.mean(centres, axis=0) - 0.5).max() < 0.03
    for values in ([one.angle for one in drawn], [one.shear for one in drawn]):
        assert -30 <= min(values) < -28 and 28 < max(values) <= 30 and abs(np.mean(values)) < 2.5
    assert abs(np.corrcoef([one.angle for one in drawn], [one.shear for one in drawn])[0, 1]) < 0.15


def test_half_of_the_patches_have_all_four_changes_in_any_order():
    changes = [one_image.draw_parameters(300, 240, 1, index).changes for index in range(600)]
    coloured = [one for one in changes if one]
    assert 250 < len(coloured) < 350
    bounds = {
        "adjust_brightness": (0.6, 1.4),
        "adjust_contrast": (0.6, 1.4),
        "adjust_saturation": (0.6, 1.4),
        "adjust_hue": (-0.1, 0.1),
    }
    for name, (low, high) in bounds.items():
        values = [dict(one)[name] for one in coloured]
        assert (
            low <= min(values) < low + 0.05 * (high - low)
            and high - 0.05 * (high - low) < max(values) <= high
        )
    orders = {tuple(name for name, _ in one) for one in coloured}
    assert all(sorted(order) == sorted(bounds) for order in orders) and len(orders) == 24


# Photographs


def test_the_default_photograph_is_real_and_large_enough():
    photograph = one_image.load_photograph(one_image.default_photograph(), 224)
    assert photograph.mode == "RGB" and min(photograph.size) >= 512
    pixels = one_image.patch(photograph, 224, 0, 0)
    assert pixels.shape == (224, 224, 3) and pixels.std() > 5


def test_without_matplotlib_a_photograph_is_asked_for(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="give --image"):
        one_image.default_photograph()


def test_other_modes_are_read_as_rgb(tmp_path):
    scene().convert("L").save(tmp_path / "grey.png")
    scene().convert("RGBA").save(tmp_path / "alpha.png")
    for name in ("grey.png", "alpha.png"):
        assert one_image.load_photograph(tmp_path / name, 32).mode == "RGB"


def test_a_photograph_that_is_too_small_is_refused(tmp_path):
    scene(200, 129).save(tmp_path / "small.png")
    assert one_image.load_photograph(tmp_path / "small.png", 64).size == (200, 129)
    with pytest.raises(
        UserError, match=r"small.png is 200×129.* 64 pixels, too few for patches of 65.*130 pixels"
    ):
        one_image.load_photograph(tmp_path / "small.png", 65)


def test_a_photograph_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"not found: .*absent.jpg"):
        one_image.load_photograph(tmp_path / "absent.jpg", 32)
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(UserError, match=r"damaged.jpg"):
        one_image.load_photograph(tmp_path / "damaged.jpg", 32)
