"""Downloads published ImageNet weights to save/models/<name>/<name>.pth, the layout of the
released teachers.

python -m tools.fetch_weights ResNet18
"""

import sys
from pathlib import Path

from dataset.class_list import IMAGENET_CLASSES
from helper import checkpoints
from helper.errors import run_script
from helper.files import make_folder
from helper.options import Parser
from models.architectures import ARCHITECTURES, create_model


def main(argv=None):
    """Downloads torchvision's weights unless the file exists, and returns its path."""
    parser = Parser(__doc__)
    published = [name for name, architecture in ARCHITECTURES.items() if architecture.torchvision]
    parser.add_argument("name", choices=published)
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("save/models"),
        help="folder of the checkpoints (default: %(default)s)",
    )
    options = parser.parse_args(argv)

    path = options.root / options.name / f"{options.name.lower()}.pth"
    if path.is_file():
        print(f"{path} already exists")
        return path
    make_folder(path.parent)
    net = create_model(options.name, IMAGENET_CLASSES, pretrained=True)
    checkpoints.save(path, net.state_dict())
    print(f"{options.name}: {path}")
    return path


if __name__ == "__main__":
    sys.exit(run_script(main))
