# Sourced by the other scripts, from the repository's root: creates .venv, installs the files of
# $REQUIREMENTS into it unless that has been done, and sets PYTHON. If PYTHON is given, that
# interpreter is used as it is. A script that takes arguments sets TAKES_ARGUMENTS first.
fail() { echo "error: $*" >&2; exit 2; }

[ $# -eq 0 ] || [ -n "${TAKES_ARGUMENTS:-}" ] ||
    fail "$1: settings are variables in front of the command, such as SEED=1 sh scripts/NAME.sh"
[ -z "${PYTHON:-}" ] || return 0
PYTHON_BASE=${PYTHON_BASE:-python3}

command -v "$PYTHON_BASE" > /dev/null || fail "$PYTHON_BASE not found: install Python 3.11 or newer"
"$PYTHON_BASE" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$PYTHON_BASE" --version) is too old: install Python 3.11 or newer, or set PYTHON_BASE"
if [ ! -x .venv/bin/python ]; then
    "$PYTHON_BASE" -c 'import ensurepip, venv' 2> /dev/null ||
        fail "Python has no venv module here: install the package python3-venv (Debian, Ubuntu)"
    echo "creating .venv"
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
