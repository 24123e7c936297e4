"""Reads the requirements: one directory a document, one YAML file a requirement, as Doorstop keeps them.

Rule: a file that can't be read is a fault with its name, and the others are read all the same. Doorstop checks its own
fields (reviews, levels, stamps of links); here is checked what the report rests on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from traceability.model import REQUIREMENT_ID, Document, Fault, Method, Requirement

CONFIG = ".doorstop.yml"
BEGINNING = "The system shall "


def load(root: Path, directory: str = "requirements") -> tuple[list[Document], list[Requirement], list[Fault]]:
    """All documents, root first, with their active requirements in the order of their ids, and what is wrong."""
    faults: list[Fault] = []
    documents: list[Document] = []
    requirements: list[Requirement] = []
    for config in sorted((root / directory).glob(f"*/{CONFIG}")):
        document = _document(root, config, faults)
        if document is not None:
            documents.append(document)
    documents.sort(key=lambda document: (document.parent != "", document.directory))
    if not documents:
        faults.append(Fault(directory, f"there is no document: a directory with a {CONFIG}"))
    for document in documents:
        for path in sorted((root / document.directory).glob("[!.]*.yml")):
            requirement = _requirement(root, path, document, faults)
            if requirement is not None:
                requirements.append(requirement)
    faults += _bad_links(documents, requirements)
    return documents, requirements, faults


def _mapping(root: Path, path: Path, faults: list[Fault]) -> dict[str, Any] | None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        faults.append(Fault(_relative(root, path), f"can't be read: {reason}"))
        return None
    if not isinstance(content, dict):
        faults.append(Fault(_relative(root, path), "is not a mapping of fields"))
        return None
    return content


def _document(root: Path, path: Path, faults: list[Fault]) -> Document | None:
    content = _mapping(root, path, faults)
    if content is None:
        return None
    settings = content.get("settings")
    if not isinstance(settings, dict) or not isinstance(settings.get("prefix"), str):
        faults.append(Fault(_relative(root, path), "has no 'prefix' among its 'settings'"))
        return None
    directory = PurePosixPath(_relative(root, path.parent))
    return Document(settings["prefix"], str(settings.get("parent") or ""), directory)


def _requirement(root: Path, path: Path, document: Document, faults: list[Fault]) -> Requirement | None:
    content = _mapping(root, path, faults)
    if content is None or not content.get("active", True):
        return None
    where = _relative(root, path)
    wrong = list(_wrong(root, path.stem, document, content))
    faults += [Fault(where, sentence) for sentence in wrong]
    method = content.get("verification")
    if method not in {one.value for one in Method}:
        return None
    return Requirement(
        id=path.stem,
        header=" ".join(str(content.get("header") or "").split()),
        text=" ".join(str(content.get("text") or "").split()),
        method=Method(method),
        parents=tuple(_parents(content)),
        evidence=str(content.get("evidence") or ""),
        path=PurePosixPath(where),
    )


def _wrong(root: Path, id: str, document: Document, content: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one requirement by itself."""
    if not REQUIREMENT_ID.fullmatch(id) or id.partition("-")[0] != document.prefix:
        yield f"must have a name such as {document.prefix}-0001.yml"
    text = content.get("text")
    if not isinstance(text, str) or not text.startswith(BEGINNING):
        yield f"'text' must begin with '{BEGINNING.strip()}'"
    method = content.get("verification")
    allowed = [one.value for one in Method]
    if method not in allowed:
        yield f"'verification' must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {method!r}"
    elif method != Method.TEST.value:
        evidence = content.get("evidence")
        if not isinstance(evidence, str) or not (root / evidence.partition("#")[0]).is_file():
            yield f"'evidence' must name the file that shows it, as it is verified by {method}"
    if document.parent and not _parents(content):
        yield f"must link to a requirement of {document.parent}"


def _parents(content: dict[str, Any]) -> list[str]:
    """The ids in `links`: each entry is an id, or an id with the stamp of what it was when the link was reviewed."""
    links = content.get("links")
    return [next(iter(link)) if isinstance(link, dict) and link else str(link) for link in links or []]


def _bad_links(documents: list[Document], requirements: list[Requirement]) -> Iterator[Fault]:
    known = {requirement.id for requirement in requirements}
    parent_of = {document.prefix: document.parent for document in documents}
    for requirement in requirements:
        parent = parent_of.get(requirement.id.partition("-")[0], "")
        for link in requirement.parents:
            if link not in known:
                yield Fault(str(requirement.path), f"links to {link}, which does not exist")
            elif link.partition("-")[0] != parent:
                allowed = parent or "a parent"
                yield Fault(str(requirement.path), f"links to {link}, which is not a requirement of {allowed}")


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
