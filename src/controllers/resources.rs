//! Which resource types the server has, asked of the server: so that garbage collection and the end
//! of a namespace cover kinds that this program has never heard of.

use http::Request;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};
use kube::Client;
use serde::de::DeserializeOwned;

use crate::reconcile::ResourceType;

/// Asks for an object's metadata alone, of a server that can.
pub(super) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json";
/// The same for a list.
pub(super) const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json";

/// A resource type and what can be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Discovered {
    pub resource: ResourceType,
    pub namespaced: bool,
    verbs: Vec<String>,
}

impl Discovered {
    /// A type that is known without asking.
    pub(super) fn known(resource: ResourceType, namespaced: bool) -> Self {
        let verbs = ["list", "watch", "delete"].map(str::to_owned).to_vec();
        Self { resource, namespaced, verbs }
    }

    /// API group and kind, as references name it.
    pub(super) fn id(&self) -> (String, String) {
        (self.resource.group.to_string(), self.resource.kind.to_string())
    }

    pub(super) fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|v| v == verb))
    }
}

/// All resource types, each in the version that the server prefers, and the groups that did not answer.
pub(super) async fn discover(client: &Client) -> kube::Result<(Vec<Discovered>, Vec<String>)> {
    let mut found = list(client, "/api/v1", "", "v1").await?;
    let mut failed = Vec::new();
    let groups: APIGroupList = get(client, "/apis").await?;
    for group in groups.groups {
        let preferred = group.preferred_version.or_else(|| group.versions.into_iter().next());
        let Some(version) = preferred.map(|v| v.version) else { continue };
        match list(client, &format!("/apis/{}/{version}", group.name), &group.name, &version).await {
            Ok(resources) => found.extend(resources),
            Err(error) => failed.push(format!("{}/{version}: {error}", group.name)),
        }
    }
    Ok((found, failed))
}

async fn list(client: &Client, path: &str, group: &str, version: &str) -> kube::Result<Vec<Discovered>> {
    let list: APIResourceList = get(client, path).await?;
    let own = |resource: &k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource| !resource.name.contains('/');
    let found = list.resources.into_iter().filter(own).map(|resource| Discovered {
        resource: ResourceType {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            plural: resource.name.into(),
            kind: resource.kind.into(),
        },
        namespaced: resource.namespaced,
        verbs: resource.verbs,
    });
    Ok(found.collect())
}

async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> kube::Result<T> {
    let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}
