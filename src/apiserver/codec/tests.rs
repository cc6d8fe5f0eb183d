use serde_json::json;

use super::*;

fn info(kind: &str) -> &'static KindInfo {
    KINDS.iter().map(|kind| kind.info()).find(|info| info.kind == kind).unwrap()
}

fn message(body: &str, content_type: &str, kind: &str, validation: FieldValidation) -> String {
    decode(body.as_bytes(), Some(content_type), info(kind), validation).unwrap_err().to_string()
}

#[test]
fn a_body_gets_its_type_and_version() {
    let decoded = decode(br#"{"metadata":{"name":"c"}}"#, None, info("ConfigMap"), FieldValidation::Strict).unwrap();
    assert_eq!(decoded.object, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}));
    let yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    assert_eq!(
        decode(yaml, Some("application/yaml; charset=utf-8"), info("ConfigMap"), FieldValidation::Warn).unwrap(),
        decoded
    );
}

#[test]
fn upstreams_words() {
    let warn = FieldValidation::Warn;
    assert_eq!(
        message("", "application/json", "ConfigMap", warn),
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"
    );
    assert_eq!(
        message("a=b", "application/x-www-form-urlencoded", "ConfigMap", warn),
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
    assert_eq!(
        message(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: \"1\", a: \"2\"}\n",
            "application/yaml",
            "ConfigMap",
            warn
        ),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.name of type string"
    );
    assert_eq!(
        message(
            r#"{"bogus":1,"spec":{"paused":true,"paused":true}}"#,
            "application/json",
            "Deployment",
            FieldValidation::Strict
        ),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: duplicate field \"spec.paused\", unknown field \"bogus\""
    );
    assert_eq!(
        message(r#"{"apiVersion":"v1","kind":"Pod"}"#, "application/json", "ConfigMap", warn),
        "Pod in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion"
    );
    assert_eq!(
        message(r#"{"apiVersion":"v7","kind":"ConfigMap"}"#, "application/json", "ConfigMap", warn),
        "the API version in the data (v7) does not match the expected API version (v1)"
    );
    assert_eq!(
        message("nonsense", "application/json", "ConfigMap", warn),
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character 'o' in literal null (expecting 'u') (6e6f6e73656e7365)"
    );
    assert!(
        message("[1]", "application/json", "ConfigMap", warn)
            .contains("cannot unmarshal array into Go value of type struct {")
    );
}

#[test]
fn what_is_unknown_is_dropped_and_warned_of() {
    let body = br#"{"metadata":{"name":"c","nmae":"x"},"data":{"a":"1","a":"2"}}"#;
    let decoded = decode(body, None, info("ConfigMap"), FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, [r#"duplicate field "data.a""#, r#"unknown field "metadata.nmae""#]);
    assert_eq!(decoded.object["metadata"], json!({"name": "c"}));
    assert_eq!(decoded.object["data"], json!({"a": "2"}));
    let decoded = decode(body, None, info("ConfigMap"), FieldValidation::Ignore).unwrap();
    assert!(decoded.warnings.is_empty());
}

#[test]
fn options_of_a_delete() {
    assert_eq!(decode_options(b"", None), Ok(None));
    let body =
        br#"{"kind":"DeleteOptions","apiVersion":"apps/v1","gracePeriodSeconds":0,"propagationPolicy":"Background"}"#;
    let options = decode_options(body, None).unwrap().unwrap();
    assert_eq!(options["gracePeriodSeconds"], 0);
    assert_eq!(options["propagationPolicy"], "Background");
    assert!(decode_options(br#"{"kind":"Pod","apiVersion":"v1"}"#, None).is_err());
    assert!(decode_options(b"{", None).is_err());
}

#[test]
fn protobuf_bodies() {
    // A ConfigMap `c` with data a=1, as client-go frames it.
    let mut body = b"k8s\0".to_vec();
    body.extend_from_slice(&[0x0a, 15, 0x0a, 2, b'v', b'1', 0x12, 9]);
    body.extend_from_slice(b"ConfigMap");
    body.extend_from_slice(&[0x12, 13, 0x0a, 3, 0x0a, 1, b'c', 0x12, 6, 0x0a, 1, b'a', 0x12, 1, b'1']);
    body.extend_from_slice(&[0x1a, 0, 0x22, 0]);
    let media = Some("application/vnd.kubernetes.protobuf");
    let decoded = decode(&body, media, info("ConfigMap"), FieldValidation::Strict).unwrap();
    let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    assert_eq!(decoded.object, wanted);
    let error = decode(&body, media, info("Secret"), FieldValidation::Strict).unwrap_err();
    assert!(error.to_string().ends_with("converting (v1.ConfigMap) to (core.Secret): unknown conversion"));
    let error = decode(b"{}", media, info("Secret"), FieldValidation::Strict).unwrap_err();
    assert!(error.to_string().contains("expected prefix [107 56 115 0]"), "{error}");
}
