"""The files of deploy/ hold together, and with the code that they start."""

import copy
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl.configs.describe import setting_paths
from rl.configs.ppo import PPOConfig
from tests.deploy.shapes import KINDS, faults

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = {
    path.name: document
    for path in sorted((DEPLOY / "kuberay").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document["kind"] != "Kustomization"
}
CLUSTERS = {
    name: document["spec"].get("rayClusterSpec", document["spec"])
    for name, document in MANIFESTS.items()
    if document["kind"].startswith("Ray")
}
JOB = MANIFESTS["rayjob.yaml"]
SBATCH = (DEPLOY / "slurm" / "train.sbatch").read_text()


def found(document: dict[str, Any]) -> list[str]:
    return list(faults(document, KINDS[document["kind"]], document["kind"]))


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_have_the_fields_that_kubernetes_and_kuberay_know(name: str) -> None:
    assert found(MANIFESTS[name]) == []


def _misspelt(job: dict[str, Any]) -> None:
    job["spec"]["entryPoint"] = job["spec"].pop("entrypoint")


def _text_for_number(job: dict[str, Any]) -> None:
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "1"


def _singular(job: dict[str, Any]) -> None:
    container = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["volumeMount"] = container.pop("volumeMounts")


def _no_such_version(job: dict[str, Any]) -> None:
    job["spec"]["rayClusterSpec"]["autoscalerOptions"]["version"] = "v3"


def _number_for_text(job: dict[str, Any]) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


@pytest.mark.parametrize(
    "mistake", [_misspelt, _text_for_number, _singular, _no_such_version, _number_for_text]
)
def test_the_check_notices_mistakes(mistake: Callable[[dict[str, Any]], None]) -> None:
    job = copy.deepcopy(JOB)
    mistake(job)
    assert found(job)


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_keep_the_rules_that_the_operator_adds(name: str) -> None:
    cluster = CLUSTERS[name]
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1], "as in the image"
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP", "not reachable from outside"
    assert not cluster["headGroupSpec"].get("enableIngress", False)
    groups = cluster["workerGroupSpecs"]
    for group in groups:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *groups)]
    for pod in pods:
        assert pod["restartPolicy"] == "Never", "the autoscaler v2 restarts pods itself"
        (container,) = pod["containers"]
        assert container["image"] == "rl-platform:latest"
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert limits["memory"] == requests["memory"]
        claims = {volume["name"] for volume in pod.get("volumes", ())}
        assert {mount["name"] for mount in container.get("volumeMounts", ())} == claims
        for volume in pod.get("volumes", ()):
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert claim == MANIFESTS["volume.yaml"]["metadata"]["name"]


def test_the_job_fits_its_cluster() -> None:
    spec, cluster = JOB["spec"], JOB["spec"]["rayClusterSpec"]
    assert "clusterSelector" not in spec, "with backoffLimit, the cluster must be the job's own"
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    learner = groups["learner"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(learner["nvidia.com/gpu"]) >= spec["entrypointNumGpus"]
    assert int(learner["cpu"]) >= spec["entrypointNumCpus"]
    for group in ("runners", "learner"):
        assert int(groups[group]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    runner = groups["runners"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    most = groups["runners"]["maxReplicas"] * int(runner["cpu"])
    flags = dict(_flags(spec["entrypoint"]))
    assert int(flags["env-runners.num"]) <= most
    assert int(flags["env-runners.min"]) <= groups["runners"]["minReplicas"] * int(runner["cpu"])
    mounts = learner_mounts(groups["learner"])
    assert flags["run-dir"] == "$run"
    assert "run=/runs/" in spec["entrypoint"]
    assert "/runs" in mounts


def learner_mounts(group: dict[str, Any]) -> list[str]:
    (container,) = group["template"]["spec"]["containers"]
    return [mount["mountPath"] for mount in container["volumeMounts"]]


def _flags(command: str) -> Iterator[tuple[str, str]]:
    yield from re.findall(r"--([a-z0-9.-]+)[ =](\S+)", command)


@pytest.mark.parametrize("command", [JOB["spec"]["entrypoint"], SBATCH], ids=["rayjob", "sbatch"])
def test_commands_use_settings_that_there_are(command: str) -> None:
    settings = {path.replace("_", "-") for path, _ in setting_paths(PPOConfig)}
    ours = {name for name, _ in _flags(command) if "." in name}
    assert ours
    assert ours <= settings


def test_shell_scripts_are_well_formed() -> None:
    program = shlex.split(JOB["spec"]["entrypoint"])
    assert program[:2] == ["sh", "-c"]
    assert len(program) == 3, "one argument: all of the script"
    subprocess.run(["sh", "-n", "-c", program[2]], check=True)
    subprocess.run(["bash", "-n", str(DEPLOY / "slurm" / "train.sbatch")], check=True)


def test_kustomize_builds_the_job_with_its_volume() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    built = subprocess.run(
        [kubectl, "kustomize", str(DEPLOY / "kuberay")], capture_output=True, text=True, check=True
    )
    documents = list(yaml.safe_load_all(built.stdout))
    assert {document["kind"] for document in documents} == {
        "RayJob",
        "PersistentVolumeClaim",
        "NetworkPolicy",
    }
    assert [fault for document in documents for fault in found(document)] == []


def test_the_image_has_what_the_manifests_ask_of_it() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    copied = re.search(r"^COPY (.+) \./$", lines, re.M)
    assert copied is not None
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    for name in [*copied[1].split(), "rl"]:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignore, name
    assert "wget" in lines, "KubeRay's probes call it"
    assert ".[ray," in lines
    assert re.search(r"^USER (?!root)", lines, re.M)
    torch = re.search(r"^torch==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert torch is not None
    assert f"torch=={torch[1]}" in lines


@pytest.mark.parametrize("name", CLUSTERS)
def test_manifests_pass_the_operators_own_schemas(name: str) -> None:
    directory = os.environ.get("RL_KUBERAY_CRDS")
    if directory is None:
        pytest.skip("RL_KUBERAY_CRDS names no directory with KubeRay's CRD files")
    jsonschema = pytest.importorskip("jsonschema", reason="comes with the extra `ray`")
    document = MANIFESTS[name]
    plural = {"RayJob": "rayjobs", "RayCluster": "rayclusters"}[document["kind"]]
    crd = yaml.safe_load((Path(directory) / f"ray.io_{plural}.yaml").read_text())
    (version,) = [entry for entry in crd["spec"]["versions"] if entry["name"] == "v1"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    jsonschema.Draft202012Validator(schema).validate(document)


def _strict(schema: Any) -> Any:
    """Refuses unknown fields, and knows Kubernetes' numbers that may be texts."""
    if isinstance(schema, list):
        return [_strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(entry) for name, entry in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    if "properties" in made and "additionalProperties" not in made:
        made["additionalProperties"] = bool(made.get("x-kubernetes-preserve-unknown-fields"))
    return made
