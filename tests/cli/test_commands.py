from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from attngen.cache.entry import Artefacts
from attngen.cache.store import open_store
from attngen.cli import commands as cli

CHECKOUT = Path(__file__).parents[2]
HEAVY = {"torch", "triton", "sympy", "networkx", "numpy", "jinja2"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=CHECKOUT)


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_comes_at_once(option: str) -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert run("-m", "attngen", option).returncode == 0
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.3


@pytest.mark.parametrize("command", ["--help", "list", "cache ls"])
def test_light_commands_import_nothing_heavy(command: str) -> None:
    program = (
        "import sys\nfrom attngen.cli import main\n"
        f"try:\n    main({command.split()!r})\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    assert run("-c", program).stderr.strip() == "[]"


def test_a_wrong_command_line_is_2() -> None:
    for argv in ([], ["inspect"], ["no-such-command"], ["cache"], ["generate", "full", "causal", "--name", "one"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(argv)
        assert caught.value.code == 2


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["inspect", "no_such_variant"], "ArgumentError"),
        (["inspect", "full", "--arch", "sm1"], "UnknownArch"),
        (["inspect", "full", "--dtype", "float8"], "DtypeMismatch"),
        (["inspect", "full", "--head-dim", "many"], "ArgumentError"),
        (["inspect", "full", "--head-dim", "64,64,64"], "ArgumentError"),
        (["inspect", "full", "--head-dim", "8192"], "DoesNotFit"),
        (["explain", "full", "--after", "lunch"], "ArgumentError"),
        (["generate", "--check", "--out", "no_such_folder"], "SpecError"),
    ],
)
def test_what_is_refused_is_1_and_one_block(argv: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 1
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if line.startswith(f"{error}: ")], "below what was done before it"
    assert "Traceback" not in said


@pytest.mark.parametrize("count", ["-5", "0", "1.5", "many", "٣"])
def test_a_count_is_at_least_1(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["explain", "causal", "--mask", count])
    assert left.value.code == 2
    assert "argument --mask" in capsys.readouterr().err


def test_progress_comes_line_by_line_while_a_command_runs(tmp_path: Path) -> None:
    """Also where stderr is a pipe: the first line long before the last."""
    command = [sys.executable, "-m", "attngen", "generate", "full", "--arch", "sm90", "--head-dim", "16", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT) as running:
        assert running.stderr is not None
        first = running.stderr.readline()
        assert running.poll() is None and not (tmp_path / "full").exists()
        rest = running.stderr.readlines()
    assert first == "full sm90 bfloat16 d=16 e=16: compiling forward, backward_prepare, backward_rows, backward_columns\n"
    assert len(rest) == 4 and not any("\r" in line for line in rest)


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    assert cli.main(["explain", "full", "--mask", "256", "--plot", str(tmp_path / "file" / "mask.svg")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_errors_come_as_json_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "no_such_variant", "--json"]) == 1
    assert printed(capsys)["error"]["class"] == "ArgumentError"


def test_the_unexpected_asks_for_a_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("attngen.cli.commands._table", broken)
    assert cli.main(["list"]) == 3
    assert capsys.readouterr().err.startswith("InternalError: ZeroDivisionError: surprise")
    with pytest.raises(ZeroDivisionError):
        cli.main(["list", "--debug"])


def test_an_error_in_the_users_file_names_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import attngen\n\nspec = attngen.attention(score_mod=missing)\n")
    assert cli.main(["explain", f"{path}:spec"]) == 1
    said = capsys.readouterr().err
    assert "NameError" in said
    assert f"{path}:3" in said


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--json"]) == 0
    rows = printed(capsys)
    assert [row["name"] for row in rows][:2] == ["full", "causal"]
    assert cli.main(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1


def test_inspect_compiles_for_a_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["inspect", "causal", "--arch", "sm90", "--head-dim", "32", "--dtype", "bfloat16", "--json", "--cubin", str(tmp_path / "cubins")]
    assert cli.main(argv) == 0
    rows = printed(capsys)
    wanted = ("name role arch num_warps num_stages block_m block_n registers spill_bytes shared_bytes shared_bytes_predicted").split()  # noqa: SIM905
    assert all(set(wanted) <= set(row) for row in rows)
    two_walks = {"forward", "backward_prepare", "backward_rows", "backward_columns"}
    assert {row["role"] for row in rows} == two_walks | {"backward_fused", "backward_finish"}
    assert all(row["shared_bytes"] <= row["shared_bytes_predicted"] for row in rows)
    for row in rows:
        assert (tmp_path / "cubins" / f"causal.{row['role']}.cubin").read_bytes().startswith(b"\x7fELF")
        assert bool(row["loops"]) == (row["block_n"] is not None)
        for loop in row["loops"]:
            assert loop["repeated"] == 1
            assert 0 < loop["peak_share"] < 1


def test_check_measures_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "prefix_lm", "--head-dim", "16", "--dtype", "float32", "--json"]) == 0
    found = printed(capsys)
    assert found["holds"]
    assert {row["name"] for row in found["errors"]} == {"o", "lse", "dq", "dk", "dv"}


def test_explain_draws_the_tiles_of_a_mask(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "mask.svg"
    assert cli.main(["explain", "sliding_window", "--mask", "1024", "--plot", str(picture)]) == 0
    assert f"drawn in {picture}" in capsys.readouterr().out
    assert picture.read_text(encoding="utf-8").startswith("<?xml")
    assert cli.main(["explain", "sliding_window", "--plot", str(picture)]) == 1
    assert "Add --mask N." in capsys.readouterr().err


def test_explain_on_one_screen_and_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "causal", "--head-dim", "64"]) == 0
    short = capsys.readouterr().out
    assert len(short.splitlines()) <= 44
    assert cli.main(["explain", "causal", "--head-dim", "64", "--full"]) == 0
    assert len(capsys.readouterr().out) > 2 * len(short)
    assert cli.main(["explain", "causal", "--after", "streaming", "--json"]) == 0
    assert printed(capsys)["step"] == "streaming"
    assert cli.main(["explain", "causal", "--after", "schedule", "--head-dim", "64", "--dtype", "float16", "--arch", "sm80"]) == 0
    assert "compiled for sm80" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tuning_is_refused_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "causal", "--arch", "sm90", "--length", "long", "--json"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("NoDevice: ")
    assert json.loads(said.out)["error"]["remedy"]


def test_the_cache_is_listed_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    assert cli.main(["cache", "ls"]) == 0
    assert capsys.readouterr().out == "the cache is empty\n"
    for version in ("1.0", "2.0"):
        open_store(version, "py311-triton3.6.0-torch2.13.0", tmp_path).build(
            "a" * 64, lambda: Artefacts({"kernels.py": b"pass\n"}, {"kind": "module"})
        )
    assert cli.main(["cache", "ls", "--json"]) == 0
    assert [(row["kind"], row["bytes"], row["files"]) for row in printed(capsys)] == [("module", 5, ["kernels.py"])] * 2
    foreign = tmp_path / "overlay" / "layers" / ("b" * 64)
    foreign.mkdir(parents=True)
    (foreign.parent / ".locks").mkdir()
    assert cli.main(["cache", "clear", "--json"]) == 0
    assert printed(capsys) == {"removed": 2}
    assert foreign.is_dir() and (foreign.parent / ".locks").is_dir(), "what lies beside the caches is of others"
    assert cli.main(["cache", "ls", "--json"]) == 0
    assert printed(capsys) == []


def test_progress_is_plain_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = cli.Progress()
    progress.line("one")
    progress.line("two")
    progress.done()
    assert capsys.readouterr().err == "one\ntwo\n"


def test_progress_overwrites_itself_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = cli.Progress()
    progress.line("first")
    progress.line("2nd")
    progress.done()
    assert capsys.readouterr().err == "\rfirst\r2nd  \n"
