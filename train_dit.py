"""Trains a small latent diffusion pipeline on a labelled image set: an AutoencoderKL, then a DiT on
its latents (arXiv 2112.10752, 2212.09748).

    python train_dit.py --stage vae --dataset fashion_mnist --epochs 2 --learning_rate 1e-3
    python train_dit.py --stage dit --dataset fashion_mnist --epochs 10 --learning_rate 1e-3
    python train_dit.py --stage dit --dataset flowers102 --init DiT-XL-2-256x256.pt --batch_size 32

The result, save/models/<dataset>/<model_name>/, is a diffusers pipeline folder for
synthesize_dit.py. Both stages are validated on Fashion-MNIST's holdout images, which are never
trained on, or on the validation set of another data set. --init fine-tunes a published DiT instead,
whose autoencoder is kept. Stage `reconstruct` writes the training
images as the autoencoder reconstructs them, one folder per class: a student trained on them shows
what is lost in the autoencoder alone.
"""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from dataset import real, transforms
from dataset.identity import images_sha256
from dataset.image_writer import ImageWriter, to_pixels
from dataset.latents import cached_latents
from dataset.loader import Loader, TensorLoader, make_loader
from diffusion.build import (
    Reconstruction,
    build_dit,
    build_vae,
    check_sizes,
    for_new_classes,
    save_pipeline,
)
from diffusion.loss import GaussianDiffusion, drop_labels, moving_average
from diffusion.pipeline import load_component, load_pipeline, read_initial
from diffusion.schedule import linear_betas
from helper import checkpoints
from helper import options as flags
from helper.device import autocast, to_device
from helper.distributed import parallel, session
from helper.errors import UserError, run_script
from helper.files import make_folder, sha256
from helper.optim import Schedule, make_optimizer, update
from helper.run import Run, latest_path

VALIDATION_IMAGES = 2_000  # enough to follow a loss
ENCODING_BATCH = 256  # images
ENCODED_PIXELS = 16 * 256**2  # per batch of a published autoencoder: about 6 GB in float32

# A resumed run must share these flags.
SETTINGS = (
    *flags.TRAINING_SETTINGS,
    *real.SETTINGS,
    *"stage data_amount vae_channels latent_channels kl_weight".split(),
    *"depth width heads patch_size label_dropout ema snr_gamma".split(),
)
NETWORK_FLAGS = "vae_channels latent_channels depth width heads patch_size".split()
PANELS = {
    "vae": {"loss": ["loss", "l1"], "reconstruction of unseen images (dB)": ["val_psnr"]},
    "dit": {
        "training loss": ["mse", "bound"],
        "ε-MSE on unseen images": ["val_mse", "val_mse_null"],
    },
}


def parse_option(argv=None):
    """Parses and checks the flags. Raises UserError."""
    parser = flags.Parser(__doc__)
    parser.add_argument(
        "--stage",
        choices=["vae", "dit", "reconstruct"],
        required=True,
        help="train the autoencoder, train the DiT, or write reconstructed images",
    )
    parser.add_argument(
        "--data_amount",
        type=flags.amount,
        default=None,
        help="number of training images, the same number of each class (default: all)",
    )
    parser.add_argument(
        "--model_name",
        default=None,
        help="name of the folder and of the generator (default: DiT-<depth>x<width>-<patch_size>)",
    )
    parser.add_argument(
        "--save_dir",
        default=None,
        help="folder of the pipeline (default: save/models/<dataset>/<model_name>)",
    )
    group = parser.add_argument_group("fine-tuning")
    group.add_argument(
        "--init",
        default=None,
        help="stage dit: start from this DiT and keep its autoencoder: an official checkpoint "
        "(.pt), a pipeline folder, or a name on the Hugging Face hub; the label embeddings are new",
    )
    group.add_argument(
        "--vae",
        default=None,
        help="with --init: mse, ema, or the folder of an AutoencoderKL (default: that of the "
        "pipeline; mse for an official checkpoint)",
    )
    group = parser.add_argument_group("autoencoder")
    group.add_argument(
        "--vae_channels",
        type=flags.int_list,
        default=[16, 32, 64],
        help="channels per resolution; each one after the first halves the size "
        "(default: 16,32,64)",
    )
    group.add_argument(
        "--latent_channels",
        type=flags.positive_int,
        default=4,
        help="channels of the latents (default: 4)",
    )
    group.add_argument(
        "--kl_weight",
        type=flags.nonnegative_float,
        default=1e-4,
        help="weight of the KL divergence (mean over latents) relative to the L1 error (mean over "
        "pixels) (default: 1e-4)",
    )
    group = parser.add_argument_group("DiT")
    group.add_argument(
        "--depth", type=flags.positive_int, default=6, help="number of blocks (default: 6)"
    )
    group.add_argument(
        "--width", type=flags.positive_int, default=128, help="embedding size (default: 128)"
    )
    group.add_argument(
        "--heads", type=flags.positive_int, default=4, help="attention heads (default: 4)"
    )
    group.add_argument(
        "--patch_size",
        type=flags.positive_int,
        default=2,
        help="patch size in latent pixels (default: 2)",
    )
    group.add_argument(
        "--label_dropout",
        type=flags.nonnegative_float,
        default=0.1,
        help="probability of training a sample without its label (default: 0.1)",
    )
    group.add_argument(
        "--ema",
        type=flags.nonnegative_float,
        default=0.999,
        help="decay of the moving average of the weights, with the warm-up (1 + n) / (10 + n) at "
        "step n (default: 0.999; official code: 0.9999)",
    )
    group.add_argument(
        "--snr_gamma",
        type=flags.nonnegative_float,
        default=0.0,
        help="gamma of the Min-SNR weights of the ε-MSE, such as 5 (default: 0, no weights, as in "
        "the official code)",
    )
    flags.add_training_flags(
        parser, epochs=10, batch_size=128, learning_rate=1e-4, weight_decay=0.0
    )
    real.add_flags(parser)
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    flags.check_warmup(options)
    if not 0 <= options.ema < 1 or options.label_dropout >= 1:
        raise UserError("--ema and --label_dropout must be in [0, 1)")
    if options.init is None:
        if options.vae:
            raise UserError("--vae needs --init: without it, --stage vae trains the autoencoder")
        options.model_name = (
            options.model_name or f"DiT-{options.depth}x{options.width}-{options.patch_size}"
        )
    elif options.stage != "dit":
        raise UserError("--init needs --stage dit: the autoencoder is that of the model")
    else:
        for name in NETWORK_FLAGS:
            if getattr(options, name) != parser.get_default(name):
                raise UserError(
                    f"--{name} and --init cannot be combined: the sizes are those of the model"
                )
    return options


def main(argv=None):
    """Runs one stage and returns its result (a dict), or the folder of `reconstruct`."""
    options = parse_option(argv)
    data = real.data_from(options)
    initial = read_initial(options.init, options.vae) if options.init else None
    if initial:
        if (options.image_size or initial.image_size) != initial.image_size:
            raise UserError(
                f"--image_size {options.image_size}: {options.init} makes images of "
                f"{initial.image_size} pixels: omit the flag or give another --init"
            )
        data = replace(data, size=initial.image_size)
        options.model_name = options.model_name or initial.name
    options.save_dir = options.save_dir or f"save/models/{options.dataset}/{options.model_name}"
    stage, size, workers = options.stage, data.image_size, options.num_workers
    vae_shape = options.vae_channels, options.latent_channels, size
    if stage == "dit" and not initial:  # before any image is encoded
        latent_size = size // 2 ** (len(options.vae_channels) - 1)
        check_sizes(options.width, options.heads, latent_size, options.patch_size)
    with session(flags.process_settings(options), argv) as world:
        device = world.device

        if stage == "reconstruct":
            folder = Path(options.save_dir, "reconstructed")
            if world.is_main:
                if folder.exists():
                    # Images of an earlier run would remain among the new ones.
                    raise UserError(f"{folder} exists: delete it, or give another --save_dir")
                vae = finished_vae(options.save_dir, *vae_shape).to(device)
                images = data.training(options.data_amount)
                write_reconstructions(
                    folder, vae, images.grey, *encode(vae, images, size, workers, world)
                )
            return folder

        # Return the result of a finished stage before any image is read
        settings = flags.values_of(options, SETTINGS) | {"schedule": "cosine", "min_lr": 0.0}
        settings["init"] = initial is not None
        if initial:
            settings["init_sha256"] = initial.weights_sha256
        folder = stage_folder(options.save_dir, stage)
        run = Run(folder, stage, {}, world)
        pipeline_exists = Path(options.save_dir, "transformer").exists()
        if stage == "dit" and pipeline_exists and not run.latest.exists():
            raise UserError(
                f"{options.save_dir} holds a pipeline, which this run would replace: choose "
                "another --save_dir, or delete its folder transformer/ to train it again"
            )
        if run.latest.exists():
            run.open(settings, {}, options.resume)
            if result := run.finished_result(options.epochs, PANELS[stage]):
                return result

        # Networks and data
        val_images = held_out_images(data)
        images = data.training(options.data_amount, val_images.class_names)
        if stage == "dit" and images.labels is None:
            raise UserError(
                "the training images have no labels for the classes of the validation images: "
                f"{images.why_unlabelled}: check --val_data"
            )
        if stage == "vae":
            torch.manual_seed(options.seed)
            model = build_vae(*vae_shape).to(device)
            parts = {"model": model}
            loader, held_out = (
                make_loader(
                    image_set,
                    transforms.validation(size),  # no crop or flip
                    options.batch_size,
                    world,
                    options.seed,
                    options.val_batch_size,
                    workers,
                )
                for image_set in (images, val_images)
            )
        elif initial:
            pipeline = load_pipeline(initial)
            vae, scaling_factor = pipeline.vae.to(device), initial.scaling_factor
            (moments, labels), held_out = (
                latents_on_disk(options.save_dir, part, image_set, pipeline, workers, world)
                for part, image_set in (("train", images), ("validation", val_images))
            )
            torch.manual_seed(options.seed)
            model = for_new_classes(pipeline, len(images.class_names)).to(device)
        else:
            vae = load_vae(options.save_dir, *vae_shape).to(device)
            settings["vae_sha256"] = sha256(
                latest_path(stage_folder(options.save_dir, "vae"), "vae")
            )
            moments, labels = encode(vae, images, size, workers, world)
            check_latents(moments, options.save_dir)
            held_out = encode(vae, val_images, size, workers, world)
            scaling_factor = unit_variance_factor(moments)
            vae.register_to_config(scaling_factor=scaling_factor)
            torch.manual_seed(options.seed)
            model = build_dit(
                depth=options.depth,
                width=options.width,
                heads=options.heads,
                patch_size=options.patch_size,
                latent_size=moments.shape[-1],
                latent_channels=options.latent_channels,
                num_classes=len(images.class_names),
            ).to(device)
        if stage == "dit":
            held_out = [tensor[world.rank :: world.size] for tensor in held_out]
            ema = AveragedModel(model, multi_avg_fn=moving_average(options.ema))
            parts = {"model": model, "ema": ema}
            objective = Objective(
                GaussianDiffusion(linear_betas(), device),
                scaling_factor,
                options.snr_gamma,
                options.amp,
            )
            loader = TensorLoader(
                moments,
                labels,
                batch_size=options.batch_size,
                seed=options.seed,
                rank=world.rank,
                world_size=world.size,
            )
        parts["optimizer"] = make_optimizer(
            "adamw", model.parameters(), options.learning_rate, options.weight_decay
        )

        # Create or restore the run
        settings["training_images_sha256"] = world.from_main(images_sha256, images)
        settings["validation_images_sha256"] = world.from_main(images_sha256, val_images)
        run = Run(folder, stage, parts, world, tracker=options.tracker)
        images_per_epoch = len(loader) * loader.batch_size
        run.open(settings, {"images": images_per_epoch}, options.resume)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        run.log(
            f"{stage}: {parameters / 1e6:.2f}M parameters, {len(loader)} steps of "
            f"{loader.batch_size} images per epoch, epoch {run.progress.epoch} of "
            f"{options.epochs} finished"
        )

        # Train
        schedule = Schedule(
            "cosine", options.learning_rate, options.epochs, options.warmup_epochs, min_lr=0.0
        )
        epochs = run.epochs(options.epochs, schedule, options.seed, options.print_freq)
        if stage == "vae":
            train_vae(run, epochs, loader, held_out, options.kl_weight, options.amp)
        else:
            train_transformer(run, epochs, loader, held_out, objective, options.label_dropout)

        # Results
        if stage == "dit" and world.is_main:
            info = {
                "dataset": options.dataset,
                "class_names": images.class_names,
                "image_size": size,
                "grey": images.grey,
                "cfg_channels": options.latent_channels,
                "time_embedding": "official",
                "seed": options.seed,
                "label_dropout": options.label_dropout,
            }
            if initial:
                info |= {
                    "cfg_channels": initial.info.get("cfg_channels", 3),
                    "time_embedding": pipeline.time_embedding,
                    "init": initial.name,
                    "init_sha256": initial.weights_sha256,
                }
            vae_dtype = torch.float32 if initial else torch.float16  # a published one is kept
            save_pipeline(options.save_dir, ema.module, vae, info, vae_dtype)
            print(f"pipeline: {options.save_dir}", flush=True)
        last = run.progress.rows[-1]
        result = {
            "stage": stage,
            "dataset": options.dataset,
            "epochs": options.epochs,
            "seed": options.seed,
            "image_steps": options.epochs * images_per_epoch,
            "seconds": run.seconds,
            **{key: last[key] for key in last if key not in ("epoch", "lr", "images_s")},
        }
        run.finish(result, PANELS[stage])
        return result


# Stage vae


def train_vae(run, epochs, loader, held_out, kl_weight, amp):
    """Trains the autoencoder of `run` (arXiv 2112.10752, app. G).

    The loss is the L1 error (mean over pixels) + kl_weight · the KL divergence from N(0, 1) (mean
    over latents).
    """
    vae, optimizer, device = run.parts["model"], run.parts["optimizer"], run.world.device
    network = parallel(Reconstruction(vae), run.world)
    for _ in epochs:
        vae.train()
        for batch in run.batches(loader):  # seeds torch, sets the learning rate
            images = 2 * to_device(batch, device)[0] - 1  # (N, 3, S, S) in [-1, 1]
            with autocast(amp, device):
                reconstruction, mean, log_variance = network(images)
            l1 = (reconstruction.float() - images).abs().mean()
            mean, log_variance = mean.float(), log_variance.float()
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
            loss = l1 + kl_weight * kl
            update(optimizer, loss)
            run.add(len(images), loss=loss, l1=l1, kl=kl)
        psnr = evaluate_vae(vae, held_out, run.world)
        run.end_epoch({"val_psnr": psnr}, psnr)  # writes metrics.csv and the checkpoints


@torch.no_grad()
def evaluate_vae(vae, loader, world):
    """Returns the mean PSNR in dB of the reconstructed images, from the posterior's mode."""
    vae.eval()
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in loader.ordered_batches():
        images, _ = to_device(batch, world.device)
        latents = vae.encode(2 * images - 1).latent_dist.mode()
        reconstruction = vae.decode(latents).sample.clamp(-1, 1) / 2 + 0.5
        error = (reconstruction - images).square().mean(dim=(1, 2, 3)).clamp_min(1e-12)  # ≤ 120 dB
        sums += torch.tensor([float((-10 * error.log10()).sum()), len(images)])
    total, count = world.sum(sums).tolist()
    return finite(total / count, "PSNR")


def held_out_images(data):
    """Returns VALIDATION_IMAGES images, always the same ones, of Fashion-MNIST's holdout or of the
    validation set.
    """
    images = data.split("holdout") if data.name == "fashion_mnist" else data.validation()
    order = np.random.default_rng(0).permutation(len(images))
    return images.subset(order[:VALIDATION_IMAGES])


# Stage dit


@dataclass(frozen=True)
class Objective:
    """Loss terms of the DiT for latents drawn from the autoencoder's posterior.

    scaling_factor: factor of the latents; snr_gamma: gamma of the Min-SNR weights, 0 for none.
    """

    diffusion: GaussianDiffusion
    scaling_factor: float
    snr_gamma: float
    amp: str

    def terms(self, network, moments, labels):
        """Returns the ε-MSE, its Min-SNR weights and the variational bound, each (N,), at random
        timesteps.

        moments: (N, 2C, L, L), mean and log variance of the posterior; labels: (N,).
        """
        mean, log_variance = moments.chunk(2, dim=1)
        x0 = self.scaling_factor * (mean + torch.exp(log_variance / 2) * torch.randn_like(mean))
        t = torch.randint(self.diffusion.steps, (len(x0),), device=x0.device)
        noise = torch.randn_like(x0)
        xt = self.diffusion.add_noise(x0, t, noise)
        with autocast(self.amp, x0.device):
            output = network(xt, t, labels).sample  # (N, 2C, L, L)
        mse, bound = self.diffusion.losses(output, x0, xt, t, noise)
        return mse, self.diffusion.min_snr_weight(t, self.snr_gamma), bound


def train_transformer(run, epochs, loader, held_out, objective, label_dropout):
    """Trains the DiT of `run` and the moving average of its weights (arXiv 2212.09748).

    held_out: (moments, labels) of the validation images of this rank.
    """
    model, ema, optimizer = (run.parts[name] for name in ("model", "ema", "optimizer"))
    device, num_classes = run.world.device, model.config.num_embeds_ada_norm
    network = parallel(model, run.world)
    prepare_for_training(model)
    for _ in epochs:
        for moments, labels in run.batches(loader):  # seeds torch, sets the learning rate
            labels = drop_labels(labels, num_classes, label_dropout)
            mse, weight, bound = objective.terms(network, moments.to(device), labels.to(device))
            loss = (weight * mse).mean() + bound.mean()
            update(optimizer, loss)
            ema.update_parameters(model)
            run.add(len(mse), loss=loss, mse=mse, bound=bound)
        metrics = evaluate_transformer(ema.module, held_out, objective, run.world)
        run.end_epoch(metrics, -metrics["val_mse"])  # writes metrics.csv and the checkpoints


@torch.no_grad()
def evaluate_transformer(transformer, held_out, objective, world):
    """Returns the ε-MSE on unseen images at fixed timesteps and noise: `val_mse` with the labels,
    `val_mse_null` without.
    """
    transformer.eval()
    moments, labels = (tensor.to(world.device) for tensor in held_out)
    null = torch.full_like(labels, transformer.config.num_embeds_ada_norm)
    means = {}
    for name, target in (("val_mse", labels), ("val_mse_null", null)):
        torch.manual_seed(world.rank)
        mse, _, _ = objective.terms(transformer, moments, target)
        sums = torch.tensor([float(mse.sum()), len(mse)], dtype=torch.float64)
        total, count = world.sum(sums).tolist()
        means[name] = finite(total / count, "ε-MSE")
    return means


def finite(value, name):
    """The value, a measure of the unseen images. Raises UserError if it is not finite."""
    if not math.isfinite(value):
        raise UserError(
            f"the {name} on unseen images is {value}: the training has diverged: start again with "
            "a lower --learning_rate, or give --amp off"
        )
    return value


def prepare_for_training(model):
    """Puts the DiT into training mode, without the label dropout of its blocks (`drop_labels` does
    it once per sample).
    """
    model.train()
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.eval()


def check_latents(moments, save_dir):
    """Raises UserError if latents of the autoencoder in `save_dir` are not finite, or too large."""
    log_variance = moments.chunk(2, dim=1)[1]
    if not (moments.isfinite().all() and log_variance.max() < 80):  # exp must not overflow
        raise UserError(
            f"the autoencoder in {stage_folder(save_dir, 'vae')} gives latents that are not "
            "finite: train it again (--stage vae) with a lower --learning_rate"
        )


def unit_variance_factor(moments):
    """Returns the factor that scales the latents to unit variance (arXiv 2112.10752, app. G).

    moments: (N, 2C, L, L), mean and log variance of the posterior.
    """
    mean, log_variance = moments.chunk(2, dim=1)
    variance = mean.double().var() + log_variance.double().exp().mean()
    return float(variance.rsqrt())


# The trained autoencoder


def stage_folder(save_dir, stage):
    """Returns the run folder of a stage."""
    return Path(save_dir, f"train_{stage}")


def load_vae(save_dir, channels, latent_channels, image_size):
    """Returns the autoencoder that stage `vae` has trained, frozen.

    Raises UserError if the stage is not finished or the autoencoder has another shape.
    """
    path = latest_path(stage_folder(save_dir, "vae"), "vae")
    if not path.exists():
        raise UserError(f"{path} not found: run --stage vae first, with the same --save_dir")
    content = checkpoints.load(path)
    if not isinstance(content, dict) or "flags" not in content:
        raise UserError(f"{path} is not a checkpoint of --stage vae: choose another --save_dir")
    if "optimizer" in content:
        raise UserError(f"{path} belongs to an unfinished run: finish it with --stage vae --resume")
    for name, value in {"vae_channels": channels, "latent_channels": latent_channels}.items():
        if (before := content["flags"][name]) != value:
            raise UserError(f"--{name} is {value}, but {path} was trained with {before}")
    checkpoints.check_finite(content["model"], path)
    vae = build_vae(channels, latent_channels, image_size)
    vae.load_state_dict(content["model"])
    return vae.eval().requires_grad_(False)


def finished_vae(save_dir, *shape):
    """Returns the autoencoder of the pipeline folder `save_dir`, frozen, or else that of
    `load_vae(save_dir, *shape)`: shipped pipelines come without the checkpoints of their training.
    """
    from diffusers import AutoencoderKL

    folder = Path(save_dir, "vae")
    if not (folder / "config.json").exists():
        return load_vae(save_dir, *shape)
    return load_component(AutoencoderKL, folder)


def encode(vae, images, image_size, workers, world):
    """Encodes an ImageSet on every process.

    Returns the posterior's moments (N, 2C, L, L) float32 (mean, log variance) and the labels (N,),
    on the CPU.
    """
    loader = Loader(images, transforms.validation(image_size), ENCODING_BATCH, workers=workers)
    moments, labels = [], []
    with (
        torch.no_grad(),
        tqdm(total=len(images), desc="latents", unit="image", disable=not world.is_main) as bar,
    ):
        for batch in loader.ordered_batches():
            inputs, targets = to_device(batch, world.device)
            posterior = vae.encode(2 * inputs - 1).latent_dist
            moments.append(torch.cat([posterior.mean, posterior.logvar], dim=1).cpu())
            labels.append(targets.cpu())
            bar.update(len(inputs))
    return torch.cat(moments).contiguous(), torch.cat(labels)


def latents_on_disk(save_dir, part, images, pipeline, workers, world):
    """The moments of the images by the autoencoder of a Pipeline, memory-mapped from
    <save_dir>/latents/<part>.npy, which is written first if it is not there, and the labels (N,).
    """
    size, (channels, *latent_size) = pipeline.image_size, pipeline.latent_shape

    def encode_batch(images):
        posterior = pipeline.vae.encode(2 * images - 1).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    loader = Loader(
        images,
        transforms.whole(size),
        min(ENCODING_BATCH, max(1, ENCODED_PIXELS // size**2)) * world.size,
        workers=workers,
        rank=world.rank,
        world_size=world.size,
    )
    key = f"{world.from_main(images_sha256, images)} {pipeline.weights_sha256}"
    path = Path(save_dir, "latents", f"{part}.npy")
    moments = cached_latents(path, loader, encode_batch, (2 * channels, *latent_size), key, world)
    return moments, torch.from_numpy(np.asarray(images.labels, np.int64))


# Stage reconstruct


@torch.no_grad()
def write_reconstructions(folder, vae, grey, moments, labels):
    """Decodes the means of `moments` (N, 2C, L, L) and writes the images by their labels (N,).

    <folder>/0003/00017.png is image 17, counted from 0, of class 3.
    """
    numbers = np.zeros(int(labels.max()) + 1, np.int64)
    make_folder(folder)
    with ImageWriter("png") as writer:
        for part, classes in zip(
            moments.split(ENCODING_BATCH), labels.split(ENCODING_BATCH), strict=True
        ):
            mean, _ = part.to(vae.device).chunk(2, dim=1)
            remedy = "check the weights of the autoencoder"
            pixels = to_pixels(vae.decode(mean).sample, grey, remedy).cpu().numpy()
            for image, label in zip(pixels, classes.tolist(), strict=True):
                writer.put(folder / f"{label:04d}/{numbers[label]:05d}.png", image)
                numbers[label] += 1
    print(f"{len(labels)} reconstructed images: {folder}", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
