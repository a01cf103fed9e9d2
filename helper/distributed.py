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
    """Rank and device of this process, and the collective operations.

    All of them work on one process, too. rank: 0 … size − 1; device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self):
        return self.rank == 0

    def sum(self, tensor):
        """Sums a float64 CPU tensor over all processes in place and returns it."""
        if self.size > 1:
            shared = tensor.to(self.device)
            dist.all_reduce(shared)
            tensor.copy_(shared)
        return tensor

    def any(self, flag):
        """Returns whether `flag` is true in any process."""
        return bool(self.sum(torch.tensor(float(flag), dtype=torch.float64)))

    def average(self, tensors):
        """Replaces float tensors on the device by their means over all processes, at once."""
        if self.size > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat)
            parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def gather(self, tensor):
        """Concatenates the tensors (n, …) of all processes to (size * n, …), in order of rank."""
        if self.size == 1:
            return tensor
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    def from_main(self, function, *args):
        """Calls `function(*args)` on rank 0 only and returns its result on every process.

        A UserError or OSError that it raises is raised on every process.
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
        """Waits for the GPU, if there is one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def barrier(self):
        if self.size > 1:
            dist.barrier()

    def broadcast(self, tensors):
        """Copies `tensors` from rank 0 to every process, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def broadcast_buffers(self, module):
        """Copies the buffers of a module (BatchNorm statistics) from rank 0 to every process."""
        self.broadcast(module.buffers())

    def close(self):
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def has_nvidia_gpu():
    """Whether this machine has an NVIDIA GPU, usable by torch or not."""
    return os.path.exists("/proc/driver/nvidia/gpus") and bool(
        os.listdir("/proc/driver/nvidia/gpus")
    )


def choose_device(name, local_rank=0, several=False):
    """Returns the torch.device for `--device` (auto, cpu, cuda, cuda:N).

    several: whether several processes run on this machine; each uses the GPU of its local rank.
    Raises UserError if a GPU is present but torch cannot use it, or the name is unknown.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            if has_nvidia_gpu() and visible in ("", "-1", "NoDevFiles"):
                raise UserError(
                    f"CUDA_VISIBLE_DEVICES is {visible!r}, which hides every GPU: unset it, or "
                    "give --device cpu"
                )
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
            f"GPU {index} does not exist, this machine has {torch.cuda.device_count()}: "
            "start fewer processes or change --device"
        )
    return torch.device("cuda", index)


def check_gpu(number):
    """Raises UserError unless torch sees the GPU of this number, the text of `--gpu_id`."""
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not number.isdecimal() or int(number) >= count:
        of = f" of CUDA_VISIBLE_DEVICES={visible}" if visible else ""
        raise UserError(f"--gpu_id {number}: torch sees {count} GPUs{of}, numbered from 0")


@contextlib.contextmanager
def session(settings, argv):
    """Context of a script's `main(argv)`: yields its World.

    Re-executes the script under torchrun if `settings` say so.
    """
    relaunch_under_torchrun(settings, argv)
    world = start(settings)
    try:
        yield world
        world.barrier()  # a process that leaves early would abort the others' last operations
    finally:
        world.close()


def start(settings):
    """Joins the process group that torchrun describes in the environment and returns the World."""
    size = _from_environment("WORLD_SIZE", 1)
    rank = _from_environment("RANK", 0) if size > 1 else 0
    local_rank = _from_environment("LOCAL_RANK", 0)
    names = ("RANK", "MASTER_ADDR", "MASTER_PORT") if size > 1 and not dist.is_initialized() else ()
    if missing := [name for name in names if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE is {size} in the environment, and {', '.join(missing)} are not set: start "
            "the script with torchrun, or unset WORLD_SIZE"
        )
    name, gpu = settings.device, settings.gpu_id.strip(", ") or "0"
    is_launched = "LOCAL_RANK" in os.environ
    if gpu != "0" and name in ("auto", "cuda") and torch.cuda.is_available() and not is_launched:
        check_gpu(gpu)
        name = f"cuda:{gpu}"
    device = choose_device(name, local_rank, several=size > 1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not settings.deterministic
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(rank, size, device)


def _from_environment(name, default):
    """A number in the environment, `default` if it is missing or empty. Raises UserError."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f"{name} is {text!r} in the environment: a number is expected: unset it")
    return int(text)


def fix_kernels(tf32):
    """Makes the choice of GPU kernels depend on shapes alone, so that images are reproducible.

    Kernels chosen by timing may differ from one process to the next. tf32: use TF32 products.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")


@contextlib.contextmanager
def fixed_kernels(tf32):
    """`fix_kernels` within a context, which leaves the settings of the process as they were."""
    cudnn = torch.backends.cudnn
    benchmark, allow_tf32 = cudnn.benchmark, cudnn.allow_tf32
    precision = torch.get_float32_matmul_precision()
    fix_kernels(tf32)
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = benchmark, allow_tf32
        torch.set_float32_matmul_precision(precision)


def relaunch_under_torchrun(settings, argv):
    """Re-executes the script under torchrun, one process per GPU of --gpu_id.

    Returns without --multiprocessing-distributed, under torchrun, or without a GPU (with a note).
    Raises UserError for flags that only apply to --multiprocessing-distributed.
    """
    if "LOCAL_RANK" in os.environ:
        return
    ids = [part for part in settings.gpu_id.split(",") if part.strip()]
    if not settings.multiprocessing_distributed:
        for name, given in (("gpu_id", len(ids) > 1), ("world-size", settings.world_size > 1)):
            if given:
                raise UserError(
                    f"--{name} {getattr(settings, name.replace('-', '_'))} needs "
                    "--multiprocessing-distributed, or start the script with torchrun"
                )
        return
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
                f"--rank {settings.rank} is outside of 0 to {settings.world_size - 1} "
                f"(--world-size {settings.world_size})"
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
    """Context manager that turns SIGTERM into a request to stop at the next step."""

    def __init__(self):
        self.requested = False

    def __enter__(self):
        try:
            self._previous = signal.signal(signal.SIGTERM, self._request)
        except ValueError:  # not the main thread: someone else handles signals
            self._previous = None
        return self

    def __exit__(self, *exception):
        self.restore()

    def restore(self):
        """Restores the previous signal handler."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _request(self, *_):
        self.requested = True

    def agreed(self, world, communicate):
        """Whether to stop now, which all processes must do at the same step.

        communicate: whether several processes compare their requests in this call; equal on all of
        them, and false at most steps, because it waits for the device. A call without it is false.
        """
        if world.size == 1:
            return self.requested
        return communicate and world.any(self.requested)


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
