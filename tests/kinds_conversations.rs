//! Holds the rules of the kinds against what the real server answered, without a server.
//!
//! Each conversation of `tests/oracle` is played through the pure functions in the order in which the
//! API core calls them: normalise, default, admit, prepare, validate. Admission is upstream's
//! default set in a few lines, so that whole pods can be compared. What only a server or a controller
//! can answer (lists, deletes, conflicts, strict decoding) is passed over here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use coracle::kinds::schema::{self, conform::conform};
use coracle::kinds::{KINDS, Kind, field::Errors, field::quote, meta};
use serde_json::{Value, json};

const NAMESPACE: &str = "nsnsns";
const RUN: &str = "runrun";
/// A uid that a scenario gives, and that the record numbers.
const A_UID: &str = "11111111-2222-3333-4444-555555555555";
/// Every object's.
const UID: &str = "uiduiduid";

/// The folders whose steps are about the rules of a kind.
const FOLDERS: &[&str] = &["defaulting", "patch-json", "patch-merge", "subresources", "tables", "validation", "verbs"];

struct Target {
    kind: &'static dyn Kind,
    name: String,
    subresource: String,
    table: bool,
    dry_run: bool,
}

fn kind_of(group: &str, plural: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().copied().find(|kind| kind.info().group == group && kind.info().plural == plural)
}

/// What a path is about; `None` for what this harness passes over.
fn target(path: &str, accept: &str) -> Option<Target> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = match *parts.first()? {
        "api" => {
            parts.drain(..2);
            ""
        }
        "apis" if parts.len() > 3 => {
            let group = parts[1];
            parts.drain(..3);
            group
        }
        _ => return None,
    };
    if parts.first() == Some(&"namespaces") && parts.len() > 2 && kind_of(group, parts[2]).is_some() {
        parts.drain(..2);
    }
    let kind = kind_of(group, parts.first()?)?;
    let selected = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name="));
    let name = parts.get(1).copied().or(selected).unwrap_or("").to_owned();
    Some(Target {
        kind,
        name,
        subresource: parts.get(2).copied().unwrap_or("").to_owned(),
        table: accept == "table",
        dry_run: query.contains("dryRun=All"),
    })
}

/// What decoding makes of an object. The recorded steps that get so far have the right types.
fn type_object(kind: &dyn Kind, object: &mut Value) {
    let ty = schema::lookup(kind.info().schema).expect("every kind has a type");
    conform(ty, object, &mut Vec::new()).expect("the record says that it was accepted");
}

/// What upstream's default admission plugins do to a pod, as far as the corpus shows it.
fn admit_pod(pod: &mut Value) {
    let spec = &mut pod["spec"];
    if spec["serviceAccountName"].is_null() {
        spec["serviceAccountName"] = json!("default");
    }
    let token = json!({"name": "kube-api-access-zzzzz", "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}});
    push(&mut spec["volumes"], token);
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mount = json!({"name": "kube-api-access-zzzzz", "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
            push(&mut container["volumeMounts"], mount);
        }
    }
    spec["priority"] = json!(0);
    spec["preemptionPolicy"] = json!("PreemptLowerPriority");
    admit_tolerations(pod);
}

fn admit_tolerations(pod: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let list = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        if !list.iter().any(|toleration| toleration["key"] == key) {
            let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            push(&mut pod["spec"]["tolerations"], toleration);
        }
    }
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

/// The world of one conversation.
#[derive(Default)]
struct World {
    objects: BTreeMap<(String, String), Value>,
    /// What the last write told beside its answer.
    warnings: Vec<String>,
}

/// What a step came to.
enum Answer {
    Object(Value),
    Refused(Errors),
    Passed,
}

impl World {
    fn create(&mut self, target: &Target, mut object: Value) -> Answer {
        let (kind, info) = (target.kind, target.kind.info());
        object["kind"] = info.kind.into();
        object["apiVersion"] =
            if info.group.is_empty() { info.version.into() } else { format!("{}/{}", info.group, info.version).into() };
        type_object(kind, &mut object);
        meta::normalize(&mut object);
        if info.namespaced {
            object["metadata"]["namespace"] = NAMESPACE.into();
        }
        let now = jiff::Timestamp::now();
        meta::prepare_create(&mut object, &meta::Stamp { now, uid: UID.to_owned(), suffix: "abcde".to_owned() });
        kind.default(&mut object);
        match info.kind {
            "Pod" => admit_pod(&mut object),
            "PersistentVolume" => push(&mut object["metadata"]["finalizers"], json!("kubernetes.io/pv-protection")),
            "PersistentVolumeClaim" => {
                push(&mut object["metadata"]["finalizers"], json!("kubernetes.io/pvc-protection"));
            }
            "Node" => push(
                &mut object["spec"]["taints"],
                json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}),
            ),
            _ => {}
        }
        self.warnings.extend(kind.warnings(&object, None));
        kind.prepare_create(&mut object);
        let mut errors = meta::validate_create(&object, info, kind.name_rule());
        errors.extend(kind.validate(&object));
        if !errors.is_empty() {
            return Answer::Refused(errors);
        }
        if !target.dry_run {
            self.objects.insert((info.plural.to_owned(), meta::text(&object, "name").to_owned()), object.clone());
        }
        Answer::Object(object)
    }

    fn update(&mut self, target: &Target, old: &Value, mut new: Value) -> Answer {
        let kind = target.kind;
        type_object(kind, &mut new);
        meta::normalize(&mut new);
        meta::prepare_update(&mut new, old);
        kind.default(&mut new);
        let mut old = old.clone();
        for object in [&mut new, &mut old] {
            object["metadata"]["resourceVersion"] = "1".into();
        }
        let mut errors;
        if target.subresource == "status" {
            kind.prepare_status_update(&mut new, &old);
            errors = meta::validate_update(&new, &old);
            errors.extend(errors.clone());
            errors.extend(kind.validate_status_update(&new, &old));
        } else {
            if kind.info().kind == "Pod" {
                admit_tolerations(&mut new);
            }
            kind.prepare_update(&mut new, &old);
            self.warnings.extend(kind.warnings(&new, Some(&old)));
            errors = meta::validate_update(&new, &old);
            errors.extend(errors.clone());
            errors.extend(kind.validate_update(&new, &old));
        }
        if !errors.is_empty() {
            return Answer::Refused(errors);
        }
        if !target.dry_run {
            self.objects.insert((kind.info().plural.to_owned(), target.name.clone()), new.clone());
        }
        Answer::Object(new)
    }

    /// After a write that was passed over: what the server had then, or nothing if it is not told.
    fn adopt(&mut self, step: &Value, target: &Target, answer: &Value) {
        if target.dry_run || step["method"].as_str().unwrap_or("GET") == "GET" || target.name.is_empty() {
            return;
        }
        let key = (target.kind.info().plural.to_owned(), target.name.clone());
        let whole = answer["metadata"].is_object() && answer["kind"] == target.kind.info().kind;
        if whole {
            let text = answer
                .to_string()
                .replace("<ns>", NAMESPACE)
                .replace("<run>", RUN)
                .replace("<rand>", "zzzzz")
                .replace("<time>", "2026-01-01T00:00:00Z")
                .replace("<microtime>", "2026-01-01T00:00:00.000000Z");
            self.objects.insert(key, serde_json::from_str(&text).expect("was JSON before"));
        } else {
            self.objects.remove(&key);
        }
    }

    fn step(&mut self, step: &Value, target: &Target) -> Answer {
        self.warnings = target.kind.deprecation().map(str::to_owned).into_iter().collect();
        let method = step["method"].as_str().unwrap_or("GET");
        let known = self.objects.get(&(target.kind.info().plural.to_owned(), target.name.clone())).cloned();
        let sent = match &step["body"] {
            Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
            body => body.clone(),
        };
        match (method, target.subresource.as_str(), known) {
            ("POST", "", None) if target.name.is_empty() && sent.is_object() => self.create(target, sent),
            ("PUT", "" | "status", Some(old)) if sent.is_object() => self.update(target, &old, sent),
            ("PATCH", "" | "status", Some(old)) => {
                let mut new = old.clone();
                match step["patch"].as_str() {
                    Some("merge") => json_patch::merge(&mut new, &sent),
                    Some("json") => {
                        let Ok(patch) = serde_json::from_value::<json_patch::Patch>(sent) else {
                            return Answer::Passed;
                        };
                        if json_patch::patch(&mut new, &patch).is_err() {
                            return Answer::Passed;
                        }
                    }
                    _ => return Answer::Passed,
                }
                self.update(target, &old, new)
            }
            ("GET", "" | "status", Some(old)) => Answer::Object(old),
            ("DELETE", "", Some(old)) if !target.dry_run => {
                self.objects.remove(&(target.kind.info().plural.to_owned(), target.name.clone()));
                drop(old);
                Answer::Passed
            }
            _ => Answer::Passed,
        }
    }
}

/// `a.b.0.[c.d]` as parts.
fn parts_of(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in path.chars() {
        match c {
            '[' => quoted = true,
            ']' => quoted = false,
            '.' if !quoted => parts.push(String::new()),
            c => parts.last_mut().expect("starts with one").push(c),
        }
    }
    parts
}

fn at<'a>(value: &'a Value, parts: &[String]) -> Option<&'a Value> {
    parts.iter().try_fold(value, |value, part| match value {
        Value::Array(list) => list.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    })
}

fn remove(value: &mut Value, parts: &[String]) {
    let Some((first, rest)) = parts.split_first() else { return };
    match value {
        Value::Object(map) if rest.is_empty() => drop(map.remove(first)),
        Value::Object(map) => {
            if let Some(child) = map.get_mut(first) {
                remove(child, rest);
            }
        }
        Value::Array(list) => {
            for (i, item) in list.iter_mut().enumerate() {
                if first == "*" || first.parse() == Ok(i) {
                    remove(item, rest);
                }
            }
        }
        _ => {}
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What a server may choose, as the records write it, but for the numbers of uids.
fn symbols(text: &str) -> String {
    let text = text.replace(NAMESPACE, "<ns>").replace(RUN, "<run>").replace("zzzzz", "<rand>");
    let text = text.replace(A_UID, "<uid>").replace(UID, "<uid>");
    let mut parts = text.split("<uid:");
    let mut plain = parts.next().unwrap_or("").to_owned();
    for part in parts {
        plain.push_str("<uid");
        plain.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    plain
}

/// What the server assigns and times are not compared.
fn comparable(object: &Value, step: &Value, scenario: &Value) -> Value {
    let text = symbols(&object.to_string());
    let mut object: Value = serde_json::from_str(&text).expect("was JSON before");
    for name in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        remove(&mut object, &["metadata".to_owned(), name.to_owned()]);
    }
    forget_transition_times(&mut object);
    for path in strings(&step["ignore"]).into_iter().chain(strings(&scenario["ignore"])) {
        remove(&mut object, &parts_of(path));
    }
    object
}

/// The server's clock is not part of the rules.
fn forget_transition_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("lastTransitionTime");
            map.remove("lastPhaseTransitionTime");
            map.values_mut().for_each(forget_transition_times);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_transition_times),
        _ => {}
    }
}

fn compare_object(got: &Value, wanted: &Value, step: &Value, scenario: &Value) -> Result<(), String> {
    let only = strings(&step["only"]);
    if !only.is_empty() {
        for path in only {
            let plain = |value: &Value| comparable(&json!({ "x": value }), &Value::Null, &Value::Null)["x"].take();
            let wanted = plain(&wanted.get(path).cloned().unwrap_or(Value::Null));
            let got = plain(&at(got, &parts_of(path)).cloned().unwrap_or(Value::Null));
            let symbol = wanted.as_str().is_some_and(|text| text.starts_with('<') && text != "<ns>");
            if !symbol && got != wanted {
                return Err(format!("{path}: wanted {wanted}, got {got}"));
            }
        }
        return Ok(());
    }
    let (got, wanted) = (comparable(got, step, scenario), comparable(wanted, step, scenario));
    let mut found = Vec::new();
    differences("", &wanted, &got, &mut found);
    if found.is_empty() { Ok(()) } else { Err(found.join("\n     ")) }
}

/// Unknown fields are the decoder's to tell.
fn compare_warnings(got: &[String], wanted: &Value) -> Result<(), String> {
    let got: Vec<String> = got.iter().map(|text| format!("299 - {}", quote(text))).collect();
    let mut wanted = strings(wanted);
    wanted.retain(|text| !text.contains("unknown field"));
    if got == wanted { Ok(()) } else { Err(format!("warnings: wanted {wanted:?}, got {got:?}")) }
}

/// Where two values differ, leaf by leaf.
fn differences(path: &str, wanted: &Value, got: &Value, found: &mut Vec<String>) {
    match (wanted, got) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for name in names {
                differences(&format!("{path}.{name}"), &wanted[name], &got[name], found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}.{i}"), a, b, found);
            }
        }
        _ if wanted == got => {}
        _ => found.push(format!("{path}: wanted {wanted}, got {got}")),
    }
}

fn compare_errors(errors: &Errors, wanted: &Value) -> Result<(), String> {
    let got: Vec<Value> = errors
        .0
        .iter()
        .map(|error| json!({"field": error.path, "message": error.body(), "reason": error.reason.cause()}))
        .collect();
    let got = symbols(&Value::from(got).to_string());
    let wanted = symbols(&wanted["details"]["causes"].to_string());
    if got == wanted { Ok(()) } else { Err(format!("wanted {wanted}\n     got    {got}")) }
}

fn compare_row(object: &Value, target: &Target, wanted: &Value) -> Result<(), String> {
    let columns = target.kind.columns();
    let mut cells = target.kind.row(object, jiff::Timestamp::now());
    for (column, cell) in columns.iter().zip(&mut cells) {
        match column.name {
            "Age" => *cell = json!("<age>"),
            "Created At" => *cell = json!("<time>"),
            _ => {}
        }
    }
    let got = symbols(&Value::from(cells).to_string());
    let wanted = symbols(&wanted.pointer("/rows/0/cells").cloned().unwrap_or_default().to_string());
    if got == wanted { Ok(()) } else { Err(format!("wanted {wanted}\n     got    {got}")) }
}

/// Plays one conversation; returns how many steps were compared, and what differed.
fn play(name: &str, scenario: &Value, golden: &Value, only: &dyn Fn(&dyn Kind) -> bool) -> (usize, Vec<String>) {
    let (mut compared, mut differences) = (0, Vec::new());
    let mut world = World::default();
    let steps = scenario["steps"].as_array().into_iter().flatten();
    for (step, recorded) in steps.zip(golden.as_array().into_iter().flatten()) {
        let Some(target) = target(step["path"].as_str().unwrap_or(""), step["accept"].as_str().unwrap_or("")) else {
            continue;
        };
        let code = recorded["code"].as_i64().unwrap_or(0);
        let wanted = &recorded["body"];
        let cause = &wanted["details"]["causes"][0]["field"];
        let decoding = code == 422 && (cause.is_null() || cause == "patch");
        // What is decided before or after the rules of a kind.
        if !matches!(code, 200 | 201 | 422) || decoding || !step["until"].is_null() || !only(target.kind) {
            continue;
        }
        let result = match world.step(step, &target) {
            Answer::Passed => {
                world.adopt(step, &target, wanted);
                continue;
            }
            Answer::Object(object) if target.table => compare_row(&object, &target, wanted),
            Answer::Object(object) if code < 300 => compare_object(&object, wanted, step, scenario)
                .and_then(|()| compare_warnings(&world.warnings, &recorded["warnings"])),
            Answer::Object(_) => Err(format!("wanted {wanted}\n     got    no error")),
            Answer::Refused(errors) => compare_errors(&errors, wanted),
        };
        compared += 1;
        if let Err(difference) = result {
            differences.push(format!("{name}: {}\n     {difference}", step["name"]));
        }
    }
    (compared, differences)
}

fn read(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    text.replace("${ns}", NAMESPACE).replace("${run}", RUN)
}

fn play_all(only: &dyn Fn(&dyn Kind) -> bool) -> (usize, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle");
    let (mut compared, mut differences) = (0, Vec::new());
    for folder in FOLDERS {
        let mut names: Vec<_> = fs::read_dir(root.join("golden").join(folder))
            .expect("the corpus is part of the repository")
            .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        for name in names {
            let yaml = read(&root.join(format!("scenarios/{folder}/{name}.yaml")));
            let scenario: Value = serde_yaml::from_str(&yaml).expect("a scenario is YAML");
            let golden = read(&root.join(format!("golden/{folder}/{name}.json")));
            let golden: Value = serde_json::from_str(&golden).expect("a record is JSON");
            let (n, found) = play(&format!("{folder}/{name}"), &scenario, &golden, only);
            compared += n;
            differences.extend(found);
        }
    }
    (compared, differences)
}

#[test]
fn the_rules_give_the_recorded_answers() {
    let chosen = std::env::var("KINDS").unwrap_or_default();
    // Services get addresses from an allocator before they are checked: see `kinds_corpus.rs`.
    let covered = |kind: &dyn Kind| match chosen.as_str() {
        "" => kind.info().kind != "Service",
        chosen => chosen.split(',').any(|name| name == kind.info().kind),
    };
    let (compared, differences) = play_all(&covered);
    assert!(differences.is_empty(), "{} of {compared} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(compared > 100 || !chosen.is_empty(), "only {compared} steps were compared");
}
