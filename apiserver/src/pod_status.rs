//! UpdatePodStatus: one status that several write. Its node has the most of it; the conditions that its readiness
//! gates name are others', and so is what an eviction has said.

use clone8s::{
    rules::DISRUPTION_TARGET,
    v1::{Condition, Pod, PodStatus},
};

/// The status after a write.
pub(crate) fn merge(current: &Pod, given: PodStatus, types: &[String]) -> PodStatus {
    let before = current.status.clone().unwrap_or_default();
    if types.is_empty() {
        let gates = current.spec.iter().flat_map(|spec| &spec.readiness_gates);
        // Said once, it stays: by whoever was the first to end the pod, its node among them.
        let is_disrupted = before
            .conditions
            .iter()
            .any(|condition| condition.r#type == DISRUPTION_TARGET);
        let others: Vec<_> = gates
            .map(|gate| gate.condition_type.clone())
            .chain(is_disrupted.then(|| DISRUPTION_TARGET.to_owned()))
            .collect();
        let conditions = replaced(given.conditions.clone(), before.conditions, &others);
        return PodStatus { conditions, ..given };
    }
    PodStatus {
        conditions: replaced(before.conditions.clone(), given.conditions, types),
        ..before
    }
}

/// `kept`, but with the conditions of these types taken from `others`.
fn replaced(kept: Vec<Condition>, others: Vec<Condition>, types: &[String]) -> Vec<Condition> {
    let is_one = |condition: &Condition| types.contains(&condition.r#type);
    let kept = kept.into_iter().filter(|condition| !is_one(condition));
    kept.chain(others.into_iter().filter(is_one)).collect()
}
