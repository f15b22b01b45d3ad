"""docs/paper.md names tests: they are there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAPER = (TESTS.parent / "docs" / "paper.md").read_text(encoding="utf-8")


def named_tests() -> Iterator[tuple[str, str]]:
    """File and test that the last column of the training table names; a name alone is in the file before it."""
    for row in PAPER.partition("### Where training differs")[2].splitlines():
        file = ""
        for mention in re.findall(r"`([^`]+)`", row.rsplit("|", 2)[1] if row.startswith("| ") else ""):
            where, _, name = mention.rpartition(": ")
            file = where or file
            if file:
                yield file if "/" in file else f"train/{file}", name


@pytest.mark.parametrize(("file", "name"), list(named_tests()))
def test_a_test_that_the_paper_page_names_exists(file: str, name: str) -> None:
    assert f"def test_{name}(" in (TESTS / f"{file}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", PAPER))))
def test_a_file_that_the_paper_page_names_exists(path: str) -> None:
    assert (TESTS.parent / path).is_file()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([a-z_]+/[\w/]+\.py)`", PAPER))))
def test_a_module_that_the_paper_page_names_exists(path: str) -> None:
    assert (TESTS.parent / "src" / "heliograph" / path).is_file() or (TESTS.parent / path).is_file()
