"""The fixture `oracle`: this package, with the defaults of the project.

    [pytest]
    resnet_oracle_computed_in = f32
    resnet_oracle_xfail = oracle.xfail
"""

import functools

import pytest

OPTIONS = {"computed_in": "the arithmetic of the results, such as bf16", "xfail": "the file of expected failures of the oracle"}


class Package:
    """`resnet_oracle` with other defaults."""

    def __init__(self, contents):
        self.__dict__.update(contents)

    def __repr__(self):
        return "resnet_oracle"


def pytest_addoption(parser):
    for name, text in OPTIONS.items():
        parser.addini(f"resnet_oracle_{name}", text, default=None)
    parser.getgroup("resnet-oracle").addoption("--oracle-seeds", type=int, metavar="N", help="cases of each call of oracle.fuzz")


@pytest.fixture
def oracle(pytestconfig):
    """The package `resnet_oracle`; `check`, `fuzz`, `compare` and `diagnose` have the defaults of the ini file."""
    import resnet_oracle

    ini = {name: pytestconfig.getini(f"resnet_oracle_{name}") for name in OPTIONS}
    default = {name: value for name, value in ini.items() if value}
    if "xfail" in default:
        default["xfail"] = str(pytestconfig.rootpath / default["xfail"])
    seeds = pytestconfig.getoption("--oracle-seeds")
    package = Package({name: getattr(resnet_oracle, name) for name in resnet_oracle.__all__})
    for name in ("check", "fuzz", "compare", "diagnose"):
        known = {key: value for key, value in default.items() if name != "diagnose" or key != "xfail"}
        if name == "fuzz" and seeds is not None:
            known["seeds"] = seeds
        setattr(package, name, functools.partial(getattr(resnet_oracle, name), **known))
    return package
