//! What people and their programs do to a simulated cluster. Each call ends in time, well or not: what has come of it the
//! store's log tells.

use std::{fs, path::Path, time::Duration};

use clone8s::{
    client::{DeleteOptions, Resource as _},
    v1::{Container, Node, Pod},
};
use clone8s_bus::{EventBus as _, Message, NODES_EXCHANGE};
use clone8s_integration::pods;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    bus::FlakyBus,
    history::{Fact, NodeName},
    journal::Journal,
    schedule::{FAILING, JOB, Kind, STUBBORN, WEB},
};

const NAMESPACE: &str = "default";
const DEADLINE: Duration = Duration::from_secs(8);
const RETRY: Duration = Duration::from_millis(500);
/// Messages that wait for the bus; the schedule waits for room.
const WAITING: usize = 64;

pub(crate) struct Users {
    api: Channel,
    journal: Journal,
    messages: mpsc::Sender<(NodeName, Message)>,
    calls: JoinSet<()>,
    _telling: JoinSet<()>,
}

impl Users {
    pub(crate) fn new(api: Channel, bus: FlakyBus, journal: Journal) -> Self {
        let (messages, waiting) = mpsc::channel(WAITING);
        let mut telling = JoinSet::new();
        telling.spawn(tell_all(bus, waiting));
        Self {
            api,
            journal,
            messages,
            calls: JoinSet::new(),
            _telling: telling,
        }
    }

    /// Whether a call or a message is on its way.
    pub(crate) fn are_busy(&mut self) -> bool {
        while let Some(ended) = self.calls.try_join_next() {
            ended.unwrap();
        }
        !self.calls.is_empty() || self.messages.capacity() < WAITING
    }

    pub(crate) fn create(&mut self, number: u32, kind: Kind, grace: i32) {
        let api = self.api.clone();
        let pod = pod_of(number, kind, grace);
        self.call(async move { Pod::create(&api, pod).await.map(drop) });
    }

    pub(crate) fn update(&mut self, number: u32) {
        let api = self.api.clone();
        self.call(async move {
            let mut pod = Pod::get(&api, NAMESPACE, &name(number)).await?;
            let containers = pod.spec.iter_mut().flat_map(|spec| &mut spec.containers);
            for container in containers {
                if let Some(version) = WEB.iter().position(|image| container.image == *image) {
                    WEB[1 - version].clone_into(&mut container.image);
                }
            }
            Pod::update(&api, pod).await.map(drop)
        });
    }

    pub(crate) fn delete(&mut self, number: u32) {
        let api = self.api.clone();
        let options = DeleteOptions::default();
        self.call(async move {
            Pod::delete(&api, NAMESPACE, &name(number), &options)
                .await
                .map(drop)
        });
    }

    pub(crate) fn cordon(&mut self, node: NodeName) {
        let api = self.api.clone();
        self.call(async move { set_unschedulable(&api, node, true).await });
    }

    /// Until it is so: pods wait for a node that takes them.
    pub(crate) fn uncordon(&mut self, node: NodeName) {
        let api = self.api.clone();
        self.calls.spawn(async move {
            while set_unschedulable(&api, node, false).await.is_err() {
                sleep(RETRY).await;
            }
        });
    }

    /// Tells a node by its queue what it is to run.
    pub(crate) async fn tell(&self, node: NodeName, number: u32, image: Option<&'static str>) {
        let pod = format!("queue-{number}");
        let manifest = pods::flat_yaml(&pod, &[("main", image.unwrap_or(WEB[0]))]);
        let action = if image.is_some() { "update" } else { "delete" };
        let pod_below = manifest.replace('\n', "\n  ");
        self.journal.write(Fact::Wanted { node, pod, image });
        let message = Message {
            content_type: "application/yaml".to_owned(),
            body: format!("action: {action}\npod:\n  {pod_below}").into(),
            ..Message::default()
        };
        let _ = self.messages.send((node, message)).await;
    }

    /// Writes or removes a manifest in a node's folder.
    pub(crate) fn write(&self, folder: &Path, node: NodeName, number: u32, image: Option<&'static str>) {
        let pod = format!("folder-{number}");
        let path = folder.join(format!("{pod}.yaml"));
        fs::create_dir_all(folder).unwrap();
        let manifest = image.map(|image| pods::flat_yaml(&pod, &[("main", image)]));
        self.journal.write(Fact::Wanted { node, pod, image });
        match manifest {
            Some(manifest) => fs::write(path, manifest).unwrap(),
            None if path.exists() => fs::remove_file(path).unwrap(),
            None => {}
        }
    }

    fn call(&mut self, call: impl Future<Output = Result<(), Status>> + Send + 'static) {
        self.calls.spawn(async move {
            match timeout(DEADLINE, call).await {
                Ok(Err(status)) if is_mistake(&status) => panic!("a user asks what cannot be: {status}"),
                _ => {}
            }
        });
    }
}

/// In order, each until the bus has it.
async fn tell_all(bus: FlakyBus, mut waiting: mpsc::Receiver<(NodeName, Message)>) {
    while let Some((node, message)) = waiting.recv().await {
        while bus.publish(NODES_EXCHANGE, node, message.clone()).await.is_err() {
            sleep(RETRY).await;
        }
    }
}

async fn set_unschedulable(api: &Channel, node: NodeName, on: bool) -> Result<(), Status> {
    let mut node = Node::get(api, "", node).await?;
    node.spec.get_or_insert_default().unschedulable = on;
    Node::update(api, node).await.map(drop)
}

/// No fault that is simulated brings these answers.
fn is_mistake(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated
    )
}

fn name(number: u32) -> String {
    format!("pod-{number}")
}

fn pod_of(number: u32, kind: Kind, grace: i32) -> Pod {
    let (policy, image) = match kind {
        Kind::Web | Kind::Stubborn => ("Always", WEB[0]),
        Kind::Job => ("OnFailure", JOB),
        Kind::Retried => ("OnFailure", WEB[0]),
        Kind::Once => ("Never", WEB[0]),
        Kind::Failing => ("Never", FAILING),
    };
    let mut pod = pods::pod(&name(number), &[("main", image)]);
    let spec = pod.spec.get_or_insert_default();
    policy.clone_into(&mut spec.restart_policy);
    spec.termination_grace_period_seconds = Some(grace);
    if kind == Kind::Stubborn {
        spec.containers.push(Container {
            name: "stubborn".to_owned(),
            image: STUBBORN.to_owned(),
            ..Container::default()
        });
    }
    pod
}
