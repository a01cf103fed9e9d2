# Sourced by the other scripts, from the repository's root: makes .venv and installs the files of $REQUIREMENTS into
# it, unless that has been done. Sets PYTHON.
PYTHON_BASE=${PYTHON_BASE:-python3}

command -v "$PYTHON_BASE" > /dev/null || { echo "error: $PYTHON_BASE not found: install Python 3.11 or newer" >&2; exit 2; }
"$PYTHON_BASE" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$PYTHON_BASE" --version) is too old: install Python 3.11 or newer, or set PYTHON_BASE" >&2; exit 2; }
if [ ! -x .venv/bin/python ]; then
    "$PYTHON_BASE" -c 'import ensurepip, venv' 2> /dev/null || {
        echo "error: Python has no venv module here: install the package python3-venv (Debian, Ubuntu)" >&2; exit 2; }
    echo "making .venv"
    "$PYTHON_BASE" -m venv .venv
fi
PYTHON=.venv/bin/python
for requirements in $REQUIREMENTS; do
    stamp=.venv/installed-$(echo "$requirements" | tr / -)
    if ! cmp -s "$requirements" "$stamp"; then
        echo "installing $requirements (some minutes the first time)"
        "$PYTHON" -m pip install --disable-pip-version-check -q -r "$requirements"
        cp "$requirements" "$stamp"
    fi
done
