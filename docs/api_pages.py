"""MkDocs hook: a page of API reference for each module of the package tree, and their menu.

Nobody lists modules by hand, so none is forgotten. A module without a docstring is a warning, which
`mkdocs build --strict` takes for an error.
"""

import ast
import logging
from pathlib import Path

from mkdocs.structure.files import File

MENU = "API reference"
_log = logging.getLogger("mkdocs.plugins.api_pages")


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module with something in it, sorted by name."""
    found = {}
    for path in (root / "kd_sleep").rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if path.read_text().strip() and not name.endswith("__main__"):
            found[name] = path
    return dict(sorted(found.items()))


def on_config(config):
    """Adds the menu: a room of the package by itself, what lies beside the rooms first."""
    rooms: dict[str, list] = {}
    for name in modules(_root(config)):
        package, *rest = name.split(".")
        room = f"{package}.{rest[0]}" if len(rest) > 1 else package
        rooms.setdefault(room, []).append({name: f"api/{name}.md"})
    config.nav.append({MENU: [{room: pages} for room, pages in sorted(rooms.items())]})
    return config


def on_files(files, config):
    """Adds the pages."""
    for name, path in modules(_root(config)).items():
        if ast.get_docstring(ast.parse(path.read_text())) is None:
            _log.warning("%s: the module has no docstring", name)
        content = f"::: {name}\n"
        files.append(File.generated(config, f"api/{name}.md", content=content))
    return files


def _root(config) -> Path:
    return Path(config.config_file_path).parent
