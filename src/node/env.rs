//! A container's arguments and environment. Pure: what they refer to has been looked up before.
//!
//! The order is upstream's: Service variables, then `envFrom` in order, then `env` in order; later
//! ones win, and `$(NAME)` in a value refers to what was set before it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::fields::Fields;
use super::objects::{Data, Kind, Name};
use crate::oci::Startup;

/// The objects that a container's environment refers to, as far as they exist.
pub type Found = HashMap<Name, Arc<Data>>;

/// Which objects are to be looked up.
pub fn references(namespace: &str, container: &core::Container) -> Vec<Name> {
    let named = |kind, name: &str| Name { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    let mut names = Vec::new();
    for source in container.env_from.iter().flatten() {
        names.extend(source.config_map_ref.iter().map(|from| named(Kind::ConfigMap, &from.name)));
        names.extend(source.secret_ref.iter().map(|from| named(Kind::Secret, &from.name)));
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        names.extend(source.config_map_key_ref.iter().map(|from| named(Kind::ConfigMap, &from.name)));
        names.extend(source.secret_key_ref.iter().map(|from| named(Kind::Secret, &from.name)));
    }
    names
}

/// The environment, or why it cannot be made (`CreateContainerConfigError`).
pub fn environment(
    fields: &Fields<'_>,
    container: &core::Container,
    services: &[Arc<core::Service>],
    found: &Found,
) -> Result<BTreeMap<String, String>, String> {
    let namespace = fields.pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = fields.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let mut env = BTreeMap::new();
    // What every container runtime sets, and programs rely on.
    let hostname = fields.pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).or(fields.pod.metadata.name.clone());
    env.extend(hostname.map(|hostname| ("HOSTNAME".to_owned(), hostname)));
    for service in services {
        let master = service.metadata.name.as_deref() == Some("kubernetes")
            && service.metadata.namespace.as_deref() == Some("default");
        if master || (links && service.metadata.namespace.as_deref() == Some(namespace)) {
            service_variables(service, &mut env);
        }
    }
    for source in container.env_from.iter().flatten() {
        env_from(source, namespace, found, &mut env)?;
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (_, Some(source)) => value_from(source, fields, container, found)?,
            (value, None) => value.as_ref().map(|value| expand(value, &env)),
        };
        if let Some(value) = value {
            env.insert(var.name.clone(), value);
        }
    }
    Ok(env)
}

/// argv, by upstream's rules: `command` replaces all that the image says, `args` only the latter part of it.
/// What names no program, as a bare module does not, is called `bare`.
pub fn arguments(
    container: &core::Container,
    env: &BTreeMap<String, String>,
    image: &Startup,
    bare: Option<&str>,
) -> Vec<String> {
    let expanded =
        |list: &Option<Vec<String>>| -> Vec<String> { list.iter().flatten().map(|text| expand(text, env)).collect() };
    let mut argv = expanded(&container.command);
    let mut args = expanded(&container.args);
    if argv.is_empty() {
        argv.extend(image.entrypoint.iter().cloned());
        if args.is_empty() {
            args.extend(image.cmd.iter().cloned());
        }
    }
    if argv.is_empty() {
        argv.extend(bare.map(str::to_owned));
    }
    argv.extend(args);
    argv
}

/// Adds the variables of the image where nothing else set them. `$(NAME)` does not refer to them: upstream
/// does not know an image's variables when it resolves it.
pub fn add_of_image(env: &mut BTreeMap<String, String>, image: &Startup) {
    for (name, value) in &image.env {
        env.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

/// Replaces `$(NAME)` by its value; `$$` stands for one `$`; what is not known stays as it is.
pub fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let name = from.strip_prefix("$(").and_then(|tail| tail.split_once(')'));
        rest = if let Some(tail) = from.strip_prefix("$$") {
            out.push('$');
            tail
        } else if let Some((name, tail)) = name {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            tail
        } else {
            out.push('$');
            &from[1..]
        };
    }
    out.push_str(rest);
    out
}

fn env_from(
    source: &core::EnvFromSource,
    namespace: &str,
    found: &Found,
    env: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    let refs = [
        source.config_map_ref.as_ref().map(|from| (Kind::ConfigMap, &from.name, from.optional)),
        source.secret_ref.as_ref().map(|from| (Kind::Secret, &from.name, from.optional)),
    ];
    let prefix = source.prefix.as_deref().unwrap_or_default();
    for (kind, name, optional) in refs.into_iter().flatten() {
        match lookup(found, kind, namespace, name) {
            Some(data) => {
                let pairs = data.iter().map(|(key, value)| (format!("{prefix}{key}"), text(value)));
                // A name that cannot be a variable is left out, as upstream does.
                env.extend(pairs.filter(|(key, _)| !key.is_empty() && !key.contains(['=', '\0'])));
            }
            None if optional == Some(true) => {}
            None => return Err(not_found(kind, name)),
        }
    }
    Ok(())
}

fn value_from(
    source: &core::EnvVarSource,
    fields: &Fields<'_>,
    container: &core::Container,
    found: &Found,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        let unknown = || format!("unsupported fieldPath: {}", field.field_path);
        return fields.field(&field.field_path).map(Some).ok_or_else(unknown);
    }
    if let Some(resource) = &source.resource_field_ref {
        let unknown = || format!("unsupported container resource : {}", resource.resource);
        return fields.resource(resource, container).map(Some).ok_or_else(unknown);
    }
    let namespace = fields.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(key) = &source.config_map_key_ref {
        return key_of(found, Kind::ConfigMap, namespace, &key.name, &key.key, key.optional);
    }
    if let Some(key) = &source.secret_key_ref {
        return key_of(found, Kind::Secret, namespace, &key.name, &key.key, key.optional);
    }
    Err("valueFrom names a source that this node does not know".to_owned())
}

fn key_of(
    found: &Found,
    kind: Kind,
    namespace: &str,
    name: &str,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>, String> {
    let optional = optional == Some(true);
    let Some(data) = lookup(found, kind, namespace, name) else {
        return if optional { Ok(None) } else { Err(not_found(kind, name)) };
    };
    match data.get(key) {
        Some(value) => Ok(Some(text(value))),
        None if optional => Ok(None),
        None => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
    }
}

/// As upstream says it, for configuration that does not exist.
pub fn not_found(kind: Kind, name: &str) -> String {
    format!("{} \"{name}\" not found", kind.to_string().to_lowercase())
}

fn lookup<'a>(found: &'a Found, kind: Kind, namespace: &str, name: &str) -> Option<&'a Arc<Data>> {
    found.get(&Name { kind, namespace: namespace.to_owned(), name: name.to_owned() })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `CART_SERVICE_HOST` and its like, for a Service that has an address.
fn service_variables(service: &core::Service, env: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let Some(first) = spec.ports.as_deref().and_then(|ports| ports.first()) else { return };
    if ip.is_empty() || ip == "None" {
        return;
    }
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let name = upper(service.metadata.name.as_deref().unwrap_or_default());
    let mut set = |suffix: &str, value: String| env.insert(format!("{name}_{suffix}"), value);
    set("SERVICE_HOST", ip.to_owned());
    set("SERVICE_PORT", first.port.to_string());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{ip}:{}", protocol.to_lowercase(), port.port);
        let stem = format!("PORT_{}_{}", port.port, protocol.to_uppercase());
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            set(&format!("SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
        }
        if index == 0 {
            set("PORT", url.clone());
        }
        set(&stem, url);
        set(&format!("{stem}_PROTO"), protocol.to_lowercase());
        set(&format!("{stem}_PORT"), port.port.to_string());
        set(&format!("{stem}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests;
