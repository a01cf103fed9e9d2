"""What several tests share: one thread, no network, and a tiny random DiT pipeline."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the scripts are modules of the repository's root
os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported

import pytest
import torch

torch.set_num_threads(1)

TINY_CLASSES = ["bag", "coat", "shoe"]


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory):
    """A DiT pipeline folder with random weights: 3 classes, 8×8×4 latents, 16×16 images; guides all 4 channels."""
    from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel

    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
            patch_size=2, num_embeds_ada_norm=3,
        )  # fmt: skip
        # Larger weights than at initialisation, so that every path counts in the output.
        for parameter in transformer.parameters():
            parameter.data.normal_(std=0.15)
        vae = AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=16,
            layers_per_block=1, scaling_factor=0.5,
        )  # fmt: skip
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    (folder / "generator.json").write_text(json.dumps({"cfg_channels": 4, "class_names": TINY_CLASSES}))
    return folder
