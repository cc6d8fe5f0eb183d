//! `authorizer`: expressions that ask whether somebody may do something (upstream's `library/authz.go`).
//!
//! ```text
//! authorizer.group('apps').resource('deployments').namespace('shop').check('create').allowed()
//! authorizer.path('/metrics').check('get').reason()
//! authorizer.serviceAccount('shop', 'robot').requestResource.check('delete').allowed()
//! ```
//!
//! A question grows from call to call, each of which gives a value of the next type. Who may do what is not
//! known here: an [`Authority`] is asked at `check`.

use std::fmt;
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::objects::Opaque;

use super::functions::no_overload;
use super::value::string;
use super::{Budget, Outcome};

/// What one `check` costs: upstream's estimate.
const COST: u64 = 350_000;

/// Who knows.
pub trait Authority: Send + Sync {
    /// Whether a service account (its namespace and name), or whoever the expression is about, may do what
    /// the question says.
    fn decide(&self, account: Option<(&str, &str)>, question: &Question) -> Decision;
}

/// May this be done? A path, or something with a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    pub verb: String,
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
}

/// The variable, for requests about `own`.
pub fn authorizer(authority: Arc<dyn Authority>, own: Question) -> Value {
    Asking { authority, own: Arc::new(own), account: None, question: Question::default(), stage: Stage::Authorizer }
        .into_value()
}

/// The names of all functions here.
pub const FUNCTIONS: &[&str] = &[
    "path",
    "group",
    "serviceAccount",
    "resource",
    "subresource",
    "namespace",
    "name",
    "fieldSelector",
    "labelSelector",
    "check",
    "allowed",
    "reason",
    "errored",
    "error",
];

#[derive(Clone)]
struct Asking {
    authority: Arc<dyn Authority>,
    /// What the request itself is about.
    own: Arc<Question>,
    account: Option<(String, String)>,
    question: Question,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
    Decided(Decision),
}

impl PartialEq for Asking {
    fn eq(&self, other: &Self) -> bool {
        (&self.account, &self.question, &self.stage) == (&other.account, &other.question, &other.stage)
    }
}

impl Eq for Asking {}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("question", &self.question).field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl Opaque for Asking {
    fn runtime_type_name(&self) -> &str {
        match self.stage {
            Stage::Authorizer => "kubernetes.authorization.Authorizer",
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => "kubernetes.authorization.ResourceCheck",
            Stage::Decided(_) => "kubernetes.authorization.Decision",
        }
    }
}

fn asking(value: &Value) -> Option<&Asking> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<Asking>(),
        _ => None,
    }
}

/// `authorizer.requestResource`; none for other fields, and other values.
pub fn field(of: &Value, name: &str) -> Option<Value> {
    let asking = asking(of).filter(|asking| asking.stage == Stage::Authorizer && name == "requestResource")?;
    Some(Asking { question: (*asking.own).clone(), stage: Stage::Resource, ..asking.clone() }.into_value())
}

/// Calls a function of an authorizer or what has come of it; none where the target is neither.
pub fn call(name: &str, args: &[Value], budget: &mut Budget) -> Option<Outcome> {
    let (target, rest) = args.split_first()?;
    let asking = asking(target)?;
    Some(asking.call(name, rest, budget).unwrap_or_else(|| Err(no_overload(name, args))))
}

impl Asking {
    fn into_value(self) -> Value {
        Value::Opaque(Arc::new(self))
    }

    fn with(&self, stage: Stage, change: impl FnOnce(&mut Question)) -> Option<Outcome> {
        let mut next = Self { stage, ..self.clone() };
        change(&mut next.question);
        Some(Ok(next.into_value()))
    }

    /// None where there is no such overload.
    fn call(&self, name: &str, args: &[Value], budget: &mut Budget) -> Option<Outcome> {
        let texts: Option<Vec<&str>> = args
            .iter()
            .map(|arg| match arg {
                Value::String(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        match (&self.stage, name, texts?.as_slice()) {
            (Stage::Authorizer, "path", [""]) => Some(Err("path must not be empty".to_owned())),
            (Stage::Authorizer, "path", [path]) => {
                self.with(Stage::Path, |question| question.path = (*path).to_owned())
            }
            (Stage::Authorizer, "group", [group]) => {
                self.with(Stage::Group, |question| question.group = (*group).to_owned())
            }
            (Stage::Authorizer, "serviceAccount", [namespace, name]) => {
                let account = Some(((*namespace).to_owned(), (*name).to_owned()));
                Some(Ok(Self { account, ..self.clone() }.into_value()))
            }
            (Stage::Group, "resource", [""]) => Some(Err("resource must not be empty".to_owned())),
            (Stage::Group, "resource", [resource]) => {
                self.with(Stage::Resource, |question| question.resource = (*resource).to_owned())
            }
            (Stage::Resource, "subresource", [text]) => {
                self.with(Stage::Resource, |question| question.subresource = (*text).to_owned())
            }
            (Stage::Resource, "namespace", [text]) => {
                self.with(Stage::Resource, |question| question.namespace = (*text).to_owned())
            }
            (Stage::Resource, "name", [text]) => {
                self.with(Stage::Resource, |question| question.name = (*text).to_owned())
            }
            // No authority here looks at selectors: what is asked for with one is asked for without.
            (Stage::Resource, "fieldSelector" | "labelSelector", [_]) => self.with(Stage::Resource, |_| {}),
            (Stage::Path | Stage::Resource, "check", [verb]) => {
                if let Err(spent) = budget.take(COST) {
                    return Some(Err(spent));
                }
                let question = Question { verb: (*verb).to_owned(), ..self.question.clone() };
                let account = self.account.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
                let decision = self.authority.decide(account, &question);
                self.with(Stage::Decided(decision), |own| *own = question)
            }
            (Stage::Decided(decision), "allowed", []) => Some(Ok(Value::Bool(decision.allowed))),
            (Stage::Decided(decision), "reason", []) => Some(Ok(string(&decision.reason))),
            // An authority that has no answer says no: it does not fail.
            (Stage::Decided(_), "errored", []) => Some(Ok(Value::Bool(false))),
            (Stage::Decided(_), "error", []) => Some(Ok(string(""))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cel::{Program, Scope};

    /// Lets pods of one namespace be made by whoever asks, and everything by one account; and /metrics be read.
    struct Rules;

    impl Authority for Rules {
        fn decide(&self, account: Option<(&str, &str)>, question: &Question) -> Decision {
            let Question { verb, path, group, resource, namespace, .. } = question;
            let of_pods = (verb.as_str(), group.as_str(), resource.as_str()) == ("create", "", "pods");
            let allowed = account == Some(("shop", "robot"))
                || of_pods && namespace == "shop"
                || verb == "get" && path == "/metrics";
            Decision { allowed, reason: if allowed { "by rule" } else { "" }.to_owned() }
        }
    }

    fn eval(expression: &str) -> Result<Value, String> {
        let own = Question { resource: "pods".into(), namespace: "shop".into(), ..Question::default() };
        let mut scope = Scope::default();
        scope.set("authorizer", authorizer(Arc::new(Rules), own));
        let program = Program::compile(expression)?;
        assert_eq!(program.undeclared(&["authorizer"]), None, "{expression}");
        program.eval(&scope, &mut Budget::default())
    }

    #[test]
    fn questions_are_put_together_call_by_call() {
        let pods = "authorizer.group('').resource('pods')";
        for (expression, wanted) in [
            (format!("{pods}.namespace('shop').check('create').allowed()"), true),
            (
                format!(
                    "{pods}.namespace('shop').subresource('').name('a').labelSelector('a=b').check('create').allowed()"
                ),
                true,
            ),
            (format!("{pods}.namespace('else').check('create').allowed()"), false),
            (
                "authorizer.serviceAccount('shop', 'robot').group('').resource('x').check('y').allowed()".to_owned(),
                true,
            ),
            ("authorizer.requestResource.check('create').allowed()".to_owned(), true),
            ("authorizer.requestResource.check('delete').errored()".to_owned(), false),
            ("authorizer.path('/metrics').check('get').reason() == 'by rule'".to_owned(), true),
        ] {
            assert_eq!(eval(&expression), Ok(Value::Bool(wanted)), "{expression}");
        }
    }

    #[test]
    fn what_is_no_question_fails_and_many_of_them_cost_too_much() {
        for expression in
            ["authorizer.check('get')", "authorizer.path('')", "authorizer.resource('pods')", "authorizer.x"]
        {
            assert!(eval(expression).is_err(), "{expression}");
        }
        let many = ["authorizer.path('/x').check('get').allowed()"; 3].join(" || ");
        assert!(eval(&many).is_err_and(|why| why.contains("cost limit exceeded")));
    }
}
