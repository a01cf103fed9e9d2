"""Trains a small latent diffusion pipeline on a labelled image set: an AutoencoderKL, then a DiT on
its latents.

The result, save/models/<dataset>/<model_name>/, is a diffusers pipeline folder that
synthesize_dit.py samples from. Fashion-MNIST's holdout images measure it; they are never trained
on. Stage `reconstruct` writes real images as the autoencoder gives them back, by class: a student
trained on them shows what the autoencoder alone loses.

    python train_dit.py --stage vae --dataset fashion_mnist --epochs 2 --learning_rate 1e-3
    python train_dit.py --stage dit --dataset fashion_mnist --epochs 10 --learning_rate 1e-3 --resume
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from dataset import real
from dataset.image_writer import ImageWriter, to_pixels
from dataset.loader import Loader, TensorLoader
from dataset.transforms import validation
from diffusion.build import Reconstruction, build_dit, build_vae, save_pipeline
from diffusion.loss import GaussianDiffusion, drop_labels, moving_average
from diffusion.schedule import linear_betas
from helper import checkpoints, distributed, loops
from helper import options as flags
from helper.errors import UserError, run
from helper.files import make_folder
from helper.run_old import RunFolder, latest_path, refuse_existing

VALIDATION_IMAGES = 2_000  # enough to follow a loss; always the same ones


def parse_option(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--stage", choices=["vae", "dit", "reconstruct"], required=True)
    parser.add_argument(
        "--data_amount",
        type=flags.amount,
        default=None,
        help="train on so many images, the same of each class (default: all)",
    )
    parser.add_argument(
        "--model_name",
        default=None,
        help="folder and generator name (default: DiT-<depth>x<width>-<patch>)",
    )
    parser.add_argument(
        "--vae_channels",
        type=flags.int_list,
        default=[16, 32, 64],
        help="channels by resolution; each after the first halves the size (default: 16,32,64)",
    )
    parser.add_argument("--latent_channels", type=flags.positive_int, default=4)
    parser.add_argument(
        "--kl_weight",
        type=flags.nonnegative_float,
        default=1e-4,
        help="weight of the mean KL a latent, beside the mean L1 a pixel (default: 1e-4)",
    )
    parser.add_argument("--depth", type=flags.positive_int, default=6, help="blocks of the DiT")
    parser.add_argument("--width", type=flags.positive_int, default=128)
    parser.add_argument("--heads", type=flags.positive_int, default=4)
    parser.add_argument("--patch_size", type=flags.positive_int, default=2, help="in latents")
    parser.add_argument("--label_dropout", type=flags.nonnegative_float, default=0.1)
    parser.add_argument(
        "--ema",
        type=flags.nonnegative_float,
        default=0.999,
        help="decay a step (official: 0.9999), reached by way of (1 + n) / (10 + n) at step n",
    )
    parser.add_argument(
        "--snr_gamma",
        type=flags.nonnegative_float,
        default=0.0,
        help="Min-SNR weighting of the ε-MSE, such as 5 (default: 0, none, as in the official code)",
    )
    parser.add_argument(
        "--save_dir", default=None, help="default: save/models/<dataset>/<model_name>"
    )
    flags.add_training_flags(
        parser, epochs=10, batch_size=128, learning_rate=1e-4, weight_decay=0.0
    )
    real.add_flags(parser)
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    if not 0 <= options.ema < 1 or options.label_dropout > 1:
        raise UserError("--ema must be in [0, 1) and --label_dropout in [0, 1]")
    options.model_name = (
        options.model_name or f"DiT-{options.depth}x{options.width}-{options.patch_size}"
    )
    options.save_dir = options.save_dir or f"save/models/{options.dataset}/{options.model_name}"
    options.schedule, options.min_lr = "cosine", 0.0
    return options


def main(argv=None):
    """Runs one stage and returns its result (a dict), or the folder of `reconstruct`.

    The pipeline folder is written at the end of `dit`.
    """
    options = parse_option(argv)

    with distributed.session(options, argv) as world:
        if options.stage == "reconstruct":
            return reconstruct(options, world)
        if result := finished_result(options, world):
            return result
        return (train_vae if options.stage == "vae" else train_transformer)(options, world)


def finished_result(options, world):
    """Returns the result of the stage if `--resume` finds it finished, before any image is read;
    else None.

    Raises UserError if there is a run and no `--resume`, or one of other settings.
    """
    run_folder = RunFolder(stage_folder(options, options.stage), options.stage, {}, options, world)
    refuse_existing(run_folder.folder, run_folder.name, options.resume)
    if not run_folder.latest.exists():
        return None
    return run_folder.finished_result(run_folder.open(True, {}), options.epochs)


def train_vae(options, world):
    """Trains the autoencoder: mean L1 of the pixels + kl_weight · mean KL of the latents (arXiv
    2112.10752, app. G).
    """
    torch.manual_seed(options.seed)
    vae = build_vae(options.vae_channels, options.latent_channels, real.image_size(options)).to(
        world.device
    )
    optimizer = torch.optim.AdamW(
        vae.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )
    network = loops.parallel(Reconstruction(vae), world)
    # The validation transform: training images that are neither cropped nor flipped.
    loader = real.make_loader(real.load_training(options), options, world, train=False)
    held_out = real.make_loader(held_out_images(options), options, world, train=False)

    def losses(batch):
        images, _ = loops.to_device(batch, world.device)
        with loops.autocast(options.amp, world.device):
            reconstruction, mean, log_variance = network(2 * images - 1)
        error = (reconstruction.float() - (2 * images - 1)).abs().mean()
        mean, log_variance = mean.float(), log_variance.float()
        return (
            error,
            0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
            len(images),
        )

    def step(batch):
        vae.train()
        error, kl, count = losses(batch)
        loss = error + options.kl_weight * kl
        loops.gradient_step(loss, optimizer)
        return {
            "loss": loss.detach() * count,
            "l1": error.detach() * count,
            "kl": kl.detach() * count,
            "count": count,
        }

    @torch.no_grad()
    def evaluate():
        vae.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        for batch in held_out.ordered_batches():
            images, _ = loops.to_device(batch, world.device)
            latent = vae.encode(2 * images - 1).latent_dist.mode()
            error = (
                (vae.decode(latent).sample.clamp(-1, 1) / 2 + 0.5 - images)
                .square()
                .mean(dim=(1, 2, 3))
            )
            sums += torch.tensor([float((-10 * error.log10()).sum()), len(images)])
        total, count = world.sum(sums).tolist()
        return {"val_psnr": total / count}, total / count

    return train_stage(
        options,
        world,
        "vae",
        {"model": vae, "optimizer": optimizer},
        loader,
        step,
        evaluate,
        optimizer,
        {"loss": ["loss", "l1"], "reconstruction of unseen images (dB)": ["val_psnr"]},
    )


def held_out_images(options):
    """Returns VALIDATION_IMAGES random images, always the same, of Fashion-MNIST's holdout or the
    validation set.
    """
    if options.dataset == "fashion_mnist":
        images = real.load_split(options, "holdout")
    else:
        images = real.load_validation(options)
    order = np.random.default_rng(0).permutation(len(images))
    return images.subset(order[:VALIDATION_IMAGES])


def train_transformer(options, world):
    """Trains the DiT on the latents of the trained autoencoder (arXiv 2212.09748) and writes the
    pipeline folder.
    """
    vae = load_vae(options).to(world.device)
    train_images = real.load_training(options)
    moments, labels = encode(vae, train_images, options, world)
    set_scale(vae, moments)
    num_classes = len(train_images.class_names)
    torch.manual_seed(options.seed)
    model = build_dit(
        depth=options.depth,
        width=options.width,
        heads=options.heads,
        patch_size=options.patch_size,
        latent_size=moments.shape[-1],
        latent_channels=options.latent_channels,
        num_classes=num_classes,
    ).to(world.device)
    ema = AveragedModel(model, multi_avg_fn=moving_average(options.ema))
    optimizer = torch.optim.AdamW(
        model.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )
    network = loops.parallel(model, world)
    diffusion = GaussianDiffusion(linear_betas(), world.device)
    loader = TensorLoader(
        moments,
        labels,
        batch_size=options.batch_size,
        seed=options.seed,
        rank=world.rank,
        world_size=world.size,
    )

    def losses(transformer, moments, labels):
        """Returns the two losses (N,) at random steps t (N,), and t, for latents drawn from the
        posterior.
        """
        mean, log_variance = moments.to(world.device).chunk(2, dim=1)
        x0 = vae.config.scaling_factor * (
            mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        )
        t = torch.randint(diffusion.steps, (len(x0),), device=world.device)
        noise = torch.randn_like(x0)
        xt = diffusion.add_noise(x0, t, noise)
        with loops.autocast(options.amp, world.device):
            output = transformer(xt, t, labels.to(world.device)).sample
        return *diffusion.losses(output, x0, xt, t, noise), t

    def step(batch):
        prepare_for_training(model)
        moments, labels = batch
        mse, bound, t = losses(
            network, moments, drop_labels(labels, num_classes, options.label_dropout)
        )
        loss = (diffusion.min_snr_weight(t, options.snr_gamma) * mse).mean() + bound.mean()
        loops.gradient_step(loss, optimizer)
        ema.update_parameters(model)
        return {
            "loss": loss.detach() * len(mse),
            "mse": mse.detach().sum(),
            "bound": bound.detach().sum(),
            "count": len(mse),
        }

    held_out = encode(vae, held_out_images(options), options, world)
    held_out = [tensor[world.rank :: world.size] for tensor in held_out]

    @torch.no_grad()
    def evaluate():
        """The averaged weights' ε-MSE on unseen images at fixed steps and noise, with the label and
        without.
        """
        ema.eval()
        sums = {}
        for name, target in (
            ("val_mse", held_out[1]),
            ("val_mse_null", torch.full_like(held_out[1], num_classes)),
        ):
            torch.manual_seed(world.rank)
            mse, _, _ = losses(ema.module, held_out[0], target)
            sums[name] = [float(mse.sum()), len(mse)]
        sums = {
            name: world.sum(torch.tensor(values, dtype=torch.float64))
            for name, values in sums.items()
        }
        means = {name: float(total / count) for name, (total, count) in sums.items()}
        return means, -means["val_mse"]

    parts = {"model": model, "ema": ema, "optimizer": optimizer}

    def write():
        if world.is_main:
            save_pipeline(options.save_dir, ema.module, vae, generator_info(options, train_images))
            print(f"pipeline: {options.save_dir}", flush=True)

    return train_stage(
        options,
        world,
        "dit",
        parts,
        loader,
        step,
        evaluate,
        optimizer,
        {"training loss": ["mse", "bound"], "ε-MSE on unseen images": ["val_mse", "val_mse_null"]},
        write,
    )


def load_vae(options):
    """Returns the finished autoencoder of stage `vae`, frozen. Raises UserError if that stage is
    not finished.
    """
    path = latest_path(stage_folder(options, "vae"), "vae")
    if not path.exists():
        raise UserError(f"{path} not found: run --stage vae first, with the same --save_dir")
    content = checkpoints.load(path)
    if not isinstance(content, dict) or "flags" not in content:
        raise UserError(f"{path} is not a checkpoint of --stage vae: choose another --save_dir")
    flags_then = content["flags"]
    if "optimizer" in content:
        raise UserError(f"{path} is of an unfinished run: finish it with --stage vae --resume")
    for name in ("vae_channels", "latent_channels"):
        if flags_then[name] != getattr(options, name):
            raise UserError(
                f"--{name} is {getattr(options, name)} and {path} was trained with "
                f"{flags_then[name]}"
            )
    vae = build_vae(options.vae_channels, options.latent_channels, real.image_size(options))
    vae.load_state_dict(content["model"])
    return vae.eval().requires_grad_(False)


def encode(vae, images, options, world):
    """Returns the posterior's moments (N, 2C, L, L) float32 (mean, log variance) and the labels
    (N,), on the CPU.
    """
    loader = Loader(images, validation(real.image_size(options)), 256, workers=options.num_workers)
    moments, labels = [], []
    with (
        torch.no_grad(),
        tqdm(total=len(images), desc="latents", unit="image", disable=not world.is_main) as bar,
    ):
        for batch in loader.ordered_batches():
            inputs, targets = loops.to_device(batch, world.device)
            posterior = vae.encode(2 * inputs - 1).latent_dist
            moments.append(torch.cat([posterior.mean, posterior.logvar], dim=1).cpu())
            labels.append(targets.cpu())
            bar.update(len(inputs))
    return torch.cat(moments).contiguous(), torch.cat(labels)


def finished_vae(options):
    """Returns the frozen autoencoder of a pipeline folder, or else that of stage `vae`, as
    `load_vae`.

    The shipped pipeline has no checkpoints of its training beside it.
    """
    from diffusers import AutoencoderKL

    folder = Path(options.save_dir) / "vae"
    if not (folder / "config.json").exists():
        return load_vae(options)
    return AutoencoderKL.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)


def reconstruct(options, world):
    """Writes the training images (`--data_amount` of them) after a pass through the autoencoder;
    returns the folder.

    <save_dir>/reconstructed/0003/00017.png is image 17, from 0, of class 3. Rank 0 does the work.
    Raises UserError if the folder is there: what an earlier run left would stand among the new
    images.
    """
    folder = Path(options.save_dir) / "reconstructed"
    if not world.is_main:
        return folder
    if folder.exists():
        raise UserError(f"{folder} is there already: delete it, or give another --save_dir")
    vae, images = finished_vae(options).to(world.device), real.load_training(options)
    moments, labels = encode(vae, images, options, world)
    numbers = np.zeros(len(images.class_names), np.int64)
    make_folder(folder)
    with torch.no_grad(), ImageWriter("png") as writer:
        for part, classes in zip(moments.split(256), labels.split(256)):
            decoded = vae.decode(part.chunk(2, dim=1)[0].to(world.device)).sample
            for pixels, label in zip(
                to_pixels(decoded, images.grey).cpu().numpy(), classes.tolist()
            ):
                writer.put(folder / f"{label:04d}/{numbers[label]:05d}.png", pixels)
                numbers[label] += 1
    print(f"{len(images)} images as the autoencoder gives them back: {folder}", flush=True)
    return folder


def set_scale(vae, moments):
    """Sets the scaling factor so that scaled latents have unit variance (arXiv 2112.10752, app.
    G).
    """
    mean, log_variance = moments.chunk(2, dim=1)
    variance = mean.double().var() + log_variance.double().exp().mean()
    vae.register_to_config(scaling_factor=float(variance.rsqrt()))


def prepare_for_training(model):
    """Puts the DiT into training mode with the blocks' own label dropout off (labels are dropped
    once a sample).
    """
    model.train()
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.eval()


def generator_info(options, images):
    """Returns what synthesize_dit.py must know of this pipeline beyond diffusers' configs."""
    return {
        "dataset": options.dataset,
        "class_names": images.class_names,
        "image_size": real.image_size(options),
        "grey": images.grey,
        "cfg_channels": options.latent_channels,
        "time_embedding": "official",
        "seed": options.seed,
        "label_dropout": options.label_dropout,
    }


def stage_folder(options, stage):
    """Returns the run folder of a stage."""
    return Path(options.save_dir) / f"train_{stage}"


def train_stage(
    options, world, stage, parts, loader, step, evaluate, optimizer, panels, write=None
):
    """Runs one stage in its run folder <save_dir>/train_<stage>/ and returns its result.

    `write()` is called, on every process, before result.json says that the stage is finished.
    """
    run_folder = RunFolder(stage_folder(options, stage), stage, parts, options, world)
    progress = run_folder.open(options.resume, {"images": len(loader) * loader.batch_size})
    parameters = sum(parameter.numel() for parameter in parts["model"].parameters())
    run_folder.log(
        f"{stage}: {parameters / 1e6:.2f}M parameters, {len(loader)} steps of {loader.batch_size} "
        "an epoch, "
        f"epoch {progress.epoch} of {options.epochs} done"
    )
    loops.fit(
        run_folder,
        progress,
        loader,
        step,
        evaluate,
        optimizer,
        loops.make_schedule(options),
        options,
    )
    result = {
        "stage": stage,
        "dataset": options.dataset,
        "epochs": options.epochs,
        "seed": options.seed,
        "image_steps": options.epochs * len(loader) * loader.batch_size,
        "seconds": round(progress.seconds, 1),
        **{
            key: value
            for key, value in progress.rows[-1].items()
            if key not in ("epoch", "lr", "images_s")
        },
    }
    if write:
        write()
    run_folder.finish(result, panels)
    world.barrier()
    return result


if __name__ == "__main__":
    sys.exit(run(main))
