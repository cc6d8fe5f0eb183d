//! Continue tokens: where the next page of a list begins.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// What a token says. Clients may not look into it, and it has upstream's form nevertheless: they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The version that the first page showed; `None` for whatever it is then.
    pub revision: Option<u64>,
    /// The last key shown.
    pub start: String,
}

const VERSION: &str = "meta.k8s.io/v1";

impl Token {
    /// Goes on behind `key` at the version that has been shown so far.
    pub fn at(revision: u64, key: &str) -> Self {
        Self { revision: Some(revision), start: key.to_owned() }
    }

    /// Goes on behind `key` at the version of then.
    pub fn anew(key: &str) -> Self {
        Self { revision: None, start: key.to_owned() }
    }

    /// Reads a token, or says what is wrong with it.
    pub fn read(token: &str) -> Result<Self, String> {
        let bytes = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| format!("illegal base64 data at input byte {}", first_illegal_byte(token)))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let key = value["start"].as_str().filter(|key| key.starts_with("/registry/"));
        match (value["v"].as_str(), value["rv"].as_i64(), key) {
            (Some(VERSION), Some(revision), Some(key)) => {
                Ok(Self { revision: u64::try_from(revision).ok(), start: key.to_owned() })
            }
            (Some(VERSION), ..) => Err("the token has no start".to_owned()),
            _ => Err("server does not recognize this encoded version".to_owned()),
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = self.revision.and_then(|revision| i64::try_from(revision).ok()).unwrap_or(-1);
        let token = json!({"v": VERSION, "rv": revision, "start": self.start});
        f.write_str(&URL_SAFE_NO_PAD.encode(token.to_string()))
    }
}

/// Where Go's decoder stops: at the first byte that is no base64, or at the last one where the length
/// cannot be.
fn first_illegal_byte(token: &str) -> usize {
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    token.bytes().position(|b| !is_base64(b)).unwrap_or(token.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        for token in [Token::at(7, "/registry/pods/a/b"), Token::anew("/registry/x")] {
            assert_eq!(Token::read(&token.to_string()), Ok(token));
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let text = |token: &str| Token::read(token).expect_err("no token");
        assert_eq!(text("bogus"), "illegal base64 data at input byte 4");
        assert!(text("a!cd").ends_with("input byte 1"));
        assert!(text(&URL_SAFE_NO_PAD.encode("{}")).contains("does not recognize"));
        assert!(!text("").is_empty());
    }
}
