//! EvictPod: a graceful deletion that says why, so that nobody takes the pod's end for one of its own.

use std::time::SystemTime;

use clone8s::{
    object::Object as _,
    rules::DISRUPTION_TARGET,
    v1::{Condition, EvictPodRequest, Pod},
};
use clone8s_daemon::clock;

use crate::{
    access::Scope,
    error::ApiError,
    registry::{DeleteOptions, Key, Propagation, Registry, Seen, WriteOptions, check_writable},
    time::timestamp,
};

/// As Kubernetes has it.
const REASON: &str = "EvictionByEvictionAPI";
const DEFAULT_MESSAGE: &str = "evicted by a call of EvictPod";

/// Bytes; it stays with the pod.
const LONGEST_MESSAGE: usize = 1_024;

/// Returns the pod's last state.
pub(crate) async fn evict(
    registry: &Registry,
    scope: &Scope,
    request: EvictPodRequest,
) -> Result<Pod, ApiError> {
    let key = Key::<Pod>::parse(&request.namespace, &request.name)?;
    if request.message.len() > LONGEST_MESSAGE {
        return Err(ApiError::field(
            "the eviction",
            "message",
            format!(
                "is {} bytes, more than the {LONGEST_MESSAGE} that it may have",
                request.message.len()
            ),
        ));
    }
    let options = DeleteOptions {
        // An object that goes at once would say that the pod has stopped, while its node still runs it.
        grace: request
            .grace_period_seconds
            .map(|grace| if grace == 0 { 1 } else { grace }),
        propagation: Propagation::default(),
        seen: Seen {
            uid: request.uid,
            resource_version: request.resource_version,
        },
        write: WriteOptions::parse("Evict", request.validate_only, &request.request_id)?,
    };
    let message = match request.message.as_str() {
        "" => DEFAULT_MESSAGE,
        given => given,
    };
    registry
        .delete_saying(scope, &key, &options, |current: &Pod, next| {
            // It would come back at once, and the pod that it shows would run on.
            check_writable(&key, current)?;
            if is_disrupted_by_this(current) {
                add_condition(next, message, clock::now());
            }
            Ok(())
        })
        .await
}

/// What has finished, or was to end anyway, is not disrupted.
fn is_disrupted_by_this(pod: &Pod) -> bool {
    let ends_anyway = pod
        .metadata()
        .is_some_and(|meta| meta.deletion_timestamp.is_some());
    let phase = pod.status.as_ref().map_or("", |status| status.phase.as_str());
    !ends_anyway && !matches!(phase, "Succeeded" | "Failed")
}

fn add_condition(pod: &mut Pod, message: &str, now: SystemTime) {
    let conditions = &mut pod.status.get_or_insert_default().conditions;
    conditions.retain(|condition| condition.r#type != DISRUPTION_TARGET);
    conditions.push(Condition {
        r#type: DISRUPTION_TARGET.into(),
        status: "True".into(),
        reason: REASON.into(),
        message: message.into(),
        last_transition_time: Some(timestamp(now)),
        ..Condition::default()
    });
}
