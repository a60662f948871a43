"""What the templates see: frozen records of checked text. A template reads attributes and loops over tuples, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.emit.identifiers import Code


@dataclass(frozen=True, slots=True)
class FunctionContext:
    """A function that a kernel calls, to find the walks of a tile or to form its products: parameters, what it says about
    itself, statements, what it returns."""

    name: Code
    params: tuple[Code, ...]
    title: Code
    note: tuple[Code, ...]
    body: tuple[Code, ...]
    returned: Code


@dataclass(frozen=True, slots=True)
class KernelContext:
    """A kernel, section by section.

    Attributes:
        bounds: what finds its walks, at most one function. products: what forms those that can go ahead, at most one.
        name: function name.
        title: what it computes, one line; `summary`: the steps.
        params: run-time parameters in launch order. constexprs: compile-time ones; flags: those that a tile or a launch may set.
        unspecialized: quoted names of parameters whose values must not lead to a new build.
        place: which tile this program owns. prologue: what it keeps. init: the carried state.
        flat: whether it walks over axes of the grid itself, `loop_count` turns, in one loop with the stream; `loop` heads each step.
        nested: the same as a loop around the stream, because the bounds depend on the turn; `indent` shifts the stream.
        streamed: whether anything streams, `segments` walks over `walk`, `turn` being the loop variable, in `steps` turns.
        tile: one step of the stream. epilogue: after the last. stores: what goes out.
    """

    bounds: tuple[FunctionContext, ...]
    products: tuple[FunctionContext, ...]
    name: Code
    title: Code
    summary: tuple[Code, ...]
    params: tuple[Code, ...]
    constexprs: tuple[Code, ...]
    flags: tuple[Code, ...]
    unspecialized: tuple[Code, ...]
    place: tuple[Code, ...]
    keeps: bool
    prologue: tuple[Code, ...]
    carries: bool
    init: tuple[Code, ...]
    flat: bool
    nested: bool
    loop_count: Code
    loop: tuple[Code, ...]
    indent: Code
    streamed: bool
    segments: int
    segment_note: Code
    walk: Code
    turn: Code
    steps: Code
    tile: tuple[Code, ...]
    epilogue: tuple[Code, ...]
    stores: tuple[Code, ...]


@dataclass(frozen=True, slots=True)
class AlternateText:
    """An alternate kernel in a module.

    Attributes:
        flag: of the alternate. plain: the function of the plain kernel, whose arguments it takes.
        text: its functions. helpers: names of the helper functions that they call.
        imports, legend: lines that the module has for it, at its head and in its docstring.
        chooser: a host function that picks this kernel or the plain one; choice: the statement that calls it, for `kernel` and `tile`.
    """

    flag: str
    plain: Code
    text: Code
    helpers: frozenset[str]
    imports: tuple[Code, ...]
    legend: tuple[Code, ...]
    chooser: Code
    choice: Code


@dataclass(frozen=True, slots=True)
class Launch:
    """How the host calls one kernel: its tile, allocation, grid, arguments in the order of its parameters, constants, what is kept of it,
    and when it is called: "" for always, else what follows is indented. `chunks` heads a loop over chunks of rows, "" for none, `chunk` are
    statements at the beginning of each."""

    kernel: Code
    tile: Code
    allocate: tuple[Code, ...]
    chunks: Code
    chunk: tuple[Code, ...]
    programs: Code
    arguments: tuple[Code, ...]
    constants: Code
    keep: tuple[Code, ...]
    condition: Code

    @property
    def indent(self) -> Code:
        """Before each statement."""
        return Code("    " if self.condition else "")

    @property
    def inner(self) -> Code:
        """Before each statement of the launch itself."""
        return Code(self.indent + ("    " if self.chunks else ""))


@dataclass(frozen=True, slots=True)
class Finish:
    """Statements that complete the gradient of one input."""

    target: Code
    lines: tuple[Code, ...]


@dataclass(frozen=True, slots=True)
class HostContext:
    """The launching functions of a module. `document_extents`: whether they need to know where equal captured values lie; `pieces`: whether
    a feature axis has several tiles; `forward_near`, `backward_near`: copies of tensors whose positions lie too far apart; `tiled`:
    whether descriptors may fetch tiles; `choosers`: functions that pick an alternate kernel or the plain one; `flags`: all that a tile may
    set; `listed`: whether some kernel walks over a list of tiles, which the caller may keep; `chunks`: whether some kernel is called for a
    chunk of rows at a time."""

    forward_title: Code
    forward_params: tuple[Code, ...]
    forward_near: tuple[Code, ...]
    lengths: tuple[Code, ...]
    document_extents: bool
    pieces: bool
    tiled: bool
    choosers: tuple[Code, ...]
    flags: Code
    listed: bool
    chunks: bool
    forward: tuple[Launch, ...]
    forward_results: tuple[Code, ...]
    differentiable: bool
    backward_title: Code
    backward_params: tuple[Code, ...]
    backward_near: tuple[Code, ...]
    backward: tuple[Launch, ...]
    finish: tuple[Finish, ...]


@dataclass(frozen=True, slots=True)
class ModuleContext:
    """A whole emitted module; `alternates`: functions of alternate kernels, `imports` and `legend`: lines that it has for them."""

    title: Code
    version: Code
    cascade: tuple[Code, ...]
    helpers: tuple[Code, ...]
    kernels: tuple[KernelContext, ...]
    alternates: tuple[Code, ...]
    imports: tuple[Code, ...]
    legend: tuple[Code, ...]
    host: HostContext


@dataclass(frozen=True, slots=True)
class DeployRow:
    """One row of the table of tiles."""

    key: tuple[Code, ...]
    tiles: tuple[Code, ...]


@dataclass(frozen=True, slots=True)
class DeployContext:
    """The package around a module.

    Attributes:
        params: of the user's function. positional, values: the inputs of the cascade, in call order.
        ranks: of arguments of one dtype; singles: of those that may also be fp32, or are integers.
        lengths, checks, views: statements before the kernels run; joins, tail: after.
        unpacked: what the results are assigned to; computed: all of them, saved ones included.
        dense, remembered: statements of the forward, recalled: of the backward. kept: tensors that the backward reads.
        restored: as it unpacks them.
        backward: arguments of the backward kernels.
        indexes: whether captured tensors are indexed by positions. refuses: whether some inputs have no gradient;
            ends: whether none goes through some outputs.
        imports: the modules of kernels; modules: lengths and module of each, if there are several.
        settings: what the kernels are launched with, before their inputs; `ungraded` stands for their gradients,
            `first` is how many they are.
        module, remembered_module: where the kernels are, for the forward and for the backward.
    """

    title: Code
    version: Code
    name: Code
    results: Code
    positional: tuple[Code, ...]
    features: tuple[Code, ...]
    rows: tuple[DeployRow, ...]
    params: tuple[Code, ...]
    arguments: tuple[Code, ...]
    returns: tuple[Code, ...]
    ranks: tuple[Code, ...]
    singles: tuple[Code, ...]
    lengths: tuple[Code, ...]
    checks: tuple[Code, ...]
    views: tuple[Code, ...]
    model: Code
    extents: tuple[Code, ...]
    values: tuple[Code, ...]
    unpacked: Code
    joins: tuple[Code, ...]
    tail: tuple[Code, ...]
    dense: tuple[Code, ...]
    computed: Code
    kept: tuple[Code, ...]
    remembered: tuple[Code, ...]
    recalled: tuple[Code, ...]
    cotangents: tuple[Code, ...]
    restored: Code
    names: tuple[Code, ...]
    backward: tuple[Code, ...]
    indexes: bool
    refuses: bool
    ends: bool
    imports: tuple[Code, ...]
    modules: tuple[Code, ...]
    settings: tuple[Code, ...]
    module: Code
    remembered_module: Code
    ungraded: Code
    first: Code
