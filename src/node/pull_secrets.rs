//! The accounts at registries that a pod brings: its `imagePullSecrets`. Those of its ServiceAccount
//! were written into it when it was admitted.

use k8s_openapi::api::core::v1 as core;

use super::context::Context;
use super::objects::{Kind, Lookup, Name};
use super::plan::Index;
use super::pod::Note;
use crate::oci::Credentials;

/// The types of Secret that hold accounts, by the key of their value.
const KEYS: &[&str] = &[".dockerconfigjson", ".dockercfg"];

/// Reads the pod's secrets. One that is no use holds nothing up: an event says so, and the registry may
/// well give the image to anybody.
pub async fn credentials(context: &Context, pod: &core::Pod, index: Index) -> Credentials {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let (mut credentials, mut unusable) = (Credentials::default(), Vec::new());
    for name in secrets.map(|secret| &secret.name).filter(|name| !name.is_empty()) {
        let object = Name { kind: Kind::Secret, namespace: namespace.to_owned(), name: name.clone() };
        match read(&context.objects.track(&object).get().await) {
            Ok(more) => credentials.extend(more),
            Err(why) => unusable.push(format!("{name} ({why})")),
        }
    }
    if !unusable.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            unusable.join(", ")
        );
        let reason = "FailedToRetrieveImagePullSecret";
        context.tell(pod, &Note { index: Some(index), warning: true, reason, message });
    }
    credentials
}

fn read(lookup: &Lookup) -> Result<Credentials, String> {
    let data = match lookup {
        Lookup::Found(data) => data,
        Lookup::Missing => return Err("not found".to_owned()),
        Lookup::Pending => return Err("the API server did not answer in time".to_owned()),
    };
    let value = KEYS.iter().find_map(|key| data.get(*key));
    let value = value
        .ok_or_else(|| "it has no key .dockerconfigjson: its type must be kubernetes.io/dockerconfigjson".to_owned())?;
    Credentials::parse(value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::objects::Data;
    use super::*;

    #[test]
    fn a_secret_is_read_or_what_is_wrong_with_it_is_said() {
        let found =
            |key: &str, value: &'static str| Lookup::Found(Arc::new(Data::from([(key.to_owned(), value.into())])));
        assert!(read(&found(".dockerconfigjson", r#"{"auths": {}}"#)).is_ok());
        assert!(read(&found(".dockercfg", "{}")).is_ok());
        for (lookup, words) in [
            (found("password", "x"), ".dockerconfigjson"),
            (Lookup::Missing, "not found"),
            (found(".dockercfg", "{"), "EOF"),
        ] {
            let why = read(&lookup).err().unwrap_or_default();
            assert!(why.contains(words), "{why}");
        }
    }
}
