//! How long a request for a certificate stays: those who asked have had time to fetch the answer.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::controllers::pods::elapsed;
use crate::kinds::common::{list, text};
use crate::kinds::time;

/// After it was approved, denied or has failed.
const DECIDED: Duration = Duration::from_secs(3600);
/// After it was made, while nobody decides.
const PENDING: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Now,
    In(Duration),
}

/// When the request is over; `None` for one that is approved and still waits for its signer.
pub(super) fn ends(object: &Value, now: Timestamp) -> Option<Over> {
    let created = time::parse(&object["metadata"]["creationTimestamp"]).unwrap_or(now);
    let conditions = list(object, "/status/conditions");
    let decided =
        conditions.iter().filter(|condition| matches!(text(condition, "/type"), "Approved" | "Denied" | "Failed"));
    let last = decided.filter_map(|condition| time::parse(&condition["lastUpdateTime"]).or(Some(created))).max();
    let waits = conditions.iter().any(|condition| condition["type"] == "Approved")
        && !conditions.iter().any(|condition| condition["type"] == "Failed")
        && text(object, "/status/certificate").is_empty();
    let (since, stays) = match last {
        Some(_) if waits => return None,
        Some(last) => (last, DECIDED),
        None => (created, PENDING),
    };
    match stays.checked_sub(elapsed(since, now)) {
        None | Some(Duration::ZERO) => Some(Over::Now),
        Some(left) => Some(Over::In(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_stay_for_an_hour_and_questions_for_a_day() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().expect("a time");
        let made = |at: &str, status: Value| json!({"metadata": {"creationTimestamp": at}, "status": status});
        let decided = |kind: &str, at: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": at}]);
        let yesterday = "2026-01-01T11:00:00Z";
        assert_eq!(ends(&made(yesterday, json!({})), now), Some(Over::Now));
        let minute = Duration::from_secs(60);
        assert_eq!(ends(&made("2026-01-01T12:01:00Z", json!({})), now), Some(Over::In(minute)));
        let denied = json!({"conditions": decided("Denied", "2026-01-02T11:01:00Z")});
        assert_eq!(ends(&made(yesterday, denied), now), Some(Over::In(minute)));
        let waits = json!({"conditions": decided("Approved", "2026-01-02T10:00:00Z")});
        assert_eq!(ends(&made(yesterday, waits.clone()), now), None);
        let mut issued = waits;
        issued["certificate"] = "eA==".into();
        assert_eq!(ends(&made(yesterday, issued), now), Some(Over::Now));
    }
}
