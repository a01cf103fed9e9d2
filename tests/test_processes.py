"""Devices, the launch under torchrun, and which process speaks."""

import argparse
import os

import pytest
import torch

from helper import distributed, errors
from helper.errors import UserError


def options(**given):
    return argparse.Namespace(
        **{
            "device": "auto",
            "gpu_id": "0",
            "multiprocessing_distributed": True,
            "dist_url": None,
            "world_size": 1,
            "rank": 0,
            **given,
        }
    )


@pytest.fixture
def executed(monkeypatch):
    """The commands that would have replaced this process."""
    commands = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # put back afterwards
    monkeypatch.setattr(os, "execv", lambda _, command: commands.append(command))
    return commands


def test_without_a_gpu_one_process_goes_on_and_says_so(executed, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "choose_device", lambda _: torch.device("cpu"))
    distributed.relaunch_under_torchrun(options(gpu_id="0,1"), [])
    assert executed == [] and "runs as one CPU process" in capsys.readouterr().out


def test_one_process_for_each_gpu_id(executed, monkeypatch):
    monkeypatch.setattr(distributed, "choose_device", lambda _: torch.device("cuda"))
    distributed.relaunch_under_torchrun(options(gpu_id="2,5,7"), ["--epochs", "3"])
    (command,) = executed
    assert {"--nproc_per_node=3", "--standalone"} < set(command) and command[-2:] == [
        "--epochs",
        "3",
    ]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,5,7"


def test_several_machines_meet_at_the_first_ones_address(executed, monkeypatch):
    monkeypatch.setattr(distributed, "choose_device", lambda _: torch.device("cuda"))
    for url in (None, "env://", "tcp://first"):
        with pytest.raises(
            UserError, match="--world-size above 1 needs --dist-url tcp://HOST:PORT"
        ):
            distributed.relaunch_under_torchrun(options(world_size=2, dist_url=url), [])
    with pytest.raises(UserError, match="--rank 2 .*0 to 1"):
        distributed.relaunch_under_torchrun(
            options(world_size=2, rank=2, dist_url="tcp://first:2333"), []
        )
    distributed.relaunch_under_torchrun(
        options(world_size=2, rank=1, dist_url="tcp://first:2333"), []
    )
    assert {"--nnodes=2", "--node_rank=1", "--master_addr=first", "--master_port=2333"} < set(
        executed[0]
    )


def test_one_machine_needs_no_address(executed, monkeypatch):
    """The released default, of which two runs on a machine would share the port, is left out."""
    monkeypatch.setattr(distributed, "choose_device", lambda _: torch.device("cuda"))
    distributed.relaunch_under_torchrun(options(dist_url="tcp://127.0.0.1:8081"), [])
    assert "--standalone" in executed[0] and not any("8081" in word for word in executed[0])


@pytest.mark.parametrize("given", [{"multiprocessing_distributed": False}, {}])
def test_no_launch_unasked_or_below_a_launcher(executed, monkeypatch, given):
    if not given:
        monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(distributed, "choose_device", lambda _: torch.device("cuda"))
    distributed.relaunch_under_torchrun(options(**given), [])
    assert executed == []


@pytest.mark.parametrize("given", [{"gpu_id": "0,1"}, {"world_size": 2}])
def test_several_processes_have_to_be_asked_for(executed, given):
    (flag,) = given
    with pytest.raises(UserError, match=f"--{flag.replace('_', '.')} .*needs --multiprocessing"):
        distributed.relaunch_under_torchrun(options(multiprocessing_distributed=False, **given), [])
    assert executed == []


def test_a_single_gpu_id_is_used(monkeypatch):
    """As the released script does, which shows only this GPU to torch."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    names = []

    def choose(name, *_, **__):
        names.append(name)
        return torch.device("cpu")

    monkeypatch.setattr(distributed, "choose_device", choose)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for available, given in (
        (True, {"gpu_id": "3"}),
        (True, {}),
        (True, {"gpu_id": "2", "device": "cuda"}),
        (True, {"gpu_id": "3", "device": "cuda:1"}),
        (False, {"gpu_id": "3"}),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        distributed.start(options(deterministic=False, **given)).close()
    assert names == ["cuda:3", "auto", "cuda:2", "cuda:1", "auto"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for number in ("4", "x"):
        with pytest.raises(UserError, match=f"--gpu_id {number}: .* 4 GPUs"):
            distributed.start(options(deterministic=False, gpu_id=number))


def test_a_variable_that_hides_every_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(distributed, "has_nvidia_gpu", lambda: True)
    for value, message in (("", "CUDA_VISIBLE_DEVICES is ''"), ("0", "driver or torch build")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        with pytest.raises(UserError, match=message):
            distributed.choose_device("auto")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("CUDA error: out of memory", "--batch_size"),
        ("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", "--batch_size"),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", "--device cuda:N"),
        ("CUDA error: no kernel image is available for execution on the device", "build of torch"),
        ("adaptive_avg_pool2d does not have a deterministic implementation", "--deterministic"),
    ],
)
def test_usual_faults_of_a_gpu_have_their_remedy(text, remedy):
    assert remedy in errors.describe_hidden_error(RuntimeError(text))


def test_a_gpu_that_torch_cannot_use_stops_the_run_unless_the_cpu_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(distributed, "has_nvidia_gpu", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UserError, match="NVIDIA GPU that torch cannot use"):
        distributed.choose_device("auto")
    assert distributed.choose_device("cpu").type == "cpu"
    monkeypatch.setattr(distributed, "has_nvidia_gpu", lambda: False)
    assert distributed.choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="finds no usable GPU"):
        distributed.choose_device("cuda:0")


@pytest.mark.parametrize("rank, waits", [("0", []), ("3", [errors.RANK_PATIENCE])])
def test_other_ranks_leave_rank_0_time_to_speak(monkeypatch, capsys, rank, waits):
    waited = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(errors.time, "sleep", waited.append)

    def wrong(_):
        raise UserError("the message")

    assert errors.run_script(wrong) == 2
    assert waited == waits and capsys.readouterr().err == "error: the message\n"


@pytest.mark.parametrize(
    "given, named",
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK"),
    ],
)
def test_the_environment_of_another_launcher(monkeypatch, given, named):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=named):
        distributed.start(distributed.ProcessSettings(device="cpu"))


def test_an_empty_environment_is_one_process(monkeypatch, capsys):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")
    world = distributed.start(distributed.ProcessSettings(device="cpu"))
    errors.note("words")
    assert (world.rank, world.size) == (0, 1) and "words" in capsys.readouterr().out


def test_torch_compile_without_a_compiler(monkeypatch, capsys):
    from torch._inductor import exc

    def compile_something(_):
        raise exc.InvalidCxxCompiler()

    assert errors.run_script(compile_something) == 2
    message = capsys.readouterr().err
    assert "--compile" in message and "compiler" in message and message.count("\n") <= 2
