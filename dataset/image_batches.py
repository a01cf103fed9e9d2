"""Filling a folder with generated images: the work from plan to contact sheet, and its batches,
files and progress.
"""

import time

from tqdm import tqdm

from dataset.contact_sheet import write_contact_sheet
from dataset.image_plan import plan_images
from dataset.image_writer import ImageWriter
from helper.cost import Pace


def fill_folder(folder, settings, asked, origin, world, say, work):
    """Makes what is missing in `folder`; returns a dict: folder, images (there now), made (by this
    run), seconds.

    settings and asked: as `plan_images` takes them; origin: what else the manifest says of the
    making, with `class_names` if there are any; say(line) prints; work(plan) makes the images and
    is not called if none is missing. Raises UserError as `plan_images` does.
    """
    began = time.monotonic()
    plan = world.from_main(lambda: plan_images(folder, settings, asked))
    if plan.complete:
        say(f"{folder} is complete: {plan.summary}, nothing to do")
        return {
            "folder": str(folder),
            "images": plan.images,
            "made": 0,
            "seconds": time.monotonic() - began,
        }
    world.from_main(lambda: plan.write_manifest(origin, complete=False))
    if plan.missing:
        say(
            f"{folder}: {len(plan.missing)} of {plan.images} images to make on {world.size} × "
            f"{world.device}"
        )
        work(plan)
    world.barrier()
    world.from_main(lambda: _finish(plan, origin))
    seconds = time.monotonic() - began
    say(
        f"{folder}: {plan.images} images, {len(plan.missing)} made in {seconds:.0f} s; "
        f"{folder / 'contact_sheet.png'}"
    )
    return {
        "folder": str(folder),
        "images": plan.images,
        "made": len(plan.missing),
        "seconds": seconds,
    }


def _finish(plan, origin):
    """Draws the contact sheet from the files and declares the work complete."""
    write_contact_sheet(
        plan.folder / "contact_sheet.png", plan.sheet_rows(origin.get("class_names"))
    )
    plan.write_manifest(origin, complete=True)


def lacking_batches(plan, batch_size):
    """Returns the batches, lists of `batch_size` items (the last may be shorter), that lack an
    image.

    They are cut from the whole work list, whatever is missing: so an image is always computed
    beside the same others.
    """
    batches = [
        plan.items[first : first + batch_size] for first in range(0, len(plan.items), batch_size)
    ]
    return [batch for batch in batches if plan.missing.intersection(batch)]


def padded(batch, batch_size):
    """Returns a batch filled up with its last item: equal batch size gives equal bytes, in a short
    batch too.
    """
    return batch + batch[-1:] * (batch_size - len(batch))


def write_batches(plan, batches, world, make):
    """Makes this process's share of `batches`, lists of items, and writes their images that are
    missing.

    make(mine, advance) is a generator: it yields the uint8 pixels, (n, S, S, 3) or (n, S, S), of
    each batch of `mine` in turn, those beyond the batch's own items being left aside, and calls
    advance(share) as it gets on with a batch, the shares of one adding up to 1.
    """
    mine = batches[world.rank :: world.size]
    progress = tqdm(
        total=len(plan.missing),
        disable=not world.is_main,
        bar_format="{percentage:3.0f}%|{bar}| {n:.0f}/{total} images [{elapsed}<{remaining}, {rate_fmt}]",
        unit="image",
    )
    pace, images, done = (
        Pace(len(plan.missing), "image"),
        0,
        0,
    )  # of all processes, which keep step with this one

    def advance(share):
        progress.update(min(share * images, progress.total - progress.n))

    with progress, ImageWriter(plan.settings["format"]) as writer:
        made = make(mine, advance)
        for number, batch in enumerate(mine):
            together = batches[number * world.size : (number + 1) * world.size]
            images = sum(len(plan.missing.intersection(other)) for other in together)
            for item, image in zip(batch, next(made), strict=False):
                if item in plan.missing:
                    writer.put(plan.path(item), image)
            done += images
            hours = pace.batch(done)  # the pixels are here, so the device has finished
            if hours and world.is_main:
                progress.write(hours)
