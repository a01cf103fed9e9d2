"""What several tests share: one thread, no network, and a tiny random DiT pipeline."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parent.parent)
)  # the scripts are modules of the repository's root
os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)

TINY_CLASSES = ["bag", "coat", "shoe"]


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory):
    """A DiT pipeline folder with random weights: 3 classes, 8×8×4 latents, 16×16 images; guides all
    4 channels.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel

    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=3,
        )
        # Larger weights than at initialisation, so that every path counts in the output.
        for parameter in transformer.parameters():
            parameter.data.normal_(std=0.15)
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
            layers_per_block=1,
            scaling_factor=0.5,
        )
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    DDPMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    (folder / "generator.json").write_text(
        json.dumps({"cfg_channels": 4, "class_names": TINY_CLASSES})
    )
    return folder


def tiny_images(labels, seed):
    """Returns uint8 images (N, 28, 28) of ten classes that crops and flips leave apart: five greys,
    two directions.
    """
    stripes = np.broadcast_to(np.arange(28) // 4 % 2, (28, 28))
    shapes = np.stack(
        [(label // 2 + 1) / 5 * (stripes if label % 2 else stripes.T) for label in range(10)]
    )
    noise = np.random.default_rng(seed).normal(0, 0.03, (len(labels), 28, 28))
    return (255 * np.clip(shapes[labels] + noise, 0, 1)).astype(np.uint8)


@pytest.fixture(scope="session")
def tiny_fashion_mnist(tmp_path_factory):
    """A data root with idx files as Fashion-MNIST's: 360 training images, 30 of them holdout, and
    203 test images.
    """
    root = tmp_path_factory.mktemp("data") / "true_dataset"
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for seed, (prefix, count) in enumerate({"train": 360, "t10k": 203}.items()):
        labels = np.random.default_rng(10 + seed).integers(0, 10, count).astype(np.uint8)
        for kind, array in (
            ("images-idx3", tiny_images(labels, 20 + seed)),
            ("labels-idx1", labels),
        ):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return root


@pytest.fixture(scope="session")
def tiny_image_folder(tmp_path_factory):
    """An image folder such as synthesize_dit.py makes: 10 classes of 20 images of 32×32 pixels."""
    folder = tmp_path_factory.mktemp("sets") / "generated"
    labels = np.repeat(np.arange(10), 20)
    for index, (label, pixels) in enumerate(zip(labels, tiny_images(labels, 30), strict=True)):
        (folder / f"{label:04d}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.pad(pixels, 2)).save(folder / f"{label:04d}" / f"{index % 20:05d}.png")
    (folder / "manifest.json").write_text(json.dumps({"complete": True, "images": 200}))
    return folder
