//! Admission webhooks: programs elsewhere that are asked about a request, and may refuse it or change
//! the object.
//!
//! Mutating ones are asked one after the other, by the names of their configurations; validating ones
//! all at once, when nothing changes any more. A webhook that says so is asked a second time when
//! others have changed the object after it ([`Rounds`]). One that does not answer in time fails as its
//! `failurePolicy` says; it holds up its own request and no other.

pub mod review;
mod rounds;

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;

use super::conditions::{self, Condition, Outcome};
use super::matching::{Constraints, Labels};
use super::{Asker, Request, authority};
use crate::apiserver::codec::FieldValidation;
use crate::apiserver::patch::{self, PatchType};
use crate::apiserver::status::ApiError;
use crate::cel::Budget;
use crate::kinds::common::{list, text};
use crate::kinds::{Kind, meta as kmeta};
use review::Verdict;
use rounds::Rounds;

/// Of those that upstream speaks, the one that a webhook prefers.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const DEFAULT_TIMEOUT_SECONDS: u64 = 10;

/// A webhook, as its configuration says.
#[derive(Debug, Clone)]
pub struct Webhook {
    name: String,
    configuration: String,
    client_config: Value,
    constraints: Constraints,
    conditions: Vec<Condition>,
    /// Failing is no refusal.
    ignore_failure: bool,
    timeout: Duration,
    /// May be asked about what is only tried.
    dry_run: bool,
    /// Asked again when others change the object after it.
    again: bool,
    version: &'static str,
}

impl Webhook {
    /// The webhooks of a configuration.
    pub fn all(configuration: &Value) -> Vec<Self> {
        let of = text(configuration, "/metadata/name");
        list(configuration, "/webhooks").iter().map(|hook| Self::new(of, hook)).collect()
    }

    fn new(configuration: &str, hook: &Value) -> Self {
        let speaks = list(hook, "/admissionReviewVersions").iter().filter_map(Value::as_str);
        let version = speaks.filter_map(|version| VERSIONS.into_iter().find(|known| *known == version)).next();
        Self {
            name: text(hook, "/name").to_owned(),
            configuration: configuration.to_owned(),
            client_config: hook["clientConfig"].clone(),
            constraints: Constraints::of_webhook(hook),
            conditions: Condition::all(hook),
            ignore_failure: hook["failurePolicy"] == "Ignore",
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(DEFAULT_TIMEOUT_SECONDS)),
            dry_run: matches!(text(hook, "/sideEffects"), "None" | "NoneOnDryRun"),
            again: hook["reinvocationPolicy"] == "IfNeeded",
            version: version.unwrap_or(VERSIONS[0]),
        }
    }

    /// The kind as which the request is this webhook's concern.
    fn concern(&self, at: &At<'_>, object: &Value) -> Result<Option<&'static dyn Kind>, ApiError> {
        let Some(kind) = self.constraints.kind(at.request, false) else { return Ok(None) };
        if !self.constraints.selects(&at.labels, object, at.request.old)? {
            return Ok(None);
        }
        if self.conditions.is_empty() {
            return Ok(Some(kind));
        }
        let request = review::request(at.request, at.asker, kind, "");
        let mut scope = conditions::scope(&request, object, at.request.old);
        scope.set("authorizer", authority::authorizer(at.request, at.asker, kind));
        match conditions::check(&self.conditions, &scope, &mut Budget::default()) {
            Outcome::Holds => Ok(Some(kind)),
            Outcome::Fails => Ok(None),
            Outcome::Error(_) if self.ignore_failure => Ok(None),
            Outcome::Error(why) => Err(at.request.forbidden(why)),
        }
    }

    /// Asks, and says what was answered; a refusal and a failure that counts are errors. `None`: it has
    /// failed, and that is to be ignored.
    async fn ask(
        &self,
        at: &At<'_>,
        kind: &dyn Kind,
        object: &Value,
        mutating: bool,
    ) -> Result<Option<Verdict>, ApiError> {
        if at.request.author.dry_run && !self.dry_run {
            let why = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(ApiError::bad_request(why));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let (registry, own) = (at.request.registry, at.request.place.kind);
        let old = match at.request.old {
            Some(old) => Some(registry.convert(own, kind, old).await?),
            None => None,
        };
        let question = review::question(
            self.version,
            review::request(at.request, at.asker, kind, &uid),
            registry.convert(own, kind, object).await?,
            old,
        );
        let asked = at.request.registry.webhooks.call(&self.client_config, &question, self.timeout).await;
        let verdict = asked.map_err(|error| format!("failed to call webhook: {error}")).and_then(|answer| {
            review::verdict(&answer, self.version, &uid, mutating)
                .map_err(|error| format!("received invalid webhook response: {error}"))
        });
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(why) => return self.failed(at, why, mutating).map(|()| None),
        };
        for (key, value) in &verdict.annotations {
            at.asker.said.annotate(format!("{}/{key}", self.name), value);
        }
        for warning in &verdict.warnings {
            at.asker.said.warn(warning);
        }
        match &verdict.denial {
            Some(status) => Err(review::denial(&self.name, status)),
            None => Ok(Some(verdict)),
        }
    }

    fn failed(&self, at: &At<'_>, why: String, mutating: bool) -> Result<(), ApiError> {
        let why = format!("failed calling webhook {:?}: {why}", self.name);
        if !self.ignore_failure {
            return Err(ApiError::internal(why));
        }
        tracing::warn!(configuration = self.configuration, "{why}; ignored");
        let sort = if mutating { "mutation" } else { "validating" };
        let key = format!("failed-open.{sort}.webhook.admission.k8s.io/{}", self.name);
        at.asker.said.annotate(key, self.name.as_str());
        Ok(())
    }

    /// Lets a mutating webhook change the object. Whether it was asked, and whether it has changed it.
    async fn change(&self, at: &At<'_>, object: &mut Value) -> Result<(bool, bool), ApiError> {
        let Some(kind) = self.concern(at, object)? else { return Ok((false, false)) };
        let Some(verdict) = self.ask(at, kind, object, true).await? else { return Ok((false, false)) };
        let Some(patch) = verdict.patch else { return Ok((true, false)) };
        if object.is_null() {
            return Err(ApiError::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                self.name
            )));
        }
        let own = at.request.place.kind;
        let registry = at.request.registry;
        let before = registry.convert(own, kind, object).await?;
        let expected = at.request.expected(at.asker, kind)?;
        let patched = patch::apply_as(&expected, &before, PatchType::Json, &patch, FieldValidation::Ignore);
        let patched = patched.map_err(|error| {
            ApiError::internal(format!("admission webhook {:?} sent a patch that does not apply: {error}", self.name))
        })?;
        let mut changed = registry.convert(kind, own, &patched.object).await?;
        if at.request.is_whole(at.asker) {
            kmeta::normalize(&mut changed);
            own.default(&mut changed);
        }
        let differs = changed != *object;
        *object = changed;
        Ok((true, differs))
    }
}

/// A request, and what is looked up for it once.
struct At<'a> {
    request: &'a Request<'a>,
    asker: &'a Asker<'a>,
    labels: Labels<'a>,
}

/// Lets the mutating webhooks change `object`. `plugins` are run between the rounds.
pub async fn mutate(
    hooks: &[Webhook],
    request: &Request<'_>,
    asker: &Asker<'_>,
    object: &mut Value,
    plugins: &(dyn Fn(&mut Value) -> Result<(), ApiError> + Sync),
) -> Result<(), ApiError> {
    let at = At { request, asker, labels: Labels::new(request) };
    let mut rounds = Rounds::default();
    for (number, hook) in hooks.iter().enumerate() {
        let (asked, changed) = hook.change(&at, object).await?;
        rounds.asked(number, asked && hook.again, changed);
    }
    if !rounds.changed() {
        return Ok(());
    }
    // Nothing that a webhook has made escapes the plugins.
    let before = object.clone();
    plugins(object)?;
    if *object != before {
        rounds.plugins_changed();
    }
    let mut changed = false;
    for number in rounds.second() {
        changed |= hooks[number].change(&at, object).await?.1;
    }
    if changed { plugins(object) } else { Ok(()) }
}

/// Lets the validating webhooks refuse.
pub async fn validate(
    hooks: &[Webhook],
    request: &Request<'_>,
    asker: &Asker<'_>,
    object: &Value,
) -> Result<(), ApiError> {
    let at = At { request, asker, labels: Labels::new(request) };
    let mut asked = Vec::new();
    for hook in hooks {
        if let Some(kind) = hook.concern(&at, object)? {
            asked.push((hook, kind));
        }
    }
    let at = &at;
    let answers = join_all(asked.into_iter().map(|(hook, kind)| hook.ask(at, kind, object, false))).await;
    answers.into_iter().try_for_each(|answer| answer.map(|_| ()))
}

#[cfg(test)]
mod tests;
