"""What the documentation site needs beyond MkDocs: documents from outside of docs/, and links that fit both places.

MkDocs calls these functions (`hooks` in mkdocs.yml).

Rule: a document is written once, and its links fit the checkout. On the site a link to a document or a picture leads to
it there. A link to any other file of the project leads nowhere on the site, so the page names the file instead. A link
to nothing is left as it is: MkDocs finds it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parent.parent
OTHER_DOCUMENTS = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "integrations.md": "integrations/README.md",
}
"""Page -> the document outside of docs/ that it shows."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents from elsewhere."""
    from mkdocs.structure.files import File

    for page, document in OTHER_DOCUMENTS.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / document)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Make the links fit the site."""
    return with_links(markdown, page.file.src_uri, set(files.src_uris), Path(config.docs_dir))


def with_links(markdown: str, page: str, known: set[str], docs: Path) -> str:
    """A text with its links as the site needs them. `page` and `known`: paths within the site's sources."""
    source = ROOT / OTHER_DOCUMENTS[page] if page in OTHER_DOCUMENTS else docs / page
    pages = {ROOT / document: name for name, document in OTHER_DOCUMENTS.items()}

    def fitted(link: re.Match[str]) -> str:
        mark, text, address = link.groups()
        path, mark_of_anchor, anchor = address.partition("#")
        if not path or ":" in path:
            return link[0]
        target = (source.parent / path).resolve()
        uri = pages.get(target) or (target.relative_to(docs).as_posix() if target.is_relative_to(docs) else "")
        if uri in known:
            return f"{mark}[{text}]({posixpath.relpath(uri, posixpath.dirname(page) or '.')}{mark_of_anchor}{anchor})"
        return text if target.exists() else link[0]

    return LINK.sub(fitted, markdown)
