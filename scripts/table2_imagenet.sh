#!/bin/sh
# Table 2, ImageNet-1K: runs the cells of scripts/cells/table2_imagenet.txt, or CELL alone.
# See scripts/run_cells.sh. `python make_tables.py` makes the table of finished runs.
exec sh "$(dirname "$0")/run_cells.sh" table2_imagenet "$@"
