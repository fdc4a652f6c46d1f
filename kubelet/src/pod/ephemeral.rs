//! Containers for a look into a running pod: each is started once, and never again. Pure.
//!
//! ```text
//! added ──► waits for the sandbox, and for its target ──► runs ──► ended, for good
//! ```
//! That one has run is known by its run, and where the runtime has lost that, by what was seen of it before.

use clone8s::v1::{ContainerStatus, PodStatus, container_state::State};

use super::observed::{Observed, Run, RunState, Sandbox};
use crate::desired::DesiredPod;

/// The running container whose processes an ephemeral container is to see, where they are not its own alone or the
/// pod's anyway. The error is the name of one that does not run.
pub fn target<'a, 'p>(
    pod: &'p DesiredPod,
    name: &str,
    observed: &'a Observed,
    sandbox: Option<&Sandbox>,
) -> Result<Option<&'a Run>, &'p str> {
    let spec = pod.spec();
    let Some(container) = spec.ephemeral_container(name) else {
        return Ok(None);
    };
    let target = container.target_container_name.as_str();
    let sees_all = spec.host_pid || spec.share_process_namespace == Some(true);
    if target.is_empty() || sees_all {
        return Ok(None);
    }
    let runs = observed.runs_of(&pod.uid(), target);
    let mut running = runs.into_iter().filter(|run| {
        let in_place = sandbox.is_some_and(|sandbox| sandbox.id == run.sandbox);
        in_place && matches!(run.state, RunState::Running { .. })
    });
    running.next().map(Some).ok_or(target)
}

/// The ephemeral containers that have run by what a status says.
pub fn begun(status: Option<&PodStatus>) -> impl Iterator<Item = &str> {
    let statuses = status
        .into_iter()
        .flat_map(|status| &status.ephemeral_container_statuses);
    let begun = statuses.filter(|status| {
        let state = status.state.as_ref().and_then(|state| state.state.as_ref());
        matches!(state, Some(State::Running(_) | State::Terminated(_)))
    });
    begun.map(|status: &ContainerStatus| status.name.as_str())
}
