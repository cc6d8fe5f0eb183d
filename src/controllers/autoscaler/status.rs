//! The status after a look.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{Decision, Said};

/// What the status says after `decision` and, where the target was to be rescaled, how that went.
pub(super) fn after(
    now: Timestamp,
    old: &HorizontalPodAutoscalerStatus,
    decision: Decision,
    outcome: Option<Result<(), String>>,
) -> HorizontalPodAutoscalerStatus {
    let mut status = old.clone();
    for said in decision.conditions {
        set(now, &mut status, said);
    }
    let Some(current) = decision.current else { return status };
    status.current_replicas = Some(current).filter(|replicas| *replicas != 0);
    status.current_metrics = Some(decision.metrics).filter(|metrics| !metrics.is_empty());
    match (outcome, decision.rescale) {
        (Some(Ok(())), Some(rescale)) => {
            let message = format!("the HPA controller was able to update the target scale to {}", rescale.to);
            set(now, &mut status, able(true, "SucceededRescale", message));
            status.desired_replicas = rescale.to;
            status.last_scale_time = Some(Time(now));
        }
        (Some(Err(why)), _) => {
            let message = format!("the HPA controller was unable to update the target scale: {why}");
            set(now, &mut status, able(false, "FailedUpdateScale", message));
        }
        (_, _) => status.desired_replicas = decision.desired.unwrap_or(status.desired_replicas),
    }
    status
}

fn able(holds: bool, reason: &'static str, message: String) -> Said {
    Said { kind: "AbleToScale", holds, reason, message }
}

/// Sets a condition; its time is that of the last change between true and false.
fn set(now: Timestamp, status: &mut HorizontalPodAutoscalerStatus, said: Said) {
    let word = if said.holds { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let at = match conditions.iter().position(|condition| condition.type_ == said.kind) {
        Some(at) => at,
        None => {
            let condition = HorizontalPodAutoscalerCondition { type_: said.kind.to_owned(), ..Default::default() };
            conditions.push(condition);
            conditions.len() - 1
        }
    };
    let condition = &mut conditions[at];
    if condition.status != word {
        condition.last_transition_time = Some(Time(now));
        word.clone_into(&mut condition.status);
    }
    condition.reason = Some(said.reason.to_owned());
    condition.message = Some(said.message);
}
