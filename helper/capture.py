"""Training steps as CUDA graphs.

The small networks of 32×32 images are bound by the time that the host takes to launch their
kernels. A captured step is launched as a whole: forward and backward passes, loss and optimizer.
"""

import torch

from helper.errors import UserError

# Eager steps before the capture: torch initialises workspaces and the optimizer's state, and
# cuDNN chooses its kernels.
WARMUP_STEPS = 3


def check_capture(mode, device):
    """Raises UserError if capture (`--capture on`) is asked for without a GPU."""
    if mode == "on" and device.type != "cuda":
        raise UserError("--capture on needs a GPU: omit it, or give --device cuda")


def capturable_step(step, optimizer, mode, world, log):
    """Returns `step`, or for `--capture on` a CapturedStep of it.

    step: function of tensors of fixed shapes, (…) → tuple of tensors, which updates networks with
    `optimizer` and reads nothing else that changes; mode: auto, on or off; log: function that
    prints a line.
    Until captured steps have been compared with eager ones on a GPU, auto means off.
    """
    if mode != "on":
        return step
    if world.size > 1:
        log("note: --capture on is for one process: the steps run eagerly")
        return step
    return CapturedStep(step, optimizer, log)


class CapturedStep:
    """Calls `step` eagerly, then captures it, and from then on replays the CUDA graph.

    The results of a call are overwritten by the next one. Random numbers are those of the eager
    step: the graph reads the seed of torch's generator at each replay.
    """

    def __init__(self, step, optimizer, log):
        self.step, self.optimizer, self.log = step, optimizer, log
        self._calls, self._graph = 0, None
        self._stream = torch.cuda.Stream()
        _keep_on_device(optimizer)

    def __call__(self, *inputs):
        self._calls += 1
        if self._calls <= WARMUP_STEPS:
            return self._run_eagerly(inputs)
        if self._calls == WARMUP_STEPS + 1:
            self._capture(inputs)
        if self._graph is None:  # it could not be captured
            return self.step(*inputs)
        for static, value in zip(self._inputs, inputs, strict=True):
            static.copy_(value, non_blocking=True)
        self._graph.replay()
        return self._outputs

    def _run_eagerly(self, inputs):
        """One step on the stream of the capture, where its memory will be."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            outputs = self.step(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return outputs

    def _capture(self, inputs):
        """Records the step without running it."""
        self._inputs = [value.clone() for value in inputs]
        self.optimizer.zero_grad(set_to_none=True)  # the gradients belong to the graph
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads may pin memory meanwhile
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._outputs = self.step(*self._inputs)
        except Exception as error:  # torch raises many types
            # What torch leaves as it was during the capture, if ending that fails too
            torch.cuda.set_stream(stream)
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(generator.clone_state())
            self.optimizer.zero_grad(set_to_none=True)
            # That second error hides the cause
            first_line = str(error.__context__ or error).strip().split("\n")[0]
            self.log(f"note: the training step cannot be captured and runs eagerly: {first_line}")
            return
        self._graph = graph


def _keep_on_device(optimizer):
    """Makes the optimizer's step free of the host: fused or capturable, with the learning rate in a
    tensor. Checkpoints do not show it.
    """
    # The key of a parameter group, and its value for steps that the host launches
    is_sgd = isinstance(optimizer, torch.optim.SGD)
    key, usual = ("fused", None) if is_sgd else ("capturable", False)
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["lr"] = torch.tensor(group["lr"], device=device)
        group[key] = True
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "step" in state:  # of a resumed run, on the CPU
                state["step"] = state["step"].to(device)

    def hide(_, state):
        for group in state["param_groups"]:
            group["lr"] = float(group["lr"])
            group[key] = usual
        return state

    optimizer.register_state_dict_post_hook(hide)
