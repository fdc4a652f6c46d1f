//! The containers of a pod of each kind: those that run before the others, the others, and those for a look at them.

use std::{borrow::Cow, ops::Range};

use crate::v1::{Container, ContainerStatus, EphemeralContainer, PodSpec, PodStatus, Volume};

impl PodSpec {
    /// Init containers in their order, then the others; not those for a look at them.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> + Clone {
        self.init_containers.iter().chain(&self.containers)
    }

    /// The container of this name, of any kind.
    pub fn container(&self, name: &str) -> Option<Cow<'_, Container>> {
        let lasting = self.all_containers().find(|container| container.name == name);
        lasting.map(Cow::Borrowed).or_else(|| {
            let ephemeral = self.ephemeral_container(name)?;
            Some(Cow::Owned(ephemeral.to_container()))
        })
    }

    pub fn ephemeral_container(&self, name: &str) -> Option<&EphemeralContainer> {
        let mut all = self.ephemeral_containers.iter();
        all.find(|container| container.name == name)
    }

    /// The volumes that a container mounts.
    pub fn mounted_volumes(&self, container: &Container) -> impl Iterator<Item = &Volume> {
        self.volumes.iter().filter(|volume| {
            let mut mounts = container.volume_mounts.iter();
            mounts.any(|mount| mount.name == volume.name)
        })
    }

    /// The names of all of them, in the order in which they start.
    pub fn container_names(&self) -> impl Iterator<Item = &str> {
        let lasting = self.all_containers().map(|container| container.name.as_str());
        let ephemeral = self.ephemeral_containers.iter();
        lasting.chain(ephemeral.map(|container| container.name.as_str()))
    }

    /// The container that a caller means who may have named none.
    pub fn choose_container(&self, wanted: &str) -> Result<&str, ContainerChoiceError> {
        let names = self.container_names();
        let init = self.init_containers.len();
        let main = init..init + self.containers.len();
        choose(&names.collect::<Vec<_>>(), main, wanted)
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

impl EphemeralContainer {
    /// The same as a container that has nothing else.
    pub fn to_container(&self) -> Container {
        let own = self.clone();
        Container {
            name: own.name,
            image: own.image,
            command: own.command,
            args: own.args,
            working_dir: own.working_dir,
            env: own.env,
            env_from: own.env_from,
            volume_mounts: own.volume_mounts,
            image_pull_policy: own.image_pull_policy,
            security_context: own.security_context,
            stdin: own.stdin,
            stdin_once: own.stdin_once,
            tty: own.tty,
            ..Container::default()
        }
    }
}

impl PodStatus {
    /// Of init containers in their order, then of the others, and last of those for a look at them.
    pub fn all_container_statuses(&self) -> impl Iterator<Item = &ContainerStatus> + Clone {
        self.init_container_statuses
            .iter()
            .chain(&self.container_statuses)
            .chain(&self.ephemeral_container_statuses)
    }
}

/// The name that is wanted, or with none the only one of the containers that are neither init containers nor for a look
/// at the others: those in the range `main` of the names.
pub fn choose<'a>(
    names: &[&'a str],
    main: Range<usize>,
    wanted: &str,
) -> Result<&'a str, ContainerChoiceError> {
    let joined = || names.join(", ");
    if wanted.is_empty() {
        return match names.get(main) {
            Some([only]) => Ok(only),
            _ => Err(ContainerChoiceError::Open { names: joined() }),
        };
    }
    let found = names.iter().find(|name| **name == wanted);
    found.copied().ok_or_else(|| ContainerChoiceError::Unknown {
        wanted: wanted.to_owned(),
        names: joined(),
    })
}

/// Why it is not clear which container is meant; said of the field that names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerChoiceError {
    #[error("is empty; name one of {names}")]
    Open { names: String },
    #[error("{wanted:?} is not in the pod; it has {names}")]
    Unknown { wanted: String, names: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_pod_with_init_containers_the_only_other_is_meant() {
        let named = |name: &str| Container {
            name: name.to_owned(),
            ..Default::default()
        };
        let mut spec = PodSpec {
            init_containers: vec![named("first")],
            containers: vec![named("web")],
            ..Default::default()
        };
        assert_eq!(spec.choose_container(""), Ok("web"));
        assert_eq!(spec.choose_container("first"), Ok("first"));
        spec.containers.push(named("side"));
        assert_eq!(
            spec.choose_container("").unwrap_err().to_string(),
            "is empty; name one of first, web, side"
        );
        assert_eq!(
            spec.choose_container("wen").unwrap_err().to_string(),
            "\"wen\" is not in the pod; it has first, web, side"
        );
    }

    #[test]
    fn a_container_for_a_look_is_one_that_must_be_named() {
        let spec = PodSpec {
            containers: vec![Container {
                name: "web".to_owned(),
                ..Default::default()
            }],
            ephemeral_containers: vec![EphemeralContainer {
                name: "look".to_owned(),
                tty: true,
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(spec.choose_container(""), Ok("web"));
        assert_eq!(spec.choose_container("look"), Ok("look"));
        assert!(spec.container("look").unwrap().tty);
        assert_eq!(spec.all_containers().count(), 1);
    }
}
