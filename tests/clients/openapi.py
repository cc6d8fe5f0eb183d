"""schemathesis, which sends what the OpenAPI documents allow and what they forbid, and looks at the answers.

openapi.py KUBECONFIG SECONDS SEED

The documents of all group versions are checked by themselves and made into one; operations whose answer is a
stream of another protocol are left out. What must hold: no failure of the server but those that upstream answers
too, no lost connection, an answer in a declared type and of the declared shape. Codes of refusals are not
declared, neither here nor upstream, so which of them is answered is not looked at.
"""

import base64
import json
import os
import random
import ssl
import subprocess
import sys
import tempfile
import urllib.request

import yaml
# It imports this file, too, for its hooks.
import schemathesis

# What decides about all later requests is tried but not kept.
DECIDES = ("admissionregistration.k8s.io", "apiregistration.k8s.io", "flowcontrol.apiserver.k8s.io")


@schemathesis.hook
def before_call(context, case, kwargs):
    query = case.query
    if "watch" in query:
        # It would last longer than anybody waits.
        query["timeoutSeconds"] = 1
    path = case.path_parameters or {}
    # Most requests go where something is, so that they come further than to a 404.
    if "namespace" in path and len(str(path["namespace"])) % 8 < 7:
        path["namespace"] = "default"
    if "name" in path and len(str(path["name"])) % 4 < 3:
        path["name"] = "abc"[len(str(path["name"])) % 3]
    if any(group in case.operation.path for group in DECIDES):
        query["dryRun"] = "All"
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("metadata"), dict) and "name" in body["metadata"]:
        body["metadata"].update(namespace=path.get("namespace", ""), name=path.get("name", "a"))


@schemathesis.check
def no_failure_of_the_server(context, response, case):
    if response.status_code < 500:
        return
    # Where upstream fails, too, it gives no reason; our own failures say InternalError.
    status = json.loads(response.content)
    if status.get("kind") != "Status" or status.get("reason") == "InternalError":
        raise AssertionError(f"{response.status_code}: {status}")


CHECKS = "no_failure_of_the_server,content_type_conformance,response_schema_conformance,response_headers_conformance"


def main(kubeconfig, seconds, seed):
    with open(kubeconfig) as file:
        config = yaml.safe_load(file)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    directory = tempfile.mkdtemp(dir=os.environ["HOME"])

    def write(name, data):
        path = os.path.join(directory, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    pem = {name: write(name, base64.b64decode(data)) for name, data in (
        ("ca.pem", cluster["certificate-authority-data"]), ("cert.pem", user["client-certificate-data"]),
        ("key.pem", user["client-key-data"]))}
    server = cluster["server"]
    context = ssl.create_default_context(cafile=pem["ca.pem"])
    context.load_cert_chain(pem["cert.pem"], pem["key.pem"])

    def get(path):
        with urllib.request.urlopen(server + path, context=context) as answer:
            return json.load(answer)

    documents = {path: get(entry["serverRelativeURL"]) for path, entry in get("/openapi/v3")["paths"].items()}
    for name, document in documents.items():
        check(name, document)
    whole = merge(documents.values())
    check("v2", v2 := get("/openapi/v2"))
    same = set(operations(v2)) ^ set(operations(whole))
    assert not same, f"only one of the versions has {sorted(same)}"
    print(len(documents), "documents,", len(list(operations(whole))), "operations")

    streams = [(path, method) for path, method, operation in each(whole)
               if operation["x-kubernetes-action"] == "connect"]
    for path, method in streams:
        del whole["paths"][path][method]
    # In the time that there is not all can be asked: which are is for the seed to say.
    paths = sorted(whole["paths"].items())
    random.Random(seed).shuffle(paths)
    whole["paths"] = dict(paths)
    schema = write("openapi.json", json.dumps(whole).encode())
    schemathesis_toml = write("schemathesis.toml", b"")
    command = [
        os.path.join(os.path.dirname(sys.executable), "schemathesis"), "--config-file", schemathesis_toml,
        "run", schema, "--url", server,
        "--tls-verify", pem["ca.pem"], "--request-cert", pem["cert.pem"], "--request-cert-key", pem["key.pem"],
        "--checks", CHECKS, "--phases", "fuzzing", "--max-examples", "2", "--mode", "all",
        "--max-time", seconds, "--seed", seed, "--workers", "2", "--request-timeout", "20",
        "--suppress-health-check", "all", "--continue-on-failure", "--no-shrink", "--warnings", "off",
        "--generation-database", "none", "--output-truncate", "true", "--no-color",
    ]
    here = os.path.dirname(os.path.abspath(__file__))
    environment = dict(os.environ, SCHEMATHESIS_HOOKS="openapi", PYTHONPATH=here)
    ran = subprocess.run(command, env=environment, cwd=directory)
    assert ran.returncode == 0, "schemathesis has found something"
    # It is as alive as before.
    assert get("/version")["major"] == "1"
    print("ok")


def each(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method, operation


def operations(document):
    return ((path, method) for path, method, _ in each(document))


def check(name, document):
    """What any reader of the document relies on: references that lead somewhere, ids that name one operation."""
    ids = [operation["operationId"] for _, _, operation in each(document)]
    assert len(ids) == len(set(ids)), f"{name}: {[i for i in ids if ids.count(i) > 1]}"

    def walk(value):
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                at = document
                for part in value["$ref"].removeprefix("#/").split("/"):
                    assert part in at, f"{name}: {value['$ref']} leads nowhere"
                    at = at[part]
            for child in value.values():
                walk(child)
        elif isinstance(value, list):
            for child in value:
                walk(child)

    walk(document)
    for path, item in document["paths"].items():
        named = {parameter["name"] for parameter in item["parameters"] if parameter["in"] == "path"}
        wanted = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert named == wanted, f"{name}: {path} declares {named}"


def merge(documents):
    paths, schemas = {}, {}
    for document in documents:
        paths.update(document["paths"])
        schemas.update(document["components"]["schemas"])
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1"}, "paths": paths,
            "components": {"schemas": schemas}}


if __name__ == "__main__":
    main(*sys.argv[1:])
