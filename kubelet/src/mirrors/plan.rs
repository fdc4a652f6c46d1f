//! Which mirrors are missing and which are too many. Pure.

use std::collections::{BTreeMap, BTreeSet};

use clone8s::{
    mirror::{HASH, MIRROR, SOURCE, annotation},
    object::Object as _,
    v1::{ObjectMeta, Pod},
};

use super::Mirrors;
use crate::{
    desired::{Desired, DesiredPod, PodKey},
    pod::hash::short_hash,
    status::PodStatuses,
};

/// What is to be done at one place of the API.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Create(Box<Pod>),
    /// Not needed any more, or made from another pod than there is now: then its place is free for another.
    Delete {
        uid: String,
    },
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// By the names of the mirrors.
    pub(super) steps: BTreeMap<PodKey, Step>,
    /// A mirror goes when its pod has ended.
    pub(super) waits_for_ends: bool,
}

pub(super) fn plan(node: &str, desired: &Desired, statuses: &PodStatuses, mirrors: &Mirrors) -> Plan {
    let wanted: BTreeMap<PodKey, Pod> = desired
        .pods
        .iter()
        .filter(|(_, pod)| pod.source.is_nodes_own())
        .map(|(key, pod)| (key.of_mirror(node), mirror_of(key, pod, node)))
        .collect();
    let mut plan = Plan::default();
    // Before every source has spoken, a pod that is not named may be wanted all the same.
    if desired.complete {
        let own = statuses.iter().filter(|(_, entry)| entry.source.is_nodes_own());
        let on_node: BTreeSet<PodKey> = own.map(|(key, _)| key.of_mirror(node)).collect();
        for (key, mirror) in mirrors.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            if on_node.contains(key) {
                plan.waits_for_ends = true;
            } else {
                plan.steps.insert(key.clone(), deletion(mirror));
            }
        }
    }
    for (key, mirror) in wanted {
        let step = match mirrors.get(&key) {
            None => Step::Create(Box::new(mirror)),
            Some(there) if is_of_the_same(there, &mirror) => continue,
            Some(there) => deletion(there),
        };
        plan.steps.insert(key, step);
    }
    plan
}

fn deletion(mirror: &Pod) -> Step {
    Step::Delete {
        uid: mirror.uid().to_owned(),
    }
}

fn is_of_the_same(there: &Pod, wanted: &Pod) -> bool {
    [MIRROR, HASH, SOURCE]
        .iter()
        .all(|name| annotation(there, name) == annotation(wanted, name))
}

/// The pod as the API is to show it.
fn mirror_of(key: &PodKey, pod: &DesiredPod, node: &str) -> Pod {
    let PodKey { namespace, name } = key.of_mirror(node);
    let given = pod.pod.metadata().cloned().unwrap_or_default();
    let mut mirror = Pod {
        metadata: Some(ObjectMeta {
            namespace,
            name,
            labels: given.labels,
            annotations: given.annotations,
            ..ObjectMeta::default()
        }),
        spec: pod.pod.spec.clone(),
        status: None,
    };
    let own = [
        (MIRROR, pod.pod.uid().to_owned()),
        (HASH, short_hash(&mirror)),
        (SOURCE, pod.source.name().to_owned()),
    ];
    mirror
        .metadata_mut()
        .annotations
        .extend(own.map(|(name, value)| (name.to_owned(), value)));
    mirror
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clone8s::{rules::Rules as _, v1::PodStatus};

    use super::*;
    use crate::{
        desired::{PodUid, Source},
        sources::fixtures::{NODE, pod},
        status::PodEntry,
    };

    fn own(name: &str, image: &str, source: Source) -> DesiredPod {
        let mut pod = pod(name, image);
        pod.metadata_mut().uid = format!("uid-of-{name}");
        DesiredPod {
            pod: Arc::new(pod),
            source,
        }
    }

    fn desired(pods: &[DesiredPod]) -> Desired {
        Desired {
            pods: Arc::new(pods.iter().map(|pod| (pod.key(), pod.clone())).collect()),
            complete: true,
        }
    }

    /// What the API has after the steps.
    fn taken(mirrors: &Mirrors, plan: &Plan) -> Mirrors {
        let mut mirrors = (**mirrors).clone();
        for (key, step) in &plan.steps {
            match step {
                Step::Create(mirror) => {
                    let mut mirror = (**mirror).clone();
                    mirror.metadata_mut().uid = format!("mirror-{}", mirrors.len());
                    mirrors.insert(key.clone(), Arc::new(mirror));
                }
                Step::Delete { uid } => {
                    assert_eq!(mirrors.remove(key).unwrap().uid(), uid);
                }
            }
        }
        Arc::new(mirrors)
    }

    fn names(mirrors: &Mirrors) -> Vec<&str> {
        mirrors.keys().map(|key| key.name.as_str()).collect()
    }

    #[test]
    fn each_pod_of_the_nodes_own_has_a_mirror_and_no_pod_of_the_api() {
        let pods = [
            own("web", "one", Source::Folder),
            own("job", "one", Source::Queue),
            own("api", "one", Source::Api),
        ];
        let desired = desired(&pods);
        let none = PodStatuses::default();
        let made = taken(
            &Mirrors::default(),
            &plan(NODE, &desired, &none, &Mirrors::default()),
        );
        assert_eq!(names(&made), ["job-node-1", "web-node-1"]);
        let web = &made[&PodKey::new("", "web-node-1")];
        assert_eq!(annotation(&**web, MIRROR), Some("uid-of-web"));
        assert_eq!(annotation(&**web, SOURCE), Some("folder"));
        assert_eq!(plan(NODE, &desired, &none, &made), Plan::default());
    }

    #[test]
    fn a_mirror_of_what_a_pod_was_makes_room_for_one_of_what_it_is() {
        let none = PodStatuses::default();
        let before = desired(&[own("web", "one", Source::Folder)]);
        let old = taken(
            &Mirrors::default(),
            &plan(NODE, &before, &none, &Mirrors::default()),
        );
        let after = desired(&[own("web", "two", Source::Folder)]);
        let gone = taken(&old, &plan(NODE, &after, &none, &old));
        assert!(gone.is_empty());
        let new = taken(&gone, &plan(NODE, &after, &none, &gone));
        let spec = new[&PodKey::new("", "web-node-1")].spec.as_ref().unwrap();
        assert_eq!(spec.containers[0].image, "two");
        assert_eq!(plan(NODE, &after, &none, &new), Plan::default());
    }

    #[test]
    fn a_mirror_goes_when_its_pod_has_ended_and_every_source_has_spoken() {
        let none = PodStatuses::default();
        let web = own("web", "one", Source::Folder);
        let made = taken(
            &Mirrors::default(),
            &plan(
                NODE,
                &desired(std::slice::from_ref(&web)),
                &none,
                &Mirrors::default(),
            ),
        );
        let silent = Desired::default();
        assert_eq!(plan(NODE, &silent, &none, &made), Plan::default());
        let entry = PodEntry {
            uid: PodUid::new("uid-of-web"),
            source: Source::Folder,
            status: Arc::new(PodStatus::default()),
            gone: false,
        };
        let ending = Arc::new(BTreeMap::from([(web.key(), entry)]));
        let waiting = plan(NODE, &desired(&[]), &ending, &made);
        assert!(waiting.steps.is_empty() && waiting.waits_for_ends);
        assert!(taken(&made, &plan(NODE, &desired(&[]), &none, &made)).is_empty());
    }

    #[test]
    fn the_rules_take_a_mirror_once_its_node_owns_it() {
        let web = own("web", "one", Source::Folder);
        let mut mirror = mirror_of(&web.key(), &web, NODE);
        mirror.set_defaults();
        let violations = mirror.validate();
        assert!(
            violations.len() == 1 && violations[0].field == "metadata.ownerReferences",
            "{violations:?}"
        );
    }
}
