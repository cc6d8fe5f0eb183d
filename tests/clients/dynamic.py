"""The Python client `kubernetes`: typed, dynamic, watches, streams of logs, patches of all sorts.

dynamic.py KUBECONFIG
"""

import sys

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config(sys.argv[1])
core, apps, scaling = client.CoreV1Api(), client.AppsV1Api(), client.AutoscalingV2Api()
NAMESPACE = "python"


def expect(what, got, wanted):
    assert got == wanted, f"{what}: {got!r}, not {wanted!r}"


def refused(status, reason, action):
    try:
        action()
    except ApiException as error:
        expect("the code", error.status, status)
        assert reason in error.body, error.body
    else:
        raise AssertionError(f"not refused with {status}")


core.create_namespace({"metadata": {"name": NAMESPACE}})

# Typed: what is read back are objects whose required fields must be there.
container = {"name": "web", "image": "hello:1", "resources": {"requests": {"cpu": "10m"}}}
labels = {"app": "web"}
deployment = {
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    },
}
apps.create_namespaced_deployment(NAMESPACE, deployment)
refused(409, "AlreadyExists", lambda: apps.create_namespaced_deployment(NAMESPACE, deployment))

# A watch from the version of a list misses nothing.
seen = set()
stream = watch.Watch()
listed = core.list_namespaced_pod(NAMESPACE, label_selector="app=web")
for pod in listed.items:
    if any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions or []):
        seen.add(pod.metadata.name)
if len(seen) < 2:
    for event in stream.stream(
        core.list_namespaced_pod,
        NAMESPACE,
        label_selector="app=web",
        resource_version=listed.metadata.resource_version,
        timeout_seconds=120,
    ):
        pod = event["object"]
        if any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions or []):
            seen.add(pod.metadata.name)
        if len(seen) == 2:
            stream.stop()
expect("the pods that became ready", len(seen), 2)

scale = apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 1}})
expect("the scale", scale.spec.replicas, 1)
target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
hpa = {"metadata": {"name": "web"}, "spec": {"scaleTargetRef": target, "maxReplicas": 3}}
scaling.create_namespaced_horizontal_pod_autoscaler(NAMESPACE, hpa)
old = client.AutoscalingV1Api().read_namespaced_horizontal_pod_autoscaler("web", NAMESPACE)
expect("the older view", old.spec.target_cpu_utilization_percentage, 80)
refused(422, "spec.maxReplicas", lambda: scaling.patch_namespaced_horizontal_pod_autoscaler(
    "web", NAMESPACE, {"spec": {"maxReplicas": 0}}))

# Paging.
for number in range(7):
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": f"c{number}", "labels": {"set": "paged"}}})
names, token = [], None
while True:
    page = core.list_namespaced_config_map(NAMESPACE, label_selector="set=paged", limit=3, _continue=token)
    names += [item.metadata.name for item in page.items]
    token = page.metadata._continue
    if not token:
        break
expect("the pages", names, [f"c{number}" for number in range(7)])

# Dynamic: by discovery alone.
dynamic_client = dynamic.DynamicClient(client.ApiClient())
maps = dynamic_client.resources.get(api_version="v1", kind="ConfigMap")
made = maps.create(body={"metadata": {"name": "dynamic"}, "data": {"a": "1"}}, namespace=NAMESPACE)
expect("the map", made.data.a, "1")
merged = maps.patch(name="dynamic", namespace=NAMESPACE, body={"data": {"b": "2"}},
                    content_type="application/merge-patch+json")
expect("the merged map", merged.data.to_dict(), {"a": "1", "b": "2"})
patch = [{"op": "remove", "path": "/data/a"}]
patched = maps.patch(name="dynamic", namespace=NAMESPACE, body=patch, content_type="application/json-patch+json")
expect("the patched map", patched.data.to_dict(), {"b": "2"})
applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dynamic"}, "data": {"c": "3"}}
result = maps.server_side_apply(body=applied, name="dynamic", namespace=NAMESPACE, field_manager="python")
expect("the applied map", result.data.to_dict(), {"b": "2", "c": "3"})
refused(409, "FieldManagerConflict", lambda: maps.server_side_apply(
    body={**applied, "data": {"c": "4"}}, name="dynamic", namespace=NAMESPACE, field_manager="other"))
maps.delete(name="dynamic", namespace=NAMESPACE)
refused(404, "NotFound", lambda: maps.get(name="dynamic", namespace=NAMESPACE))
for kind, version in [("HorizontalPodAutoscaler", "autoscaling/v2"), ("CertificateSigningRequest", "certificates.k8s.io/v1"),
                      ("FlowSchema", "flowcontrol.apiserver.k8s.io/v1"), ("APIService", "apiregistration.k8s.io/v1")]:
    listed = dynamic_client.resources.get(api_version=version, kind=kind).get()
    expect("the kind of the list", listed.kind, f"{kind}List")

core.delete_namespace(NAMESPACE)
print("ok")
