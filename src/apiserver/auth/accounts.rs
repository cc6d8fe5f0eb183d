//! Tokens of service accounts: signed here, and believed only while what they speak of exists.
//!
//! A token is a JWT signed with ES256, and with nothing else: which algorithm counts is not the token's
//! to say. It names an account and, mostly, the pod that it was made for; [`check`] holds both against
//! the objects as they are, so that deleting either ends the token at once. The key is made at the first
//! start; whoever is to verify tokens without asking finds its public half by OpenID discovery.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::User;
use super::pki::write_private;
use crate::kinds::common::text;

/// Who signs, and for whom unless a token says otherwise: the API server by its name in the cluster.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The issuer of tokens that are kept in Secrets and never end.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The longest token that is looked at; ours have some 1,200 bytes.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// How far clocks may differ.
const LEEWAY_SECONDS: i64 = 30;

/// The key that signs the tokens.
pub struct AccountKey {
    pair: EcdsaKeyPair,
    id: String,
    random: SystemRandom,
    /// What tokens say whose signature has been found good, by their digest. A signature stays good, and to check it
    /// costs as much as a whole request; whether the token is believed is looked at each time.
    good: Mutex<HashMap<[u8; 32], Arc<Value>>>,
}

/// More than that are begun anew with.
const MAX_GOOD: usize = 4096;

impl AccountKey {
    /// Reads the key from `file`, or makes it.
    pub fn open(file: &Path) -> Result<Self> {
        if !file.exists() {
            let document = generate()?;
            write_private(file, &pem(&document))?;
        }
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        let document = base64::engine::general_purpose::STANDARD
            .decode(body)
            .with_context(|| format!("{} is not PEM", file.display()))?;
        Self::read(&document).with_context(|| {
            format!("{} holds no P-256 key; remove it and a new one is made, which ends all tokens", file.display())
        })
    }

    /// A key that is kept nowhere: tokens end with the process.
    pub fn in_memory() -> Result<Self> {
        Self::read(&generate()?)
    }

    fn read(document: &[u8]) -> Result<Self> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document, &random)
            .map_err(|error| anyhow!("the key is refused: {error}"))?;
        let id = BASE64.encode(Sha256::digest(pair.public_key().as_ref()));
        Ok(Self { pair, id, random, good: Mutex::default() })
    }

    /// A token that says `claims`.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let content = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.pair.sign(&self.random, content.as_bytes()).map_err(|_| anyhow!("cannot sign"))?;
        Ok(format!("{content}.{}", BASE64.encode(signature)))
    }

    /// What a token says, if this key has signed it.
    pub fn verify(&self, token: &str) -> Option<Arc<Value>> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let good = || self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let known = good().get(&digest).cloned();
        if known.is_some() {
            return known;
        }
        let claims = Arc::new(self.check_signature(token)?);
        let mut good = good();
        if good.len() >= MAX_GOOD {
            good.clear();
        }
        good.insert(digest, claims.clone());
        Some(claims)
    }

    fn check_signature(&self, token: &str) -> Option<Value> {
        let (content, signature) = token.rsplit_once('.')?;
        let signature = BASE64.decode(signature).ok()?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key());
        key.verify(content.as_bytes(), &signature).ok()?;
        let (_, claims) = content.split_once('.')?;
        serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()
    }

    /// The public half as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let coordinate = |from: usize| BASE64.encode(point.get(from..from + 32).unwrap_or_default());
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": coordinate(1), "y": coordinate(33),
        }]})
    }
}

fn generate() -> Result<Vec<u8>> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| anyhow!("cannot make a key: the system gives no randomness"))?;
    Ok(document.as_ref().to_vec())
}

fn pem(document: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(document);
    let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

/// The discovery document of the issuer.
pub fn openid_configuration() -> Value {
    json!({
        "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// What a token is made for.
pub struct Bound<'a> {
    /// The ServiceAccount.
    pub account: &'a Value,
    /// The object whose end is the token's end, with the word of the claim: `pod`, `secret`, `node`.
    pub object: Option<(&'static str, &'a Value)>,
    pub audiences: &'a [String],
    pub seconds: i64,
}

/// The claims of a token that is made now.
pub fn claims(bound: &Bound<'_>, now: Timestamp) -> Value {
    let (namespace, name) = (text(bound.account, "/metadata/namespace"), text(bound.account, "/metadata/name"));
    let reference = |object: &Value| json!({"name": object["metadata"]["name"], "uid": object["metadata"]["uid"]});
    let mut own = json!({"namespace": namespace, "serviceaccount": reference(bound.account)});
    if let Some((word, object)) = bound.object {
        own[word] = reference(object);
        if word == "pod" && object["spec"]["nodeName"].is_string() {
            own["node"] = json!({"name": object["spec"]["nodeName"]});
        }
    }
    let now = now.as_second();
    json!({
        "aud": bound.audiences, "exp": now + bound.seconds, "iat": now, "nbf": now, "iss": ISSUER,
        "jti": uuid::Uuid::new_v4().to_string(), "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io": own,
    })
}

/// The claims of a token that is kept in a Secret.
pub fn legacy_claims(account: &Value, secret: &str) -> Value {
    let (namespace, name) = (text(account, "/metadata/namespace"), text(account, "/metadata/name"));
    json!({
        "iss": LEGACY_ISSUER, "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account["metadata"]["uid"],
    })
}

/// Who a token speaks for, and to whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Believed {
    pub user: User,
    /// The audiences of those asked for that the token has.
    pub audiences: Vec<String>,
}

/// Looks an object up: `kind` is `serviceaccounts`, `pods`, `secrets` or `nodes`.
pub type Find<'a> = dyn Fn(&str, &str, &str) -> Option<Value> + 'a;

/// Believes the claims of a token that was signed here, or says why not. `audiences` are those of whom
/// asks; none stands for the API server itself.
pub fn check(
    token: &str,
    claims: &Value,
    audiences: &[String],
    find: &Find<'_>,
    now: Timestamp,
) -> Result<Believed, &'static str> {
    if claims["iss"] == LEGACY_ISSUER {
        return check_legacy(token, claims, audiences, find);
    }
    if claims["iss"] != ISSUER {
        return Err("the token has another issuer");
    }
    let (now, time) = (now.as_second(), |claim: &str| claims[claim].as_i64());
    if time("exp").is_none_or(|end| end + LEEWAY_SECONDS <= now) {
        return Err("service account token has expired");
    }
    if time("nbf").is_some_and(|start| start - LEEWAY_SECONDS > now) {
        return Err("service account token is not valid yet");
    }
    let of_token: Vec<&str> = claims["aud"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let own = [ISSUER.to_owned()];
    let asked = if audiences.is_empty() { &own } else { audiences };
    let audiences: Vec<String> = asked.iter().filter(|wanted| of_token.contains(&wanted.as_str())).cloned().collect();
    if audiences.is_empty() {
        return Err("token audiences are invalid for this server");
    }
    let own = &claims["kubernetes.io"];
    let (namespace, name) = (text(own, "/namespace"), text(own, "/serviceaccount/name"));
    let account = find("serviceaccounts", namespace, name).ok_or("the service account has been deleted")?;
    if account["metadata"]["uid"] != own["serviceaccount"]["uid"] {
        return Err("the service account has been deleted and made anew");
    }
    let mut user = account_user(namespace, name, text(&account, "/metadata/uid"));
    if let Some(id) = claims["jti"].as_str() {
        user = user.with_extra("authentication.kubernetes.io/credential-id", &format!("JTI={id}"));
    }
    for (word, kind) in [("pod", "pods"), ("secret", "secrets")] {
        if own[word].is_null() {
            continue;
        }
        let object = find(kind, namespace, text(&own[word], "/name")).ok_or("what the token is bound to is gone")?;
        if object["metadata"]["uid"] != own[word]["uid"] {
            return Err("what the token is bound to has been made anew");
        }
        if word == "pod" {
            user = user
                .with_extra("authentication.kubernetes.io/pod-name", text(&own[word], "/name"))
                .with_extra("authentication.kubernetes.io/pod-uid", text(&own[word], "/uid"));
        }
    }
    if let Some(node) = own["node"]["name"].as_str() {
        user = user.with_extra("authentication.kubernetes.io/node-name", node);
    }
    Ok(Believed { user, audiences })
}

/// A token in a Secret holds as long as the Secret holds it.
fn check_legacy(token: &str, claims: &Value, audiences: &[String], find: &Find<'_>) -> Result<Believed, &'static str> {
    if !audiences.is_empty() && !audiences.iter().any(|audience| audience == ISSUER) {
        return Err("token audiences are invalid for this server");
    }
    let claim = |name: &str| claims[format!("kubernetes.io/serviceaccount/{name}")].as_str().unwrap_or_default();
    let (namespace, name) = (claim("namespace"), claim("service-account.name"));
    let account = find("serviceaccounts", namespace, name).ok_or("the service account has been deleted")?;
    if text(&account, "/metadata/uid") != claim("service-account.uid") {
        return Err("the service account has been deleted and made anew");
    }
    let secret = find("secrets", namespace, claim("secret.name")).ok_or("the token's secret has been deleted")?;
    let kept = base64::engine::general_purpose::STANDARD.encode(token);
    if text(&secret, "/data/token") != kept {
        return Err("the token's secret holds another token");
    }
    let user = account_user(namespace, name, text(&account, "/metadata/uid"));
    Ok(Believed { user, audiences: vec![ISSUER.to_owned()] })
}

/// The identity of a service account.
pub fn account_user(namespace: &str, name: &str, uid: &str) -> User {
    let mut user = User::new(
        &format!("system:serviceaccount:{namespace}:{name}"),
        &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
    );
    user.uid = uid.into();
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Value {
        json!({"metadata": {"namespace": "shop", "name": "robot", "uid": "u1"}})
    }

    fn pod(uid: &str) -> Value {
        json!({"metadata": {"name": "p", "uid": uid}, "spec": {"nodeName": "n1"}})
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_token_is_believed_while_what_it_speaks_of_exists() {
        let key = AccountKey::in_memory().expect("a key");
        let (account, pod_now) = (account(), pod("p1"));
        let audiences = [ISSUER.to_owned(), "vault".to_owned()];
        let bound = Bound { account: &account, object: Some(("pod", &pod_now)), audiences: &audiences, seconds: 600 };
        let token = key.sign(&claims(&bound, at(1000))).expect("a token");
        let said = key.verify(&token).expect("our own");
        let ask = |now: i64, audiences: &[&str], pod: Option<Value>, account: Option<Value>| {
            let audiences: Vec<String> = audiences.iter().map(|a| (*a).to_owned()).collect();
            let find = |kind: &str, _: &str, _: &str| if kind == "pods" { pod.clone() } else { account.clone() };
            check(&token, &said, &audiences, &find, at(now))
        };
        let good = || Some(account.clone());
        let believed = ask(1100, &[], Some(pod("p1")), good()).expect("all is well");
        assert_eq!(&*believed.user.name, "system:serviceaccount:shop:robot");
        assert!(believed.user.in_group("system:serviceaccounts:shop"));
        assert_eq!(believed.user.extra["authentication.kubernetes.io/node-name"], ["n1"]);
        assert_eq!(ask(1100, &["vault", "x"], Some(pod("p1")), good()).map(|b| b.audiences), Ok(vec!["vault".into()]));
        assert!(ask(1100, &["x"], Some(pod("p1")), good()).is_err());
        assert!(ask(1700, &[], Some(pod("p1")), good()).is_err(), "it has expired");
        assert!(ask(900, &[], Some(pod("p1")), good()).is_err(), "it does not hold yet");
        assert!(ask(1100, &[], Some(pod("p2")), good()).is_err(), "another pod");
        assert!(ask(1100, &[], None, good()).is_err(), "no pod");
        assert!(ask(1100, &[], Some(pod("p1")), None).is_err(), "no account");
    }

    #[test]
    fn a_token_in_a_secret_holds_as_long_as_the_secret_holds_it() {
        let key = AccountKey::in_memory().expect("a key");
        let claims = legacy_claims(&account(), "s");
        let token = key.sign(&claims).expect("a token");
        let secret = |token: &str| {
            let data = base64::engine::general_purpose::STANDARD.encode(token);
            json!({"metadata": {"name": "s"}, "data": {"token": data}})
        };
        let ask = |secret: Option<Value>| {
            let find = |kind: &str, _: &str, _: &str| if kind == "secrets" { secret.clone() } else { Some(account()) };
            check(&token, &claims, &[], &find, at(9_999_999_999))
        };
        assert_eq!(
            ask(Some(secret(&token))).map(|b| b.user.name.to_string()),
            Ok("system:serviceaccount:shop:robot".into())
        );
        assert!(ask(Some(secret("another"))).is_err());
        assert!(ask(None).is_err());
    }

    #[test]
    fn only_our_own_signature_counts() {
        let (key, other) = (AccountKey::in_memory().expect("a key"), AccountKey::in_memory().expect("a key"));
        let token = key.sign(&json!({"sub": "x"})).expect("a token");
        for _ in 0..2 {
            assert_eq!(key.verify(&token).as_deref(), Some(&json!({"sub": "x"})));
        }
        assert_eq!(other.verify(&token), None);
        let parts: Vec<&str> = token.split('.').collect();
        let unsigned = format!("{}.{}.", BASE64.encode(r#"{"alg":"none"}"#), parts[1]);
        let forged = format!("{}.{}.{}", parts[0], BASE64.encode(r#"{"sub":"admin"}"#), parts[2]);
        for wrong in [unsigned.as_str(), forged.as_str(), "", "a.b.c", ".", "coracle.x.y", &"x".repeat(1 << 20)] {
            assert_eq!(key.verify(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_key_is_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("sa.key");
        let first = AccountKey::open(&file).expect("a key");
        let second = AccountKey::open(&file).expect("the same key");
        assert!(second.verify(&first.sign(&json!({})).expect("a token")).is_some());
        assert_eq!(first.jwks(), second.jwks());
    }
}
