"""`fuzz`: a planted bug is found and shrunk, and everything else that can happen."""

import json

import numpy as np
import pytest

import resnet_oracle as oracle


def conv(inputs, settings):
    """A right convolution in NumPy, in float64, forward only."""
    x, w = inputs["input"], inputs["weight"]
    (sh, sw), (ph, pw), (dh, dw), groups = (settings[k] for k in ("stride", "padding", "dilation", "groups"))
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    n, _, height, width = x.shape
    c_out, c_in, kh, kw = w.shape
    ho, wo = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    y = np.zeros((n, c_out, ho, wo))
    for i in range(kh):
        for j in range(kw):
            part = x[:, :, i * dh : i * dh + sh * (ho - 1) + 1 : sh, j * dw : j * dw + sw * (wo - 1) + 1 : sw]
            for g in range(groups):
                own = slice(g * c_out // groups, (g + 1) * c_out // groups)
                y[:, own] += np.einsum("nchw,oc->nohw", part[:, g * c_in : (g + 1) * c_in], w[own, :, i, j])
    if inputs.get("bias") is not None:
        y += inputs["bias"][:, None, None]
    return {"output": y}


def without_last_row(inputs, settings):
    """The classic mistake with stride 2: the last row of an odd height is not read."""
    if settings["stride"][0] == 2 and inputs["input"].shape[2] % 2 == 1:
        x = inputs["input"].copy()
        x[:, :, -1] = 0
        inputs = {**inputs, "input": x}
    return conv(inputs, settings)


def size(case):
    """The product of the sizes in the text of a case."""
    numbers = dict(part.split("=") for part in case.split(",") if "=" in part)
    return int(np.prod([int(numbers[name]) for name in ("n", "h", "w") if name in numbers]))


def test_a_right_function():
    report = oracle.fuzz("conv2d", conv, seeds=30, computed_in="f64")
    assert report and report.right == 30 and report.skipped == 0 and report.first is None and report.share < 1


def test_a_planted_bug_is_found_and_shrunk():
    with pytest.raises(AssertionError) as caught:
        oracle.fuzz("conv2d", without_last_row, seeds=60, computed_in="f64")
    report = caught.value.report
    failure = report.first
    assert not report and size(failure.shrunk) <= size(failure.case) and size(failure.shrunk) <= 3
    line = f"oracle.fuzz('conv2d', without_last_row, case={failure.shrunk!r}, computed_in='f64')"
    assert line in str(caught.value) and failure.report.first.name == "output" and failure.case in report.wrong
    again = eval(line.replace("computed_in", "raises=False, computed_in"))
    assert again.wrong == [failure.shrunk] and again.first.shrunk == failure.shrunk
    assert oracle.fuzz("conv2d", conv, case=failure.case) and oracle.fuzz("conv2d", conv, case=failure.shrunk)


def test_an_exception_is_a_failure():
    def fails(inputs, settings):
        if settings["groups"] > 1:
            raise RuntimeError("groups are broken")
        return conv(inputs, settings)

    report = oracle.fuzz("conv2d", fails, seeds=60, raises=False)
    assert "RuntimeError: groups are broken" in report.first.error and report.first.report is None


@pytest.mark.parametrize("reason", [oracle.Unsupported("no groups"), NotImplementedError("no groups"), pytest.skip.Exception("no groups")])
def test_what_is_not_supported_is_skipped(reason):
    def some(inputs, settings):
        if settings["groups"] > 1:
            raise reason
        return conv(inputs, settings)

    report = oracle.fuzz("conv2d", some, seeds=40)
    assert report and report.skipped > 0 and report.right > 0 and report.skipped + report.right == 40


def test_skipping_everything_is_no_success():
    def none(inputs, settings):
        raise oracle.Unsupported("nothing")

    with pytest.raises(oracle.OracleError, match="every case was skipped"):
        oracle.fuzz("relu", none, seeds=5)


def test_settings_are_fixed():
    seen = set()

    def look(inputs, settings):
        seen.add((settings["stride"], settings["groups"]))
        return conv(inputs, settings)

    oracle.fuzz("conv2d", look, seeds=20, stride=(2, 1), groups=1)
    assert seen == {((2, 1), 1)}


def test_sorts_of_values():
    seen = []
    relu = lambda inputs, settings: seen.append(np.isfinite(inputs["input"]).all()) or {"output": np.fmax(inputs["input"], 0)}
    oracle.fuzz("relu", relu, seeds=10, values=["small", "wide"])
    assert all(seen)
    oracle.fuzz("relu", relu, seeds=10, values="non-finite", raises=False)
    assert not all(seen)
    with pytest.raises(oracle.OracleError, match="rubbish"):
        oracle.fuzz("relu", relu, values="rubbish")


def test_expected_failures(tmp_path):
    file = tmp_path / "oracle.xfail"
    file.write_text("conv2d stride=2* output  # odd heights\n")
    report = oracle.fuzz("conv2d", without_last_row, seeds=60, xfail=file)
    assert report and report.expected > 0


def test_called_wrongly():
    with pytest.raises(oracle.OracleError, match="conv2"):
        oracle.fuzz("conv2", conv)
    with pytest.raises(oracle.OracleError, match="strde"):
        oracle.fuzz("conv2d", conv, strde=2)
    with pytest.raises(oracle.OracleError, match="nonsense"):
        oracle.fuzz("conv2d", conv, case="nonsense=1")
    with pytest.raises(TypeError, match="must return a mapping .* returned ndarray"):
        oracle.fuzz("relu", lambda inputs, settings: np.maximum(inputs["input"], 0))
    with pytest.raises(KeyboardInterrupt):
        oracle.fuzz("relu", interrupted)


def interrupted(inputs, settings):
    raise KeyboardInterrupt


# ---- The conversation, with a program that follows the protocol

TALK = """
import json, sys
sys.path[:0] = {path!r}
from resnet_oracle import _files
_files.write({folder!r} + "/in.safetensors", {{"input": [[1.0, 2.0]], "weight": [[3.0, 4.0]]}})
settings = {{"stride": [2, 1], "groups": 1, "mode": "train"}}
print(json.dumps({{"run": {{"case": "n=1", "kind": "linear", "settings": settings, "in": {folder!r} + "/in.safetensors", "out": {folder!r} + "/out.safetensors"}}}}), flush=True)
answer = json.loads(sys.stdin.readline())
{then}
first = {{"case": "n=5", "shrunk": "n=1", "error": "wrong", "report": None}}
report = {{"passed": False, "right": 0, "skipped": 0, "expected": 0, "wrong": ["n=5"], "first": first, "share": 0.5, "text": json.dumps(answer)}}
print(json.dumps({{"report": report}}))
sys.exit(1)
"""


def talk(program, tmp_path, then=""):
    import sys

    program(TALK.format(path=sys.path, folder=str(tmp_path), then=then))


def test_the_function_gets_arrays_and_settings(program, tmp_path):
    talk(program, tmp_path)
    seen = []
    report = oracle.fuzz("linear", lambda inputs, settings: seen.append((inputs, settings)) or {"output": inputs["input"] @ inputs["weight"].T}, raises=False)
    assert seen[0][1] == {"stride": (2, 1), "groups": 1, "mode": "train"}
    assert json.loads(report.text.split("\n")[0]) == {} and report.first == oracle.Failure("n=5", "n=1", "wrong", None)
    talk(program, tmp_path)
    assert oracle.fuzz("linear", lambda *_: pytest.skip("no"), raises=False).text.startswith('{"skip": "no"}')
    talk(program, tmp_path)
    assert "ZeroDivisionError" in oracle.fuzz("linear", lambda *_: 1 / 0, raises=False).text


def test_a_command_that_dies(program, tmp_path):
    talk(program, tmp_path, then='sys.exit("it hurts")')
    with pytest.raises(oracle.OracleError, match="it hurts"):
        oracle.fuzz("linear", lambda *_: {"output": [[1.0]]})
    talk(program, tmp_path, then='print("what?"); sys.exit(3)')
    with pytest.raises(oracle.OracleError, match="ended with exit code 3 and without a report"):
        oracle.fuzz("linear", lambda *_: {"output": [[1.0]]})
