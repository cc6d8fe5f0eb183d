//! The join token, which a new node shows to get its certificate.
//!
//! A join token is `coracle.<fingerprint of the authority>.<secret>`: the node learns from the
//! fingerprint whether it speaks to the right server before it sends anything else, as k3s does.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::pki::{Pki, write_private};
use super::{BOOTSTRAPPERS, JOINERS, User};

/// The tokens that the server accepts.
#[derive(Debug, Clone)]
pub struct Tokens {
    join_secret: Arc<str>,
}

/// A join token, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// `sha256:<hex>` of the authority's certificate.
    pub fingerprint: String,
    pub secret: String,
}

impl JoinToken {
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.trim().splitn(3, '.');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("coracle"), Some(hash), Some(secret)) if hash.len() == 64 && !secret.is_empty() => {
                Ok(Self { fingerprint: format!("sha256:{hash}"), secret: secret.to_owned() })
            }
            _ => bail!(
                "this is not a join token: expected coracle.<64 hex digits>.<secret>, as in the server's file DATA/token"
            ),
        }
    }
}

impl Tokens {
    /// Reads the join token from `file`, or makes it.
    pub fn open(file: &Path, pki: &Pki) -> Result<Self> {
        let fingerprint = pki.fingerprint();
        if file.exists() {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            if let Ok(token) = JoinToken::parse(&text)
                && token.fingerprint == fingerprint
            {
                return Ok(Self { join_secret: token.secret.into() });
            }
        }
        let secret: String = (0..32).map(|_| format!("{:x}", rand::random_range(0..16u8))).collect();
        let hash = fingerprint.trim_start_matches("sha256:");
        write_private(file, &format!("coracle.{hash}.{secret}\n"))?;
        Ok(Self { join_secret: secret.into() })
    }

    /// Who holds this token; `None` for an unknown one.
    pub fn user(&self, token: &str) -> Option<User> {
        let secret = token.rsplit('.').next().unwrap_or_default();
        same(secret.as_bytes(), self.join_secret.as_bytes())
            .then(|| User::new("system:bootstrap:join", &[BOOTSTRAPPERS, JOINERS]))
    }
}

/// Compares without telling by its time how much was right.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_tokens_are_taken_apart() {
        let hash = "ab".repeat(32);
        let token = JoinToken::parse(&format!("coracle.{hash}.s3cret\n")).expect("a token");
        assert_eq!(token, JoinToken { fingerprint: format!("sha256:{hash}"), secret: "s3cret".into() });
        for wrong in ["", "coracle", "coracle.abc.def", "k10.x.y", &format!("coracle.{hash}.")] {
            assert!(JoinToken::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_whole_secret_counts() {
        let tokens = Tokens { join_secret: "abcdef".into() };
        assert!(tokens.user("coracle.0.abcdef").is_some_and(|user| user.in_group(JOINERS)));
        for wrong in ["", "abcde", "abcdefg", "abcdeg"] {
            assert!(tokens.user(wrong).is_none(), "{wrong}");
        }
    }
}
