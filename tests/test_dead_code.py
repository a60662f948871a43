"""Product code has a caller in the product."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dead_code import ALLOWED, ROOT, Package, dead


@pytest.fixture(scope="module")
def package() -> Package:
    return Package(ROOT)


def test_nothing_is_reached_from_tests_only(package: Package):
    assert dead(package) == ()


def test_nothing_is_allowed_without_need(package: Package):
    """Each exception hides something, which is there."""
    for name in ALLOWED:
        others = {other: reason for other, reason in ALLOWED.items() if other != name}
        assert any(f"{item}.".startswith(f"{name}.") for item in dead(package, others)), name


def test_what_has_no_caller_is_found(tmp_path: Path):
    """In a small package of the same form."""
    for folder in ("attngen", "templates", "docs", "examples", "benchmarks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "README.md").write_text("Call `thing.shown()`.")
    (tmp_path / "attngen" / "__init__.py").write_text("from attngen.used import start\nstart()\n")
    (tmp_path / "attngen" / "used.py").write_text(
        "from attngen.other import helper as other_helper\n"
        "LIMIT = 3\n"
        "UNREAD = 4\n"
        "class Thing:\n"
        "    field: int = 0\n"
        "    unread: int = 1\n"
        "    def method(self): return self.field\n"
        "    def shown(self): return 1\n"
        "    def alone(self): return LIMIT\n"
        "def start(): return other_helper() + Thing().method()\n"
        "def helper(): return caller()\n"
        "def caller(): return helper()\n"
    )
    (tmp_path / "attngen" / "other.py").write_text("def helper(): return use('exp')\ndef use(name): return name\n")
    (tmp_path / "templates" / "exp.py").write_text("def exp(x): return x\n")
    (tmp_path / "templates" / "log.py").write_text("def log(x): return x\n")
    found = set(dead(Package(tmp_path), {}))
    mine = {"Thing.alone", "Thing.unread", "LIMIT", "UNREAD", "caller", "helper"}
    assert found == {f"attngen.used.{name}" for name in mine} | {"templates.log"}
