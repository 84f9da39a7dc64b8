"""The site builds with warnings as errors, has every module, and a fault in it is an error."""

import ast
import importlib.util
import inspect
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("mkdocstrings", reason="mkdocs and mkdocstrings: pip install -e '.[docs]'")

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("api_pages", ROOT / "docs" / "api_pages.py")
assert _spec is not None
assert _spec.loader is not None
api_pages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(api_pages)
MODULES = api_pages.modules(ROOT)


def build(config: Path, out: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", out],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs") / "site"
    result = build(ROOT / "mkdocs.yml", out)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


class Page(HTMLParser):
    """Ids, and what is loaded."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.loaded = set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids.add(named.get("id"))
        if tag in ("script", "img", "link", "iframe"):
            self.loaded.append(named.get("src") or named.get("href") or "")


def test_every_module_has_a_page_with_what_it_defines(site):
    filled = [
        path
        for path in (ROOT / "kd_sleep").rglob("*.py")
        if path.read_text().strip() and path.stem != "__main__"
    ]
    assert len(MODULES) == len(filled) > 80
    menu = (site / "index.html").read_text()
    for name, path in MODULES.items():
        ids = Page(site / "api" / f"{name}.html").ids
        assert f"api/{name}.html" in menu, name
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            if public and ast.get_docstring(node):
                assert f"{name}.{node.name}" in ids, f"{name}.{node.name}"


def test_pages_load_nothing_from_elsewhere(site):
    for path in [*site.glob("*.html"), *(site / "api").glob("kd_sleep.losses.html")]:
        for source in Page(path).loaded:
            assert not source.startswith(("http:", "https:", "//")), f"{path}: {source}"


FAULTS = {
    "a link to no page": ("index.md", "[the loss](los.md)", "los.md"),
    "a link to no heading": ("index.md", "[the loss](loss.md#nowhere)", "#nowhere"),
    "a reference to no function": ("index.md", "[x][kd_sleep.losses.lost]", "kd_sleep.losses.lost"),
    "a page in no menu": ("lost.md", "# Lost", "lost.md"),
}


def test_faults_fail_the_build_by_name(tmp_path):
    """The site's own settings and hook, on a package of two modules and a few pages."""
    text = (ROOT / "mkdocs.yml").read_text()
    menu, extensions = text.index("nav:"), text.index("markdown_extensions:")
    nav = "nav:\n  - Start: index.md\n  - The loss: loss.md\n"
    contents = {
        "mkdocs.yml": text[:menu] + nav + text[extensions:],
        "docs/api_pages.py": (ROOT / "docs" / "api_pages.py").read_text(),
        "docs/index.md": "# Start\n\n[`f`][kd_sleep.losses.f]\n",
        "docs/loss.md": "# The loss\n",
        "kd_sleep/__init__.py": '"""A package."""\n',
        "kd_sleep/losses.py": '"""Losses."""\n\n\ndef f():\n    """One."""\n',
        "kd_sleep/dark.py": "X = 1\n",
    }
    for page, fault, _ in FAULTS.values():
        contents[f"docs/{page}"] = contents.get(f"docs/{page}", "") + f"\n{fault}\n"
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    result = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert result.returncode != 0
    warnings = result.stdout + result.stderr
    for _, _, named in FAULTS.values():
        assert named in warnings, named
    assert "kd_sleep.losses.f'" not in warnings
    assert "kd_sleep.dark: the module has no docstring" in warnings


def documented(docstring: str) -> list[str]:
    """Names under `Args:`; several may stand in one entry, `low, high: bounds.`"""
    lines = inspect.cleandoc(docstring).splitlines()
    if "Args:" not in lines:
        return []
    names = []
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if line.startswith("  ") and not line.startswith("   ") and ": " in line + " ":
            names += line.split(":")[0].replace("*", "").split(", ")
    return [name.strip() for name in names]


def test_documented_arguments_exist():
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            named = documented(ast.get_docstring(node) or "")
            assert isinstance(node, ast.FunctionDef) or not named, f"{node.name}: Args of a class"
            if named:
                spec = node.args
                every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
                existing = {argument.arg for argument in every if argument}
                assert set(named) <= existing, f"{name}.{node.name}: {set(named) - existing}"
