//! The rules of the kinds held against what a real API server answered (`tests/oracle`).
//!
//! No server runs here: each recorded creation goes through the same pure functions in the order in
//! which the API server calls them, and the outcome is compared: the object with its defaults, the
//! errors word for word, or the cells of the table.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use coracle::kinds::field::Errors;
use coracle::kinds::meta::{self, Stamp};
use coracle::kinds::service::allocate::{Numbers, allocate};
use coracle::kinds::{KINDS, Kind};
use serde_json::{Value, json};

/// The kinds that are compared, by resource name.
const COVERED: &[&str] = &[
    "services",
    "endpoints",
    "endpointslices",
    "configmaps",
    "secrets",
    "serviceaccounts",
    "events",
    "ingresses",
    "ingressclasses",
    "runtimeclasses",
];

/// Answers that the decoder gives, before these rules are asked.
fn is_decoding_error(answer: &Value) -> bool {
    answer["code"] == 400 || answer["code"] == 409 || answer["code"] == 404
}

/// One recorded request with its answer.
struct Step {
    name: String,
    path: String,
    method: String,
    body: Value,
    answer: Value,
}

fn steps(scenario: &str) -> Vec<Step> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/oracle");
    let read = |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let asked: Value =
        serde_yaml::from_str(&read(root.join(format!("scenarios/{scenario}.yaml")))).expect("a scenario");
    let told: Value = serde_json::from_str(&read(root.join(format!("golden/{scenario}.json")))).expect("a recording");
    let (asked, told) = (asked["steps"].as_array().expect("steps"), told.as_array().expect("answers"));
    assert_eq!(asked.len(), told.len(), "{scenario}");
    let text = |value: &Value, default: &str| value.as_str().unwrap_or(default).to_owned();
    asked
        .iter()
        .zip(told)
        .map(|(step, answer)| Step {
            name: format!("{scenario}: {}", text(&step["name"], "")),
            path: text(&step["path"], ""),
            method: text(&step["method"], "GET"),
            body: step["body"].clone(),
            answer: answer.clone(),
        })
        .collect()
}

/// The kind that a collection's path names, if it is one of those compared.
fn kind_of(path: &str) -> Option<&'static dyn Kind> {
    let plain = path.split('?').next().unwrap_or(path);
    let plural = plain.rsplit('/').next().unwrap_or("");
    let group = plain.strip_prefix("/apis/").and_then(|rest| rest.split('/').next()).unwrap_or("");
    let found = KINDS.iter().find(|kind| kind.info().plural == plural && kind.info().group == group)?;
    COVERED.contains(&plural).then_some(*found)
}

/// Numbers of which every Service may have the same: they are symbols in the record anyway.
struct Plenty;

impl Numbers for Plenty {
    fn take_ip(&mut self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::new(127, 96, 0, 9))
    }

    fn take_this_ip(&mut self, _: IpAddr) -> Result<(), String> {
        Ok(())
    }

    fn take_port(&mut self) -> Option<u16> {
        Some(30_000)
    }

    fn take_this_port(&mut self, _: i64) -> Result<(), String> {
        Ok(())
    }
}

/// What the API server does to an object before it stores it.
fn create(kind: &dyn Kind, body: &Value) -> (Value, Errors) {
    let info = kind.info();
    let substituted = body.to_string().replace("${ns}", "ns-1").replace("${run}", "run");
    let mut object: Value = serde_json::from_str(&substituted).expect("still JSON");
    if info.namespaced {
        object["metadata"]["namespace"] = "ns-1".into();
    }
    meta::normalize(&mut object);
    kind.default(&mut object);
    let stamp = Stamp { now: jiff::Timestamp::UNIX_EPOCH, uid: "u".to_owned(), suffix: "abcde".to_owned() };
    meta::prepare_create(&mut object, &stamp);
    if info.plural == "services" {
        let errors = allocate(&mut object, None, &mut Plenty);
        if !errors.is_empty() {
            return (object, errors);
        }
    }
    kind.prepare_create(&mut object);
    let mut errors = meta::validate_create(&object, info, kind.name_rule());
    errors.extend(kind.validate(&object));
    (object, errors)
}

/// `field: message` of each cause that the recorded Status lists.
fn causes(answer: &Value) -> Vec<String> {
    let causes = answer["body"]["details"]["causes"].as_array().cloned().unwrap_or_default();
    let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or("").to_owned();
    causes.iter().map(|cause| format!("{}: {}", text(cause, "field"), text(cause, "message"))).collect()
}

/// Where the recording has a symbol, ours may be anything of that sort; bookkeeping is left out.
fn matches(ours: &Value, recorded: &Value) -> bool {
    match (ours, recorded) {
        (_, Value::String(symbol)) if symbol.starts_with('<') && symbol.ends_with('>') => true,
        (Value::String(ours), Value::String(recorded)) => *ours == recorded.replace("<run>", "run"),
        (Value::Object(ours), Value::Object(recorded)) => {
            let known = |name: &String| {
                !["uid", "resourceVersion", "creationTimestamp", "apiVersion", "kind"].contains(&name.as_str())
            };
            ours.keys().filter(|name| known(name)).all(|name| recorded.contains_key(name))
                && recorded
                    .iter()
                    .filter(|(name, _)| known(name))
                    .all(|(name, value)| ours.get(name).is_some_and(|ours| matches(ours, value)))
        }
        (Value::Array(ours), Value::Array(recorded)) => {
            ours.len() == recorded.len() && ours.iter().zip(recorded).all(|(a, b)| matches(a, b))
        }
        _ => ours == recorded,
    }
}

#[test]
fn creations_have_upstream_s_outcome() {
    let mut compared = 0;
    let mut wrong = Vec::new();
    for scenario in
        ["defaulting/core", "defaulting/networking", "validation/services", "validation/config", "validation/others"]
    {
        for step in steps(scenario) {
            let Some(kind) = kind_of(&step.path).filter(|_| step.method == "POST") else { continue };
            if is_decoding_error(&step.answer) {
                continue;
            }
            compared += 1;
            let (mut object, errors) = create(kind, &step.body);
            let errors: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
            let expected: Vec<String> = causes(&step.answer).iter().map(|text| text.replace("<ns>", "ns-1")).collect();
            if errors != expected {
                wrong.push(format!("{}\n  ours     {errors:?}\n  recorded {expected:?}", step.name));
            } else if expected.is_empty() {
                let mut recorded = step.answer["body"].clone();
                // Validation scenarios do not record the status.
                if recorded.get("status").is_none() {
                    object.as_object_mut().expect("an object").remove("status");
                }
                recorded["metadata"]["namespace"] = object["metadata"]["namespace"].clone();
                object["metadata"]["namespace"] = recorded["metadata"]["namespace"].clone();
                if !matches(&object, &recorded) {
                    wrong.push(format!("{}\n  ours     {object}\n  recorded {recorded}", step.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared >= 38, "only {compared} recorded creations were found");
}

#[test]
fn tables_have_upstream_s_cells() {
    let mut compared = 0;
    for scenario in ["tables/core", "tables/networking"] {
        let steps = steps(scenario);
        for pair in steps.windows(2) {
            let [creation, listing] = pair else { continue };
            let Some(kind) = kind_of(&creation.path).filter(|_| creation.method == "POST") else { continue };
            let Some(recorded) = listing.answer["body"]["rows"][0]["cells"].as_array() else { continue };
            let (object, _) = create(kind, &creation.body);
            let row = kind.row(&object, jiff::Timestamp::UNIX_EPOCH);
            assert!(matches(&json!(row), &json!(recorded)), "{}: {row:?} instead of {recorded:?}", listing.name);
            assert_eq!(kind.columns().len(), row.len(), "{}", listing.name);
            compared += 1;
        }
    }
    assert!(compared >= 8, "only {compared} recorded tables were found");
}
