//! The kinds of `admissionregistration.k8s.io/v1`: who else has a say in what is written.
//!
//! Webhooks are asked, policies are evaluated; both say by [`rules`] which requests concern them. The
//! kinds hold what may be written; asking and evaluating is the API server's. Whether an expression is
//! CEL is checked there, too: this room knows texts.

pub mod mutating_admission_policy;
pub mod mutating_admission_policy_binding;
pub mod mutating_webhook_configuration;
pub mod policies;
pub mod rules;
pub mod validating_admission_policy;
pub mod validating_admission_policy_binding;
pub mod validating_webhook_configuration;
pub mod webhooks;

pub const GROUP: &str = "admissionregistration.k8s.io";

/// All of them are told in one category.
const CATEGORIES: &[&str] = &["api-extensions"];

#[cfg(test)]
mod tests;
