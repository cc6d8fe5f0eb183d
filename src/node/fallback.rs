//! A pod of modules that may run as ordinary containers instead, as its annotations say. Pure.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     coracle.dev/fallback-image: shop/cart:1           # where the module cannot be run
//!     coracle.dev/fallback-image.web: shop/web:1        # … of the container `web` alone
//!     coracle.dev/fallback-percent: "20"                # and for so many pods of a hundred in any case
//! ```

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1 as core;

/// The image that takes the place of a container's module.
const IMAGE: &str = "coracle.dev/fallback-image";
/// How many pods of a hundred have it in any case.
const PERCENT: &str = "coracle.dev/fallback-percent";

fn says<'a>(pod: &'a core::Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
}

/// The image that a container may fall back to. A RuntimeClass leaves no choice.
pub fn image<'a>(pod: &'a core::Pod, container: &str) -> Option<&'a str> {
    let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).unwrap_or_default();
    if !class.is_empty() {
        return None;
    }
    says(pod, &format!("{IMAGE}.{container}")).or_else(|| says(pod, IMAGE))
}

/// All images that annotations name.
pub fn images(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    annotations.iter().filter(|(key, _)| key.starts_with(IMAGE)).map(|(_, image)| image.trim().to_owned())
}

/// Whether this pod is one of those that have it in any case: decided by its uid, so that it stays so.
pub fn is_drawn(pod: &core::Pod) -> Result<bool, String> {
    let Some(text) = says(pod, PERCENT) else { return Ok(false) };
    let percent = text.parse().ok().filter(|percent| *percent <= 100);
    let percent: u64 = percent.ok_or_else(|| {
        format!("annotation {PERCENT}: {text:?} is not allowed: it must be a whole number from 0 to 100")
    })?;
    let mut hasher = DefaultHasher::new();
    pod.metadata.uid.as_deref().unwrap_or_default().hash(&mut hasher);
    Ok(hasher.finish() % 100 < percent)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, annotations: Value) -> core::Pod {
        let pod = json!({ "metadata": { "uid": uid, "annotations": annotations }, "spec": { "containers": [] } });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_containers_own_image_stands_before_the_pods() {
        let own = pod("u", json!({ IMAGE: "a:1", "coracle.dev/fallback-image.web": "b:1" }));
        assert_eq!((image(&own, "web"), image(&own, "side")), (Some("b:1"), Some("a:1")));
        assert_eq!(image(&pod("u", json!({})), "web"), None);
        let mut classed = own;
        classed.spec.as_mut().expect("a spec").runtime_class_name = Some("wasm".into());
        assert_eq!(image(&classed, "web"), None);
    }

    #[test]
    fn about_so_many_of_a_hundred_are_drawn_and_always_the_same() {
        let drawn = |percent: &str| {
            let is_drawn = |number| is_drawn(&pod(&format!("uid-{number}"), json!({ PERCENT: percent })));
            (0..1000).filter(|number| is_drawn(*number) == Ok(true)).count()
        };
        assert_eq!((drawn("0"), drawn("100")), (0, 1000));
        assert!((150..250).contains(&drawn("20")), "{}", drawn("20"));
        assert_eq!(drawn("20"), drawn("20"));
        assert!(is_drawn(&pod("u", json!({ PERCENT: "many" }))).is_err_and(|why| why.contains("from 0 to 100")));
        assert_eq!(is_drawn(&pod("u", json!({}))), Ok(false));
    }
}
