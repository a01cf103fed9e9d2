"""Errors of the user: one or two lines on stderr and exit code 2, no traceback."""

import errno
import os
import sys
import time

# Operating-system errors that the user can fix, and how.
REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again "
    "(a training with --resume)",
    errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
    errno.EACCES: "no permission: choose another folder or change its permissions",
    errno.EPERM: "no permission: choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOENT: "a folder of this path does not exist: was it deleted meanwhile?",
    errno.EISDIR: "a folder has the name of this file: remove or rename it",
    errno.ENOTDIR: "a part of this path is a file: choose another folder",
}
RANK_PATIENCE = 3.0  # seconds; torchrun notices within tenths of a second that a process ended


class UserError(Exception):
    """Wrong input. The message says in one or two lines what is wrong, where, and what to do."""


def note(text):
    """Prints a note for the user, on rank 0 only."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"note: {text}", flush=True)


def describe_os_error(error):
    """The message for an OSError that the user can fix, None for any other."""
    remedy = REMEDIES.get(error.errno)
    if remedy is None:
        return None
    if not error.filename:
        return remedy
    unreadable = os.path.exists(error.filename) and not os.access(error.filename, os.R_OK)
    return f"cannot {'read' if unreadable else 'write'} {error.filename}: {remedy}"


def run_script(main, argv=None):
    """Runs a script's `main(argv)` and returns the exit code: 0, 2 for a user's error, 130 for ^C.

    With several processes rank 0 prints the message. Another rank waits before it does so: if all
    ranks raise the same error, torchrun has ended it by then. Any other exception is a bug and
    keeps its traceback.
    """
    try:
        main(argv)
        return 0
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
    except RuntimeError as error:
        # A collective operation fails when another process has ended, which says why itself.
        if int(os.environ.get("RANK", 0)) == 0 or "closed by peer" not in str(error):
            raise
        message = "another process ended: see its message"
    except KeyboardInterrupt:
        return 130
    if int(os.environ.get("RANK", 0)) > 0:
        time.sleep(RANK_PATIENCE)
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 2
