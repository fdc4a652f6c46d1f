//! The statuses of the containers that are there for a look into the pod.

use clone8s::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, PodStatus, container_state::State,
};

use super::container::{View, container_status};
use crate::pod::{observed::LOST_EXIT_CODE, stages::Role};

pub(super) fn ephemeral_statuses(view: &View<'_>, previous: Option<&PodStatus>) -> Vec<ContainerStatus> {
    let containers = view.pod.spec().ephemeral_containers.iter();
    containers
        .map(|container| {
            let name = &container.name;
            let has_run = view.memory.has_begun(view.uid, name);
            if has_run && view.observed.runs_of(view.uid, name).is_empty() {
                let mut statuses = previous
                    .into_iter()
                    .flat_map(|status| &status.ephemeral_container_statuses);
                return lost(
                    &container.to_container(),
                    statuses.find(|status| status.name == *name),
                );
            }
            container_status(view, Role::Ephemeral, &container.to_container())
        })
        .collect()
}

/// Of one that has run, and that the runtime has no longer.
fn lost(container: &Container, previous: Option<&ContainerStatus>) -> ContainerStatus {
    let before = previous.cloned().unwrap_or_else(|| ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        ..ContainerStatus::default()
    });
    if let Some(ContainerState {
        state: Some(State::Terminated(_)),
    }) = before.state
    {
        return before;
    }
    let end = ContainerStateTerminated {
        exit_code: LOST_EXIT_CODE,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "the container runtime no longer has the container, which is not run again".to_owned(),
        container_id: before.container_id.clone(),
        ..ContainerStateTerminated::default()
    };
    ContainerStatus {
        state: Some(ContainerState {
            state: Some(State::Terminated(end)),
        }),
        started: false,
        ..before
    }
}
