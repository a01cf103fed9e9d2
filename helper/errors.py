"""A user's mistake is one or two lines on standard error and exit code 2, never a traceback."""

import errno
import os
import sys
import time

# Operating-system failures that the user, not the code, can mend, and what to do about each.
REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
    errno.EACCES: "no permission: choose another folder or change its permissions",
    errno.EPERM: "no permission: choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of this path is a file: choose another folder",
}
RANK_PATIENCE = 3.0  # seconds; torchrun notices a process that ended within tenths of one


class UserError(Exception):
    """Wrong input: the message says what is wrong, where, and what to do, in one or two lines."""


def describe_os_error(error):
    """Returns the message for an OSError that the user can mend, or None for any other."""
    remedy = REMEDIES.get(error.errno)
    if remedy is None:
        return None
    if not error.filename:
        return remedy
    unreadable = os.path.exists(error.filename) and not os.access(error.filename, os.R_OK)
    return f"cannot {'read' if unreadable else 'write'} {error.filename}: {remedy}"


def run_script(main, argv=None):
    """Runs a script's `main(argv)` for the shell and returns its exit code: 0, 2 for a user's
    mistake, 130 for ^C.

    Of several processes rank 0 prints the message. Another rank speaks only if rank 0 is still
    there after a while: an error that all of them meet makes torchrun end them before that. Any
    other exception is a bug and keeps its traceback.
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
    except KeyboardInterrupt:
        return 130
    if int(os.environ.get("RANK", 0)) > 0:
        time.sleep(RANK_PATIENCE)
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 2


run = run_script
