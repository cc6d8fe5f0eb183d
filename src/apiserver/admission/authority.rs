//! What expressions may ask of who may do what: the `authorizer` of policies and match conditions.

use std::sync::Arc;

use super::Request;
use super::author::Asker;
use crate::apiserver::auth::User;
use crate::apiserver::auth::authorize::{Rights, decide};
use crate::apiserver::target::Target;
use crate::cel::Value;
use crate::cel::authorizer::{self, Authority, Decision, Question};
use crate::kinds::Kind;

/// The rights of now, and who asks.
struct Now {
    rights: Rights,
    user: User,
}

impl Authority for Now {
    fn decide(&self, account: Option<(&str, &str)>, question: &Question) -> Decision {
        let Question { verb, path, group, resource, subresource, namespace, name } = question.clone();
        let target =
            Target { verb: verb.into(), path, group, resource, subresource, namespace, name, ..Target::default() };
        let account = account.map(|(namespace, name)| service_account(namespace, name));
        let decision = decide(&self.rights, account.as_ref().unwrap_or(&self.user), &target);
        Decision { allowed: decision.is_some(), reason: decision.unwrap_or_default() }
    }
}

/// As whom a service account is known: no credential was shown, so it is in no other group.
fn service_account(namespace: &str, name: &str) -> User {
    let mut user = User::new(&format!("system:serviceaccount:{namespace}:{name}"), &[]);
    user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}").into()];
    user
}

/// The variable for a request, seen as one for `kind`.
pub fn authorizer(request: &Request<'_>, asker: &Asker<'_>, kind: &dyn Kind) -> Value {
    let info = kind.info();
    let own = Question {
        group: info.group.to_owned(),
        resource: info.plural.to_owned(),
        subresource: request.subresource().to_owned(),
        namespace: request.place.namespace.to_owned(),
        name: request.place.name.to_owned(),
        ..Question::default()
    };
    authorizer::authorizer(Arc::new(Now { rights: request.registry.rights(), user: asker.user.clone() }), own)
}
