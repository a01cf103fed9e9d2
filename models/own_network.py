"""Networks of the user's own code, named `module:function`, such as `mymodule:make_net`."""

import contextlib
import importlib
import os
import sys
import traceback
from pathlib import Path

from torch import nn
from torch.nn.parameter import UninitializedParameter

from helper.errors import UserError
from models.libraries import nearest_names

HOW = "module:function, such as mymodule:make_net for a function in mymodule.py"


def own_network(name, num_classes):
    """The network that the function `name` returns: `make_net(num_classes=…)` → nn.Module.

    The module is looked for in the current directory and on Python's path (PYTHONPATH).
    Raises UserError if there is no such module or function, if it fails, or if it returns something
    else.
    """
    module_name, _, function_name = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), function_name]):
        raise UserError(
            f"'{name}' is not the name of a network: write {HOW} (folders are separated by dots)"
        )
    _refuse_hidden(name, module_name.partition(".")[0])
    with _current_directory():
        module = _import(name, module_name)
        make = getattr(module, function_name, None)
        if not callable(make):
            functions = [key for key, value in vars(module).items() if callable(value)]
            raise UserError(
                f"{name}: {module.__file__ or module_name} has no function "
                f"'{function_name}'{nearest_names(function_name, functions)}: give {HOW}"
            )
        try:
            net = make(num_classes=num_classes)
        except (Exception, SystemExit) as error:  # of any type
            raise UserError(
                f"{name}: {function_name}(num_classes={num_classes}) failed: {_describe(error)}"
            ) from error
    if not isinstance(net, nn.Module):
        raise UserError(
            f"{name}: {function_name}(num_classes={num_classes}) returned "
            f"{type(net).__name__}, not a torch.nn.Module: return the network"
        )
    if any(isinstance(parameter, UninitializedParameter) for parameter in net.parameters()):
        raise UserError(
            f"{name}: the network has lazy layers without weights: give their sizes, or run the "
            f"network on an image in {function_name} before it is returned"
        )
    return net.float().cpu()


def _refuse_hidden(name, top):
    """Raises UserError if `top`, in the current directory, is hidden by a package of this
    repository.
    """
    here, ours = Path.cwd(), Path(__file__).resolve().parent.parent
    theirs = next((path for path in (here / top, here / f"{top}.py") if path.exists()), None)
    if theirs and here != ours and (ours / top / "__init__.py").exists():
        raise UserError(
            f"{name}: {theirs} is hidden by this repository's own package {top}: rename it, or "
            "import the network in a file of another name"
        )


def _import(name, module_name):
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Otherwise a module that this one imports is missing
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                f"{name}: there is no module '{error.name}' in the current directory, "
                f"{os.getcwd()}, or on Python's path: give {HOW}, or set PYTHONPATH to its folder"
            ) from None
        raise UserError(f"{name}: importing {module_name} failed: {_describe(error)}") from error
    except (Exception, SystemExit) as error:  # of any type, SyntaxError included
        raise UserError(f"{name}: importing {module_name} failed: {_describe(error)}") from error


def _describe(error):
    """An error of the user's code, with the last line that does not belong to a library."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, SyntaxError):  # its text has the line
        return text
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", __file__))
        and "site-packages" not in frame.filename
    ]
    return text + (f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else "")


@contextlib.contextmanager
def _current_directory():
    """Imports look in the current directory first, as they do in a script there."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
