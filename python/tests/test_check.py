"""`check` and `diagnose` of single layers, and what happens if they are called wrongly."""

import os
import signal
import threading

import numpy as np
import pytest

import resnet_oracle as oracle
from resnet_oracle import _command, _files


def linear(dtype="float64", **changed):
    rng = np.random.default_rng(0)
    x, w, b, dy = (rng.standard_normal(shape).astype(dtype) for shape in [(5, 7), (3, 7), (3,), (5, 3)])
    theirs = {"output": x @ w.T + b, "grad_input": dy @ w, "grad_weight": dy.T @ x, "grad_bias": dy.sum(0)}
    return {"input": x, "weight": w, "bias": b, "grad_output": dy}, {**theirs, **changed}


def test_right_results_pass():
    report = oracle.check("linear", *linear())
    assert report and report.passed and report.first is None and not report.unknown
    assert {tensor.name for tensor in report.tensors} == {"output", "grad_input", "grad_weight", "grad_bias"}
    assert all(0 <= tensor.share < 1 for tensor in report.tensors)
    assert "all 4 tensors fit" in str(report)


def test_wrong_results_raise_with_the_report():
    inputs, theirs = linear()
    theirs["grad_weight"][1, 2] += 1e-3
    with pytest.raises(AssertionError, match="first failure in the order of execution: grad_weight") as caught:
        oracle.check("linear", inputs, theirs, computed_in="f64")
    report = caught.value.report
    assert str(caught.value) == report.text and not report
    worst = report.worst
    assert worst is report.first is report["grad_weight"]
    assert (worst.name, worst.shape, worst.worst_index, worst.exceeding, worst.outcome) == ("grad_weight", (3, 7), (1, 2), 1, "leaves")
    assert worst.share > 1e6 and worst.error == pytest.approx(1e-3) and worst.theirs - worst.ours == pytest.approx(1e-3)
    assert sum(worst.histogram.values()) >= 1 and worst.tolerance < 1e-12
    assert oracle.check("linear", inputs, theirs, raises=False).text == report.text


def test_files_have_names_that_can_be_read():
    assert "resnet-oracle" not in oracle.check("linear", *linear()).text
    with pytest.raises(oracle.OracleError) as caught:
        oracle.check("linear", {"input": [[1.0]]}, {"output": [[1.0]]})
    assert "the inputs" in str(caught.value) and "/" not in str(caught.value)


def test_lists_and_float32_and_a_missing_bias():
    inputs, theirs = linear("float32")
    theirs = {"output": theirs["output"] - inputs["bias"]}
    inputs["bias"] = None
    assert oracle.check("linear", inputs, theirs)["output"].share < 1
    assert oracle.check("relu", {"input": [[[[1.0, -1.0]]]]}, {"output": [[[[1.0, 0.0]]]]})


@pytest.mark.parametrize(
    "call, message",
    [
        (("lineer", *linear()), "a similar value exists: 'linear'"),
        (("linear", {**linear()[0], "wieght": [1.0]}, linear()[1]), "did you mean `weight`"),
        (("linear", {**linear()[0], "weight": np.zeros((2, 2, 2))}, linear()[1]), "`weight` expects floats in 2 axes"),
        (("linear", {"input": np.zeros((5, 7))}, linear()[1]), "linear needs `weight`"),
        (("linear", linear()[0]["input"], linear()[1]), "the inputs must be a mapping of names to tensors, not ndarray"),
        (("linear", linear()[0], {"grad_bias": None}), "the result `grad_bias` is None"),
        (("linear", linear()[0], {"output": np.zeros((5, 3), complex)}), "`output` has elements of type complex128"),
    ],
)
def test_what_cannot_be_judged(call, message):
    with pytest.raises(oracle.OracleError) as caught:
        oracle.check(*call)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"strde": 2}, "did you mean `stride`"),
        ({"stride": "a,b=c"}, "is not a number, a pair"),
        ({"stride": 1.5}, "expects a whole number or height x width"),
        ({"computed_in": np.float32}, "expected a text such as 'f32'"),
        ({"computed_in": "bf61"}, "unknown type `bf61`"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(oracle.OracleError) as caught:
        oracle.check("conv2d", {"input": np.ones((1, 1, 3, 3)), "weight": np.ones((1, 1, 1, 1))}, {"output": np.ones((1, 1, 3, 3))}, **settings)
    assert message in str(caught.value)


def test_an_unknown_result_and_a_wrong_shape_are_wrong():
    inputs, theirs = linear()
    with pytest.raises(oracle.OracleError, match="outputs.*did you mean `output`"):
        oracle.check("linear", inputs, {"outputs": theirs["output"], "grad_bias": theirs["grad_bias"]})
    report = oracle.check("linear", inputs, {"output": theirs["output"].T}, raises=False)
    assert report.worst.outcome == "shape" and "SHAPE [3, 5], expected [5, 3]" in report.text
    for call in (oracle.check, oracle.diagnose):
        with pytest.raises(oracle.OracleError, match="no results to judge"):
            call("linear", inputs, {})


def test_settings_as_pytorch_has_them():
    x, w = np.ones((1, 1, 4, 5)), np.ones((1, 1, 1, 1))
    assert oracle.check("conv2d", {"input": x, "weight": w}, {"output": x[:, :, ::2]}, stride=(2, 1))
    assert oracle.check("conv2d", {"input": x, "weight": w}, {"output": np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 1)))}, padding=((1, 2), (0, 1)))
    assert oracle.check("max_pool", {"input": x}, {"output": np.ones((1, 1, 2, 3))}, kernel_size=2, stride=None, ceil_mode=True)


def test_one_arithmetic_for_each_tensor():
    inputs, theirs = linear("float32")
    theirs["grad_weight"] = theirs["grad_weight"] * np.float32(1 + 2e-4)
    assert not oracle.check("linear", inputs, theirs, raises=False)
    assert oracle.check("linear", inputs, theirs, computed_in={"*": "f32", "grad_weight": "bf16,stored=f32"})
    with pytest.raises(oracle.OracleError, match="no tensor or module has a name like `grad_wieght`; did you mean `grad_weight`"):
        oracle.check("linear", inputs, theirs, computed_in={"*": "f32", "grad_wieght": "bf16,stored=f32"})


def test_a_relu_of_any_shape():
    for shape in [(), (7,), (3, 5), (2, 3, 4), (2, 1, 3, 2, 2)]:
        x, dy = np.random.default_rng(0).standard_normal((2, *shape))
        theirs = {"output": np.maximum(x, 0), "grad_input": dy * (x > 0)}
        assert oracle.check("relu", {"input": x, "grad_output": dy}, theirs)
        report = oracle.check("relu", {"input": x, "grad_output": dy}, {"output": x - 1}, raises=False)
        assert not report and report.worst.shape == shape and len(report.worst.worst_index) == len(shape)


def test_tolerances_are_written(tmp_path):
    oracle.check("linear", *linear(), tolerances=tmp_path / "t.safetensors")
    tolerances = _files.read(str(tmp_path / "t.safetensors"))
    assert tolerances["grad_weight"].shape == (3, 7) and (tolerances["grad_weight"] > 0).all()


def test_a_page_is_written(tmp_path):
    try:
        oracle.check("linear", *linear(), html=tmp_path / "report.html")
    except oracle.OracleError as error:
        assert "unexpected argument '--html'" in str(error)
        pytest.skip("this command has no --html")
    assert "grad_weight" in (tmp_path / "report.html").read_text()


def test_expected_failures(tmp_path):
    inputs, theirs = linear(grad_bias=np.zeros(3))
    file = tmp_path / "oracle.xfail"
    file.write_text("linear grad_bias  # this unit has no gradient of a bias\n")
    report = oracle.check("linear", inputs, theirs, xfail=file)
    assert report["grad_bias"].excused == "this unit has no gradient of a bias"
    with pytest.raises(AssertionError):
        oracle.check("linear", inputs, {**theirs, "output": theirs["output"] + 1}, xfail=file)
    with pytest.raises(oracle.OracleError):
        oracle.check("linear", inputs, theirs, xfail=tmp_path / "missing")
    inputs, theirs = linear()
    with pytest.raises(AssertionError, match="EXPECTED TO FAIL, PASSED: .*oracle.xfail, line 1: linear grad_bias") as caught:
        oracle.check("linear", inputs, theirs, xfail=file)
    assert caught.value.report.unexpected == ["line 1: linear grad_bias  # this unit has no gradient of a bias"]
    file.write_text("linear grad_bias strict=false\nconv2d\n")
    assert oracle.check("linear", inputs, theirs, xfail=file)


def test_diagnosis():
    rng = np.random.default_rng(1)
    x, ones = rng.standard_normal((4, 2, 3, 3)), np.ones(2)
    y = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
    inputs = {"input": x, "weight": ones, "bias": 0 * ones, "running_mean": 0 * ones, "running_var": ones}
    theirs = {"output": y, "running_var": 0.9 + 0.1 * x.var((0, 2, 3))}
    found = oracle.diagnose("batch_norm", inputs, theirs, mode="train")
    assert not found and [mistake.name for mistake in found.mistakes] == ["running-variance"]
    assert "running-variance" in found.text and "unbiased" in found.mistakes[0].explanation
    theirs["running_var"] = 0.9 + 0.1 * x.var((0, 2, 3), ddof=1)
    found = oracle.diagnose("batch_norm", inputs, theirs, mode="train")
    assert found.right and not found.mistakes


# ---- The process

def test_the_command_is_missing(monkeypatch):
    monkeypatch.setenv("RESNET", "no-such-program")
    with pytest.raises(oracle.OracleError, match="RESNET=no-such-program: there is no such program"):
        oracle.check("linear", *linear())
    monkeypatch.delenv("RESNET")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(_command.sysconfig, "get_path", lambda *_: None)
    with pytest.raises(oracle.OracleError, match="pip install ./python"):
        oracle.command()


def test_a_process_that_dies_is_reported_and_replaced(program, monkeypatch):
    real = oracle.command()
    program("import sys; sys.stdin.readline(); sys.exit('it hurts')")
    with pytest.raises(oracle.OracleError, match="ended with exit code 1 .*: it hurts"):
        oracle.check("linear", *linear())
    program("print('hello'); import time; time.sleep(60)")
    with pytest.raises(oracle.OracleError, match="sent something that is no answer"):
        oracle.check("linear", *linear())
    monkeypatch.setenv("RESNET", real)
    assert oracle.check("linear", *linear())
    os.kill(_command.SERVER.process.pid, signal.SIGKILL)
    _command.SERVER.process.wait()
    assert oracle.check("linear", *linear())


def test_one_process_answers_all():
    oracle.check("linear", *linear())
    process, found = _command.SERVER.process, []
    right, wrong = linear(), linear(output=np.zeros((5, 3)))
    judge = lambda i: found.append((i % 2 == 0) == bool(oracle.check("linear", *(wrong if i % 2 else right), raises=False)))
    threads = [threading.Thread(target=judge, args=(i,)) for i in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [True] * 16 and _command.SERVER.process is process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork():
    oracle.check("linear", *linear())
    before, child = _command.SERVER.process, os.fork()
    if child == 0:
        try:
            code = 0 if _command.SERVER.process is None and oracle.check("linear", *linear()) else 1
        except BaseException:
            code = 2
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert oracle.check("linear", *linear()) and _command.SERVER.process is before


def test_temporary_files_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(_files.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(_files.os.path, "isdir", lambda path: False)
    oracle.check("linear", *linear())
    assert list(tmp_path.iterdir()) == []


def test_files_keep_every_element(tmp_path):
    path, rng = str(tmp_path / "t.safetensors"), np.random.default_rng(0)
    kinds = [kind for kind in _files.TYPES if kind != "bfloat16"]
    tensors = {kind: (rng.standard_normal((3, 4)) * 100).astype(kind) for kind in kinds}
    tensors.update({"scalar": np.float64(3), "empty": np.zeros((0, 2)), "strided": np.arange(12.0).reshape(3, 4)[::-1, ::2], "big": np.arange(3.0).astype(">f8")})
    _files.write(path, tensors)
    again = _files.read(path)
    for name, tensor in tensors.items():
        assert again[name].shape == np.shape(tensor) and (again[name] == tensor).all(), name
        assert again[name].dtype.kind == np.asarray(tensor).dtype.kind
