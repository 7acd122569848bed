"""Runs what README.md and the pages show.

- Every ```python fence runs; the fences of a page share one namespace, from top to bottom.
- A ```text fence that directly follows a ```python fence is what that fence prints, and must match.
- Every command of a ```bash fence must exist: the program, the script, the module, the extra and the option.
"""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.compiler import HAS_COMPILER, REASON

# Pages that run torch's compiler.
COMPILED = {"docs/pages/deploy-compile.md"}

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "bash", "text", "toml"}

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass
class Fence:
    language: str
    body: str
    line: int
    follows: bool
    """Only blank lines stand between this fence and the one before."""


def fences(text: str) -> list[Fence]:
    found, end = [], 0
    for match in FENCE.finditer(text):
        language = (match["info"].split() or [""])[0]
        body = "".join(line.removeprefix(match["indent"]) for line in match["body"].splitlines(keepends=True))
        follows = bool(found) and not text[end : match.start()].strip()
        found.append(Fence(language, body, text.count("\n", 0, match.start("body")) + 1, follows))
        end = match.end()
    return found


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_fence_names_a_language_that_is_checked(page: Path) -> None:
    assert {fence.language for fence in fences(page.read_text())} <= LANGUAGES


# torch's own, where inductor lowers a linear layer of int8.
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_fences_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name(page) in COMPILED and not HAS_COMPILER:
        pytest.skip(REASON)
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(), str(page))


def run_page(text: str, filename: str) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed: str | None = None
    for fence in fences(text):
        if fence.language == "python":
            # The blank lines in front make a traceback name the page's own line.
            code = compile("\n" * (fence.line - 1) + fence.body, filename, "exec")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, namespace)
            printed = out.getvalue()
        elif fence.language == "text" and fence.follows and printed is not None:
            assert printed.strip() == fence.body.strip(), f"{filename}:{fence.line} shows another output"
            printed = None
        else:
            printed = None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_bash_fences_name_commands_that_exist(page: Path) -> None:
    for fence in fences(page.read_text()):
        if fence.language == "bash":
            for command in commands(fence.body):
                check_command(command)


def commands(body: str) -> list[list[str]]:
    found = []
    for line in body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            cut = words.index("&&") if "&&" in words else len(words)
            found.append(words[:cut])
            words = words[cut + 1 :]
    return found


def check_command(words: list[str]) -> None:
    program, *arguments = words
    if program.startswith("."):
        assert (ROOT / program).is_file(), f"{program} is not in the repository"
        return
    # ruff or mkdocs need not be installed where the tests run, if an extra brings them.
    brought = re.search(rf'"{re.escape(program)}\b', extras())
    # An environment that is used without being activated is not on PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    assert brought or shutil.which(program, path=path), f"no program {program!r}"
    if program == "python" and arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), f"no module {arguments[1]!r}"
    elif program == "python":
        script, *options = arguments
        assert (ROOT / script).is_file(), f"{script} is not in the repository"
        for option in (word.split("=")[0] for word in options if word.startswith("--")):
            assert re.search(rf"{option}(?![\w-])", help_of(script)), f"{script} --help does not name {option}"
    elif program == "pip":
        for extra in re.findall(r"\[([\w,-]+)\]", " ".join(arguments)):
            declared = set(re.findall(r"^(\w+) = ", extras(), re.MULTILINE))
            assert set(extra.split(",")) <= declared, f"no extra {extra!r}"


@cache
def help_of(script: str) -> str:
    # From a checkout that nobody installed, a script would not find the library.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / script, "--help"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@cache
def extras() -> str:
    # Python 3.10 has no tomllib; the section is plain enough to read by its lines.
    return (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]


def test_a_page_that_shows_a_wrong_output_fails() -> None:
    with pytest.raises(AssertionError, match="shows another output"):
        run_page("```python\nprint(1)\n```\n\n```text\n2\n```\n", "page.md")


def test_fences_of_a_page_share_names_and_print_as_shown() -> None:
    run_page("```python\na = 1\n```\nSo:\n```python\nprint(a + 1)\n```\n```text\n2\n```\n", "page.md")


@pytest.mark.parametrize(
    "line",
    [
        "no-such-program --now",
        "python examples/cifar10/no_such_script.py",
        "python examples/cifar10/describe.py --no-such-option",
        "python -m no_such_module",
        'pip install -e ".[no-such-extra]"',
        "pip --version && ./no-such-file",
    ],
)
def test_a_command_that_does_not_exist_fails(line: str) -> None:
    *fine, wrong = commands(line)
    for command in fine:
        check_command(command)
    with pytest.raises(AssertionError):
        check_command(wrong)
