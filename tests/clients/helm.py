"""Helm 4, as its own code that a Python package carries: a release's whole life, on a chart of the tests.

helm.py KUBECONFIG CHART
"""

import sys

from helm_python import Config, HelmError, HelmReleaseError, helm_sdk_version
from kubernetes import client, config

kubeconfig, chart = sys.argv[1:]
config.load_kube_config(kubeconfig)
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
NAMESPACE = "helm"


def greeting():
    return core.read_namespaced_config_map("demo", NAMESPACE).data["greeting"]


def ready():
    return apps.read_namespaced_deployment("demo", NAMESPACE).status.ready_replicas


def expect(what, got, wanted):
    assert got == wanted, f"{what}: {got!r}, not {wanted!r}"


print("helm", helm_sdk_version())
core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
with Config(kubeconfig_path=kubeconfig, namespace=NAMESPACE) as helm:
    helm.check_reachable()
    helm.install(chart, "demo", {"replicas": 2}, wait="watcher", timeout=120)
    expect("the pods after the installation", ready(), 2)
    expect("the greeting after the installation", greeting(), "hello")
    try:
        helm.install(chart, "demo")
    except HelmError as error:
        assert "cannot reuse a name" in str(error) or "still in use" in str(error), error
    else:
        raise AssertionError("a second installation under the same name")

    helm.upgrade(chart, "demo", {"replicas": 1, "greeting": "ahoy"}, wait="watcher", timeout=120)
    expect("the greeting after the upgrade", greeting(), "ahoy")
    expect("the jobs of hooks", batch.list_namespaced_job(NAMESPACE).items, [])
    expect("the revisions", [release["revision"] for release in helm.history("demo")], [1, 2])

    helm.rollback("demo", version=1, wait="watcher", timeout=120)
    expect("the greeting after going back", greeting(), "hello")
    expect("the pods after going back", ready(), 2)
    expect("the releases", [release["name"] for release in helm.list()], ["demo"])
    secrets = core.list_namespaced_secret(NAMESPACE, label_selector="owner=helm,name=demo").items
    expect("the stored revisions", len(secrets), 3)
    expect("their type", secrets[0].type, "helm.sh/release.v1")

    helm.uninstall("demo", wait="watcher", timeout=120)
    expect("the releases at the end", helm.list(), [])
    left = apps.list_namespaced_deployment(NAMESPACE).items + core.list_namespaced_service(NAMESPACE).items
    expect("what is left", [item.metadata.name for item in left], [])
print("ok")
