"""Errors of the user: one or two lines on stderr and exit code 2, no traceback."""

import errno
import io
import os
import re
import sys
import time

NO_PROCESS = (
    "no further process or thread can be started: raise the limit (ulimit -u, or that of the "
    "container), use fewer --num_workers, or end other programs"
)
SMALLER = "use fewer --num_workers or a smaller --batch_size"

# Faults of the machine, whichever file it was, and what to do.
MACHINE_FAULTS = {
    errno.EMFILE: "too many open files: raise the limit with `ulimit -n 65536`, or use fewer "
    "--num_workers",
    errno.ENFILE: "all programs together have too many open files: end some of them",
    errno.ENOMEM: f"not enough memory: {SMALLER}, or end other programs",
    errno.EIO: "input/output error: the disk or the network failed: check them, then run the same "
    "command again (a training with --resume)",
    errno.ESTALE: "stale file handle: the file server has restarted or replaced the file: run the "
    "same command again",
    errno.ETIMEDOUT: "the file server did not answer in time: run the same command again",
    errno.ENOTCONN: "the file system is no longer connected: mount it again",
    errno.EHOSTDOWN: "the file server does not answer: run the same command again later",
}

# Operating-system errors that the user can fix, and how.
REMEDIES = {
    **MACHINE_FAULTS,
    errno.ENOSPC: "the disk is full: free some space, or delete files if it can hold no more of "
    "them (df -i), then run the same command again "
    "(a training with --resume)",
    errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again "
    "(a training with --resume)",
    errno.EACCES: "no permission: choose another folder or change its permissions",
    errno.EPERM: "no permission: choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOENT: "a folder of this path does not exist: was it deleted meanwhile?",
    errno.EISDIR: "a folder has the name of this file: remove or rename it",
    errno.ENOTDIR: "a part of this path is a file: choose another folder",
    errno.EEXIST: "a file has the name of this folder: remove or rename it",
    errno.ENAMETOOLONG: "a name in this path, or the path, is longer than the file system allows: "
    "choose a shorter one",
    errno.EFBIG: "the file is larger than allowed: raise the limit with `ulimit -f unlimited`, or "
    "choose another file system",
    errno.ELOOP: "links in this path lead in a circle: remove them",
    errno.EPIPE: "cannot print: the program that reads the output has ended",
}
# Others occur in reading, too.
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)
RANK_PATIENCE = 3.0  # seconds; torchrun notices within tenths of a second that a process ended


class UserError(Exception):
    """Wrong input. The message says in one or two lines what is wrong, where, and what to do."""


def rank():
    """The rank of this process, which torchrun sets in the environment; without it 0."""
    text = os.environ.get("RANK", "")
    return int(text) if text.isdecimal() else 0


def note(text):
    """Prints a note for the user, on rank 0 only."""
    if rank() == 0:
        print(f"note: {text}", flush=True)


def describe_os_error(error):
    """The message for an OSError that the user can fix, None for any other."""
    remedy = REMEDIES.get(error.errno)
    # EAGAIN is also that of an output that does not wait
    if error.errno == errno.EAGAIN and not error.filename:
        remedy = None if hasattr(error, "characters_written") else NO_PROCESS
    if remedy is None:
        return None
    if not error.filename:
        return remedy
    if error.errno not in _WRITING:
        return f"cannot access {error.filename}: {remedy}"
    unreadable = os.path.exists(error.filename) and not os.access(error.filename, os.R_OK)
    return f"cannot {'read' if unreadable else 'write'} {error.filename}: {remedy}"


def describe_hidden_error(error):
    """The message for a fault of the machine that torch and other libraries raise as an error of
    their own, None for other errors.
    """
    text = str(error)
    if number := re.search(r"\(os error (\d+)\)", text):  # Rust's, such as safetensors
        return REMEDIES.get(int(number[1]))
    # Data-loading processes hand over batches in shared memory, as files </torch_…>.
    if "Bus error" in text or ("</torch_" in text and f"({errno.ENOSPC})" in text):
        return (
            "too little shared memory for the data-loading processes: enlarge /dev/shm (docker run "
            "--shm-size 8g), or use --num_workers 0"
        )
    if "Too many open files" in text:
        return MACHINE_FAULTS[errno.EMFILE]
    if "can't start new thread" in text:
        return NO_PROCESS
    if "DataLoader worker (pid" in text or "Pin memory thread exited" in text:
        return f"{text.splitlines()[0].rstrip(' .')}: if memory ran out, {SMALLER}"
    if any(part in text for part in ("allocate memory", "MemoryError", f"({errno.ENOMEM})")):
        return MACHINE_FAULTS[errno.ENOMEM]
    if any(
        part in text
        for part in ("CUDA out of memory", "CUDA error: out of memory", "_ALLOC_FAILED")
    ):
        return "not enough memory on the GPU: use a smaller --batch_size, or end other programs"
    if "busy or unavailable" in text:
        return "another program has exclusive use of the GPU: choose another with --device cuda:N"
    if "no kernel image is available" in text:
        return "this build of torch does not support the GPU: install another, or give --device cpu"
    if "does not have a deterministic implementation" in text:
        return f"{text.split()[0]} has no deterministic kernel on this device: omit --deterministic"
    kinds = [f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__]
    if any("BackendCompilerFailed" in kind or "torch._inductor" in kind for kind in kinds):
        lines = (line.strip() for line in text.splitlines())
        reason = next(
            (line for line in lines if line and not line.endswith(":")), "no reason given"
        )
        return (
            f"torch.compile failed ({reason}): it needs a C++ compiler and Python's headers; or "
            "run without --compile (synthesize_dit.py: with --no_compile)"
        )
    return None


def run_script(main, argv=None):
    """Runs a script's `main(argv)` and returns the exit code: 0, 2 for a user's error, 130 for ^C.

    With several processes rank 0 prints the message. Another rank waits before it does so: if all
    ranks raise the same error, torchrun has ended it by then. Any other exception is a bug and
    keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Any text can be printed: file names need not be UTF-8, a terminal may be ASCII.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(argv)
        sys.stdout.flush()  # Python reports an error at exit with a traceback
        return 0
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = describe_os_error(error)
        _drop_output_that_fails()
        if message is None:
            raise
    except MemoryError:
        message = MACHINE_FAULTS[errno.ENOMEM]
    except Exception as error:
        message = describe_hidden_error(error)
        # A collective operation fails when another process has ended, which says why itself.
        if rank() > 0 and "closed by peer" in str(error):
            message = "another process ended: see its message"
        if message is None:
            raise
    except KeyboardInterrupt:
        return 130
    if rank() > 0:
        time.sleep(RANK_PATIENCE)
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 2


def _drop_output_that_fails():
    """Discards what cannot be printed, for Python would try it again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
