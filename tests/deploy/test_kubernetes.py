"""The Kubernetes manifest: valid by the schema of Kubernetes, and in step with the image and the documents."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from qrusty_trio import __version__
from qrusty_trio.api.operations import OPERATIONS
from tests.server.running import ROOT

MANIFEST = ROOT / "deploy" / "kubernetes" / "qrusty-trio.yaml"
VERSIONS = ("1.30", "1.37")
"""The oldest and the newest Kubernetes that it is checked for."""


def parts() -> dict[str, Any]:
    """Kind -> object."""
    return {part["kind"]: part for part in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))}


def test_what_there_is() -> None:
    assert sorted(parts()) == ["PodDisruptionBudget", "Service", "StatefulSet"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["PodDisruptionBudget", "Service", "StatefulSet"])
def test_the_schema_holds(kind: str, version: str) -> None:
    kubernetes_validate.validate(parts()[kind], version, strict=True)


def test_the_schema_is_really_looked_at() -> None:
    wrong = parts()["StatefulSet"]
    wrong["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_all_of_it_means_the_same_pods() -> None:
    found = parts()
    labels = found["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert found["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels


def test_it_fits_the_image_and_the_server() -> None:
    spec = parts()["StatefulSet"]["spec"]
    assert spec["replicas"] == 1, "there is no replication"
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"qrusty-trio:{__version__}"
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}\n" in dockerfile()
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    (mount,) = container["volumeMounts"]
    assert f"VOLUME {mount['mountPath']}\n" in dockerfile()
    (port,) = container["ports"]
    assert f"EXPOSE {port['containerPort']}\n" in dockerfile()
    served = {operation.path for operation in OPERATIONS}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in served
        assert container[probe]["httpGet"]["port"] == port["name"]
    operating = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    assert f"Allow {pod['terminationGracePeriodSeconds']} seconds before a SIGKILL" in operating


def dockerfile() -> str:
    return (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
