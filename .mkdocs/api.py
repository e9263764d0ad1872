"""A page of the API site for each public module, made while the site is built."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = ("got_core", "reasoners", "guidance", "backbones")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages (mkdocs' event)."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1].startswith("__"):
                continue
            page = f"# {parts[-1]}\n\n::: {'.'.join(parts)}\n    options: {{show_root_heading: false}}\n"
            files.append(File.generated(config, f"api/{'/'.join(parts)}.md", content=page))
    return files
