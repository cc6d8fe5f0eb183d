//! The kinds of the two groups. They are posted and answered, never read, so that they have no rules.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::{Column, Kind, KindInfo};

pub const AUTHENTICATION: &str = "authentication.k8s.io";
pub const AUTHORIZATION: &str = "authorization.k8s.io";

/// What is served beside the kinds that are stored.
pub static KINDS: &[&dyn Kind] = &[
    &Review(&INFOS[0]),
    &Review(&INFOS[1]),
    &Review(&INFOS[2]),
    &Review(&INFOS[3]),
    &Review(&INFOS[4]),
    &Review(&INFOS[5]),
];

static INFOS: [KindInfo; 6] = [
    info(
        AUTHENTICATION,
        "SelfSubjectReview",
        ("selfsubjectreviews", "selfsubjectreview"),
        "io.k8s.api.authentication.v1.SelfSubjectReview",
    ),
    info(AUTHENTICATION, "TokenReview", ("tokenreviews", "tokenreview"), "io.k8s.api.authentication.v1.TokenReview"),
    info(
        AUTHORIZATION,
        "LocalSubjectAccessReview",
        ("localsubjectaccessreviews", "localsubjectaccessreview"),
        "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    ),
    info(
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        ("selfsubjectaccessreviews", "selfsubjectaccessreview"),
        "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    ),
    info(
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        ("selfsubjectrulesreviews", "selfsubjectrulesreview"),
        "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    ),
    info(
        AUTHORIZATION,
        "SubjectAccessReview",
        ("subjectaccessreviews", "subjectaccessreview"),
        "io.k8s.api.authorization.v1.SubjectAccessReview",
    ),
];

struct Review(&'static KindInfo);

/// Only a local review is about one namespace.
const fn info(
    group: &'static str,
    kind: &'static str,
    (plural, singular): (&'static str, &'static str),
    schema: &'static str,
) -> KindInfo {
    KindInfo {
        group,
        version: "v1",
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: kind.as_bytes()[0] == b'L',
        verbs: &["create"],
        subresources: &[],
        schema,
        storage: "",
        storage_version_hash: "",
    }
}

impl Kind for Review {
    fn info(&self) -> &'static KindInfo {
        self.0
    }

    fn columns(&self) -> &'static [Column] {
        &[]
    }

    fn row(&self, _: &Value, _: Timestamp) -> Vec<Value> {
        Vec::new()
    }
}
