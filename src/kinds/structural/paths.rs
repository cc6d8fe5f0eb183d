//! The simple JSON paths of definitions: `.spec.replicas`, `.metadata.annotations['a.b']`,
//! `.status.conditions[?(@.type=="Ready")].status`.
//!
//! Columns may use all of it; scale and selectable fields only names. A path that finds several values
//! yields the first, as upstream's tables do.

use serde_json::Value;

use crate::kinds::common;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// Every element or entry.
    All,
    /// The elements whose field at the path is, or is not, this value.
    Where {
        path: Vec<String>,
        equal: bool,
        value: Option<Value>,
    },
}

/// How many values a path may run through: a path of many stars must not multiply.
const MAX_VISITED: usize = 10_000;

impl JsonPath {
    /// Parses a path that begins with a dot.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let name = after[..end].replace("\\", "");
                // An escaped dot belongs to the name.
                let (name, used) = unescape(after).unwrap_or((name, end));
                match name.as_str() {
                    // `.[0]`
                    "" if after[used..].starts_with('[') => {}
                    "" => return None,
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
                rest = &after[used..];
            } else if let Some(after) = rest.strip_prefix('[') {
                let (step, left) = bracket(after)?;
                steps.push(step);
                rest = left;
            } else {
                return None;
            }
        }
        (text.starts_with('.') && !steps.is_empty()).then_some(Self(steps))
    }

    /// A path that only names fields, as names.
    pub fn names(&self) -> Option<Vec<&str>> {
        self.0.iter().map(|step| if let Step::Field(name) = step { Some(name.as_str()) } else { None }).collect()
    }

    /// The first value at the path.
    pub fn find<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                match step {
                    Step::Field(name) => next.extend(value.get(name)),
                    Step::Index(at) => next.extend(element(value, *at)),
                    Step::All => match value {
                        Value::Array(items) => next.extend(items),
                        Value::Object(map) => next.extend(map.values()),
                        _ => {}
                    },
                    Step::Where { path, equal, value: wanted } => {
                        let items = value.as_array().into_iter().flatten();
                        next.extend(items.filter(|item| {
                            let there = path.iter().try_fold(*item, |at, name| at.get(name));
                            match wanted {
                                Some(wanted) => there.is_some_and(|there| common::equal(there, wanted) == *equal),
                                None => there.is_some(),
                            }
                        }));
                    }
                }
                if next.len() > MAX_VISITED {
                    return None;
                }
            }
            found = next;
        }
        found.into_iter().find(|value| !value.is_null())
    }
}

/// A name with escaped dots, and how much of the text it takes; `None` where nothing is escaped.
fn unescape(text: &str) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut escaped = false;
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                escaped = true;
                name.push(chars.next()?.1);
            }
            '.' | '[' => return escaped.then_some((name, at)),
            c => name.push(c),
        }
    }
    escaped.then_some((name, text.len()))
}

fn element(value: &Value, at: i64) -> Option<&Value> {
    let items = value.as_array()?;
    let at = if at < 0 { at.checked_add(i64::try_from(items.len()).ok()?)? } else { at };
    items.get(usize::try_from(at).ok()?)
}

/// What stands in brackets, and what follows them.
fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(after) = text.strip_prefix("?(") {
        let end = after.find(")]")?;
        return Some((filter(&after[..end])?, &after[end + 2..]));
    }
    if let Some(quote) = text.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let end = text[1..].find(quote)? + 1;
        let left = text[end + 1..].strip_prefix(']')?;
        return Some((Step::Field(text[1..end].to_owned()), left));
    }
    let end = text.find(']')?;
    let step = match &text[..end] {
        "*" => Step::All,
        number => Step::Index(number.parse().ok()?),
    };
    Some((step, &text[end + 1..]))
}

/// `@.type=="Ready"`, `@.a.b != 3`, `@.a`
fn filter(text: &str) -> Option<Step> {
    let text = text.trim();
    let (left, equal, right) = match (text.split_once("=="), text.split_once("!=")) {
        (Some((left, right)), _) => (left, true, Some(right)),
        (None, Some((left, right))) => (left, false, Some(right)),
        (None, None) => (text, true, None),
    };
    let path = left.trim().strip_prefix("@.")?.split('.').map(str::to_owned).collect();
    let value = match right.map(str::trim) {
        None => None,
        Some(quoted) if quoted.len() >= 2 && quoted.starts_with(['\'', '"']) => {
            Some(Value::from(&quoted[1..quoted.len() - 1]))
        }
        Some(plain) => Some(serde_json::from_str(plain).ok()?),
    };
    Some(Step::Where { path, equal, value })
}
