"""What the command found, as objects."""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple


def number(value: Optional[float], otherwise: float) -> float:
    """A number of a report: JSON has no NaN and no infinity."""
    return otherwise if value is None else value


@dataclass(frozen=True)
class Tensor:
    """The verdict about one tensor."""

    name: str
    """Its name: `output`, `grad_weight`."""
    shape: Tuple[int, ...]
    """The shape that is right."""
    outcome: str
    """`fits`, `leaves` (elements exceed their tolerance), `factor` and `mean` (all together are too large or shifted), `shape`, or
    `not_given`."""
    share: float
    """The largest share of a tolerance that is used: above 1 is wrong."""
    worst_index: Tuple[int, ...]
    """The place of the element that uses this share."""
    error: float
    """Its error."""
    tolerance: float
    """Its tolerance."""
    ours: float
    """Its value, computed in float64."""
    theirs: float
    """The value that is judged."""
    exceeding: int
    """How many elements exceed their tolerance."""
    histogram: Dict[str, int]
    """How many elements have an error of each size, relative to the largest value: `{"1e-7": 12}`."""
    pattern: Optional[str]
    """Where the wrong elements are, if that is regular: `only the last column`."""
    excused: Optional[str]
    """The reason in the file of expected failures, if the tensor is listed there."""
    raw: Dict[str, Any] = field(repr=False, compare=False)
    """All that the command reports of it."""

    @property
    def passed(self) -> bool:
        """Whether it fits, was not given, or is excused."""
        return self.outcome in ("fits", "not_given") or self.excused is not None

    @classmethod
    def of(cls, raw: Dict[str, Any]) -> "Tensor":
        worst = raw["worst"]
        return cls(
            name=raw["name"],
            shape=tuple(raw["shape"]),
            outcome=raw["outcome"],
            share=number(raw["share"], math.inf),
            worst_index=tuple(worst["at"]),
            error=number(worst["error"], math.nan),
            tolerance=number(worst["tolerance"], math.inf),
            ours=number(worst["ours"], math.nan),
            theirs=number(worst["theirs"], math.nan),
            exceeding=raw["leaving"],
            histogram={f"1e{i - 18}": count for i, count in enumerate(raw["decades"]) if count},
            pattern=raw.get("pattern"),
            excused=raw.get("excused"),
            raw=raw,
        )


@dataclass(frozen=True)
class Report:
    """The verdict about a layer. It is true if everything fits; `str(report)` is what the command prints."""

    passed: bool
    """Whether every given tensor fits, and everything failed that is expected to."""
    tensors: List[Tensor]
    """One verdict each, in the order of execution, without those that were not given."""
    unknown: List[str]
    """Given tensors that this layer does not have."""
    text: str
    """The report as the command prints it."""
    json: Dict[str, Any] = field(repr=False, compare=False)
    """The report as the command's JSON."""
    unexpected: List[str] = field(default_factory=list)
    """Lines of the file of expected failures of which nothing failed."""
    needed: List[str] = field(default_factory=list, repr=False)
    """Lines of that file that excuse a failure."""

    @property
    def worst(self) -> Optional[Tensor]:
        """The tensor with the largest share of its tolerance; a wrong one if there is any."""
        return max(self.tensors, key=lambda tensor: (not tensor.passed, tensor.share), default=None)

    @property
    def first(self) -> Optional[Tensor]:
        """The first tensor in the order of execution that is wrong."""
        return next((tensor for tensor in self.tensors if not tensor.passed), None)

    def __getitem__(self, name: str) -> Tensor:
        """The verdict about the tensor of this name."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(f"{name}; the report has {', '.join(tensor.name for tensor in self.tensors)}")

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of(cls, raw: Dict[str, Any], text: str, lines: Optional[Dict[str, List[str]]] = None) -> "Report":
        tensors = [Tensor.of(tensor) for tensor in raw["tensors"] if tensor["outcome"] != "not_given"]
        failed, passed = (list((lines or {}).get(key, [])) for key in ("failed", "passed"))
        return cls(raw["passed"], tensors, [unknown["name"] for unknown in raw["unknown"]], text, raw, passed, failed)


@dataclass(frozen=True)
class Comparison:
    """The verdict about a recorded model. It is true if everything that was judged fits."""

    passed: bool
    """Whether every judged module fits, and, for a named network, the whole pass as well."""
    wrong: List[str]
    """The names of the wrong modules, in the order of execution."""
    not_judged: Dict[str, str]
    """The modules that were not judged, and why."""
    modules: Dict[str, Report]
    """The report of each module, in the order of execution; empty for a named network."""
    isolated: Optional[Report]
    """For a named network: every module with its own inputs."""
    end_to_end: Optional[Report]
    """For a named network: the whole pass from its input."""
    text: str
    """The report, to be printed."""
    unexpected: List[str] = field(default_factory=list)
    """Lines of the file of expected failures of which nothing failed."""

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Mistake:
    """A classic mistake that explains wrong results."""

    name: str
    """As in `resnet oracle diagnose`: `running-variance`."""
    explanation: str
    """What it is."""
    module: Optional[str] = None
    """The module that makes it, in a recorded model without the name of a network."""


@dataclass(frozen=True)
class Diagnosis:
    """Why results are wrong. It is true if they are right."""

    right: bool
    """Whether the results are right, so that no mistake was tried."""
    mistakes: List[Mistake]
    """Each of these explains everything that is wrong; more than one if the results cannot distinguish them."""
    text: str
    """The diagnosis, to be printed."""

    def __bool__(self) -> bool:
        return self.right

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Failure:
    """A random case with wrong results."""

    case: str
    """The case that was found."""
    shrunk: str
    """The smallest case that was found from it and is wrong as well: `fuzz(kind, fn, case=failure.shrunk)`."""
    error: Optional[str]
    """The traceback, if the function raised an exception in the smallest case."""
    report: Optional[Report]
    """The report of the smallest case, if there were results."""


@dataclass(frozen=True)
class FuzzReport:
    """The verdict about many random cases. It is true if no case was wrong."""

    passed: bool
    """Whether no case was wrong, except as expected, and everything failed that is expected to."""
    right: int
    """How many cases were right."""
    skipped: int
    """How many cases the function does not support."""
    expected: int
    """How many cases were wrong as listed in the file of expected failures."""
    wrong: List[str]
    """The wrong cases."""
    first: Optional[Failure]
    """The first wrong case and the smallest one found from it."""
    share: float
    """The largest share of a tolerance that a right result uses."""
    text: str
    """The report, to be printed."""

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of(cls, raw: Dict[str, Any]) -> "FuzzReport":
        text, first = raw["text"].strip(), raw["first"]
        if first is not None:
            report = None if first["report"] is None else Report.of(first["report"], text)
            first = Failure(first["case"], first["shrunk"], first["error"], report)
        share = number(raw["share"], math.inf)
        return cls(raw["passed"], raw["right"], raw["skipped"], raw["expected"], list(raw["wrong"]), first, share, text)
