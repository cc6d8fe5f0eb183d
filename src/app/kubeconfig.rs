//! The context `coracle` in the user's kubeconfig.
//!
//! The file belongs to the user. What we do not understand we do not touch: a file that is not a
//! kubeconfig is left as it is and the error says so; entries of other clusters stay in their order; the
//! new text replaces the old one in a single rename, with the old one's mode, through symbolic links.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use serde_yaml::{Mapping, Value};

/// The name of our cluster, user and context.
pub const CONTEXT: &str = "coracle";

/// What the context points at; all certificates PEM.
#[derive(Debug, Clone)]
pub struct Access {
    /// `https://127.0.0.1:6443`
    pub server: String,
    pub ca_pem: String,
    pub cert_pem: String,
    pub key_pem: String,
}

impl Access {
    /// What a kubeconfig that [`merge`] made from nothing gives access to.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let config: Value = serde_yaml::from_str(&text).with_context(|| format!("{} is not YAML", path.display()))?;
        let field = |section: &str, kind: &str, name: &str| -> Result<String> {
            let value = config[section][0][kind][name].as_str();
            value.map(str::to_owned).with_context(|| format!("{} has no {name}", path.display()))
        };
        let pem = |section: &str, kind: &str, name: &str| -> Result<String> {
            let bytes = base64::engine::general_purpose::STANDARD.decode(field(section, kind, name)?)?;
            Ok(String::from_utf8(bytes)?)
        };
        Ok(Self {
            server: field("clusters", "cluster", "server")?,
            ca_pem: pem("clusters", "cluster", "certificate-authority-data")?,
            cert_pem: pem("users", "user", "client-certificate-data")?,
            key_pem: pem("users", "user", "client-key-data")?,
        })
    }
}

/// The user's file: the first of `$KUBECONFIG`, else `~/.kube/config`.
pub fn default_path() -> Result<PathBuf> {
    if let Some(list) = std::env::var_os("KUBECONFIG")
        && let Some(first) = std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty())
    {
        return Ok(first);
    }
    let home =
        std::env::var_os("HOME").context("HOME is not set: say where the kubeconfig is with --kubeconfig FILE")?;
    Ok(PathBuf::from(home).join(".kube/config"))
}

/// Puts the context into `path`, made if need be, and makes it the current one.
pub fn install(path: &Path, access: &Access) -> Result<()> {
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (existing, mode) = match std::fs::read_to_string(&target) {
        Ok(text) => (Some(text), std::fs::metadata(&target)?.permissions().mode()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (None, 0o600),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", target.display())),
    };
    let text = merge(existing.as_deref(), access)
        .with_context(|| format!("{} was left as it is; give another file with --kubeconfig FILE", target.display()))?;
    if existing.as_deref() == Some(text.as_str()) {
        return Ok(());
    }
    replace(&target, &text, mode)
}

fn replace(target: &Path, text: &str, mode: u32) -> Result<()> {
    let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut file =
        tempfile::NamedTempFile::new_in(dir).with_context(|| format!("cannot write in {}", dir.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode & 0o777))?;
    file.as_file().sync_all()?;
    file.persist(target).with_context(|| format!("cannot write {}", target.display()))?;
    Ok(())
}

/// The text of a kubeconfig that has our context besides what it had.
pub fn merge(existing: Option<&str>, access: &Access) -> Result<String> {
    let mut config = match existing {
        Some(text) if !text.trim().is_empty() => match serde_yaml::from_str(text).context("it is not YAML")? {
            Value::Mapping(mapping) => mapping,
            _ => bail!("it is not a kubeconfig"),
        },
        _ => Mapping::new(),
    };
    config.entry("apiVersion".into()).or_insert_with(|| "v1".into());
    config.entry("kind".into()).or_insert_with(|| "Config".into());
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    put(
        &mut config,
        "clusters",
        "cluster",
        mapping(&[("certificate-authority-data", encode(&access.ca_pem)), ("server", access.server.clone())]),
    )?;
    put(&mut config, "contexts", "context", mapping(&[("cluster", CONTEXT.into()), ("user", CONTEXT.into())]))?;
    put(
        &mut config,
        "users",
        "user",
        mapping(&[("client-certificate-data", encode(&access.cert_pem)), ("client-key-data", encode(&access.key_pem))]),
    )?;
    config.insert("current-context".into(), CONTEXT.into());
    Ok(serde_yaml::to_string(&config)?)
}

fn mapping(entries: &[(&str, String)]) -> Value {
    Value::Mapping(entries.iter().map(|(key, value)| (Value::from(*key), Value::from(value.as_str()))).collect())
}

/// Replaces our entry of the list `section`, or adds it.
fn put(config: &mut Mapping, section: &str, kind: &str, value: Value) -> Result<()> {
    let list = config.entry(section.into()).or_insert(Value::Null);
    if list.is_null() {
        *list = Value::Sequence(Vec::new());
    }
    let Value::Sequence(list) = list else { bail!("its `{section}` is not a list") };
    let entry: Mapping =
        [(Value::from("name"), Value::from(CONTEXT)), (Value::from(kind), value)].into_iter().collect();
    match list.iter_mut().find(|entry| entry.get("name").and_then(Value::as_str) == Some(CONTEXT)) {
        Some(old) => *old = entry.into(),
        None => list.push(entry.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access {
            server: "https://127.0.0.1:6443".into(),
            ca_pem: "ca".into(),
            cert_pem: "cert".into(),
            key_pem: "key".into(),
        }
    }

    const OTHER: &str = "apiVersion: v1\nkind: Config\nclusters:\n- name: prod\n  cluster: {server: https://prod}\nusers:\n- name: me\n  user: {token: t}\ncontexts:\n- name: prod\n  context: {cluster: prod, user: me, namespace: x}\ncurrent-context: prod\npreferences: {colors: true}\n";

    #[test]
    fn an_empty_file_becomes_a_kubeconfig() {
        for empty in [None, Some(""), Some("\n")] {
            let text = merge(empty, &access()).expect("merged");
            let config: kube::config::Kubeconfig = serde_yaml::from_str(&text).expect("a kubeconfig");
            assert_eq!(config.current_context.as_deref(), Some(CONTEXT));
            assert_eq!(config.clusters.len(), 1);
        }
    }

    #[test]
    fn other_clusters_stay_as_they_are() {
        let text = merge(Some(OTHER), &access()).expect("merged");
        let before: Value = serde_yaml::from_str(OTHER).expect("yaml");
        let after: Value = serde_yaml::from_str(&text).expect("yaml");
        for section in ["clusters", "users", "contexts"] {
            assert_eq!(after[section][0], before[section][0], "{section}");
            assert_eq!(after[section][1]["name"], Value::from(CONTEXT));
        }
        assert_eq!(after["preferences"], before["preferences"]);
    }

    #[test]
    fn merging_twice_changes_nothing() {
        let once = merge(Some(OTHER), &access()).expect("merged");
        assert_eq!(merge(Some(&once), &access()).expect("merged"), once);
    }

    #[test]
    fn what_is_no_kubeconfig_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        for text in ["- a\n- b\n", "just text", "clusters: {a: b}\n", "a: [\n"] {
            let file = dir.path().join("config");
            std::fs::write(&file, text).expect("written");
            assert!(install(&file, &access()).is_err(), "{text}");
            assert_eq!(std::fs::read_to_string(&file).expect("read"), text);
        }
    }

    #[test]
    fn the_mode_and_a_symbolic_link_survive() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::write(&file, OTHER).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("mode");
        std::os::unix::fs::symlink(&file, &link).expect("link");
        install(&link, &access()).expect("installed");
        assert!(std::fs::symlink_metadata(&link).expect("link").is_symlink());
        assert_eq!(std::fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o640);
    }
}
