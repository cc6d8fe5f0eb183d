//! JSON patch (RFC 6902), with the liberties of the library that upstream uses: `replace` sets a key
//! that is not there, a negative index counts from the end, a missing `value` is null.

use serde_json::{Map, Value};

use super::PatchError;
use crate::apiserver::codec::json as text;

/// Upstream's limit: a patch of more is a program, not a patch.
const MAX_OPERATIONS: usize = 10_000;

/// What `copy` may add in all, in bytes of JSON; upstream allows a request body's size. Without a limit
/// a few dozen copies of the document into itself would fill the memory.
const MAX_COPIED_BYTES: usize = 3 << 20;

/// One operation, its kind not yet looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    op: String,
    path: String,
    from: String,
    value: Value,
}

/// Parses a patch; also answers what strict decoding has to say about it.
pub fn parse(patch: &[u8]) -> Result<(Vec<Operation>, Vec<String>), PatchError> {
    let bad = |error: String| PatchError::BadRequest(format!("error decoding patch: {error}"));
    let parsed = text::parse(patch).map_err(bad)?;
    let mut strict = parsed.duplicates;
    let items = match parsed.value {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        other => {
            return Err(bad(format!(
                "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                name_of(&other)
            )));
        }
    };
    if items.len() > MAX_OPERATIONS {
        let count = items.len();
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let mut operations = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let Value::Object(fields) = item else {
            return Err(bad(format!(
                "json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                name_of(&item)
            )));
        };
        operations.push(operation(fields, at, &mut strict).map_err(bad)?);
    }
    let strict = strict.into_iter().map(|error| format!("json patch {error}")).collect();
    Ok((operations, strict))
}

fn operation(fields: Map<String, Value>, at: usize, strict: &mut Vec<String>) -> Result<Operation, String> {
    let mut operation = Operation { op: String::new(), path: String::new(), from: String::new(), value: Value::Null };
    for (key, value) in fields {
        let slot = match key.as_str() {
            "op" => &mut operation.op,
            "path" => &mut operation.path,
            "from" => &mut operation.from,
            "value" => {
                operation.value = value;
                continue;
            }
            _ => {
                strict.push(format!("unknown field \"[{at}].{key}\""));
                continue;
            }
        };
        match value {
            Value::String(text) => *slot = text,
            Value::Null => {}
            other => {
                let found = name_of(&other);
                return Err(format!(
                    "json: cannot unmarshal {found} into Go struct field jsonPatchOp.{key} of type string"
                ));
            }
        }
    }
    Ok(operation)
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Applies the operations in turn; the error says which did not apply.
pub fn apply(mut document: Value, operations: Vec<Operation>) -> Result<Value, String> {
    let mut copied = 0usize;
    for operation in operations {
        let Operation { op, path, from, value } = operation;
        let outcome = match op.as_str() {
            "add" => add(&mut document, &path, value),
            "remove" => remove(&mut document, &path).map(|_| ()),
            "replace" => replace(&mut document, &path, value),
            "move" => remove(&mut document, &from).and_then(|value| add(&mut document, &path, value)),
            "test" => test(&document, &path, &value),
            "copy" => {
                let value = get(&document, &from)?.cloned().unwrap_or(Value::Null);
                copied += value.to_string().len();
                if copied > MAX_COPIED_BYTES {
                    return Err(format!("copies add more than {MAX_COPIED_BYTES} bytes"));
                }
                add(&mut document, &path, value)
            }
            _ => Err(format!("unexpected kind of operation: {op:?}")),
        };
        outcome.map_err(|error| format!("{op} {path:?}: {error}"))?;
    }
    Ok(document)
}

/// The tokens of a pointer, unescaped: those of the container, and the last.
fn split(path: &str) -> Result<(Vec<String>, String), String> {
    let rest = path.strip_prefix('/').ok_or("the path must start with a slash")?;
    let mut tokens: Vec<String> = rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect();
    let last = tokens.pop().unwrap_or_default();
    Ok((tokens, last))
}

fn missing() -> String {
    "the path is missing in the document".to_owned()
}

fn container<'a>(document: &'a mut Value, tokens: &[String]) -> Result<&'a mut Value, String> {
    let mut at = document;
    for token in tokens {
        at = match at {
            Value::Object(map) => map.get_mut(token).ok_or_else(missing)?,
            Value::Array(items) => {
                let index = index(token, items.len())?;
                items.get_mut(index).ok_or_else(missing)?
            }
            _ => return Err(missing()),
        };
    }
    Ok(at)
}

/// An index below `len`; negative ones count from the end.
fn index(token: &str, len: usize) -> Result<usize, String> {
    let number: i64 = token.parse().map_err(|_| format!("{token:?} is no index"))?;
    let length = i64::try_from(len).map_err(|_| missing())?;
    let index = if number < 0 { number + length } else { number };
    usize::try_from(index).ok().filter(|index| *index < len).ok_or_else(|| format!("index {token} is out of bounds"))
}

/// The value at a path; `None` where an object has no such key.
fn get<'a>(document: &'a Value, path: &str) -> Result<Option<&'a Value>, String> {
    let (tokens, last) = split(path)?;
    let mut at = document;
    for (depth, token) in tokens.iter().chain([&last]).enumerate() {
        let is_last = depth == tokens.len();
        at = match at {
            Value::Object(map) => match map.get(token) {
                Some(value) => value,
                None if is_last => return Ok(None),
                None => return Err(missing()),
            },
            Value::Array(items) => items.get(index(token, items.len())?).ok_or_else(missing)?,
            _ => return Err(missing()),
        };
    }
    Ok(Some(at))
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let (tokens, last) = split(path)?;
    match container(document, &tokens)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(&last, items.len() + 1)?;
            items.insert(at, value);
        }
        _ => return Err(missing()),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, String> {
    let (tokens, last) = split(path)?;
    match container(document, &tokens)? {
        Value::Object(map) => map.remove(&last).ok_or_else(missing),
        Value::Array(items) => {
            let at = index(&last, items.len())?;
            Ok(items.remove(at))
        }
        _ => Err(missing()),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let (tokens, last) = split(path)?;
    match container(document, &tokens)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(items) => {
            let at = index(&last, items.len())?;
            *items.get_mut(at).ok_or_else(missing)? = value;
        }
        _ => return Err(missing()),
    }
    Ok(())
}

/// What is not there equals null.
fn test(document: &Value, path: &str, value: &Value) -> Result<(), String> {
    if get(document, path)?.unwrap_or(&Value::Null) == value { Ok(()) } else { Err("the test failed".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn run(document: Value, patch: Value) -> Result<Value, String> {
        let (operations, _) = parse(patch.to_string().as_bytes()).map_err(|error| error.to_string())?;
        apply(document, operations)
    }

    #[test]
    fn operations() {
        for (document, patch, wanted) in [
            (json!({"a": [1, 2]}), json!([{"op": "add", "path": "/a/1", "value": 9}]), json!({"a": [1, 9, 2]})),
            (json!({"a": [1, 2]}), json!([{"op": "add", "path": "/a/-", "value": 9}]), json!({"a": [1, 2, 9]})),
            (json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/-1"}]), json!({"a": [1]})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1})),
            (json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": 1, "b": 1})),
            (json!({"a/b~": 1}), json!([{"op": "test", "path": "/a~1b~0", "value": 1}]), json!({"a/b~": 1})),
            (json!({}), json!([{"op": "test", "path": "/a", "value": null}]), json!({})),
        ] {
            assert_eq!(run(document, patch.clone()), Ok(wanted), "{patch}");
        }
    }

    #[test]
    fn what_does_not_apply() {
        for patch in [
            json!([{"op": "remove", "path": "/zz"}]),
            json!([{"op": "add", "path": "/a/9", "value": 1}]),
            json!([{"op": "add", "path": "/zz/b", "value": 1}]),
            json!([{"op": "test", "path": "/a", "value": 1}]),
            json!([{"op": "frob", "path": "/a"}]),
            json!([{"op": "add", "path": "", "value": 1}]),
            json!([{"op": "move", "from": "/zz", "path": "/a"}]),
            json!([{"op": "replace", "path": "/a/x", "value": 1}]),
        ] {
            assert!(run(json!({"a": [1, 2]}), patch.clone()).is_err(), "{patch}");
        }
    }

    #[test]
    fn limits() {
        let many = vec![json!({"op": "test", "path": "/a", "value": null}); MAX_OPERATIONS + 1];
        assert!(matches!(parse(Value::from(many).to_string().as_bytes()), Err(PatchError::TooLarge(_))));
        let double = |n: usize| json!({"op": "copy", "from": "", "path": format!("/x{n}")});
        assert!(run(json!({"a": 1}), Value::from((0..40).map(double).collect::<Vec<_>>())).is_err());
        let double = |n: usize| json!({"op": "copy", "from": "/a", "path": format!("/a/x{n}")});
        let patch = Value::from((0..40).map(double).collect::<Vec<_>>());
        assert!(run(json!({"a": {"b": "c".repeat(100)}}), patch).unwrap_err().contains("copies add more than"));
    }

    proptest! {
        #[test]
        fn any_path_is_safe(op in "add|remove|replace|move|copy|test", path in "[/a0-2~-]{0,8}", from in "[/a0-2~-]{0,8}") {
            let document = json!({"a": [{"a": [0, 1]}, 2], "0": {"": 1}});
            let _ = run(document, json!([{"op": op, "path": path, "from": from, "value": {}}]));
        }
    }
}
