"""The result of one measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "wrong", "failed", "hung", "absent", "skipped"]


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one workload in one section. What was not measured is None.

    Attributes:
        section, workload, contender: of what.
        status: "ok"; "wrong": computes something else, and was not timed; "failed": raised; "hung": did not return; "absent": not
            installed, or not to be run; "skipped": no time.
        ms: median time of a call. graph_ms: of its replay from a graph.
        tflops: useful operations of a call in `ms`. gb_per_s: keys and values read in `graph_ms`.
        share: of the cuBLAS product, or of the copy, of the same run.
        setup_ms: what is done again when the mask changes, where it is no part of a call.
        first_s: until the first result is there, tracing and compilation included.
        peak_mb: memory beyond the arguments, in 1e6 bytes.
        error: the largest relative error against float32, and `where`.
        note: why there is no time.
    """

    section: str
    workload: str
    contender: str
    status: Status = "ok"
    ms: float | None = None
    graph_ms: float | None = None
    tflops: float | None = None
    gb_per_s: float | None = None
    share: float | None = None
    setup_ms: float | None = None
    first_s: float | None = None
    peak_mb: float | None = None
    error: float | None = None
    where: str = ""
    note: str = ""

    @property
    def counts(self) -> bool:
        """Whether it makes the run a failure: wrong values of anybody, errors of attngen, its tests or a section. Others may refuse."""
        return self.status == "wrong" or (self.status in ("failed", "hung") and self.contender in ("attngen", "attngen_two_walks", "-"))
