//! Label and field selectors: parsed once a request, matched against many objects.
//!
//! The grammar and every complaint are upstream's. A selector that names one object by
//! `metadata.name` is told apart, so that list and watch can look at that key alone.

use serde_json::Value;

use crate::apiserver::status::ApiError;
use crate::kinds::Kind;
use crate::kinds::names;

/// Both selectors of a request.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    path: String,
    value: String,
    equal: bool,
}

impl Selector {
    pub fn parse(kind: &dyn Kind, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = Parser::new(labels).parse().map_err(ApiError::bad_request)?;
        let fields = parse_fields(fields).map_err(ApiError::bad_request)?;
        for term in &fields {
            check_known(kind, &term.path)?;
        }
        Ok(Self { labels, fields })
    }

    /// Selects the one object `name`: what a watch on a name means.
    pub fn and_name(mut self, name: &str) -> Self {
        self.fields.push(FieldTerm { path: "metadata.name".into(), value: name.to_owned(), equal: true });
        self
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The only name that can match, where a term says so.
    pub fn single_name(&self) -> Option<&str> {
        self.fields.iter().find(|t| t.equal && t.path == "metadata.name").map(|t| t.value.as_str())
    }

    pub fn matches(&self, kind: &dyn Kind, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|r| r.test.holds(labels.get(&r.key).and_then(Value::as_str)))
            && self.fields_match(kind, object)
    }

    fn fields_match(&self, kind: &dyn Kind, object: &Value) -> bool {
        let needs_more = self.fields.iter().any(|t| !is_common(&t.path));
        let selectable = if needs_more { kind.selectable(object) } else { Vec::new() };
        self.fields.iter().all(|term| {
            let actual = match term.path.as_str() {
                "metadata.name" => object["metadata"]["name"].as_str().unwrap_or_default(),
                "metadata.namespace" => object["metadata"]["namespace"].as_str().unwrap_or_default(),
                path => selectable.iter().find(|(name, _)| *name == path).map_or("", |(_, value)| value),
            };
            (actual == term.value) == term.equal
        })
    }
}

fn is_common(path: &str) -> bool {
    path == "metadata.name" || path == "metadata.namespace"
}

fn check_known(kind: &dyn Kind, path: &str) -> Result<(), ApiError> {
    let names = kind.selectable_names();
    if is_common(path) || names.contains(&path) {
        return Ok(());
    }
    Err(ApiError::bad_request(if names.is_empty() {
        format!("{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {path}")
    }))
}

impl Test {
    fn holds(&self, actual: Option<&str>) -> bool {
        let number = || actual.and_then(|text| text.parse::<i64>().ok());
        match self {
            Self::Exists => actual.is_some(),
            Self::Absent => actual.is_none(),
            Self::In(values) => actual.is_some_and(|a| values.iter().any(|v| v == a)),
            Self::NotIn(values) => actual.is_none_or(|a| values.iter().all(|v| v != a)),
            Self::Greater(limit) => number().is_some_and(|n| n > *limit),
            Self::Less(limit) => number().is_some_and(|n| n < *limit),
        }
    }
}

fn parse_fields(text: &str) -> Result<Vec<FieldTerm>, String> {
    let mut terms = Vec::new();
    for part in split_terms(text) {
        if part.is_empty() {
            continue;
        }
        let found =
            ["!=", "==", "="].iter().filter_map(|op| part.find(op).map(|at| (at, *op))).min_by_key(|(at, op)| {
                // At the same place the longer operator is meant.
                (*at, std::cmp::Reverse(op.len()))
            });
        let Some((at, op)) = found else {
            return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
        };
        let (path, value) = (&part[..at], &part[at + op.len()..]);
        terms.push(FieldTerm { path: path.to_owned(), value: unescape(value), equal: op != "!=" });
    }
    Ok(terms)
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ',' if !escaped => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Symbol(symbol) => symbol,
            Self::End => "",
        }
    }
}

/// Longer symbols first: the lexer is greedy.
const SYMBOLS: &[&str] = &["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn lex(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = rest[symbol.len()..].trim_start();
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || "=!(),><".contains(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = rest[end..].trim_start();
        }
    }
    tokens.push(Token::End);
    tokens
}

/// A recursive descent over the tokens; `End` is never passed.
struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn new(text: &str) -> Self {
        Self { tokens: lex(text), at: 0 }
    }

    fn peek(&self) -> Token {
        self.tokens.get(self.at).cloned().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut found = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Symbol("!") => {
                    found.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                    match self.take() {
                        Token::End => return Ok(found),
                        Token::Symbol(",") => match self.peek() {
                            Token::Word(_) | Token::Symbol("!") => {}
                            other => return Err(format!("found '{}', expected: identifier after ','", other.text())),
                        },
                        other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
                    }
                }
                Token::End => return Ok(found),
                other => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == Token::Symbol("!");
        if negated {
            self.take();
        }
        let key = match self.take() {
            Token::Word(word) => word,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        if let Some(problem) = names::qualified_name(&key).first() {
            return Err(format!("<nil>: Invalid value: {key:?}: {problem}"));
        }
        if negated {
            return Ok(Requirement { key, test: Test::Absent });
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(Requirement { key, test: Test::Exists });
        }
        let test = self.test(&key)?;
        Ok(Requirement { key, test })
    }

    fn test(&mut self, key: &str) -> Result<Test, String> {
        let operator = self.take();
        let test = match operator.text() {
            "in" => Test::In(self.values()?),
            "notin" => Test::NotIn(self.values()?),
            "=" | "==" => Test::In(vec![self.exact_value()?]),
            "!=" => Test::NotIn(vec![self.exact_value()?]),
            ">" => return Ok(Test::Greater(self.number()?)),
            "<" => return Ok(Test::Less(self.number()?)),
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        if let Test::In(values) | Test::NotIn(values) = &test {
            for (i, value) in values.iter().enumerate() {
                if let Some(problem) = names::label_value(value).first() {
                    return Err(format!("values[{i}][{key}]: Invalid value: {value:?}: {problem}"));
                }
            }
        }
        Ok(test)
    }

    fn number(&mut self) -> Result<i64, String> {
        let text = self.exact_value()?;
        text.parse().map_err(|_| {
            format!("values[0]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer")
        })
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(String::new());
        }
        match self.take() {
            Token::Word(word) => Ok(word),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.take() {
            Token::Symbol("(") => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = Vec::new();
        loop {
            match self.take() {
                Token::Word(word) => {
                    values.push(word);
                    match self.take() {
                        Token::Symbol(",") => {}
                        Token::Symbol(")") => return Ok(values),
                        other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
                    }
                }
                // An empty element is the empty value.
                Token::Symbol(",") => values.push(String::new()),
                Token::Symbol(")") => {
                    values.push(String::new());
                    return Ok(values);
                }
                other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{config_map::ConfigMap, pod::Pod};
    use proptest::prelude::*;
    use serde_json::json;

    fn matches(labels: &str, object: &Value) -> Result<bool, String> {
        let selector = Selector::parse(&ConfigMap, labels, "").map_err(|e| e.message().to_owned())?;
        Ok(selector.matches(&ConfigMap, object))
    }

    #[test]
    fn labels_select_as_upstream() {
        let object = json!({"metadata": {"labels": {"n": "2", "app": "x"}}});
        let cases = [
            ("", true),
            ("app=x", true),
            ("app==x,n!=3", true),
            ("n in (1, 2)", true),
            ("n notin (1,2)", false),
            ("missing notin (a)", true),
            ("missing", false),
            ("!missing", true),
            ("n>1", true),
            ("n<2", false),
            ("n in ()", false),
            ("app=", false),
            ("in=x", false),
        ];
        for (text, want) in cases {
            assert_eq!(matches(text, &object), Ok(want), "{text}");
        }
    }

    #[test]
    fn broken_selectors_are_refused_in_upstreams_words() {
        let cases = [
            ("a===b", "unable to parse requirement: found '=', expected: identifier"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a=b,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ];
        for (text, want) in cases {
            assert_eq!(matches(text, &Value::Null), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn fields_of_the_metadata_and_of_nothing_else() {
        let object = json!({"metadata": {"name": "a", "namespace": "n"}});
        let selector = |text| Selector::parse(&ConfigMap, "", text);
        assert!(selector("metadata.name=a,metadata.namespace!=x").is_ok_and(|s| s.matches(&ConfigMap, &object)));
        assert_eq!(selector("metadata.name=a").ok().and_then(|s| s.single_name().map(str::to_owned)), Some("a".into()));
        let error = selector("data.a=1").err().map(|e| e.message().to_owned()).unwrap_or_default();
        assert!(error.starts_with("\"data.a\" is not a known field selector"));
        assert!(Selector::parse(&Pod, "", "nothing").is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".*") {
            let _ = Selector::parse(&ConfigMap, &text, "");
            let _ = Selector::parse(&ConfigMap, "", &text);
        }
    }
}
