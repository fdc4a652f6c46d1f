//! Rows of the table: a life of a pod, in which one call goes wrong.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use clone8s::cri;
use clone8s_integration::{Image, Registry};
use tempfile::TempDir;

use super::{
    life::Life,
    network::{HOST_PORT, Network},
};
use crate::containerd::fake::{Fake, Fault, State};

const NAME: &str = "localhost/busybox:1";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Step {
    Import,
    /// In place of the import, from a registry.
    Pull,
    Run,
    Create,
    Start,
    StopContainer,
    RemoveContainer,
    StopSandbox,
    RemoveSandbox,
}

const LIFE: [Step; 7] = [
    Step::Run,
    Step::Create,
    Step::Start,
    Step::StopContainer,
    Step::RemoveContainer,
    Step::StopSandbox,
    Step::RemoveSandbox,
];

/// Where the image comes from.
pub(super) struct Source {
    archive_dir: TempDir,
    /// With the image's name there.
    registry: Option<(Arc<Registry>, String)>,
}

impl Source {
    pub(super) fn archive(&self) -> PathBuf {
        self.archive_dir.path().join("image.tar")
    }

    pub(super) fn image(&self) -> cri::ImageSpec {
        let name = self.registry.as_ref().map_or(NAME, |(_, name)| name);
        cri::ImageSpec {
            image: name.to_owned(),
            ..Default::default()
        }
    }
}

pub(super) struct Bench {
    source: Arc<Source>,
    network: Network,
    image: OnceLock<State>,
}

impl Bench {
    /// Of pods with an image from an archive.
    pub(super) fn new(network: Network) -> Self {
        Self::of(network, None)
    }

    /// Of pods with an image from a registry.
    pub(super) fn with_registry() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let registry = runtime.block_on(Registry::shared());
        let name = image().push(&registry, "tiny:1").expect("the image is pushed");
        Self::of(Network::Host, Some((registry, name)))
    }

    fn of(network: Network, registry: Option<(Arc<Registry>, String)>) -> Self {
        let source = Source {
            archive_dir: tempfile::tempdir().expect("a folder"),
            registry,
        };
        image()
            .write_archive(&source.archive(), NAME)
            .expect("an archive");
        Self {
            source: Arc::new(source),
            network,
            image: OnceLock::new(),
        }
    }

    /// A containerd that has the image.
    pub(super) fn image(&self) -> State {
        let made = || {
            let mut life = self.start(State::default());
            life.go(Step::Import).expect("the image is imported");
            life.fake.state()
        };
        self.image.get_or_init(made).clone()
    }

    /// A first process on a containerd and a host that know of no pod.
    pub(super) fn start(&self, state: State) -> Life {
        let dir = tempfile::tempdir().expect("a folder");
        Life::new(
            Fake::new(state),
            Arc::new(dir),
            Arc::clone(&self.source),
            self.network,
        )
    }

    /// One row of the table; which call went wrong, or nothing when the step does not make so many.
    pub(super) fn one(&self, step: Step, nth: usize, fault: Fault, dies: bool) -> Option<&'static str> {
        let context = format!("{step:?}, call {nth}, {fault:?}, dies: {dies}");
        let state = if matches!(step, Step::Import | Step::Pull) {
            State::default()
        } else {
            self.image()
        };
        let mut life = self.start(state);
        for before in LIFE.iter().filter(|&&before| before < step) {
            life.go(*before)
                .unwrap_or_else(|error| panic!("{context}: {before:?}: {error:?}"));
        }
        life.fake.arm(nth, fault);
        let outcome = if dies {
            life.go_and_die(step)
        } else {
            Some(life.go(step))
        };
        let struck = life.fake.heal();
        let done = match outcome {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                assert!(struck.is_some(), "{context}: fails without a fault: {error:?}");
                false
            }
            None => {
                life = life.reborn();
                false
            }
        };
        life.ready();
        // The step again where it has not succeeded, and all that come after it.
        let again = Some(step).filter(|_| !done);
        for step in again.iter().chain(LIFE.iter().filter(|&&after| after > step)) {
            life.go(*step)
                .unwrap_or_else(|error| panic!("{context} ({struck:?}): then {step:?}: {error:?}"));
        }
        life.assert_nothing_left(&context);
        struck
    }
}

fn image() -> Image {
    Image::empty()
        .file("bin/true", 0o755, "not run")
        .cmd(["/bin/true"])
}

pub(super) fn sandbox_config(network: Network) -> cri::PodSandboxConfig {
    let mode = match network {
        Network::Host => cri::NamespaceMode::Node,
        Network::Own => cri::NamespaceMode::Pod,
    };
    let options = cri::NamespaceOption {
        network: mode.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        ..Default::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".into(),
            uid: "u1".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        port_mappings: match network {
            Network::Host => Vec::new(),
            Network::Own => vec![cri::PortMapping {
                host_port: HOST_PORT.into(),
                container_port: 80,
                ..Default::default()
            }],
        },
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn container_config(image: cri::ImageSpec) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "main".into(),
            attempt: 0,
        }),
        image: Some(image),
        ..Default::default()
    }
}
