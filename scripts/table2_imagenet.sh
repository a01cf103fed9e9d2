#!/bin/sh
# Table 2, ImageNet-1K: the cells of scripts/cells/table2_imagenet.txt, all unfinished ones or CELL alone.
# scripts/run_cells.sh says what can be set. `python make_tables.py` makes the table of what has been run.
exec sh "$(dirname "$0")/run_cells.sh" table2_imagenet
