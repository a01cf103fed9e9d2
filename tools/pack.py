"""Packs decoded images of one size into a memory-mapped file, so that training does not decode.

    python -m tools.pack syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0
    python train_student.py --train_data syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0_pack …

An image of 256×256 pixels takes 196 KB, 200,000 take 39 GB. An interrupted run continues when it is
started again. Labels and class folders are kept: training on the pack is training on the images.
"""

import sys
from pathlib import Path

from dataset.folders import read_for_pack
from dataset.pack import is_pack, write_pack
from helper.errors import UserError, run_script
from helper.options import Parser


def main(argv=None):
    """Writes the pack and returns its path."""
    parser = Parser(__doc__)
    parser.add_argument("source", type=Path, help="image folder, or list of `path [label]` lines")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the pack (default: <source>_pack, without the ending of a list)",
    )
    options = parser.parse_args(argv)
    if is_pack(options.source):
        raise UserError(f"{options.source} is a pack already: give the folder of the images")
    source = options.source.resolve()
    out = options.out or source.with_name(
        f"{source.stem if source.is_file() else source.name}_pack"
    )
    images, folders = read_for_pack(options.source)
    new = write_pack(images, folders, out)
    size = (out / "images.npy").stat().st_size / 2**30
    print(f"{out}: {len(images)} images ({new} new), {size:.2f} GiB")
    return out


if __name__ == "__main__":
    sys.exit(run_script(main))
