//! The containers of a pod of either kind: those that run before the others, and the others.

use crate::v1::{Container, ContainerStatus, PodSpec, PodStatus};

impl PodSpec {
    /// Init containers in their order, then the others.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> + Clone {
        self.init_containers.iter().chain(&self.containers)
    }

    /// The container of this name, of either kind.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.all_containers().find(|container| container.name == name)
    }

    /// Init containers that stay beside the others.
    pub fn sidecars(&self) -> impl Iterator<Item = &Container> {
        self.init_containers
            .iter()
            .filter(|container| container.is_sidecar())
    }

    /// What containers take at the most at one time, as Kubernetes counts: each init container runs beside the sidecars
    /// before it, the containers beside all sidecars. `add` puts two together, `raise` takes the greater of each.
    pub fn most_at_once<T: Clone + Default, E>(
        &self,
        of: impl Fn(&Container) -> Result<T, E>,
        add: impl Fn(&mut T, T),
        raise: impl Fn(&mut T, T),
    ) -> Result<T, E> {
        let mut most = T::default();
        let mut sidecars = T::default();
        for container in &self.init_containers {
            let mut beside = sidecars.clone();
            add(&mut beside, of(container)?);
            if container.is_sidecar() {
                sidecars.clone_from(&beside);
            }
            raise(&mut most, beside);
        }
        let mut together = sidecars;
        for container in &self.containers {
            add(&mut together, of(container)?);
        }
        raise(&mut most, together);
        Ok(most)
    }
}

impl Container {
    /// Of an init container: whether it stays beside what comes after it.
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy == "Always"
    }
}

impl PodStatus {
    /// Of init containers in their order, then of the others.
    pub fn all_container_statuses(&self) -> impl Iterator<Item = &ContainerStatus> + Clone {
        self.init_container_statuses
            .iter()
            .chain(&self.container_statuses)
    }
}
