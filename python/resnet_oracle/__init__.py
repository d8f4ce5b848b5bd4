"""Is your backward pass right? Asks the command ``resnet oracle``, which computes the same in float64.

    import resnet_oracle as oracle

    oracle.check("conv2d", inputs, results, stride=2, computed_in="bf16")     # one layer, on your tensors
    oracle.fuzz("conv2d", my_conv)                                            # one layer, on random tensors
    with oracle.record(model) as dump:                                        # a PyTorch model
        loss_of(model(x)).backward()
    oracle.compare(dump)

Each raises ``AssertionError`` with a report if something is wrong, and ``OracleError`` if it cannot be judged. The docs are
in docs/oracle_python.md.
"""

from ._check import Unsupported, check, diagnose, fuzz
from ._command import OracleError, command
from ._recorder import Call, Dump, compare, record
from ._report import Comparison, Diagnosis, Failure, FuzzReport, Mistake, Report, Tensor

__all__ = [
    "Call", "Comparison", "Diagnosis", "Dump", "Failure", "FuzzReport", "Mistake", "OracleError", "Report", "Tensor",
    "Unsupported", "check", "command", "compare", "diagnose", "fuzz", "record",
]
__version__ = "0.1.0"
