//! YAML text to values, read the way upstream reads it.
//!
//! Upstream's YAML is version 1.1 where it shows: a plain `y`, `no` or `on` is a boolean, `0644` is
//! octal, `<<` merges, and keys are turned into strings. So the parser's events are resolved here by
//! those rules, instead of by a library's 1.2 rules. Aliases are copied, within a budget, so that a
//! small document cannot unfold into a large one.

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use super::json::MAX_DEPTH;

/// What aliases may add to a document, in the units of [`weight`]; well above any real manifest, and
/// no more memory than a body of the largest size takes anyway.
const ALIAS_BUDGET: usize = 8 << 20;

/// A parsed document.
#[derive(Debug)]
pub struct Parsed {
    pub value: Value,
    /// Keys that occur twice, in upstream's words: `line 5: key "a" already set in map`.
    pub duplicates: Vec<String>,
}

/// Parses the first document of a stream, as upstream does for a request body; nothing is null.
pub fn parse(text: &[u8]) -> Result<Parsed, String> {
    let mut first = None;
    each_document(text, |parsed| {
        first = Some(parsed);
        false
    })?;
    Ok(first.unwrap_or(Parsed { value: Value::Null, duplicates: Vec::new() }))
}

/// Parses every document of a stream; empty ones are left out.
pub fn documents(text: &[u8]) -> Result<Vec<Value>, String> {
    let mut all = Vec::new();
    each_document(text, |parsed| {
        if !parsed.value.is_null() {
            all.push(parsed.value);
        }
        true
    })?;
    Ok(all)
}

/// Hands document after document to `take` until it answers false.
fn each_document(text: &[u8], mut take: impl FnMut(Parsed) -> bool) -> Result<(), String> {
    let text = std::str::from_utf8(text).map_err(|_| "yaml: control characters are not allowed".to_owned())?;
    let mut options = Options::default();
    options.block_scalar_eof_without_line_feed = true;
    let mut reader = Reader {
        parser: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        budget: ALIAS_BUDGET,
        duplicates: Vec::new(),
        depth: 0,
    };
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(()),
            (Event::DocumentStart(..), _) => {
                reader.anchors.clear();
                let event = reader.next()?;
                let value = reader.node(event)?.value;
                let parsed = Parsed { value, duplicates: std::mem::take(&mut reader.duplicates) };
                if !take(parsed) {
                    return Ok(());
                }
            }
            _ => {}
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Value>,
    /// What aliases may still add.
    budget: usize,
    duplicates: Vec<String>,
    depth: usize,
}

/// A node, and whether it is a plain `<<`, which as a key means merging.
struct Node {
    value: Value,
    merges: bool,
}

impl<'a> Reader<'a> {
    /// The next event that is data or structure.
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        loop {
            match self.parser.next_event() {
                Some(Ok((event, span))) => match event {
                    Event::Comment(..) | Event::Anchor(..) => {}
                    event => return Ok((event, span)),
                },
                Some(Err(error)) => return Err(format!("yaml: {}{}", line_of(error.marker().line()), error.info())),
                None => return Err("yaml: unexpected end of the document".to_owned()),
            }
        }
    }

    fn node(&mut self, (event, span): (Event<'a>, Span)) -> Result<Node, String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = resolve(&text, style, tag.as_deref())?;
                self.remember(anchor, &value)?;
                Ok(Node { value, merges: style == ScalarStyle::Plain && text == "<<" })
            }
            Event::SequenceStart(_, anchor, _) => self.collection(anchor, Self::sequence),
            Event::MappingStart(_, anchor, _) => self.collection(anchor, Self::mapping),
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor);
                let value =
                    value.ok_or_else(|| format!("yaml: line {}: anchor value contains itself", span.start.line()))?;
                self.budget = self
                    .budget
                    .checked_sub(weight(value))
                    .ok_or_else(|| "yaml: document contains excessive aliasing".to_owned())?;
                Ok(Node { value: value.clone(), merges: false })
            }
            Event::DocumentEnd => Ok(Node { value: Value::Null, merges: false }),
            other => Err(format!("yaml: line {}: unexpected {other:?}", span.start.line())),
        }
    }

    fn collection(&mut self, anchor: usize, read: fn(&mut Self) -> Result<Value, String>) -> Result<Node, String> {
        if self.depth == MAX_DEPTH {
            return Err("yaml: exceeded max depth".to_owned());
        }
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        self.remember(anchor, &value)?;
        Ok(Node { value, merges: false })
    }

    /// Keeps a copy for aliases; the copy counts too.
    fn remember(&mut self, anchor: usize, value: &Value) -> Result<(), String> {
        if anchor != 0 {
            let left = self.budget.checked_sub(weight(value));
            self.budget = left.ok_or_else(|| "yaml: document contains excessive aliasing".to_owned())?;
            self.anchors.insert(anchor, value.clone());
        }
        Ok(())
    }

    fn sequence(&mut self) -> Result<Value, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                event => items.push(self.node(event)?.value),
            }
        }
    }

    fn mapping(&mut self) -> Result<Value, String> {
        let mut map = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let line = span.start.line();
            let key = self.node((event, span))?;
            let event = self.next()?;
            let value = self.node(event)?.value;
            if key.merges {
                merged.push(value);
                continue;
            }
            let key = key_text(key.value).map_err(|error| format!("yaml: line {line}: {error}"))?;
            if map.contains_key(&key) {
                self.duplicates.push(format!("line {line}: key {key:?} already set in map"));
            }
            map.insert(key, value);
        }
        for source in merged {
            merge_into(&mut map, source)?;
        }
        Ok(Value::Object(map))
    }
}

/// `<<`: adds what is not there yet, from a map or a list of maps.
fn merge_into(map: &mut Map<String, Value>, source: Value) -> Result<(), String> {
    let sources = match source {
        Value::Array(sources) => sources,
        source => vec![source],
    };
    for source in sources {
        let Value::Object(source) = source else {
            return Err("yaml: map merge requires map or sequence of maps as the value".to_owned());
        };
        for (key, value) in source {
            map.entry(key).or_insert(value);
        }
    }
    Ok(())
}

/// JSON has only strings for keys.
fn key_text(key: Value) -> Result<String, String> {
    match key {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null => Err("a null key is not supported".to_owned()),
        Value::Array(_) | Value::Object(_) => Err("invalid map key".to_owned()),
    }
}

/// Roughly the memory that a copy takes: a word or so a node, and the text.
fn weight(value: &Value) -> usize {
    const NODE: usize = 32;
    match value {
        Value::String(text) => NODE + text.len(),
        Value::Array(items) => NODE + items.iter().map(weight).sum::<usize>(),
        Value::Object(map) => NODE + map.iter().map(|(key, value)| NODE + key.len() + weight(value)).sum::<usize>(),
        _ => NODE,
    }
}

/// A scalar's value by the rules of YAML 1.1, as far as upstream's parser follows them.
fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let kind = tag.and_then(Tag::core_suffix);
    if kind == Some("str") || (style != ScalarStyle::Plain && kind.is_none()) {
        return Ok(Value::from(text));
    }
    let value = match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Err("json: unsupported value: +Inf".to_owned());
        }
        "-.inf" | "-.Inf" | "-.INF" => return Err("json: unsupported value: -Inf".to_owned()),
        ".nan" | ".NaN" | ".NAN" => return Err("json: unsupported value: NaN".to_owned()),
        _ => number(text).map_or_else(|| Value::from(text), Value::Number),
    };
    Ok(value)
}

fn number(text: &str) -> Option<Number> {
    let first = *text.as_bytes().first()?;
    if !matches!(first, b'0'..=b'9' | b'+' | b'-' | b'.') {
        return None;
    }
    let plain = text.replace('_', "");
    integer(&plain).or_else(|| float(&plain))
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match () {
        () if lower.starts_with("0x") => (16, &digits[2..]),
        () if lower.starts_with("0b") => (2, &digits[2..]),
        () if lower.starts_with("0o") => (8, &digits[2..]),
        () if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        () => (10, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if !negative {
        return Some(Number::from(magnitude));
    }
    let signed = i64::try_from(magnitude).ok().map(|n| -n);
    signed.or_else(|| (magnitude == i64::MIN.unsigned_abs()).then_some(i64::MIN)).map(Number::from)
}

fn float(text: &str) -> Option<Number> {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    if let Some(exponent) = exponent {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if exponent.is_empty() || !digits(exponent) {
            return None;
        }
    }
    Number::from_f64(text.parse().ok()?)
}

/// Where an error is, as Go's library says it: it counts from zero, and takes zero for not known.
fn line_of(line: usize) -> String {
    if line > 1 { format!("line {line}: ") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(text: &str) -> Value {
        parse(text.as_bytes()).unwrap().value
    }

    #[test]
    fn scalars_by_the_rules_of_1_1() {
        let text = "{a: y, b: 'y', c: off, d: 0644, e: 0x1f, f: 1_000, g: 1.5, h: ~, i: 1.2.3, j: 1e3, k: -5, l: 2024-01-01, m: !!str 5}";
        let wanted = json!({
            "a": true, "b": "y", "c": false, "d": 420, "e": 31, "f": 1000, "g": 1.5, "h": null, "i": "1.2.3",
            "j": 1000.0, "k": -5, "l": "2024-01-01", "m": "5",
        });
        assert_eq!(read(text), wanted);
    }

    #[test]
    fn keys_become_strings_and_duplicates_are_named() {
        assert_eq!(read("{1: a, true: b}"), json!({"1": "a", "true": "b"}));
        let parsed = parse(b"a: 1\nb:\n  c: 1\n  c: 2\n").unwrap();
        assert_eq!(parsed.value, json!({"a": 1, "b": {"c": 2}}));
        assert_eq!(parsed.duplicates, [r#"line 4: key "c" already set in map"#]);
    }

    #[test]
    fn aliases_and_merges() {
        let text = "base: &b {x: 1, y_: 2}\nother:\n  <<: *b\n  x: 3\nlist: [*b]\n";
        let wanted = json!({
            "base": {"x": 1, "y_": 2}, "other": {"x": 3, "y_": 2}, "list": [{"x": 1, "y_": 2}],
        });
        assert_eq!(read(text), wanted);
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let inner = vec![format!("*a{}", level - 1); 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        assert_eq!(parse(text.as_bytes()).unwrap_err(), "yaml: document contains excessive aliasing");
    }

    #[test]
    fn depth_is_bounded() {
        let text = "[".repeat(5000);
        assert!(parse(text.as_bytes()).is_err());
    }

    #[test]
    fn documents_of_a_stream() {
        let all = documents(b"---\na: 1\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
        assert_eq!(all, [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(read("a: 1\n---\nb: 2\n"), json!({"a": 1}));
        assert_eq!(read(""), Value::Null);
        assert!(parse(b"a: b: c").unwrap_err().starts_with("yaml: mapping values"));
        assert!(parse(b"x: y\na: b: c").unwrap_err().starts_with("yaml: line 2: "));
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in "[-a-c0-9:,&*!#|>'\"{}\\[\\] \n]{0,60}") {
            let _ = documents(text.as_bytes());
        }
    }
}
