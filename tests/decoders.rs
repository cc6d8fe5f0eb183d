//! What reads bytes from clients, fed with bytes that no client should send: pieces of good input, cut, doubled and
//! overwritten. Nothing may panic or hang, and what has been understood must be understood again as the same. The
//! targets in `fuzz/` do the same, led by coverage.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use coracle::apiserver::auth::User;
use coracle::apiserver::codec::protobuf::{message, open};
use coracle::apiserver::codec::{Expected, FieldValidation, decode, yaml};
use coracle::apiserver::continuation::Token;
use coracle::apiserver::patch::{self, PatchType, apply};
use coracle::apiserver::selector::Selector;
use coracle::apiserver::{ApiConfig, ApiServer};
use coracle::cel::{Budget, Program, Scope, value};
use coracle::kinds::KINDS;
use coracle::kinds::cron::Schedule;
use coracle::kinds::quantity::Quantity;
use coracle::kinds::schema::{conform::conform, types};
use coracle::kinds::structural::{Schema, defaults, prune, rules, validate};
use coracle::node::spdy::Decoder;
use coracle::store::MemoryStore;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use serde_json::Value;
use tower::ServiceExt as _;

const OBJECTS: [&str; 6] = [
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"app":"b"}},"spec":{"containers":[{"name":"c","image":"d","resources":{"limits":{"cpu":"100m","memory":"1Gi"}},"ports":[{"containerPort":80}]}]}}"#,
    r#"{"metadata":{"name":"a","managedFields":[{"manager":"m","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:a":{}}}}]},"data":{"a":"1"}}"#,
    r#"{"spec":{"replicas":3,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"d"}]}}}}"#,
    "metadata:\n  name: &n a\n  labels: {app: *n}\nspec:\n  containers:\n  - name: c\n    image: |\n      d\n",
    r#"{"spec":{"ports":[{"port":80,"targetPort":"http","protocol":"TCP"}],"type":"NodePort","clusterIP":"127.96.0.9"}}"#,
    r#"[{"op":"add","path":"/spec/containers/0/env/-","value":{"name":"x"}},{"op":"test","path":"/metadata/name","value":"a"}]"#,
];
const PATCHES: [&str; 5] = [
    r#"[{"op":"replace","path":"/metadata/labels/app","value":1},{"op":"move","from":"/spec","path":"/metadata/x"}]"#,
    r#"{"metadata":{"labels":null},"spec":{"replicas":1}}"#,
    r#"{"spec":{"containers":[{"name":"c","$patch":"delete"}],"$retainKeys":["containers"],"$setElementOrder/containers":[{"name":"c"}]}}"#,
    r#"{"spec":{"$deleteFromPrimitiveList/finalizers":["a"],"volumes":[{"$patch":"replace"}]}}"#,
    "spec:\n  containers:\n  - name: c\n    image: e\n",
];
const EXPRESSIONS: [&str; 5] = [
    "self.items.all(i, i.size() > 1 && i.matches('^a+$')) || has(self.b)",
    "self.a + [1, 2, 3].map(x, x * 2)[1] == size(string(self)) ? {'a': 1}.a : 2u / 1u",
    "quantity('1Gi').isGreaterThan(quantity('1Mi')) && url('https://a').getHost() == 'a'",
    "self.?a.orValue(timestamp('2026-01-01T00:00:00Z')) + duration('1h')",
    "'abc'.substring(1, 2).format([1]) + b'x'",
];
const TEXTS: [&str; 9] = [
    "app=b,tier in (a, c),!x,y notin (z),n>1",
    "metadata.name=a,spec.nodeName!=b",
    "1.5Gi",
    "-12e3",
    "100m",
    "*/5 1-3,7 * JAN-MAR MON#2",
    "@every 1h30m",
    "eyJydiI6MSwic3RhcnQiOiIvcmVnaXN0cnkveCIsInYiOiJtZXRhLms4cy5pby92MSJ9",
    "limit=1&continue=x&labelSelector=a%3Db&watch=1&resourceVersion=1&fieldSelector=metadata.name%3Da",
];
const SCHEMAS: [&str; 2] = [
    r#"{"type":"object","properties":{"a":{"type":"integer","minimum":1,"default":3},"l":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string","pattern":"^a","maxLength":3}}}}},"x-kubernetes-validations":[{"rule":"self.a > 0"}]}"#,
    r#"{"type":"object","x-kubernetes-preserve-unknown-fields":true,"additionalProperties":{"anyOf":[{"type":"string"},{"type":"integer"}],"x-kubernetes-int-or-string":true,"nullable":true,"enum":["a",1]}}"#,
];

/// Good input that something has happened to.
fn damaged(seeds: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0usize..12, prop::collection::vec(any::<u8>(), 0..6), 0u8..5);
    (prop::sample::select(seeds), prop::collection::vec(edit, 0..5)).prop_map(|(seed, edits)| {
        let mut bytes = seed.as_bytes().to_vec();
        for (at, length, new, how) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            let old: Vec<u8> = bytes[at..end].to_vec();
            let punctuation = br#"{}[]",:$/\~-0"#;
            let new: Vec<u8> = match how {
                0 => new,
                1 => Vec::new(),
                2 => old.repeat(2),
                3 => new.iter().map(|byte| punctuation[usize::from(*byte) % punctuation.len()]).collect(),
                _ => old.iter().rev().copied().collect(),
            };
            bytes.splice(at..end, new);
        }
        bytes
    })
}

fn text(seeds: &'static [&'static str]) -> impl Strategy<Value = String> {
    damaged(seeds).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A row of the table of kinds.
fn kind() -> impl Strategy<Value = usize> {
    0..KINDS.len()
}

/// Whether an answer is a failure of our own, which says `InternalError`. Where upstream fails, too, it gives no reason.
fn is_fault(status: StatusCode, text: &str) -> bool {
    let told = text.contains(r#""kind":"Status""#) && !text.contains(r#""reason":"InternalError""#);
    status.is_server_error() && !told && !text.contains("failed calling webhook")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn bodies_in_json_and_yaml(kind in kind(), body in damaged(&OBJECTS), is_yaml in any::<bool>()) {
        let media = if is_yaml { "application/yaml" } else { "application/json" };
        let kind = KINDS[kind];
        if let Ok(decoded) = decode(&body, Some(media), kind.info(), FieldValidation::Warn) {
            let again = decode(decoded.object.to_string().as_bytes(), None, kind.info(), FieldValidation::Strict);
            prop_assert_eq!(again.map(|again| again.object), Ok(decoded.object));
        }
    }

    #[test]
    fn bodies_in_protobuf(pick in any::<prop::sample::Index>(), body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = open(&body);
        let _ = open(&[b"k8s\0", &body[..]].concat());
        let types = types();
        let ty = &types[pick.index(types.len())];
        if let Ok(mut value) = message(ty, &body) {
            let _ = conform(ty, &mut value, &mut Vec::new());
        }
    }

    #[test]
    fn patches(kind in kind(), object in damaged(&OBJECTS), patch in damaged(&PATCHES), which in 0usize..3) {
        let info = KINDS[kind].info();
        let Ok(current) = decode(&object, None, info, FieldValidation::Ignore) else { return Ok(()) };
        let patch_type = [PatchType::Json, PatchType::Merge, PatchType::Strategic][which];
        let _ = patch::apply(info, &current.object, patch_type, &patch, FieldValidation::Warn);
    }

    #[test]
    fn configurations_to_apply(kind in kind(), live in damaged(&OBJECTS), first in damaged(&PATCHES), second in damaged(&OBJECTS)) {
        let (kind, info) = (KINDS[kind], KINDS[kind].info());
        let expected = Expected::of_kind(kind).expect("every kind has a type");
        let version = expected.api_version();
        let Ok(live) = decode(&live, None, info, FieldValidation::Ignore) else { return Ok(()) };
        let mut object = live.object;
        for (manager, text, force) in [("one", &first, false), ("two", &second, true), ("one", &first, true)] {
            let Ok(parsed) = yaml::parse(text) else { continue };
            let Value::Object(mut fields) = parsed.value else { continue };
            fields.insert("apiVersion".into(), version.as_str().into());
            fields.insert("kind".into(), info.kind.into());
            let config = Value::Object(fields);
            let writer = apply::Writer {
                manager, api_version: &version, subresource: "", reset: &[], now: "2026-01-01T00:00:00Z",
            };
            let Ok(applied) = apply::apply(&expected.model, &object, &config, &writer, force) else { continue };
            let again = apply::apply(&expected.model, &applied, &config, &writer, false);
            prop_assert_eq!(again, Ok(applied.clone()), "to apply again is no change and no conflict");
            object = applied;
        }
    }

    #[test]
    fn selectors(kind in kind(), labels in text(&TEXTS), fields in text(&TEXTS), object in damaged(&OBJECTS)) {
        let kind = KINDS[kind];
        let decoded = decode(&object, None, kind.info(), FieldValidation::Ignore);
        let object = decoded.map(|decoded| decoded.object).unwrap_or_default();
        if let Ok(selector) = Selector::parse(kind, &labels, &fields) {
            selector.matches(kind, &object);
        }
    }

    #[test]
    fn small_texts(text in text(&TEXTS)) {
        if let Ok(quantity) = text.parse::<Quantity>() {
            let shown = quantity.to_string();
            let again = shown.parse::<Quantity>();
            prop_assert_eq!(again.map(|again| again.to_string()), Ok(shown), "{}", text);
            let _ = quantity.plus(quantity).minus(Quantity::ZERO).rounded_to_millis();
        }
        if let Ok(token) = Token::read(&text) {
            prop_assert_eq!(Token::read(&token.to_string()), Ok(token));
        }
        if let Ok(schedule) = Schedule::parse(&text) {
            let _ = schedule.next(jiff::Timestamp::UNIX_EPOCH, &jiff::tz::TimeZone::UTC);
        }
    }

    #[test]
    fn frames(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6), head in any::<bool>()) {
        let mut decoder = Decoder::default();
        if head {
            // A stream that opens, without its headers.
            decoder.push(&[0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        for piece in pieces {
            decoder.push(&piece);
            while let Ok(Some(_)) = decoder.frame() {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn expressions(expression in text(&EXPRESSIONS), object in text(&OBJECTS)) {
        let Ok(program) = Program::compile(&expression) else { return Ok(()) };
        let mut scope = Scope::default();
        scope.set("self", value::from_json(&serde_json::from_str(&object).unwrap_or(Value::Null)));
        if let Ok(outcome) = program.eval(&scope, &mut Budget::new(100_000)) {
            let _ = value::to_json(&outcome);
        }
    }

    #[test]
    fn schemas(schema in text(&SCHEMAS), object in text(&OBJECTS)) {
        let Ok(schema) = serde_json::from_str::<Value>(&schema) else { return Ok(()) };
        let parsed = Schema::parse(&schema);
        let Ok(mut object) = serde_json::from_str::<Value>(&object) else { return Ok(()) };
        let old = object.clone();
        prune::prune(&parsed, &mut object, &mut Vec::new());
        defaults::default(&parsed, &mut object);
        let _ = validate::validate(&parsed, &object, Some(&old));
        let _ = rules::validate(&parsed, &object, Some(&old));
    }
}

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
const MEDIA: [&str; 7] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// Whole requests, many to one server, of which the earlier decide what the later find.
    #[test]
    #[test]
    fn requests(all in prop::collection::vec(
        (kind(), 0..METHODS.len(), 0..MEDIA.len(), any::<bool>(), text(&TEXTS), damaged(&OBJECTS)), 60..120,
    )) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let api = ApiServer::start(ApiConfig::new(Arc::new(MemoryStore::new()))).await.expect("the server starts");
            let router = api.router().layer(axum::Extension(User::server()));
            for (kind, method, media, named, query, body) in all {
                let info = KINDS[kind].info();
                let root = if info.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", info.group) };
                let scope = if info.namespaced { "/namespaces/default" } else { "" };
                let name = if named { "/a" } else { "" };
                let query: String = query.chars().filter(|c| c.is_ascii_graphic() && !"#<>\"{}|\\^`".contains(*c)).collect();
                let path = format!("{root}/{}{scope}/{}{name}?timeoutSeconds=1&fieldManager=m&{query}", info.version, info.plural);
                let request = Request::builder().method(&METHODS[method]).uri(&path).header(header::CONTENT_TYPE, MEDIA[media]);
                let Ok(request) = request.body(Body::from(body)) else { continue };
                let response = router.clone().oneshot(request).await.expect("a router never fails");
                let status = response.status();
                let (mut body, mut text) = (response.into_body(), Vec::new());
                // A watch need not be waited for.
                while let Ok(Some(Ok(frame))) = tokio::time::timeout(Duration::from_millis(5), body.frame()).await {
                    text.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
                let text = String::from_utf8_lossy(&text);
                prop_assert!(!is_fault(status, &text), "{} {path}: {status} {text}", METHODS[method]);
            }
            api.shutdown();
            Ok(())
        })?;
    }
}

#[test]
fn the_seeds_are_good() {
    for expression in EXPRESSIONS {
        assert!(Program::compile(expression).is_ok(), "{expression}");
    }
    for schema in SCHEMAS {
        assert!(serde_json::from_str::<Value>(schema).is_ok(), "{schema}");
    }
    assert_eq!(Token::read(TEXTS[7]).map(|token| token.start), Ok("/registry/x".to_owned()));
}
