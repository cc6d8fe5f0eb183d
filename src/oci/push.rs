//! Pushing: a module as an OCI Wasm artifact, after the CNCF's format
//! (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>).

use oci_client::Reference;
use oci_client::client::{Config, ImageLayer};
use oci_client::manifest::OciImageManifest;
use serde_json::{Value, json};

use super::error::Error;
use super::layers::WASM_LAYER;
use super::{Credentials, Trust, access, pull, sha256};

const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// What the artifact's configuration tells of the module.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// RFC 3339.
    pub created: String,
    /// A component's interfaces; `None` for a core module.
    pub component: Option<Component>,
}

#[derive(Debug, Clone)]
pub struct Component {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// The world it is made for, where its exports tell.
    pub target: Option<String>,
}

/// What the registry has now.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The manifest's digest.
    pub digest: String,
}

/// Puts the module under the reference, with the first account for it.
pub async fn push(
    trust: &Trust,
    reference: &Reference,
    credentials: &Credentials,
    module: Vec<u8>,
    artifact: &Artifact,
) -> Result<Pushed, Error> {
    let config = serde_json::to_vec(&configuration(artifact, &sha256(&module))).unwrap_or_default();
    let config = Config::new(config, WASM_CONFIG.to_owned(), None);
    let layers = [ImageLayer::new(module, WASM_LAYER.to_owned(), None)];
    let mut manifest = OciImageManifest::build(&layers, &config, None);
    manifest.media_type = Some(oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.to_owned());
    let digest = sha256(&serde_json::to_vec(&manifest).unwrap_or_default());
    let auth = credentials.matching(reference).swap_remove(0);
    let client = access::open(trust, reference.resolve_registry()).await?;
    pull::authorize(&client, reference, &auth).await?;
    let pushed = client.push(reference, &layers, config, &auth, Some(manifest)).await;
    let url = pushed.map_err(|error| Error::answered(reference, &error))?.manifest_url;
    // A registry that tells the digest tells it in the manifest's address.
    let told = url.rsplit('/').next().filter(|last| last.starts_with("sha256:")).map(str::to_owned);
    Ok(Pushed { digest: told.unwrap_or(digest) })
}

fn configuration(artifact: &Artifact, layer: &str) -> Value {
    let mut config = json!({
        "created": artifact.created,
        "architecture": "wasm",
        "os": if artifact.component.is_some() { "wasip2" } else { "wasip1" },
        "layerDigests": [layer],
    });
    if let Some(component) = &artifact.component {
        config["component"] =
            json!({"exports": component.exports, "imports": component.imports, "target": component.target});
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_the_cncfs() {
        let created = "2026-01-01T00:00:00Z".to_owned();
        let module = configuration(&Artifact { created: created.clone(), component: None }, "sha256:aa");
        assert_eq!(
            module,
            json!({"created": created, "architecture": "wasm", "os": "wasip1", "layerDigests": ["sha256:aa"]})
        );
        let component =
            Component { imports: vec!["wasi:io/poll@0.2.0".into()], exports: vec!["a:b/c".into()], target: None };
        let config = configuration(&Artifact { created, component: Some(component) }, "sha256:aa");
        assert_eq!(config["os"], "wasip2");
        assert_eq!(config["component"]["imports"][0], "wasi:io/poll@0.2.0");
    }
}
