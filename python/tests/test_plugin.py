"""The fixture of pytest."""

import os

import pytest

import resnet_oracle


@pytest.fixture
def project(pytester, monkeypatch):
    """A project whose pytest has the plugin, as `pip install` makes it known."""
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(os.path.dirname(os.path.abspath(resnet_oracle.__file__))))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(test, ini="", *arguments):
        pytester.makepyfile(test)
        pytester.makeini("[pytest]\n" + ini)
        return pytester.runpytest_subprocess("-p", "resnet_oracle.pytest_plugin", *arguments)

    return run


RELU = """
    import numpy as np

    def relu(inputs, settings):
        relu.calls += 1
        x = inputs["input"]
        return {"output": np.maximum(x, 0), "grad_input": inputs["grad_output"] * (x >= 0)}

    relu.calls = 0
"""


def test_the_fixture(project):
    result = project(RELU + """
    def test_right(oracle):
        x = np.array([[[[1.0, -2.0]]]])
        assert oracle.check("relu", {"input": x, "grad_output": x}, {"output": np.maximum(x, 0)})
        assert oracle.fuzz("relu", lambda i, s: {"output": relu(i, s)["output"]}) and relu.calls == 7

    def test_wrong(oracle):
        oracle.fuzz("relu", relu, seeds=300)

    def test_errors(oracle):
        import pytest
        with pytest.raises(oracle.OracleError):
            oracle.check("rely", {}, {})
    """, "", "--oracle-seeds=7")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["E * AssertionError: relu, 300 cases: *", "E *oracle.fuzz('relu', relu, case=*"])
    assert "_check.py" not in result.stdout.str()


def test_defaults_of_the_ini_file(project, pytester):
    (pytester.path / "oracle.xfail").write_text("relu grad_input  # the gradient at 0\n")
    result = project(RELU + """
    def test_expected(oracle):
        assert oracle.fuzz("relu", relu).expected > 0

    def test_arithmetic(oracle):
        x = np.full((1, 4), 1.0)
        theirs = {"output": np.full((1, 3), 12.01)}
        assert oracle.check("linear", {"input": x, "weight": np.full((3, 4), 3.0)}, theirs)
    """, "resnet_oracle_xfail = oracle.xfail\nresnet_oracle_computed_in = bf16\n")
    result.assert_outcomes(passed=2)


def test_a_wrong_ini_file(project):
    result = project("""
    def test_it(oracle):
        oracle.check("relu", {"input": [[[[1.0]]]]}, {"output": [[[[1.0]]]]})
    """, "resnet_oracle_xfail = missing.xfail\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *missing.xfail*"])
