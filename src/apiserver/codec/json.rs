//! JSON text to values, with the faults named as Go's decoder names them.
//!
//! A parser of our own, because three things are needed that a general one does not give together:
//! keys that occur twice (strict decoding reports them with their path), Go's words for a syntax error
//! (clients and users know them), and a bound on depth.

use serde_json::{Map, Number, Value};

/// Deeper nesting is refused. No type of the API nests beyond a few dozen levels; what is kept as
/// free JSON is dropped and printed recursively, which must not exhaust a thread's stack.
pub const MAX_DEPTH: usize = 256;

/// Upstream stops listing strict errors here.
const MAX_DUPLICATES: usize = 100;

/// A parsed document.
#[derive(Debug)]
pub struct Parsed {
    pub value: Value,
    /// `duplicate field "spec.replicas"`, in the order of the text; the last value of a key is kept.
    pub duplicates: Vec<String>,
}

/// Parses one JSON document; the error is Go's text.
pub fn parse(text: &[u8]) -> Result<Parsed, String> {
    let mut parser = Parser { text, at: 0, depth: 0, path: String::new(), duplicates: Vec::new() };
    parser.blank();
    let value = parser.value()?;
    parser.blank();
    match parser.peek() {
        None => Ok(Parsed { value, duplicates: parser.duplicates }),
        Some(byte) => Err(parser.invalid(byte, "after top-level value")),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    /// Of the value being read, for naming duplicates.
    path: String,
    duplicates: Vec<String>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.need()? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => self.string().map(Value::String),
            b't' => self.literal("true", Value::Bool(true)),
            b'f' => self.literal("false", Value::Bool(false)),
            b'n' => self.literal("null", Value::Null),
            b'-' | b'0'..=b'9' => self.number(),
            byte => Err(self.invalid(byte, "looking for beginning of value")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, String>) -> Result<Value, String> {
        if self.depth == MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        self.depth += 1;
        self.at += 1;
        self.blank();
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value, String> {
        let mut map = Map::new();
        if self.need()? == b'}' {
            self.at += 1;
            return Ok(Value::Object(map));
        }
        loop {
            let byte = self.need()?;
            if byte != b'"' {
                return Err(self.invalid(byte, "looking for beginning of object key string"));
            }
            let key = self.string()?;
            self.blank();
            match self.need()? {
                b':' => self.at += 1,
                byte => return Err(self.invalid(byte, "after object key")),
            }
            self.blank();
            let outer = self.path.len();
            if outer > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            let value = self.value()?;
            if map.contains_key(&key) && self.duplicates.len() < MAX_DUPLICATES {
                self.duplicates.push(format!("duplicate field {:?}", self.path));
            }
            self.path.truncate(outer);
            map.insert(key, value);
            self.blank();
            match self.need()? {
                b',' => self.at += 1,
                b'}' => break,
                byte => return Err(self.invalid(byte, "after object key:value pair")),
            }
            self.blank();
        }
        self.at += 1;
        Ok(Value::Object(map))
    }

    fn array(&mut self) -> Result<Value, String> {
        let mut items = Vec::new();
        if self.need()? == b']' {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            let outer = self.path.len();
            self.path.push_str(&format!("[{}]", items.len()));
            items.push(self.value()?);
            self.path.truncate(outer);
            self.blank();
            match self.need()? {
                b',' => self.at += 1,
                b']' => break,
                byte => return Err(self.invalid(byte, "after array element")),
            }
            self.blank();
        }
        self.at += 1;
        Ok(Value::Array(items))
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, String> {
        for expected in word.chars() {
            let byte = self.need()?;
            if char::from(byte) != expected {
                return Err(self.invalid(byte, &format!("in literal {word} (expecting '{expected}')")));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<Value, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.need()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            byte => return Err(self.invalid(byte, "in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        let text = String::from_utf8_lossy(&self.text[start..self.at]);
        let number = match (text.parse::<i64>(), text.parse::<u64>()) {
            (Ok(number), _) => Some(Number::from(number)),
            (_, Ok(number)) => Some(Number::from(number)),
            _ => text.parse::<f64>().ok().and_then(Number::from_f64),
        };
        let overflow = || format!("json: cannot unmarshal number {text} into Go value of type float64");
        number.map(Value::Number).ok_or_else(overflow)
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Result<(), String> {
        match self.need()? {
            b'0'..=b'9' => self.digits(),
            byte => return Err(self.invalid(byte, context)),
        }
        Ok(())
    }

    /// A string; what is not UTF-8, and halves of surrogate pairs, become U+FFFD.
    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let run = self.at;
            while !matches!(self.need()?, b'"' | b'\\' | 0..=0x1f) {
                self.at += 1;
            }
            bytes.extend_from_slice(&self.text[run..self.at]);
            match self.need()? {
                b'"' => break,
                b'\\' => self.escape(&mut bytes)?,
                byte => return Err(self.invalid(byte, "in string literal")),
            }
        }
        self.at += 1;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), String> {
        self.at += 1;
        let byte = self.need()?;
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.at += 1;
                let c = self.unicode()?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.invalid(byte, "in string escape code")),
        };
        self.at += 1;
        bytes.push(plain);
        Ok(())
    }

    fn unicode(&mut self) -> Result<char, String> {
        let first = self.hex4()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with(b"\\u") {
            let before = self.at;
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let joined = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = before;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex4(&mut self) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = self.need()?;
            let digit = char::from(byte).to_digit(16);
            code = code * 16 + digit.ok_or_else(|| self.invalid(byte, "in \\u hexadecimal character escape"))?;
            self.at += 1;
        }
        Ok(code)
    }

    fn need(&self) -> Result<u8, String> {
        self.peek().ok_or_else(|| "unexpected end of JSON input".to_owned())
    }

    fn invalid(&self, byte: u8, context: &str) -> String {
        let shown = match byte {
            b'\'' => r"\'".to_owned(),
            b'"' => "\"".to_owned(),
            b'\\' => r"\\".to_owned(),
            b'\n' => r"\n".to_owned(),
            b'\r' => r"\r".to_owned(),
            b'\t' => r"\t".to_owned(),
            0..=0x1f | 0x7f => format!("\\x{byte:02x}"),
            // Go prints the byte as if it were a code point.
            _ => char::from(byte).to_string(),
        };
        format!("invalid character '{shown}' {context}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn faults_in_gos_words() {
        for (text, wanted) in [
            ("", "unexpected end of JSON input"),
            ("[{", "unexpected end of JSON input"),
            (r#"{"a""#, "unexpected end of JSON input"),
            ("a: b", "invalid character 'a' looking for beginning of value"),
            ("{a", "invalid character 'a' looking for beginning of object key string"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("trve", "invalid character 'v' in literal true (expecting 'u')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            (r#""\x""#, "invalid character 'x' in string escape code"),
            (r#""\u00g0""#, "invalid character 'g' in \\u hexadecimal character escape"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("01", "invalid character '1' after top-level value"),
            ("1e999", "json: cannot unmarshal number 1e999 into Go value of type float64"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), wanted, "{text}");
        }
        assert_eq!(parse("[".repeat(1_000_000).as_bytes()).unwrap_err(), "exceeded max depth");
    }

    #[test]
    fn duplicates_are_named_by_path_and_the_last_wins() {
        let parsed = parse(br#"{"a":1,"b":[{"c":{"d":1,"d":2}}],"a":3}"#).unwrap();
        assert_eq!(parsed.value, serde_json::json!({"a": 3, "b": [{"c": {"d": 2}}]}));
        assert_eq!(parsed.duplicates, [r#"duplicate field "b[0].c.d""#, r#"duplicate field "a""#]);
    }

    #[test]
    fn strings_and_numbers() {
        let parsed =
            parse(r#"["\ud83d\ude00\n", "\ud800x", 9007199254740993, 18446744073709551615, -0, 1.5]"#.as_bytes());
        let wanted = serde_json::json!(["😀\n", "\u{fffd}x", 9007199254740993i64, u64::MAX, 0, 1.5]);
        assert_eq!(parsed.unwrap().value, wanted);
        assert_eq!(parse(b"\"\xff\"").unwrap().value, Value::from("\u{fffd}"));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..6).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in any_value()) {
            prop_assert_eq!(parse(&serde_json::to_vec(&value).unwrap()).unwrap().value, value);
        }

        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let ours = parse(&bytes);
            if let Ok(theirs) = serde_json::from_slice::<Value>(&bytes) {
                prop_assert_eq!(ours.unwrap().value, theirs);
            }
        }
    }
}
