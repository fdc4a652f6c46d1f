//! The pod's conditions that controllers write.

use clone8s::v1::{Condition, Pod, PodStatus};
use pbjson_types::Timestamp;

pub(crate) const POD_SCHEDULED: &str = "PodScheduled";
pub(crate) const READY: &str = "Ready";

/// A pod that has ended for good takes no room on its node.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .is_some_and(|status| matches!(status.phase.as_str(), "Succeeded" | "Failed"))
}

/// Why the pod waits, if its status says so.
pub(crate) fn unschedulable_message(pod: &Pod) -> Option<&String> {
    let conditions = &pod.status.as_ref()?.conditions;
    conditions
        .iter()
        .find(|condition| condition.r#type == POD_SCHEDULED && condition.status == "False")
        .map(|condition| &condition.message)
}

/// Sets one condition; its transition time moves only when its status does.
pub(crate) fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let index = conditions
        .iter()
        .position(|condition| condition.r#type == kind)
        .unwrap_or_else(|| {
            conditions.push(Condition {
                r#type: kind.to_owned(),
                ..Condition::default()
            });
            conditions.len() - 1
        });
    let condition = &mut conditions[index];
    if condition.status != status {
        status.clone_into(&mut condition.status);
        condition.last_transition_time = Some(now);
    }
    reason.clone_into(&mut condition.reason);
    message.clone_into(&mut condition.message);
}

/// The status of a pod that waits for a node, and why.
pub(crate) fn waiting_status(pod: &Pod, reason: &str, now: Timestamp) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    if status.phase.is_empty() {
        "Pending".clone_into(&mut status.phase);
    }
    set_condition(
        &mut status.conditions,
        POD_SCHEDULED,
        "False",
        "Unschedulable",
        reason,
        now,
    );
    status
}
