#!/bin/sh
# Table 3, ImageNet-100 and Flowers-102: all cells of scripts/cells/table3_other.txt, or CELL.
# See scripts/run_cells.sh. `python make_tables.py` makes the table of finished runs.
exec sh "$(dirname "$0")/run_cells.sh" table3_other "$@"
