//! The groups that are upstream's own, `k8s.io` and `kubernetes.io`: whoever defines a kind in one of them says
//! where it was approved, or that it was not. What is said is checked when it changes, and a condition of the
//! definition tells it to everybody (KEP-1111).

use super::super::field::{Errors, Field};

pub const ANNOTATION: &str = "api-approved.kubernetes.io";
/// The condition.
pub const CONFORMANT: &str = "KubernetesAPIApprovalPolicyConformant";

/// What the annotation of a definition says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    Missing,
    /// Neither a URL nor a reason.
    Invalid,
    /// A reason why there is none.
    Bypassed,
    Approved,
}

impl Approval {
    pub fn of(annotation: &str) -> Self {
        let is_url = annotation.split_once("://").is_some_and(|(scheme, rest)| {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            !scheme.is_empty() && !host.is_empty()
        });
        match annotation {
            "" => Self::Missing,
            text if text.starts_with("unapproved") => Self::Bypassed,
            _ if is_url => Self::Approved,
            _ => Self::Invalid,
        }
    }

    /// The reason of the condition, which is true only where there is approval.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "MissingAnnotation",
            Self::Invalid => "InvalidAnnotation",
            Self::Bypassed => "UnapprovedAnnotation",
            Self::Approved => "ApprovedAnnotation",
        }
    }

    pub fn message(self, annotation: &str) -> String {
        let see = "see https://github.com/kubernetes/enhancements/pull/1111";
        let must = format!("protected groups must have approval annotation {ANNOTATION:?}");
        match self {
            Self::Missing => format!("{must}, {see}"),
            Self::Invalid => format!("{must} with either a URL or a reason starting with \"unapproved\", {see}"),
            Self::Bypassed => format!("not approved: {annotation:?}"),
            Self::Approved => format!("approved in {annotation}"),
        }
    }
}

pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|own| group.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// Refuses what says nothing of its approval, or nothing that can be understood; not what has said so before.
pub fn check(errors: &mut Errors, group: &str, annotation: &Field<'_>, before: Option<&str>) {
    let approval = Approval::of(annotation.str());
    if !is_protected(group) || before.map(Approval::of) == Some(approval) {
        return;
    }
    let message = approval.message(annotation.str());
    match approval {
        Approval::Missing => errors.required(annotation, message),
        Approval::Invalid => errors.invalid(annotation, message),
        Approval::Bypassed | Approval::Approved => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_annotation_is_a_url_or_a_reason() {
        let cases = [
            ("", Approval::Missing),
            ("https://github.com/kubernetes/kubernetes/pull/78458", Approval::Approved),
            ("unapproved, an experiment", Approval::Bypassed),
            ("https://", Approval::Invalid),
            ("somebody said yes", Approval::Invalid),
        ];
        for (annotation, wanted) in cases {
            assert_eq!(Approval::of(annotation), wanted, "{annotation}");
        }
    }

    #[test]
    fn only_upstreams_groups_need_it_and_only_where_it_changes() {
        let said = |group: &str, annotation: &str, before: Option<&str>| {
            let (mut errors, value) = (Errors::default(), json!(annotation));
            check(&mut errors, group, &Field::new("metadata.annotations[api-approved.kubernetes.io]", &value), before);
            errors.is_empty()
        };
        assert!(said("example.com", "", None) && said("notk8s.io", "", None));
        assert!(!said("k8s.io", "", None) && !said("x.kubernetes.io", "yes", None));
        assert!(said("x.k8s.io", "", Some("")) && !said("x.k8s.io", "", Some("unapproved")));
    }
}
