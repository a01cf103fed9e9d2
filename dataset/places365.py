"""Places365 as torchvision unpacks it: lists beside a folder of training images,
data_256_standard/a/abbey/….jpg.
"""

from helper.errors import UserError

_LIST = "places365_train_"  # places365_train_standard.txt, places365_train_challenge.txt


def training_folder(source):
    """Returns the folder of the training images where the Path `source` is torchvision's root or
    one of its training lists, whose paths (/a/abbey/00000001.jpg) are relative to that folder; None
    for anything else.

    Raises UserError if the root holds several such folders: the same images in two sizes, say.
    """
    if source.is_dir():
        root, variants = source, ("standard", "challenge")
    elif source.name.startswith(_LIST):
        root, variants = source.parent, (source.stem.removeprefix(_LIST),)
    else:
        return None
    found = [
        folder
        for variant in variants
        for size in ("256", "large")
        if (folder := root / f"data_{size}_{variant}").is_dir()
    ]
    if len(found) > 1:
        raise UserError(
            f"{root} holds {' and '.join(folder.name for folder in found)}, which share images: "
            "give one "
            f"of them, such as {found[0]}"
        )
    return found[0] if found else None
