"""The verb `serve`."""

import tomllib
from pathlib import Path

from click.testing import CliRunner

from heliograph.cli import app
from heliograph.serve import verb

ROOT = Path(__file__).parents[2]


def test_help_shows_an_example_and_the_safe_defaults() -> None:
    text = CliRunner().invoke(app, ["serve", "--help"]).output
    assert "heliograph serve --port 9000" in text and "127.0.0.1" in text and "HELIOGRAPH_API_KEY" in text
    assert "--threads" in text


def test_a_port_that_is_none_is_a_users_mistake() -> None:
    assert CliRunner().invoke(app, ["serve", "--port", "99999"]).exit_code == 2


def test_the_page_is_part_of_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["heliograph"]
    package = ROOT / "src" / "heliograph"
    packed = {file for pattern in patterns for file in package.glob(pattern)}
    page = {file for file in Path(verb.__file__).with_name("static").iterdir() if file.is_file()}
    assert len(page) >= 10 and page <= packed
