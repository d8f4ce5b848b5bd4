"""One layer: `check`, `diagnose` and `fuzz`."""

import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
import traceback
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from . import _files
from ._command import OracleError, ask, command, message
from ._report import Diagnosis, FuzzReport, Mistake, Report

ComputedIn = Union[str, Mapping[str, str], None]
Path = Union[str, "os.PathLike[str]", None]


__tracebackhide__ = True  # pytest shows the test, not this file


class Unsupported(Exception):
    """Raised by a function that `fuzz` calls: this implementation does not support the case. Say why."""


def setting(name: str, value: Any) -> Optional[str]:
    """A setting as the command reads it, `2x1`; nothing for PyTorch's default."""
    if value is None:
        return "none" if name == "momentum" else None  # elsewhere None means: as if it were not given
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "x".join(":".join(map(str, side)) if isinstance(side, (tuple, list)) else str(side) for side in value)
    text = str(value)
    if any(sign in text for sign in ",=\n"):
        raise OracleError(f"the setting {name}={value!r} is not a number, a pair, True, False or a word")
    return text


def flags(computed_in: ComputedIn = None, **files: Path) -> List[str]:
    """The options of the command that were given."""
    if computed_in is not None and not isinstance(computed_in, Mapping):
        computed_in = {"*": computed_in}
    arguments = []
    for pattern, arithmetic in (computed_in or {}).items():
        if not isinstance(pattern, str):
            raise OracleError(f"computed_in: {pattern!r} is not a pattern of names; classes select modules of a recorded model")
        if not isinstance(arithmetic, str):
            raise OracleError(f"computed_in={arithmetic!r}: expected a text such as 'f32' or 'bf16'")
        arguments += ["--computed-in", f"{pattern}:{arithmetic}" if pattern != "*" else arithmetic]
    for name, path in files.items():
        if path is not None:
            arguments += [f"--{name}", os.path.abspath(os.fspath(path))]
    # A test that is run again writes its page again.
    return arguments + (["--force"] if files.get("html") or files.get("tolerances") else [])


def layer(kind: str, settings: Mapping[str, Any]) -> List[str]:
    """`conv2d --set stride=2`."""
    if not isinstance(kind, str):
        raise OracleError(f"the kind must be a name such as 'conv2d', not {kind!r}; for a PyTorch model: record and compare")
    texts = {name: setting(name, value) for name, value in settings.items()}
    chosen = ",".join(f"{name}={text}" for name, text in texts.items() if text is not None)
    return [kind, "--set", chosen] if chosen else [kind]


def given(inputs: Mapping[str, Any], theirs: Mapping[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """The tensors that are there; an input that is None is one that the layer does not have."""
    for what, tensors in (("inputs", inputs), ("results", theirs)):
        if not isinstance(tensors, Mapping):
            raise OracleError(f"the {what} must be a mapping of names to tensors, not {type(tensors).__name__}: {{'output': y}}")
    for name, value in theirs.items():
        if value is None:
            raise OracleError(f"the result `{name}` is None: leave it out if it is not to be judged")
    return {name: value for name, value in inputs.items() if value is not None}, dict(theirs)


def some(theirs: Mapping[str, Any]) -> None:
    """Rejects a call without results."""
    if not theirs:
        raise OracleError("there are no results to judge, such as {'output': y}")


def check(
    kind: str,
    inputs: Mapping[str, Any],
    theirs: Mapping[str, Any],
    *,
    computed_in: ComputedIn = None,
    xfail: Path = None,
    html: Path = None,
    tolerances: Path = None,
    raises: bool = True,
    **settings: Any,
) -> Report:
    """Judges the results of one layer, block or step of SGD.

        oracle.check("conv2d", {"input": x, "weight": w, "grad_output": dy}, {"output": y, "grad_weight": dw}, stride=2)

    Args:
        kind: what is computed: `conv2d`, `batch_norm`, … as `resnet oracle layer --help` lists them.
        inputs: the tensors that the layer reads, by PyTorch's names. With `grad_output` the backward pass is judged, too.
            Tensors are of NumPy, PyTorch (on any device) or JAX, or nested lists.
        theirs: the results to judge: `output`, `grad_input`, `grad_weight`, `running_mean`, … Those left out are not judged.
        computed_in: the arithmetic of the results: `f64`, `f32`, `tf32`, `bf16`, `fp16`, with `,sums=same`, `,stored=f32` or
            `,winograd`. A mapping gives it for tensors of a name: `{"grad_*": "bf16", "*": "f32"}`. Without it, the coarsest
            type in which a result is stored.
        xfail: a file of expected failures: `KIND PATTERN...  # reason` in each line. What it lists must fail, unless the line has
            `strict=false`.
        html: a file to write the report to, as a page.
        tolerances: a `.safetensors` or `.npz` file to write the tolerance of each element to.
        raises: whether wrong results raise an error; otherwise look at `report.passed`.
        settings: the layer's settings, as in PyTorch: `stride=(2, 1)`, `padding="same"`, `mode="eval"`.

    Returns:
        The report. It is true if every result fits.

    Raises:
        AssertionError: a result is wrong. Its message is the report, its attribute `report` the object.
        OracleError: nothing was judged, because of a misspelt name, a wrong shape, or a command that is not installed.
    """
    __tracebackhide__ = True
    report = examine(kind, inputs, theirs, settings, computed_in=computed_in, xfail=xfail, html=html, tolerances=tolerances)
    report = dataclasses.replace(report, passed=report.passed and not report.unexpected)
    if raises:
        demand(report)
    return report


def examine(kind: str, inputs: Mapping[str, Any], theirs: Mapping[str, Any], settings: Mapping[str, Any], computed_in: ComputedIn = None, **files: Path) -> Report:
    """The report about one layer, which passes whether or not everything failed that is expected to."""
    what, (inputs, theirs) = layer(kind, settings), given(inputs, theirs)
    some(theirs)
    with _files.folder(inputs, theirs) as folder:
        paths = write(folder, inputs=inputs, results=theirs)
        arguments = ["check", paths["results"], "--json", *flags(computed_in, **files)]
        answer = ask([*arguments, "layer", *what, "--in", paths["inputs"]], names(paths))
    found = json.loads(answer.out)
    report = Report.of(found["end_to_end"], found.get("text", "").strip(), found.get("expected"))
    unknown = found["end_to_end"]["unknown"]
    if unknown and all(tensor.outcome in ("fits", "not_given") for tensor in report.tensors):
        raise OracleError(report.text)  # a misspelt name is no verdict
    return report


def write(folder: str, **files: Mapping[str, Any]) -> Dict[str, str]:
    """Writes files of tensors and returns their paths."""
    paths = {name: os.path.join(folder, name + ".safetensors") for name in files}
    for name, path in paths.items():
        _files.write(path, files[name])
    return paths


def names(paths: Mapping[str, str]) -> Dict[str, str]:
    """What the reports call the temporary files."""
    return {path: f"the {name}" for name, path in paths.items()}


def demand(report: Any) -> None:
    """Raises an AssertionError with a report that is not right."""
    __tracebackhide__ = True
    if not report:
        error = AssertionError(str(report))
        error.report = report
        raise error


def diagnose(
    kind: Any, inputs: Any = None, theirs: Optional[Mapping[str, Any]] = None, *, computed_in: ComputedIn = None, **settings: Any
) -> Diagnosis:
    """Names the classic mistake that explains wrong results.

        oracle.diagnose("batch_norm", inputs, results, mode="train").mistakes
        oracle.diagnose(dump)                       # each wrong module of a recorded model
        oracle.diagnose(dump, model="resnet18")     # the whole network

    Args:
        kind, inputs, theirs, computed_in, settings: as for `check`. Instead, a recorded model and perhaps `model=NAME`.

    Returns:
        The diagnosis: `right`, `mistakes` and `text`.

    Raises:
        OracleError: as for `check`.
    """
    if not isinstance(kind, str):
        from ._recorder import diagnose_dump

        return diagnose_dump(kind, computed_in=computed_in, **({} if inputs is None else {"model": inputs}), **settings)
    if inputs is None or theirs is None:
        raise OracleError(f"diagnose({kind!r}) needs the inputs and the results")
    inputs, theirs = given(inputs, theirs)
    some(theirs)
    with _files.folder(inputs, theirs) as folder:
        paths = write(folder, inputs=inputs, results=theirs)
        arguments = ["diagnose", paths["results"], *flags(computed_in), "layer", *layer(kind, settings), "--in", paths["inputs"]]
        return diagnosis(arguments, names(paths))


def diagnosis(arguments: List[str], renamed: Dict[str, str]) -> Diagnosis:
    """The diagnosis of `resnet oracle diagnose`."""
    found = json.loads(ask([arguments[0], arguments[1], "--json", *arguments[2:]], renamed).out)
    mistakes = [Mistake(mistake["name"], mistake["explanation"]) for mistake in found["explains"]]
    if found.get("text"):
        text = found["text"].strip()
    elif found["right"]:
        text = "the results are right"
    else:
        text = f"the results are wrong: `{found['first']}` is the first tensor that does not fit\n"
        text += f"pattern: {found['pattern']}\n" if found.get("pattern") else ""
        modules = found.get("wrong_modules")
        text += f"wrong modules, each for what it was given: {', '.join(modules)}\n" if modules else ""
        text += "".join(f"this mistake explains everything in them: {m.name}\n  {m.explanation}\n" for m in mistakes)
        tried = len(found["tried"])
        if not mistakes and not tried and modules:
            text += "end to end everything fits, so no classic mistake is tried in the whole network"
        elif not mistakes:
            text += f"none of {tried} classic mistakes explains all of it" if tried else "no classic mistake is possible in this layer"
    return Diagnosis(found["right"], mistakes, text.strip())


def fuzz(
    kind: str,
    fn: Callable[[Dict[str, Any], Dict[str, Any]], Mapping[str, Any]],
    *,
    seeds: int = 200,
    first: int = 0,
    case: Optional[str] = None,
    computed_in: ComputedIn = None,
    values: Union[str, Sequence[str], None] = None,
    xfail: Path = None,
    raises: bool = True,
    **settings: Any,
) -> FuzzReport:
    """Judges a function on random shapes, settings and values, and shrinks what fails to the smallest case that still fails.

        def conv(inputs, settings):
            y = my_conv(inputs["input"], inputs["weight"], inputs.get("bias"), **settings)
            return {"output": y}

        oracle.fuzz("conv2d", conv, computed_in="f32")

    Args:
        kind: what the function computes, as for `check`.
        fn: `fn(inputs, settings) -> results`. It gets NumPy arrays by name, among them `grad_output`, and every setting of the
            kind, as PyTorch has them: pairs are tuples. It returns what it computes by name; results that it leaves out are not judged. An
            exception is a failure of the case; `Unsupported`, `NotImplementedError` or `pytest.skip` skips the case.
        seeds: how many random cases.
        first: the first seed.
        case: this case alone, in the form in which a failure prints it.
        computed_in, xfail: as for `check`.
        values: sorts of values, `"cancelling"` or several, as `resnet oracle fuzz --help` lists them. `"denormal"` and
            `"non-finite"` are tried only if they are named.
        raises: whether wrong cases raise an error; otherwise look at `report.passed`.
        settings: settings and sizes that every case has: `groups=1`, `n=2`.

    Returns:
        The report. It is true if no case was wrong.

    Raises:
        AssertionError: a case was wrong. The message contains the smallest one and the line that repeats it.
        OracleError: nothing was judged, as for `check`, or the function skipped every case.
        TypeError: the function returned something that is no mapping of names to tensors.
    """
    __tracebackhide__ = True
    if not callable(fn):
        raise OracleError(f"fuzz needs a function fn(inputs, settings) -> results, not {fn!r}")
    arguments = ["fuzz", kind, "--ask", "--json", *flags(computed_in, xfail=xfail)]
    arguments += ["--case", case] if case is not None else ["--seeds", str(seeds), "--first", str(first)]
    arguments += ["--values", values if isinstance(values, str) else ",".join(values)] if values else []
    arguments += layer(kind, settings)[1:]
    report = FuzzReport.of(converse(arguments, lambda run: answer(fn, run))["report"])
    if not (report.right or report.wrong or report.expected):
        raise OracleError(f"nothing was judged, every case was skipped: {report.text}")
    if report.first:
        same = {"computed_in": computed_in, "xfail": xfail and os.fspath(xfail), **settings}
        more = "".join(f", {name}={value!r}" for name, value in same.items() if value is not None)
        line = f"oracle.fuzz({kind!r}, {getattr(fn, '__name__', 'fn')}, case={report.first.shrunk!r}{more})"
        report = dataclasses.replace(report, text=f"{report.text}\n\nto repeat it:\n    {line}")
    if raises:
        demand(report)
    return report


def answer(fn: Callable[..., Mapping[str, Any]], run: Dict[str, Any]) -> Dict[str, str]:
    """Calls the function for a case and writes its results."""
    typed = lambda value: tuple(value) if isinstance(value, list) else None if value == "none" else value  # noqa: E731
    settings = {name: value if name == "reduction" else typed(value) for name, value in run["settings"].items()}
    skip = sys.modules.get("_pytest.outcomes")
    skips = (Unsupported, NotImplementedError) + ((skip.Skipped,) if skip else ())
    try:
        results = fn(_files.read(run["in"]), settings)
    except skips as reason:
        return {"skip": str(reason) or type(reason).__name__}
    except Exception:
        return {"error": traceback.format_exc()}
    if not isinstance(results, Mapping):
        raise TypeError(f"the function must return a mapping of names to tensors, {{'output': y}}, and returned {type(results).__name__}")
    _files.write(run["out"], given({}, results)[1])
    return {}


def converse(arguments: List[str], answer: Callable[[Dict[str, Any]], Dict[str, str]]) -> Dict[str, Any]:
    """Runs the command, answers each of its requests, and returns its last line."""
    pipe, line = subprocess.PIPE, ""
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen([command(), "oracle", *arguments], stdin=pipe, stdout=pipe, stderr=errors, encoding="utf-8") as process:
            try:
                for line in process.stdout:
                    found = json.loads(line) if line.startswith("{") else {}
                    if "report" in found:
                        return found
                    if "run" not in found:
                        break
                    process.stdin.write(json.dumps(answer(found["run"])) + "\n")
                    process.stdin.flush()
            except BrokenPipeError:
                pass  # it ended, which is reported below
            except BaseException:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    process.stdin.close()  # so that it removes its files and ends
                    process.wait(timeout=5)
                process.kill()
                raise
        code = process.wait()
        errors.seek(0)
        text = message(errors.read().decode("utf-8", "replace"))
    raise OracleError(text or f"`resnet oracle {shlex.join(arguments)}` ended with exit code {code} and without a report; its last line: {line!r}")
