//! Credentials as Docker writes them, and which of them are for a reference. Pure, save for reading the
//! user's own file.

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use oci_client::Reference;
use oci_client::secrets::RegistryAuth;
use serde_json::Value;

/// Accounts at registries.
#[derive(Clone, Default)]
pub struct Credentials {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    /// `HOST[:PORT][/PATH]`; a part of the host may be `*`.
    place: String,
    auth: RegistryAuth,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.place)).finish()
    }
}

impl Credentials {
    /// One account for everything of `registry`.
    pub fn account(registry: &str, user: String, password: String) -> Credentials {
        Credentials { entries: vec![Entry { place: registry.to_owned(), auth: RegistryAuth::Basic(user, password) }] }
    }

    /// Reads `.dockerconfigjson` (or the older `.dockercfg`, which is its `auths` alone).
    pub fn parse(json: &[u8]) -> Result<Credentials, String> {
        let value: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let auths = value.get("auths").unwrap_or(&value);
        let auths = auths.as_object().ok_or("it has no object \"auths\"")?;
        let entries = auths
            .iter()
            .filter_map(|(place, account)| Some(Entry { place: normal_place(place), auth: account_of(account)? }));
        Ok(Credentials { entries: entries.collect() })
    }

    pub fn extend(&mut self, more: Credentials) {
        self.entries.extend(more.entries);
    }

    /// User names and passwords for a reference as a pod writes it, the most particular place first.
    pub fn accounts(&self, reference: &str) -> Vec<(String, String)> {
        let Ok(reference) = reference.parse::<Reference>() else { return Vec::new() };
        let basic = self.matching(&reference).into_iter().filter_map(|auth| match auth {
            RegistryAuth::Basic(user, password) => Some((user, password)),
            RegistryAuth::Anonymous | RegistryAuth::Bearer(_) => None,
        });
        basic.collect()
    }

    /// Those for the reference, the most particular place first; nobody's if there are none.
    pub(super) fn matching(&self, reference: &Reference) -> Vec<RegistryAuth> {
        let mut found: Vec<&Entry> = self.entries.iter().filter(|entry| covers(&entry.place, reference)).collect();
        found.sort_by_key(|entry| std::cmp::Reverse(entry.place.len()));
        if found.is_empty() { vec![RegistryAuth::Anonymous] } else { found.iter().map(|e| e.auth.clone()).collect() }
    }
}

/// A name for an account that gives nothing of it away; `None` for nobody's.
pub(super) fn fingerprint(registry: &str, auth: &RegistryAuth) -> Option<String> {
    let secret = match auth {
        RegistryAuth::Anonymous => return None,
        RegistryAuth::Basic(user, password) => format!("{registry}\0{user}\0{password}"),
        RegistryAuth::Bearer(token) => format!("{registry}\0\0{token}"),
    };
    Some(super::sha256(secret.as_bytes()))
}

/// What `docker login` keeps for this user: `$DOCKER_CONFIG` or `~/.docker`. A missing file is no account.
pub fn docker_config() -> Result<Credentials, String> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let Some(dir) = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(home) else {
        return Ok(Credentials::default());
    };
    let file = dir.join("config.json");
    match std::fs::read(&file) {
        Ok(text) => Credentials::parse(&text).or_else(|why| match why.contains("auths") {
            true => Ok(Credentials::default()),
            false => Err(format!("{}: {why}", file.display())),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Credentials::default()),
        Err(error) => Err(format!("cannot read {}: {error}", file.display())),
    }
}

/// Without scheme and API version, and Docker Hub by one name.
fn normal_place(place: &str) -> String {
    let place = place.strip_prefix("https://").or_else(|| place.strip_prefix("http://")).unwrap_or(place);
    let place = place.trim_end_matches('/');
    let place = place.strip_suffix("/v1").or_else(|| place.strip_suffix("/v2")).unwrap_or(place);
    match place {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        place => place.to_owned(),
    }
}

fn account_of(account: &Value) -> Option<RegistryAuth> {
    let text = |field: &str| account[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    if let Some(token) = text("registrytoken") {
        return Some(RegistryAuth::Bearer(token));
    }
    if let Some(auth) = text("auth") {
        let decoded = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, password) = decoded.split_once(':')?;
        return Some(RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()));
    }
    Some(RegistryAuth::Basic(text("username")?, text("password")?))
}

fn covers(place: &str, reference: &Reference) -> bool {
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let path_fits = path.is_empty()
        || reference.repository() == path
        || reference.repository().strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    path_fits && host_fits(host, reference.registry())
}

/// As upstream: part by part, `*` for any one part, the port literally.
fn host_fits(pattern: &str, host: &str) -> bool {
    let split = |text: &str| match text.split_once(':') {
        Some((name, port)) => (name.to_owned(), port.to_owned()),
        None => (text.to_owned(), String::new()),
    };
    let ((pattern, pattern_port), (host, port)) = (split(pattern), split(host));
    let (wanted, found): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern_port == port
        && wanted.len() == found.len()
        && wanted.iter().zip(found).all(|(wanted, found)| *wanted == "*" || *wanted == found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(credentials: &Credentials, reference: &str) -> Vec<String> {
        let reference: Reference = reference.parse().expect("a reference");
        let name = |auth: RegistryAuth| match auth {
            RegistryAuth::Basic(user, password) => format!("{user}:{password}"),
            RegistryAuth::Bearer(token) => format!("bearer {token}"),
            RegistryAuth::Anonymous => "nobody".to_owned(),
        };
        credentials.matching(&reference).into_iter().map(name).collect()
    }

    #[test]
    fn the_account_for_a_reference_is_the_most_particular() {
        let json = br#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnA6cQ=="},
            "registry.example:5000": {"username": "all", "password": "a"},
            "registry.example:5000/team": {"username": "team", "password": "t"},
            "*.cloud.example": {"registrytoken": "tok"},
            "broken.example": {"auth": "%%%"}
        }}"#;
        let known = Credentials::parse(json).expect("parsed");
        let cases: &[(&str, &[&str])] = &[
            ("hello:1", &["hub:p:q"]),
            ("registry.example:5000/team/app", &["team:t", "all:a"]),
            ("registry.example:5000/teamwork/app", &["all:a"]),
            ("registry.example/team/app", &["nobody"]),
            ("eu.cloud.example/app", &["bearer tok"]),
            ("a.eu.cloud.example/app", &["nobody"]),
            ("broken.example/app", &["nobody"]),
        ];
        for (reference, wanted) in cases {
            assert_eq!(accounts(&known, reference), *wanted, "{reference}");
        }
    }

    #[test]
    fn the_older_form_is_read_and_rubbish_is_not() {
        let old = Credentials::parse(br#"{"registry.example": {"username": "u", "password": "p"}}"#).expect("parsed");
        assert_eq!(accounts(&old, "registry.example/app"), ["u:p"]);
        assert!(Credentials::parse(b"rubbish").is_err());
        assert!(Credentials::parse(br#"{"auths": 1}"#).is_err());
        assert_eq!(format!("{old:?}"), r#"["registry.example"]"#, "no password is ever shown");
    }
}
