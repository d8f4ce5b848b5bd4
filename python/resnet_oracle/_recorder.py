"""PyTorch models: `record`, and what is judged of a recording. `torch` is imported when it is first needed."""

import contextlib
import json
import os
import re
import textwrap
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Union

from . import _check, _files
from ._command import OracleError, ask
from ._report import Comparison, Diagnosis, Mistake, Report

__tracebackhide__ = True

# The settings of each kind are attributes of the module, under PyTorch's names.
SETTINGS = {
    "conv2d": ("stride", "padding", "dilation", "groups"),
    "batch_norm": ("eps", "momentum"),
    "relu": (),
    "leaky_relu": ("negative_slope",),
    "max_pool": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "global_avg_pool": (),
    "linear": (),
}
PARAMETERS = {"conv2d": ("weight", "bias"), "linear": ("weight", "bias"), "batch_norm": ("weight", "bias")}
STATISTICS = ("running_mean", "running_var")
NOT_WANTED = "its kind is given as None"


@dataclass
class Call:
    """One call of a module, with all that is needed to judge it alone."""

    name: str
    """The name of the module, with `#2` at its second call."""
    type: str
    """The name of its class."""
    kind: Optional[str]
    """What the oracle calls it."""
    settings: Dict[str, Any]
    """Its settings."""
    reason: Optional[str] = None
    """Why it is not judged."""
    inputs: Dict[str, Any] = field(default_factory=dict)
    """What it reads, with `grad_output`."""
    results: Dict[str, Any] = field(default_factory=dict)
    """What it computes: `output`, the gradients of its input and parameters, its new running statistics."""
    parameters: Dict[str, Any] = field(default_factory=dict, repr=False)
    minor: bool = False
    """Whether it need not be judged: a module of PyTorch without parameters that the oracle does not know, such as `Dropout`, or
    one whose kind is given as None."""
    differentiable: bool = False
    """Whether a gradient of its result was possible."""
    between: bool = False
    """Whether its input is no result of a module: an addition or a function is between."""
    cls: Any = field(default=None, repr=False)
    """Its class."""


@dataclass
class Dump:
    """A recorded forward and backward pass."""

    training: bool
    """Whether the model was in training mode at the start."""
    state: Dict[str, Any]
    """Its state dict at the start."""
    tensors: Dict[str, Any] = field(default_factory=dict)
    """Everything by the names of docs/oracle.md: `input.M`, `output.M`, `grad_output.M`, `grad_M.weight`, …, and `output` of the model"""
    batch: Dict[str, Any] = field(default_factory=dict)
    """`input` of the model, and `grad_output`, the gradient of its result."""
    calls: List[Call] = field(default_factory=list)
    """The calls of modules that are layers, in the order of execution."""
    notes: List[str] = field(default_factory=list)
    """What could not be recorded."""
    gaps: List[str] = field(default_factory=list)
    """The notes that `compare` takes for an error if it is strict."""
    complete: bool = False
    """Whether the `with` block has ended."""

    def gap(self, note: str) -> None:
        """Notes what could not be recorded although it should have been."""
        self.notes.append(note)
        self.gaps.append(note)

    def save(self, folder: Union[str, "os.PathLike[str]"]) -> None:
        """Writes `theirs.safetensors`, `weights.safetensors` and `batch.safetensors` for `resnet oracle check … model`."""
        os.makedirs(folder, exist_ok=True)
        _check.write(os.fspath(folder), theirs=self.tensors, weights=self.state, batch=self.batch)


class Recorder:
    def __init__(self, model: Any, kinds: Mapping[Any, Any]) -> None:
        self.torch = torch()
        self.model, self.kinds = model, dict(kinds)
        self.check_kinds()
        filled = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.count_nonzero() > 0]
        if filled:
            message = f"parameters already have a gradient, first `{filled[0]}`: call model.zero_grad() before recording"
            raise OracleError(message)
        self.dump = Dump(model.training, {name: copy(tensor) for name, tensor in model.state_dict().items()})
        self.times: Dict[str, int] = {}
        self.running: Dict[str, List[Optional[Call]]] = {}
        self.results: Dict[int, Tuple[Any, int]] = {}
        self.taps: List[Tuple[Call, Any, int]] = []
        self.used: Dict[int, List[str]] = {}
        self.twice: Dict[str, None] = {}

    def check_kinds(self) -> None:
        for key, value in self.kinds.items():
            kind = value if isinstance(value, str) or value is None else value[0]
            if kind is not None and kind not in SETTINGS:
                raise OracleError(f"kinds[{key!r}]: {kind!r} is not a kind of layer; expected one of {', '.join(SETTINGS)}, or None")
            if isinstance(key, str) and key not in dict(self.model.named_modules()):
                raise OracleError(f"kinds[{key!r}]: the model has no module of this name")

    # ---- What a module is

    def layer(self, name: str, module: Any) -> Tuple[Optional[str], Dict[str, Any], Optional[str]]:
        """The kind of a module, its settings, and why it cannot be judged."""
        nn = self.torch.nn
        known = [
            (nn.Conv2d, "conv2d"), (nn.BatchNorm2d, "batch_norm"), (nn.ReLU, "relu"), (nn.LeakyReLU, "leaky_relu"),
            (nn.MaxPool2d, "max_pool"), (nn.AvgPool2d, "avg_pool"), (nn.AdaptiveAvgPool2d, "global_avg_pool"), (nn.Linear, "linear"),
        ]
        kind = next((kind for of_type, kind in known if isinstance(module, of_type)), None)
        settings, given = {}, False
        for key, value in self.kinds.items():
            if key == name or isinstance(key, type) and isinstance(module, key):
                kind, settings = (value, {}) if isinstance(value, str) or value is None else (value[0], dict(value[1]))
                given = True
        if kind is None:
            passes_on = isinstance(module, (nn.Identity, nn.Flatten)) or (isinstance(module, nn.Dropout) and not module.training)
            silent = not given and (passes_on or next(module.children(), None) is not None)
            reason = NOT_WANTED if given else "the oracle has no such layer, or `kinds` does not name it"
            return None, {}, None if silent else reason
        settings = {**{key: getattr(module, key) for key in SETTINGS[kind] if hasattr(module, key)}, **settings}
        if kind == "batch_norm":
            tracks = getattr(module, "running_mean", None) is not None
            settings.setdefault("mode", "train" if module.training or not tracks else "eval")
            if not tracks:
                settings.pop("momentum", None)
        if getattr(module, "padding_mode", "zeros") != "zeros":
            return kind, settings, f"padding_mode={module.padding_mode!r} is not known"
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1), [1, 1]):
            return kind, settings, f"output_size={module.output_size}: only a pool to one pixel is known"
        if getattr(module, "return_indices", False):
            return kind, settings, "return_indices is not known"
        return kind, settings, None

    # ---- Hooks

    def keep(self, tensors: Dict[str, Any], key: str, what: str) -> Any:
        """A hook that keeps a gradient."""

        def hook(gradient: Any) -> None:
            if gradient is None:  # of a function that returns None, which counts as zeros
                return
            if key in tensors:
                self.twice[what] = None
            tensors[key] = copy(gradient)

        return hook

    def before(self, name: str, module: Any, arguments: Tuple[Any, ...]) -> Any:
        """Before a module is called, and before it overwrites its input."""
        torch, is_root = self.torch, module is self.model
        calls = self.running.setdefault(name, [])
        x = arguments[0] if arguments and isinstance(arguments[0], torch.Tensor) else None
        if is_root:
            self.times[""] = self.times.get("", 0) + 1
            if x is not None and self.times[""] == 1:
                self.dump.batch["input"] = copy(x)
            if x is not None and x.is_floating_point() and torch.is_grad_enabled():
                leaf = x if x.requires_grad else x.detach().requires_grad_()
                if self.times[""] == 1:
                    leaf.register_hook(self.keep(self.dump.tensors, "grad_input", "the input"))
                if leaf is not x:
                    x = leaf.clone()  # a result: what is a leaf cannot be overwritten in place
                    arguments = (x, *arguments[1:])
        if is_root and x is not None:
            self.results[id(x)] = (x, x._version)
        kind, settings, reason = self.layer(name, module)
        if is_root and kind is None:
            calls.append(None)
            return arguments
        title = type(module).__name__ if is_root else name
        self.times[title] = self.times.get(title, 0) + 1
        call = Call(title if self.times[title] == 1 else f"{title}#{self.times[title]}", type(module).__name__, kind, settings, reason)
        plain = type(module).__module__.startswith("torch.") and not any(True for _ in module.parameters())
        call.minor = kind is None and (plain or reason == NOT_WANTED)
        call.cls = type(module)
        calls.append(call)
        if kind is not None or reason is not None:
            self.dump.calls.append(call)
        if x is None:
            call.reason = "its first argument is not a tensor" if kind is not None else reason
            return arguments
        call.inputs["input"] = self.dump.tensors["input." + call.name] = copy(x)
        earlier, version = self.results.get(id(x), (None, None))
        call.between = not (earlier is x and version == x._version)
        if x.requires_grad and call.between:
            # The sum of an addition, which is no module, or what a function returned.
            x.register_hook(self.keep(self.dump.tensors, "grad_input." + call.name, call.name))
        if kind is None or call.reason is not None:
            return arguments
        for key in PARAMETERS.get(kind, ()):
            value = getattr(module, key, None)
            if isinstance(value, torch.Tensor):
                call.inputs[key] = copy(value)
                if isinstance(value, torch.nn.Parameter) and value.requires_grad:
                    call.parameters[key] = value
                    self.used.setdefault(id(value), []).append(call.name)
        if kind == "batch_norm":
            for key in (*STATISTICS, "num_batches_tracked"):
                if getattr(module, key, None) is not None:
                    call.inputs[key] = copy(getattr(module, key))
        if x.requires_grad and torch.is_grad_enabled():
            # The gradient that this module alone sends back. One that works in place must get the tensor itself.
            tap = x if getattr(module, "inplace", False) else x.view_as(x)
            tap.register_hook(self.keep(call.results, "grad_input", call.name))
            if tap is not x:
                self.taps.append((call, tap, tap._version))
                arguments = (tap, *arguments[1:])
        return arguments

    def after(self, name: str, module: Any, y: Any) -> None:
        """After a module was called."""
        torch, is_root = self.torch, module is self.model
        call = self.running[name].pop()
        if not isinstance(y, torch.Tensor):
            if call is not None and call.kind is not None and call.reason is None:
                call.reason = f"its result is no tensor but {type(y).__name__}"
            return
        if is_root and self.times[""] == 1:
            self.dump.tensors["output"] = copy(y)
            if y.requires_grad:
                y.register_hook(self.keep(self.dump.batch, "grad_output", "the result"))
        if call is None:
            return
        if not is_root:
            self.dump.tensors["output." + call.name] = copy(y)
        call.results["output"] = copy(y) if is_root else self.dump.tensors["output." + call.name]
        if y.requires_grad:
            call.differentiable = True
            if not is_root:
                y.register_hook(self.keep(self.dump.tensors, "grad_output." + call.name, call.name))
            y.register_hook(self.keep(call.inputs, "grad_output", call.name))
        self.results[id(y)] = (y, y._version)
        if call.kind == "batch_norm" and call.settings["mode"] == "train":
            for key in STATISTICS:
                if getattr(module, key, None) is not None:
                    call.results[key] = copy(getattr(module, key))

    # ---- The end

    def finish(self) -> None:
        """Reads the gradients of the parameters."""
        torch, dump = self.torch, self.dump
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        dump.tensors.update({"grad_" + name: copy(gradient) for name, gradient in gradients.items()})
        if self.model.training:
            dump.tensors.update({name: copy(b) for name, b in self.model.named_buffers() if b.is_floating_point()})
        if not dump.calls:
            dump.gap("no module was called: call the model inside `with record(model)`")
        reached = [call for call in dump.calls if "grad_output" in call.inputs]
        if not reached:
            dump.gap("there was no backward pass: call loss.backward() inside `with record(model)` to judge gradients")
        elif not gradients and any(call.parameters for call in reached):
            dump.gap("no parameter has a gradient at the end of the recording: call zero_grad() after it")
        missed = [call.name for call in dump.calls if call.kind and call.differentiable and "grad_output" not in call.inputs]
        if reached and missed:
            dump.gap(f"no gradient reached {listed(missed)}: judged forward only. Is the result detached, or not used in the loss?")
        several = {}
        for call in reached:
            for key, parameter in call.parameters.items():
                if len(self.used[id(parameter)]) > 1:
                    several.setdefault(" and ".join(self.used[id(parameter)]), []).append(key)
                elif gradients:  # PyTorch's None is a gradient of zeros
                    call.results["grad_" + key] = torch.zeros_like(parameter) if parameter.grad is None else copy(parameter.grad)
        for call, tap, version in self.taps:
            if "grad_output" in call.inputs and "grad_input" not in call.results:
                if tap._version != version:
                    dump.notes.append(f"{call.name} overwrites its input: the gradient of that is not judged")
                else:
                    call.results["grad_input"] = torch.zeros_like(tap)
        for users, keys in several.items():
            keys = " and ".join(dict.fromkeys(keys))
            dump.gap(f"{users} use the same {keys}: the gradient is of all of them, and not judged for one alone")
        for name in self.twice:
            dump.gap(f"gradients reached {name} more than once: they are not judged")
            for call in dump.calls:
                if call.name == name:
                    call.inputs.pop("grad_output", None)
        for call in dump.calls:  # what no gradient reached is judged forward only
            if "grad_output" not in call.inputs:
                call.results = {key: value for key, value in call.results.items() if not key.startswith("grad_")}
            call.parameters = {}
        dump.complete = True

    def release(self) -> None:
        """Lets go of the tensors. Their hooks refer to this recorder: a circle through PyTorch's graph that Python does not see."""
        for kept in (self.results, self.taps, self.running):
            kept.clear()


def torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise OracleError("recording a model needs PyTorch: pip install torch") from error
    return torch


def copy(tensor: Any) -> Any:
    return tensor.detach().clone()


def listed(names: List[str]) -> str:
    """A few names."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


@contextlib.contextmanager
def record(model: Any, *, kinds: Optional[Mapping[Any, Any]] = None) -> Iterator[Dump]:
    """Records one forward and backward pass of a PyTorch model.

        with oracle.record(model) as dump:
            loss_of(model(x)).backward()
        oracle.compare(dump)

    Recorded are the input and the result of every module, the gradients of both, the parameters and their gradients, and the
    running statistics. The model computes as it does without this, except that the gradient of its input is computed, too.

    Args:
        model: a `torch.nn.Module`, with gradients None or zero.
        kinds: what modules of your own compute, by type or by name: `{MyConv: "conv2d"}`. Settings are read from attributes
            with PyTorch's names, or given: `{"stem": ("conv2d", {"stride": 2})}`. None stands for a module not to be judged.

    Yields:
        A `Dump`, which is complete at the end of the `with` block. Its `notes` list what could not be recorded.

    Raises:
        OracleError: a parameter already has a gradient, `kinds` is wrong, or PyTorch is missing.
    """
    if not hasattr(model, "named_parameters"):
        raise OracleError(f"record expects a torch.nn.Module, not {type(model).__name__}")
    if hasattr(model, "_orig_mod"):
        raise OracleError("a compiled model cannot be recorded: record the model that was given to torch.compile, and call that")
    recorder = Recorder(model, kinds or {})
    hooks = []
    for name, module in model.named_modules():
        before = lambda module, arguments, name=name: recorder.before(name, module, arguments)  # noqa: E731
        after = lambda module, arguments, y, name=name: recorder.after(name, module, y)  # noqa: E731
        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        try:
            yield recorder.dump
        finally:
            for hook in hooks:
                hook.remove()
        recorder.finish()
    finally:
        recorder.release()


def recorded(dump: Any, expected: str) -> None:
    """Rejects what is no complete recording."""
    if not isinstance(dump, Dump):
        raise OracleError(f"{expected}, not {type(dump).__name__}")
    if not dump.complete:
        raise OracleError("the recording is not complete: call this after the `with` block, which must end without an error")


def rows(call: Call) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """The inputs and results of a call; those of a linear layer on more axes as rows."""
    inputs, results = dict(call.inputs), dict(call.results)
    if call.kind == "linear" and inputs["input"].ndim != 2:
        for tensors in (inputs, results):
            for key in ("input", "output", "grad_input", "grad_output"):
                if key in tensors:
                    tensors[key] = tensors[key].reshape(-1, tensors[key].shape[-1])
    return inputs, results


def by_name(computed_in: _check.ComputedIn, calls: List[Call]) -> _check.ComputedIn:
    """A mapping whose keys are patterns: a key that is a class stands for the names of its modules."""
    if not isinstance(computed_in, dict) or not any(isinstance(key, type) for key in computed_in):
        return computed_in
    found = {}
    for key, arithmetic in computed_in.items():
        names = [call.name for call in calls if issubclass(call.cls, key)] if isinstance(key, type) else [key]
        if not names:
            raise OracleError(f"computed_in: no recorded module is a {key.__name__}")
        for name in names:
            found.pop(name, None)  # the last that selects a module counts
            found[name] = arithmetic
    return found


def stated(computed_in: _check.ComputedIn, calls: List[Call]) -> Dict[str, Optional[str]]:
    """The arithmetic of each module: of the last pattern that its name has, and `*` only if there is no other."""
    if computed_in is None or isinstance(computed_in, str):
        return {call.name: computed_in for call in calls}
    found = {call.name: computed_in.get("*") for call in calls}
    for pattern, arithmetic in by_name(computed_in, calls).items():
        form = re.compile(".*".join(re.escape(part) for part in pattern.split("*")))
        names = [call.name for call in calls if form.fullmatch(call.name)]
        if not names:
            raise OracleError(f"computed_in: no recorded module has a name like `{pattern}`; the first is `{calls[0].name if calls else ''}`")
        found.update({name: arithmetic for name in names if pattern != "*"})
    return found


def judge(call: Call, **options: Any) -> Report:
    """The report of one call."""
    inputs, results = rows(call)
    try:
        return _check.examine(call.kind, inputs, results, call.settings, **options)
    except OracleError:
        if "grad_output" not in inputs:
            raise
        # A result of a wrong shape has a gradient of a wrong shape.
        del inputs["grad_output"]
        results = {key: value for key, value in results.items() if not key.startswith("grad_")}
        report = _check.examine(call.kind, inputs, results, call.settings, **options)
        if report:
            raise
        return report


def compare(
    dump: Dump,
    model: Optional[str] = None,
    *,
    computed_in: _check.ComputedIn = None,
    xfail: _check.Path = None,
    html: _check.Path = None,
    end_to_end: bool = True,
    strict: bool = True,
    raises: bool = True,
) -> Comparison:
    """Judges a recorded model.

    Every module is computed again from its own inputs and from the gradient of its own result, and judged as a single layer.
    What is between modules, an addition or a call of a function, is not. With the name of a network of `resnet models`, the
    command knows how its modules are connected: it judges the additions and the whole pass as well.

    Args:
        dump: from `record`.
        model: the name of a network, `resnet18`.
        computed_in: as for `check`; patterns select modules by their whole name, and classes all modules of them:
            `{"*": "bf16", "*bn*": "f32"}`, `{"*": "f32", nn.Conv2d: "tf32"}`. Without it, each module is judged by the coarsest
            type among its own tensors.
        xfail: a file of expected failures, as for `check`.
        html: a file to write the report to, as a page; without `model` a folder with a page for each module.
        end_to_end: for a named network, whether the whole pass is judged, too. That takes most of the time, and says little in
            16 bits, where rounding alone may change the gradients of a deep network by as much as their size.
        strict: whether it is an error if something was not judged: a backward pass that is missing, a module that no gradient
            reached, a gradient that several calls share; without `model` also a module of an unknown type (but for those of PyTorch
            without parameters, and those whose kind is given as None).
        raises: whether wrong results raise an error; otherwise look at `comparison.passed`.

    Returns:
        The comparison. It is true if everything that was judged fits.

    Raises:
        AssertionError: a module is wrong. Its message is the report.
        OracleError: no module could be judged, or something was not judged and `strict` is true; the dump does not belong to the network, or as for `check`.
    """
    __tracebackhide__ = True
    recorded(dump, "compare expects what `with record(model) as dump` yields")
    found = of_network(dump, model, computed_in, xfail, html, end_to_end) if model else of_modules(dump, computed_in, xfail, html)
    if raises and not model and not found.modules and not found.unexpected:
        raise OracleError(found.text)
    if raises:
        _check.demand(found)
    skipped = not model and any(call.name in found.not_judged and not call.minor for call in dump.calls)
    if raises and strict and found and (dump.gaps or skipped):
        raise OracleError(f"{found.text}\nnot everything was judged; if that is intended: compare(dump, strict=False)")
    return found


# A case that is right.
NOTHING = {"input": [[[[0.0]]]]}, {"output": [[[[0.0]]]]}


def of_modules(dump: Dump, computed_in: Any, xfail: Any, html: Any) -> Comparison:
    """Every module alone."""
    reports, skipped, lines = {}, {}, []
    arithmetics = stated(computed_in, dump.calls)
    for arithmetic in set(arithmetics.values()) - {None}:  # a misspelt one is no module that cannot be judged
        _check.check("relu", *NOTHING, computed_in=arithmetic)
    if xfail is not None:  # nor is a file that cannot be read
        _check.check("relu", *NOTHING, xfail=xfail, raises=False)
    if html is not None:
        os.makedirs(html, exist_ok=True)
    for call in dump.calls:
        reason = call.reason
        if reason is None and "output" not in call.results:
            reason = "it did not return"
        if reason is None:
            page = None if html is None else os.path.join(html, f"{call.name}.html")
            try:
                reports[call.name] = judge(call, computed_in=arithmetics[call.name], xfail=xfail, html=page)
            except OracleError as error:
                reason = str(error)
        if reason is not None:
            skipped[call.name] = reason
            lines.append(f"not judged: {call.name} ({call.type}): {reason}")
        elif any(tensor.excused for tensor in reports[call.name].tensors):
            reasons = {tensor.excused for tensor in reports[call.name].tensors if tensor.excused}
            lines.append(f"expected to fail: {call.name} ({call.type}): {'; '.join(sorted(reasons))}")
        elif not reports[call.name]:
            lines.append(f"WRONG  {call.name} ({call.type}):\n" + textwrap.indent(reports[call.name].text, "    "))
    wrong = [name for name, report in reports.items() if not report]
    # A line that one module needs is not superfluous in another.
    needed = {line for report in reports.values() for line in report.needed}
    unexpected = list(dict.fromkeys(line for report in reports.values() for line in report.unexpected if line not in needed))
    lines += [f"EXPECTED TO FAIL, PASSED: {line}" for line in unexpected]
    lines += [f"note: {note}" for note in dump.notes]
    between = [call.name for call in dump.calls if call.between and call.name in reports]
    if between:
        lines.append(f"note: what computes the input of {listed(between)} is no module, and not judged: an addition, a function")
    if wrong:
        lines.append(f"{len(wrong)} of {len(reports)} modules {'is' if len(wrong) == 1 else 'are'} wrong: {', '.join(wrong)}")
    else:
        lines.append(f"all {len(reports)} judged modules are right" if reports else "no module could be judged")
    passed = bool(reports) and not wrong and not unexpected
    return Comparison(passed, wrong, skipped, reports, None, None, "\n".join(lines), unexpected)


@contextlib.contextmanager
def files_of(dump: Dump, model: str) -> Iterator[Tuple[str, List[str], Dict[str, str]]]:
    """The path of a dump, the arguments that name its network, and what reports call the files."""
    if "input" not in dump.batch or "output" not in dump.tensors:
        raise OracleError(f"the dump has no input and result of a network; `{model}` expects images and returns logits")
    if any("#" in call.name and call.type.startswith("Conv") for call in dump.calls):
        raise OracleError("the model was called more than once: record one forward and backward pass")
    with _files.folder(dump.tensors, dump.state, dump.batch) as folder:
        paths = _check.write(folder, dump=dump.tensors, weights=dump.state, batch=dump.batch)
        mode = "train" if dump.training else "eval"
        what = ["model", "--model", model, "--weights", paths["weights"], "--in", paths["batch"], "--mode", mode]
        yield paths["dump"], what, _check.names(paths)


def of_network(dump: Dump, model: str, computed_in: Any, xfail: Any, html: Any, end_to_end: bool) -> Comparison:
    """A network whose connections the command knows."""
    with files_of(dump, model) as (path, what, renamed):
        flags = _check.flags(by_name(computed_in, dump.calls), xfail=xfail, html=html) + ([] if end_to_end else ["--isolate"])
        found = json.loads(ask(["check", path, "--json", *flags, *what], renamed).out)
    text, isolated, whole = found.get("text", "").strip(), found["isolated"], found["end_to_end"]
    reports = [Report.of(raw, text) if raw else None for raw in (isolated and isolated["report"], whole)]
    skipped = {lacking["module"]: f"the dump lacks {lacking['lacks']}" for lacking in (isolated or {}).get("lacking", [])}
    wrong = list(isolated["wrong"]) if isolated else []
    text = "\n".join([*(f"note: {note}" for note in dump.notes), text])
    return Comparison(found["passed"], wrong, skipped, {}, *reports, text, list(found.get("expected", {}).get("passed", [])))


def diagnose_dump(dump: Any, model: Optional[str] = None, *, computed_in: _check.ComputedIn = None, **more: Any) -> Diagnosis:
    """`diagnose` of a recorded model."""
    recorded(dump, "diagnose expects the kind of a layer, or what `with record(model) as dump` yields")
    if more:
        raise OracleError(f"diagnose of a recorded model has no setting `{next(iter(more))}`")
    if model is not None:
        with files_of(dump, model) as (path, what, renamed):
            return _check.diagnosis(["diagnose", path, *_check.flags(by_name(computed_in, dump.calls)), *what], renamed)
    found = of_modules(dump, computed_in, None, None)
    arithmetics, mistakes, texts = stated(computed_in, dump.calls), [], []
    for call in dump.calls:
        if call.name in found.wrong:
            inputs, results = rows(call)
            one = _check.diagnose(call.kind, inputs, results, computed_in=arithmetics[call.name], **call.settings)
            mistakes += [Mistake(mistake.name, mistake.explanation, call.name) for mistake in one.mistakes]
            texts.append(f"{call.name} ({call.type}):\n" + textwrap.indent(one.text, "    "))
    return Diagnosis(bool(found), mistakes, "\n".join(texts) or found.text)
