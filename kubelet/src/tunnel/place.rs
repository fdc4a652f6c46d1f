//! Which pod and which container a call means.

use clone8s::{containers, mirror, v1::container_state::State};
use tokio::sync::watch;
use tonic::Status;

use crate::{
    desired::{Desired, DesiredPod, PodKey, PodUid, Source},
    status::{PodEntry, PodStatuses},
};

/// The pods of the node: what is wanted of them, and how they are.
#[derive(Debug, Clone)]
pub(super) struct Pods {
    pub(super) node: String,
    pub(super) desired: watch::Receiver<Desired>,
    pub(super) statuses: watch::Receiver<PodStatuses>,
}

/// One pod, which may be wanted no more while it still runs.
pub(super) struct KnownPod {
    key: PodKey,
    uid: PodUid,
    desired: Option<DesiredPod>,
    entry: Option<PodEntry>,
}

impl Pods {
    /// By the name that the API has for it, which for a pod of the node's own is its mirror's.
    pub(super) fn find(&self, namespace: &str, name: &str) -> Result<KnownPod, Status> {
        let key = PodKey::new(namespace, name);
        let of_api = self.known(&key, |source| source == Source::Api);
        let own = || {
            let name = mirror::name_on_node(name, &self.node)?;
            self.known(&PodKey::new(namespace, name), Source::is_nodes_own)
        };
        of_api
            .or_else(own)
            .ok_or_else(|| Status::not_found(format!("pod {key} is not on this node")))
    }

    fn known(&self, key: &PodKey, is_from: impl Fn(Source) -> bool) -> Option<KnownPod> {
        let desired = self.desired.borrow().pods.get(key).cloned();
        let desired = desired.filter(|desired| is_from(desired.source));
        let entry = self.statuses.borrow().get(key).cloned();
        let entry = entry.filter(|entry| is_from(entry.source));
        let uid = entry.as_ref().map(|entry| entry.uid.clone());
        let uid = uid.or_else(|| desired.as_ref().map(DesiredPod::uid))?;
        Some(KnownPod {
            key: key.clone(),
            uid,
            desired,
            entry,
        })
    }
}

impl KnownPod {
    pub(super) fn key(&self) -> &PodKey {
        &self.key
    }

    pub(super) fn uid(&self) -> &PodUid {
        &self.uid
    }

    /// The container that is meant, by its name if it has been named.
    pub(super) fn container(&self, wanted: &str) -> Result<String, Status> {
        let spec = self.desired.as_ref().map(DesiredPod::spec);
        let statuses = self.entry.as_ref().map(|entry| &entry.status);
        let chosen = match (spec, statuses) {
            (Some(spec), _) => spec.choose_container(wanted),
            (None, Some(status)) => {
                let known = status.all_container_statuses();
                let names: Vec<&str> = known.map(|container| container.name.as_str()).collect();
                let init = status.init_container_statuses.len();
                let main = init..init + status.container_statuses.len();
                containers::choose(&names, main, wanted)
            }
            (None, None) => containers::choose(&[], 0..0, wanted),
        };
        match chosen {
            Ok(name) => Ok(name.to_owned()),
            Err(error) => Err(Status::invalid_argument(format!(
                "pod {}: container {error}",
                self.key
            ))),
        }
    }

    /// Why a container does not run, in brackets; empty when it is not known.
    pub(super) fn waiting_for(&self, container: &str) -> String {
        let entry = self.entry.as_ref();
        let mut statuses = entry
            .into_iter()
            .flat_map(|entry| entry.status.all_container_statuses());
        let status = statuses.find(|status| status.name == container);
        let state = status.and_then(|status| status.state.as_ref()?.state.as_ref());
        match state {
            Some(State::Waiting(waiting)) if !waiting.message.is_empty() => {
                format!(" ({}: {})", waiting.reason, waiting.message)
            }
            Some(State::Waiting(waiting)) => format!(" ({})", waiting.reason),
            Some(State::Terminated(end)) => format!(" ({}, exit code {})", end.reason, end.exit_code),
            Some(State::Running(_)) | None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use clone8s::v1::{ContainerState, ContainerStateWaiting, ContainerStatus, PodStatus};

    use super::*;

    #[test]
    fn a_pod_that_is_wanted_no_more_is_known_by_its_status() {
        let status = |name: &str, state| ContainerStatus {
            name: name.to_owned(),
            state: Some(ContainerState { state }),
            ..ContainerStatus::default()
        };
        let waiting = State::Waiting(ContainerStateWaiting {
            reason: "CrashLoopBackOff".to_owned(),
            message: "back-off 10s".to_owned(),
        });
        let entry = PodEntry {
            uid: PodUid::new("u1"),
            source: Source::Folder,
            status: Arc::new(PodStatus {
                init_container_statuses: vec![status("first", None)],
                container_statuses: vec![status("web", Some(waiting))],
                ..PodStatus::default()
            }),
            gone: false,
        };
        let statuses = Arc::new(BTreeMap::from([(PodKey::new("default", "p"), entry)]));
        let pods = Pods {
            node: "n1".to_owned(),
            desired: watch::channel(Desired::default()).1,
            statuses: watch::channel(statuses).1,
        };
        let pod = pods.find("", "p-n1").unwrap();
        assert_eq!(pod.key(), &PodKey::new("", "p"));
        assert_eq!(pod.container("").unwrap(), "web");
        assert_eq!(pod.container("first").unwrap(), "first");
        let refused = pod.container("wen").unwrap_err();
        assert!(refused.message().contains("it has first, web"), "{refused}");
        assert_eq!(pod.waiting_for("web"), " (CrashLoopBackOff: back-off 10s)");
        assert_eq!(pod.waiting_for("first"), "");
        assert!(pods.find("other", "p-n1").is_err());
        // It is what the apiserver would call so: another pod, which is not here.
        assert!(pods.find("", "p").is_err());
    }
}
