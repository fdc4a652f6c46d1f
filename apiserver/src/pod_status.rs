//! UpdatePodStatus: one status that several write. Its node has the most of it; the conditions that its readiness
//! gates name are others', and so is what an eviction says.

use clone8s::v1::{Condition, Pod, PodStatus};

/// The condition of a pod that is ended from outside.
pub(crate) const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// The status after a write.
pub(crate) fn merge(current: &Pod, given: PodStatus, types: &[String]) -> PodStatus {
    let before = current.status.clone().unwrap_or_default();
    if types.is_empty() {
        let gates = current.spec.iter().flat_map(|spec| &spec.readiness_gates);
        let others: Vec<_> = gates
            .map(|gate| gate.condition_type.clone())
            .chain([DISRUPTION_TARGET.to_owned()])
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
