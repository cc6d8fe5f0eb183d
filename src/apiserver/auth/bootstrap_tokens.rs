//! Bootstrap tokens: what machines show that have no certificate yet, as kubeadm makes them.
//!
//! A token is `<id>.<secret>`, and a Secret of a type of its own in `kube-system` says whether it holds, until when,
//! and for which groups. Upstream's rules, down to what is refused without a word.

use jiff::Timestamp;
use serde_json::Value;

use super::tokens::same;
use super::{BOOTSTRAPPERS, User};
use crate::kinds::common::text;
use crate::kinds::secret::decoded;

/// Where the Secrets are.
pub const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// A token, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootstrapToken<'a> {
    id: &'a str,
    secret: &'a str,
}

impl<'a> BootstrapToken<'a> {
    /// Six characters, a dot, sixteen; before them perhaps what a joining node looks for in a token of ours:
    /// `coracle.<fingerprint>.`
    pub fn parse(token: &'a str) -> Option<Self> {
        let ours = token.strip_prefix("coracle.").and_then(|rest| rest.split_once('.'));
        let (id, secret) = ours.map_or(token, |(_, token)| token).split_once('.')?;
        let is = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        (is(id, 6) && is(secret, 16)).then_some(Self { id, secret })
    }

    /// The name of the Secret that knows it.
    pub fn secret_name(self) -> String {
        format!("bootstrap-token-{}", self.id)
    }

    /// Who holds the token, if `object`, the Secret, lets them be somebody `now`.
    pub fn user(self, object: &Value, now: Timestamp) -> Result<User, &'static str> {
        let data = |key: &str| decoded(object, key).unwrap_or_default();
        if text(object, "/type") != TYPE || !object["metadata"]["deletionTimestamp"].is_null() {
            return Err("the bootstrap token is not known");
        }
        if !same(data("token-secret").as_bytes(), self.secret.as_bytes()) || data("token-id") != self.id {
            return Err("the bootstrap token is not known");
        }
        let expiration = data("expiration");
        // One that cannot be read has passed.
        if !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |end| end <= now) {
            return Err("the bootstrap token has expired");
        }
        if data("usage-bootstrap-authentication") != "true" {
            return Err("the bootstrap token is not for authentication");
        }
        let extra = data("auth-extra-groups");
        let mut groups: Vec<&str> = extra.split(',').filter(|group| !extra.is_empty() || !group.is_empty()).collect();
        if !groups.iter().all(|group| is_group(group)) {
            return Err("the bootstrap token is for groups that no token may be for");
        }
        groups.insert(0, BOOTSTRAPPERS);
        Ok(User::new(&format!("system:bootstrap:{}", self.id), &groups))
    }
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`
fn is_group(group: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
        rest.len() <= 256 && rest.ends_with(alphanumeric) && rest.chars().all(|c| alphanumeric(c) || ":-".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    const TOKEN: &str = "abcdef.0123456789abcdef";

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut object = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": TYPE, "data": {}});
        let usual = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2030-01-01T00:00:00Z"),
        ];
        for (key, value) in usual.iter().chain(changes) {
            object["data"][*key] = STANDARD.encode(value).into();
        }
        object
    }

    fn ask(object: &Value) -> Result<Vec<String>, &'static str> {
        let token = BootstrapToken::parse(TOKEN).expect("a token");
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        token.user(object, now).map(|user| user.groups.iter().map(|group| group.to_string()).collect())
    }

    #[test]
    fn a_token_is_six_characters_a_dot_and_sixteen() {
        let with_pin = format!("coracle.{}.{TOKEN}", "ab".repeat(32));
        for good in [TOKEN, with_pin.as_str()] {
            assert_eq!(
                BootstrapToken::parse(good).map(BootstrapToken::secret_name).as_deref(),
                Some("bootstrap-token-abcdef")
            );
        }
        for bad in
            ["", "abcdef", "abcdeF.0123456789abcdef", "abcde.0123456789abcdef", "abcdef.0123456789abcde", "a.b.c"]
        {
            assert_eq!(BootstrapToken::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_secret_says_who_it_is() {
        assert_eq!(ask(&secret(&[])), Ok(vec![BOOTSTRAPPERS.to_owned(), "system:authenticated".to_owned()]));
        let groups = "system:bootstrappers:a,system:bootstrappers:kubeadm:default-node-token";
        let groups = ask(&secret(&[("auth-extra-groups", groups)])).expect("somebody");
        assert_eq!(groups[1..3], ["system:bootstrappers:a", "system:bootstrappers:kubeadm:default-node-token"]);
        assert!(ask(&secret(&[("expiration", "")])).is_ok(), "one without an end");
    }

    #[test]
    fn the_secret_says_no() {
        for (key, value) in [
            ("token-secret", "0123456789abcdee"),
            ("token-id", "abcdee"),
            ("expiration", "2025-12-31T23:59:59Z"),
            ("expiration", "tomorrow"),
            ("usage-bootstrap-authentication", "false"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:a,"),
            ("auth-extra-groups", "system:bootstrappers:a-"),
        ] {
            assert!(ask(&secret(&[(key, value)])).is_err(), "{key}: {value}");
        }
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert!(ask(&other).is_err());
        let mut dying = secret(&[]);
        dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert!(ask(&dying).is_err());
    }
}
