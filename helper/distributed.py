"""One process or many: devices, torchrun, reductions, and stopping on SIGTERM."""

import contextlib
import os
import re
import signal
import sys
from dataclasses import dataclass

import torch
import torch.distributed as dist

from helper.errors import UserError


@dataclass(frozen=True)
class ProcessSettings:
    """The flags of `helper.options.add_process_flags`."""

    device: str = "auto"
    gpu_id: str = "0"
    multiprocessing_distributed: bool = False
    dist_url: str | None = None
    world_size: int = 1  # machines
    rank: int = 0  # of this machine
    deterministic: bool = False


@dataclass(frozen=True)
class World:
    """This process among the others. `device` is where it computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self):
        return self.rank == 0

    def sum(self, tensor):
        """Sums a float64 CPU tensor over all processes, in place, and returns it."""
        if self.size > 1:
            shared = tensor.to(self.device)
            dist.all_reduce(shared)
            tensor.copy_(shared)
        return tensor

    def any(self, flag):
        """Returns whether `flag` is true in any process."""
        return bool(self.sum(torch.tensor(float(flag), dtype=torch.float64)))

    def average(self, tensors):
        """Replaces float `tensors`, on this process's device, by their means over all processes, in
        one exchange.
        """
        if self.size > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat)
            parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def gather(self, tensor):
        """Returns the tensors (n, …) of all processes, of one shape, as one (size · n, …), in order
        of rank.
        """
        if self.size == 1:
            return tensor
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    def from_main(self, function, *args):
        """Calls `function(*args)` on rank 0 alone; every process returns its result, or raises its
        UserError or OSError.
        """
        if self.size == 1:
            return function(*args)
        answer = [None, None]  # result, error
        if self.is_main:
            try:
                answer[0] = function(*args)
            except (UserError, OSError) as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def synchronize(self):
        """Waits until the GPU has finished its queue."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def barrier(self):
        if self.size > 1:
            dist.barrier()

    def share(self, tensors):
        """Gives every process rank 0's values of `tensors`, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def share_buffers(self, module):
        """Gives every process rank 0's buffers (BatchNorm statistics differ from rank to rank)."""
        self.share(module.buffers())

    def close(self):
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def has_nvidia_gpu():
    """Returns whether this machine shows an NVIDIA GPU, whatever torch thinks of it."""
    return os.path.exists("/proc/driver/nvidia/gpus") and bool(
        os.listdir("/proc/driver/nvidia/gpus")
    )


def choose_device(name, local_rank=0, several=False):
    """Returns the torch.device for `--device` (auto, cpu, cuda, cuda:N).

    With several processes on a machine each takes the GPU of its local rank.
    Raises UserError if a GPU is present but torch cannot use it, or the name is unknown.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            if has_nvidia_gpu():
                raise UserError(
                    "this machine has an NVIDIA GPU that torch cannot use (driver or torch build): "
                    "install a matching torch, or give --device cpu"
                )
            return torch.device("cpu")
        name = "cuda"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is unknown: give auto, cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"--device {name} is not supported: give auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch finds no usable GPU here: give --device cpu")
    index = local_rank if several else (device.index or 0)
    if index >= torch.cuda.device_count():
        raise UserError(
            f"GPU {index} was asked for and this machine has {torch.cuda.device_count()}: "
            "start fewer processes or change --device"
        )
    return torch.device("cuda", index)


@contextlib.contextmanager
def session(settings, argv):
    """Gives a script's `main(argv)` its World, under torchrun where `settings` ask for it, and
    leaves it at the end.
    """
    relaunch_under_torchrun(settings, argv)
    world = start(settings)
    try:
        yield world
    finally:
        world.close()


def start(settings):
    """Joins the process group that torchrun describes in the environment, if any, and returns the
    World.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0)) if size > 1 else 0
    device = choose_device(settings.device, int(os.environ.get("LOCAL_RANK", 0)), several=size > 1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not settings.deterministic
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(rank, size, device)


def fix_kernels(tf32):
    """Lets the GPU's kernels for an image depend on its shapes alone; `tf32`: round products to
    TF32.

    Kernels chosen by timing could differ from one process to the next, and with them the images.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")


def relaunch_under_torchrun(settings, argv):
    """Re-executes the script under torchrun for `--multiprocessing-distributed`; returns if that is
    not needed.

    One process for each id in --gpu_id; without a GPU one CPU process, and a line that says so.
    """
    if not settings.multiprocessing_distributed or "LOCAL_RANK" in os.environ:
        return
    ids = [part for part in settings.gpu_id.split(",") if part.strip()]
    if choose_device(settings.device).type == "cpu":
        print("no GPU: --multiprocessing-distributed runs as one CPU process", flush=True)
        return
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={len(ids)}"]
    if settings.world_size > 1:
        address = re.fullmatch(r"tcp://(.+):(\d+)", settings.dist_url or "")
        if address is None:
            raise UserError(
                "--world-size above 1 needs --dist-url tcp://HOST:PORT of the first machine"
            )
        if not 0 <= settings.rank < settings.world_size:
            raise UserError(
                f"--rank {settings.rank} is none of --world-size {settings.world_size} machines: "
                "give 0 to "
                f"{settings.world_size - 1}"
            )
        command += [
            f"--nnodes={settings.world_size}",
            f"--node_rank={settings.rank}",
            f"--master_addr={address[1]}",
            f"--master_port={address[2]}",
        ]
    else:
        command += ["--standalone"]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(ids)
    sys.stdout.flush()
    os.execv(sys.executable, command + [sys.argv[0], *(sys.argv[1:] if argv is None else argv)])


class StopRequest:
    """Set by SIGTERM: the loop saves and leaves. Use as a context manager around the loop.

    One process looks at it every step. Several must leave at the same step: they agree on it in
    `agreed`.
    """

    def __init__(self):
        self.asked = False

    def __enter__(self):
        try:
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        except ValueError:  # not the main thread: someone else handles signals
            self._previous = None
        return self

    def __exit__(self, *exception):
        self.restore()

    def restore(self):
        """Restores the signal handler of before."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _ask(self, *_):
        self.asked = True

    def agreed(self, world, at_checkpoint):
        """Returns whether to stop now; with several processes only asked where `at_checkpoint` is
        true for all.
        """
        if world.size == 1:
            return self.asked
        return world.any(self.asked) if at_checkpoint else False


def parallel(model, world):
    """Wraps a module for training on several processes.

    Buffers are broadcast once, at the start; rank 0's BatchNorm statistics are shared again at
    evaluation.
    """
    if world.size == 1:
        return model
    ids = [world.device.index] if world.device.type == "cuda" else None
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)
    model.broadcast_buffers = False  # not at every forward pass
    return model
