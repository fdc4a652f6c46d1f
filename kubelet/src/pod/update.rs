//! What a change of its spec does to the containers of a pod that runs, for who wants to know before. Pure.

use std::{fmt, sync::Arc};

use clone8s::v1::{Container, Pod};

use super::{
    hash,
    resources::Allocation,
    stages::{Role, roles},
};
use crate::desired::{DesiredPod, Source};

/// What becomes of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Starts,
    Stops,
    Restarts,
    /// Because the whole pod gets a new sandbox: other namespaces, and on the pod network another address.
    RestartsInNewSandbox,
    /// It runs on, with other limits.
    Resizes,
    /// An init container that has done its work, and another spec of it, is not run again.
    StaysDone,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starts => "starts",
            Self::Stops => "stops",
            Self::Restarts => "restarts",
            Self::RestartsInNewSandbox => "restarts, with the whole pod, in a new sandbox",
            Self::Resizes => "gets other limits and runs on",
            Self::StaysDone => "is not run again where it has ended",
        })
    }
}

/// The containers that a change does something to, in the order of their start; those that stop come last.
pub fn effects(old: &Pod, new: &Pod) -> Vec<(String, Effect)> {
    let [old, new] = [old, new].map(|pod| DesiredPod {
        pod: Arc::new(pod.clone()),
        source: Source::Api,
    });
    let (before, after) = (old.spec(), new.spec());
    let in_new_sandbox = hash::sandbox_hash(&old) != hash::sandbox_hash(&new);
    let present = roles(after).filter_map(|(role, container)| {
        let effect = match before.container(&container.name) {
            // The new sandbox begins with the first init container.
            _ if in_new_sandbox => Effect::RestartsInNewSandbox,
            None if matches!(role, Role::Init(_)) => Effect::StaysDone,
            None => Effect::Starts,
            Some(was) if hash::container_hash(&old, &was) != hash::container_hash(&new, container) => {
                match role {
                    Role::Init(_) => Effect::StaysDone,
                    Role::Sidecar(_) | Role::Main | Role::Ephemeral => Effect::Restarts,
                }
            }
            Some(was) if allocation(&was) != allocation(container) => Effect::Resizes,
            Some(_) => return None,
        };
        Some((container.name.clone(), effect))
    });
    let gone = roles(before).filter(|(role, container)| {
        !matches!(role, Role::Init(_)) && after.container(&container.name).is_none()
    });
    let gone = gone.map(|(_, container)| (container.name.clone(), Effect::Stops));
    present.chain(gone).collect()
}

/// None where a quantity is no quantity, which nobody stores.
fn allocation(container: &Container) -> Option<Allocation> {
    Allocation::wanted(container).ok()
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{PodSpec, ResourceRequirements};
    use rstest::rstest;

    use super::*;
    use crate::pod::testing::{container, pod, sidecar};

    fn resources(memory: &str) -> ResourceRequirements {
        ResourceRequirements {
            limits: [("memory".to_owned(), memory.to_owned())].into(),
            ..Default::default()
        }
    }

    #[rstest]
    #[case::nothing(|_: &mut PodSpec| {}, &[])]
    #[case::image(|spec: &mut PodSpec| spec.containers[0].image = "web:2".into(), &[("web", Effect::Restarts)])]
    #[case::sidecar(|spec: &mut PodSpec| spec.init_containers[1].image = "log:2".into(), &[("log", Effect::Restarts)])]
    #[case::init(|spec: &mut PodSpec| spec.init_containers[0].image = "seed:2".into(), &[("seed", Effect::StaysDone)])]
    #[case::limits(|spec: &mut PodSpec| spec.containers[1].resources = Some(resources("2Gi")), &[("side", Effect::Resizes)])]
    #[case::host_network(
        |spec: &mut PodSpec| spec.host_network = true,
        &[
            ("seed", Effect::RestartsInNewSandbox),
            ("log", Effect::RestartsInNewSandbox),
            ("web", Effect::RestartsInNewSandbox),
            ("side", Effect::RestartsInNewSandbox),
        ]
    )]
    #[case::parameters_of_the_kernel(
        |spec: &mut PodSpec| spec.security_context.get_or_insert_default().sysctls.push(clone8s::v1::Sysctl::default()),
        &[
            ("seed", Effect::RestartsInNewSandbox),
            ("log", Effect::RestartsInNewSandbox),
            ("web", Effect::RestartsInNewSandbox),
            ("side", Effect::RestartsInNewSandbox),
        ]
    )]
    #[case::user(
        |spec: &mut PodSpec| {
            // One says itself who it is: the same as before.
            spec.containers[1].security_context.get_or_insert_default().run_as_user = Some(7);
            spec.security_context.get_or_insert_default().run_as_user = Some(8);
        },
        &[("seed", Effect::StaysDone), ("log", Effect::Restarts), ("web", Effect::Restarts)]
    )]
    #[case::another(
        |spec: &mut PodSpec| spec.containers = vec![container("web", "web:1"), container("new", "new:1")],
        &[("new", Effect::Starts), ("side", Effect::Stops)]
    )]
    fn a_change_is_told_by_what_it_does(#[case] edit: fn(&mut PodSpec), #[case] expected: &[(&str, Effect)]) {
        let mut old = pod("p", vec![container("web", "web:1"), container("side", "side:1")]);
        let spec = Arc::make_mut(&mut old.pod).spec.get_or_insert_default();
        spec.init_containers = vec![container("seed", "seed:1"), sidecar("log", "log:1")];
        spec.containers[1].resources = Some(resources("1Gi"));
        spec.containers[1]
            .security_context
            .get_or_insert_default()
            .run_as_user = Some(7);
        let mut new = old.clone();
        edit(Arc::make_mut(&mut new.pod).spec.get_or_insert_default());
        let told = effects(&old.pod, &new.pod);
        let told: Vec<_> = told
            .iter()
            .map(|(name, effect)| (name.as_str(), *effect))
            .collect();
        assert_eq!(told, expected);
    }
}
