"""Definitions of attngen and its templates that nothing but tests reaches.

A definition is a function, class or constant of a module, or a method or field of a class. It is alive if code that is alive reads it:
statements that run on import, templates, examples and benchmarks, the public names of the package, what the documentation shows, or the
body of another definition that is alive. Definitions of modules are told apart by their imports. Members of classes are known by their
names alone, so one that shares its name with something alive may be missed.

Run it to list them: python -m tests.dead_code
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import attngen

ROOT = Path(__file__).parents[1]
_WORD = re.compile(r"[A-Za-z_]\w*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# Decorators that register nothing: what they are put on still needs a caller.
_PLAIN_DECORATORS = frozenset(
    """dataclass property cached_property cache lru_cache staticmethod classmethod contextmanager overload wraps setter total_ordering
    runtime_checkable abstractmethod""".split()  # noqa: SIM905  as a list it would take a screen
)
_PLAIN_BASES = frozenset({"object", "Protocol", "Generic", "NamedTuple", "Enum", "IntEnum", "StrEnum", "ABC"})

_TORCH = "a function of the user calls it as a method of a tensor"
ALLOWED = {
    "attngen.engine.library": "printed programs call its functions by name",
    "attngen.tile.program_interpreter.interpret": "it defines what tile programs mean, which printers are held to",
    "attngen.tile.program_parser.parse_program": "the text of a program is a format, and what is printed can be read",
    "attngen.frontend.tracing.tracer.Traced": _TORCH,
    "attngen.frontend.torch_functions.reductions.Reductions": _TORCH,
    "attngen.interpreter.gluon.gluon_language._Language": "it stands for a language, of which emitted kernels use a part",
    "attngen.interpreter.self_check.run": "the interpreter calls it in an interpreted copy of its module",
    "attngen.ir.parser.parse": "the text of a cascade is a format, and what the printer writes can be read",
}
"""What is alive all the same, and why: definitions, or classes with all their members."""
Use = tuple[str, str]
"""What code reads: the module and the name of one of its definitions, or "" and the name of any member."""


@dataclass(frozen=True)
class Definition:
    """One definition: of `module`, in class `owner` if it is a member, with what its body reads. `foreign`: code of others may call it."""

    module: str
    owner: str
    name: str
    uses: frozenset[Use]
    foreign: bool = False

    def __str__(self) -> str:
        return ".".join(part for part in (self.module, self.owner, self.name) if part)

    @property
    def use(self) -> Use:
        """What reads it."""
        return ("" if self.owner else self.module, self.name)


@dataclass(frozen=True)
class Module:
    """A parsed file; `name` is "" outside of attngen."""

    name: str
    tree: ast.Module

    @cached_property
    def defined(self) -> frozenset[str]:
        """Names of its definitions."""
        return frozenset(name for node in self.tree.body for name in _bound(node))

    @cached_property
    def imported(self) -> Mapping[str, Use]:
        """What names that are imported anywhere in it stand for: a definition, or a module and ""."""
        found: dict[str, Use] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
        return found


class Package:
    """All modules of attngen."""

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = sorted((root / "attngen").rglob("*.py"))
        names = (".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in paths)
        self.modules = {name: Module(name, _parsed(path)) for name, path in zip(names, paths, strict=True)}

    def resolved(self, use: Use) -> Use:
        """Where a definition stands that a module may only pass on; a module and "" for a module."""
        module, name = use
        if f"{module}.{name}" in self.modules:
            return f"{module}.{name}", ""
        passing = self.modules.get(module)
        if passing is not None and name not in passing.defined and name in passing.imported and passing.imported[name] != use:
            return self.resolved(passing.imported[name])
        return use

    def uses(self, module: Module, parts: Iterable[ast.AST]) -> frozenset[Use]:
        """What code of a module reads."""
        found: set[Use] = set()
        for node in (node for part in parts for node in ast.walk(part)):
            match node:
                case ast.Name(id=name, ctx=ast.Load()):
                    found |= {("", name), self._named(module, name)}
                case ast.Attribute(value=value, attr=name, ctx=ast.Load()):
                    found |= {("", name), self.resolved((self._path(module, value), name))}
                case ast.Constant(value=str(text)) if _DOTTED.fullmatch(text):
                    found |= {("", part) for part in text.split(".")}
                case ast.Call(func=ast.Name(id="getattr"), args=[value, _, *_]) if (path := self._path(module, value)) in self.modules:
                    found |= {(path, name) for name in self.modules[path].defined if not name.startswith("_")}
                case ast.MatchClass(kwd_attrs=names):
                    found |= {("", name) for name in names}
                case _:
                    pass
        return frozenset(found)

    def _named(self, module: Module, name: str) -> Use:
        return self.resolved(module.imported[name]) if name in module.imported and name not in module.defined else (module.name, name)

    def _path(self, module: Module, value: ast.expr) -> str:
        """The module that an expression stands for, "?" if it stands for something else."""
        if isinstance(value, ast.Attribute):
            return f"{self._path(module, value.value)}.{value.attr}"
        if not isinstance(value, ast.Name) or value.id not in module.imported:
            return "?"
        found = self.resolved(module.imported[value.id])
        return found[0] if not found[1] else "?"

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        """Of all modules, and the functions of the templates."""
        return tuple(self._definitions())

    def _definitions(self) -> Iterator[Definition]:
        classes = {node.name for module in self.modules.values() for node in module.tree.body if isinstance(node, ast.ClassDef)}
        for module in self.modules.values():
            for node in module.tree.body:
                yield from self._defined(module, node, classes)
        for path in sorted((self.root / "templates").rglob("*.py")):
            words = {("", name) for name in _WORD.findall(path.read_text(encoding="utf-8")) if name != path.stem}
            yield Definition("", "templates", path.stem, frozenset(words))

    def _defined(self, module: Module, node: ast.stmt, classes: set[str], owner: str = "") -> Iterator[Definition]:
        match node:
            case ast.FunctionDef() if not _is_special(node.name):
                yield Definition(module.name, owner, node.name, self.uses(module, [node]) - {("", node.name)}, _is_registered(node))
            case ast.ClassDef():
                bases = {_last(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases}
                members = [item for member in node.body for item in self._defined(module, member, classes, node.name)]
                own = [member for member in node.body if not isinstance(member, ast.FunctionDef) or _is_special(member.name)]
                parts = (*own, *node.bases, *node.decorator_list, *node.keywords)
                yield Definition(module.name, owner, node.name, self.uses(module, parts), _is_registered(node))
                # A class of another library may call what it is given.
                foreign = not bases <= classes | _PLAIN_BASES
                for item in members:
                    yield Definition(item.module, item.owner, item.name, item.uses, item.foreign or foreign)
            case _:
                for name in _bound(node):
                    yield Definition(module.name, owner, name, self.uses(module, [node]) - {("", name)})

    @cached_property
    def roots(self) -> frozenset[Use]:
        """What is alive by itself."""
        found: set[Use] = set()
        for path in (path for folder in ("examples", "benchmarks") for path in (self.root / folder).rglob("*.py")):
            module = Module("", _parsed(path))
            found |= self.uses(module, [module.tree]) | {self.resolved(use) for use in module.imported.values()}
        for path in (self.root / "templates").rglob("*.j2"):
            found |= {("", name) for name in _WORD.findall(path.read_text(encoding="utf-8"))}
        for path in (self.root / "README.md", *(self.root / "docs").rglob("*.md")):
            found |= {("", name) for name in re.findall(r"\.(\w+)", path.read_text(encoding="utf-8"))}
        for module in self.modules.values():
            found |= self.uses(module, [node for node in module.tree.body if not _bound(node)])
        return frozenset(found) | {(home, name) for name, home in attngen._HOMES.items()}


def dead(package: Package, allowed: Mapping[str, str] = ALLOWED) -> tuple[str, ...]:
    """Every definition that nothing but tests reaches, "module.Class.name", without those that `allowed` names or the class of which it
    names, and what they read."""
    used, waiting = set(package.roots), list(package.definitions)
    alive = [item for item in waiting if any(f"{item}.".startswith(f"{name}.") for name in allowed)]
    while True:
        used |= set[Use]().union(*(item.uses for item in alive))
        gone = set(map(id, alive))
        waiting = [item for item in waiting if id(item) not in gone]
        owners = {(item.module, item.name) for item in waiting if not item.owner}
        alive = [item for item in waiting if item.use in used or (item.foreign and (item.module, item.owner) not in owners)]
        if not alive:
            return tuple(sorted(map(str, waiting)))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _bound(node: ast.stmt) -> list[str]:
    """Names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [] if _is_special(node.name) else [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return [name for name in names if not _is_special(name)]


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_registered(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether a decorator hands the definition to somebody else."""
    decorators = [item.func if isinstance(item, ast.Call) else item for item in node.decorator_list]
    return any(_last(item) not in _PLAIN_DECORATORS for item in decorators)


if __name__ == "__main__":
    print("\n".join(dead(Package(ROOT))))
