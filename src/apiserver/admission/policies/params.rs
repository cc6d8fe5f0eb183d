//! The parameters of a policy, as a binding chooses them.

use serde_json::Value;

use crate::apiserver::admission::Request;
use crate::apiserver::registry::Place;
use crate::apiserver::registry::encoding::{self, Stored};
use crate::apiserver::status::ApiError;
use crate::apiserver::target;
use crate::kinds::common::text;
use crate::kinds::{Kind, selector};

/// The objects with each of which the policy is to be evaluated; one null for a policy without
/// parameters.
pub async fn collect(
    request: &Request<'_>,
    param_kind: Option<&(String, String)>,
    reference: &Value,
) -> Result<Vec<Value>, String> {
    let (Some((version, kind)), true) = (param_kind, reference.is_object()) else { return Ok(vec![Value::Null]) };
    let said = |error: ApiError| error.message().to_owned();
    let custom = request.registry.definitions.current();
    let known = target::served(&custom).find(|known| {
        let info = known.info();
        info.kind == kind && encoding::api_version(info) == *version
    });
    let known = known.ok_or_else(|| format!("paramKind kind `{version}, Kind={kind}` not known"))?;
    let namespace = namespace(known, request.namespace(), text(reference, "/namespace"))?;
    let found = match text(reference, "/name") {
        "" => selected(request, known, namespace, &reference["selector"]).await?,
        name => {
            request.registry.look(Place { kind: known, namespace, name }).await.map_err(said)?.into_iter().collect()
        }
    };
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}

/// Where the parameters are: where the binding says, else with the object.
fn namespace<'a>(kind: &dyn Kind, own: &'a str, said: &'a str) -> Result<&'a str, String> {
    match (kind.info().namespaced, said, own) {
        (false, "", _) => Ok(""),
        (false, _, _) => Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()),
        (true, "", "") => {
            Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned())
        }
        (true, "", own) => Ok(own),
        (true, said, _) => Ok(said),
    }
}

async fn selected(
    request: &Request<'_>,
    kind: &'static dyn Kind,
    namespace: &str,
    wanted: &Value,
) -> Result<Vec<Value>, String> {
    let prefix = encoding::prefix(kind.info(), namespace);
    let page = request.registry.store.list(&prefix, None, 0, None).map_err(|error| error.to_string())?;
    let stored = page.entries.iter().map(Stored::from).collect();
    let shown = request.registry.shown(kind, stored).await.map_err(|error| error.message().to_owned())?;
    let objects = shown.iter().filter_map(|stored| encoding::decode(kind, &stored.bytes, stored.revision).ok());
    Ok(objects.filter(|object| selector::matches(wanted, &object["metadata"]["labels"])).collect())
}
