"""Places365 in torchvision's layout: list files next to folders of training images."""

from helper.errors import UserError

LIST_PREFIX = "places365_train_"  # places365_train_standard.txt, places365_train_challenge.txt


def training_folder(path):
    """Training images of a Places365 root or training list, or None if `path` is neither.

    The images are in data_256_standard/a/abbey/00000001.jpg, the list has /a/abbey/00000001.jpg.
    Raises UserError if there are several such folders, for example the same images in two sizes.
    """
    if path.is_dir():
        root, variants = path, ("standard", "challenge")
    elif path.name.startswith(LIST_PREFIX):
        root, variants = path.parent, (path.stem.removeprefix(LIST_PREFIX),)
    else:
        return None
    candidates = [
        root / f"data_{size}_{variant}" for variant in variants for size in ("256", "large")
    ]
    folders = [folder for folder in candidates if folder.is_dir()]
    if len(folders) > 1:
        names = " and ".join(folder.name for folder in folders)
        raise UserError(
            f"{root} contains {names}, which share images: choose one, such as {folders[0]}"
        )
    return folders[0] if folders else None
