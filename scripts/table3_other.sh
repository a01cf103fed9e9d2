#!/bin/sh
# Table 3, ImageNet-100, Flowers-102: the cells of scripts/cells/table3_other.txt, all unfinished ones or CELL alone.
# scripts/run_cells.sh says what can be set. `python make_tables.py` makes the table of what has been run.
exec sh "$(dirname "$0")/run_cells.sh" table3_other
