//! `c8s debug`: a container for a look into a running pod.
//!
//! ```text
//! AddEphemeralContainer ──► watch until it runs ──► attach, with -i or -t
//!                                   │
//!                                   ├── has ended: what it wrote
//!                                   └── cannot start: why
//! ```

use std::io::Write;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use clone8s::{
    client::{From, Query, Resource as _},
    object::Object as _,
    v1::{
        AddEphemeralContainerRequest, ContainerStateTerminated, EphemeralContainer, GetPodLogsRequest, Pod,
        container_state::State, pod_service_client::PodServiceClient,
    },
};
use clone8s_daemon::channel::Channel;

use crate::{
    attach, logs,
    namespace::NamespaceArgs,
    session::{SessionArgs, failed, pod_name},
    terminal,
};

/// The container stays in the pod's spec, and runs until its process ends or the pod does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s debug hello --image busybox:1.37 -it
  c8s debug hello --image busybox:1.37 --target web -it -- sh
  c8s debug hello --image tools:1 -c trace --target web -- strace -fp 1")]
pub struct DebugArgs {
    /// The pod's name
    pod: String,
    /// The image of the container
    #[arg(long)]
    image: String,
    /// The container's name [default: debugger- and five letters]
    #[arg(short = 'c', long)]
    container: Option<String>,
    /// A container of the pod whose processes it sees
    #[arg(long, value_name = "CONTAINER", default_value = "", hide_default_value = true)]
    target: String,
    /// Pass on the standard input; its end is that of the container's
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give it a terminal, and use this one as it
    #[arg(short = 't', long)]
    tty: bool,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// The program and its arguments, in place of the image's
    #[arg(last = true)]
    command: Vec<String>,
}

pub async fn run(args: &DebugArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let pod_name = pod_name(&args.pod);
    let container = container(args);
    let name = container.name.clone();
    let tty = container.tty;
    let request = AddEphemeralContainerRequest {
        namespace: args.namespace.namespace.clone(),
        name: pod_name.clone(),
        container: Some(container),
        ..AddEphemeralContainerRequest::default()
    };
    let added = PodServiceClient::new(channel.clone())
        .add_ephemeral_container(request)
        .await
        .map_err(|status| failed(&pod_name, &status))?;
    let pod = added.into_inner().pod.unwrap_or_default();

    let outcome = until_decided(channel, &pod, &name).await?;
    match outcome {
        Stage::Runs if args.stdin || args.tty => {
            let hint = if tty {
                "; press Enter where no prompt shows"
            } else {
                ""
            };
            eprintln!("container {name}{hint}");
            let session = SessionArgs {
                pod: pod_name,
                container: name,
                stdin: args.stdin,
                tty,
                namespace: args.namespace.clone(),
            };
            attach::join(&session, channel, out).await
        }
        Stage::Runs => {
            writeln!(out, "pod/{pod_name}: container {name} runs")?;
            Ok(())
        }
        Stage::Ended(end) => {
            show_log(args, channel, &name, out).await?;
            ended(&pod_name, &name, &end)
        }
        Stage::Stuck(why) => bail!(
            "pod/{pod_name}: container {name} does not start: {why}; the node tries on: c8s describe pod {pod_name}"
        ),
        Stage::TooLate(phase) => bail!(
            "pod/{pod_name}: container {name} does not start: the pod has ended ({phase}); c8s logs has what it wrote"
        ),
        Stage::Waits(_) => Err(anyhow!("pod/{pod_name}: the server ended the watch: try again")),
    }
}

fn container(args: &DebugArgs) -> EphemeralContainer {
    let tty = terminal::is_given("container", args.tty, args.stdin);
    EphemeralContainer {
        name: args.container.clone().unwrap_or_else(generated_name),
        image: args.image.clone(),
        command: args.command.clone(),
        stdin: args.stdin,
        stdin_once: args.stdin,
        tty,
        target_container_name: args.target.clone(),
        ..EphemeralContainer::default()
    }
}

fn generated_name() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("debugger-{}", random.chars().take(5).collect::<String>())
}

/// How far the container is.
#[derive(Debug, Clone, PartialEq)]
enum Stage {
    /// What for, where that is known.
    Waits(String),
    Runs,
    Ended(ContainerStateTerminated),
    /// Something keeps it from starting.
    Stuck(String),
    /// Its pod has ended before: the phase.
    TooLate(String),
}

impl Stage {
    fn of(pod: &Pod, container: &str) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let mut known = status.ephemeral_container_statuses.into_iter();
        let known = known.find(|one| one.name == container);
        let state = known.and_then(|one| one.state).and_then(|state| state.state);
        match state {
            Some(State::Running(_)) => Self::Runs,
            Some(State::Terminated(end)) => Self::Ended(end),
            _ if matches!(status.phase.as_str(), "Succeeded" | "Failed") => Self::TooLate(status.phase),
            Some(State::Waiting(waiting)) if is_on_its_way(&waiting.reason) => Self::Waits(waiting.message),
            Some(State::Waiting(waiting)) => Self::Stuck(format!("{}: {}", waiting.reason, waiting.message)),
            None if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_empty()) => {
                Self::Waits("waits for its pod to be on a node".to_owned())
            }
            None => Self::Waits(String::new()),
        }
    }
}

fn is_on_its_way(reason: &str) -> bool {
    matches!(reason, "" | "ContainerCreating" | "PodInitializing")
}

/// Watches the pod until its container runs, or will not; tells what it waits for meanwhile.
async fn until_decided(channel: &Channel, pod: &Pod, container: &str) -> Result<Stage> {
    let name = pod.name();
    let query = Query {
        namespace: pod.namespace().to_owned(),
        field_selector: format!("metadata.name={name}"),
        ..Query::default()
    };
    let told = |status: tonic::Status| failed(name, &status);
    let mut watch = Pod::watch(channel, &query, From::InitialState)
        .await
        .map_err(told)?;
    let mut last = Stage::Waits(String::new());
    while let Some(event) = watch.next().await.map_err(told)? {
        let Some(pod) = event.object.filter(|now| now.uid() == pod.uid()) else {
            continue;
        };
        if event.kind == clone8s::v1::WatchEventType::Deleted {
            bail!("pod/{name}: it was deleted before container {container} started");
        }
        match Stage::of(&pod, container) {
            Stage::Waits(what) if last == Stage::Waits(what.clone()) => {}
            Stage::Waits(what) => {
                if !what.is_empty() {
                    eprintln!("container {container}: {what}");
                }
                last = Stage::Waits(what);
            }
            decided => return Ok(decided),
        }
    }
    Ok(last)
}

async fn show_log(args: &DebugArgs, channel: &Channel, container: &str, out: &mut impl Write) -> Result<()> {
    let request = GetPodLogsRequest {
        namespace: args.namespace.namespace.clone(),
        name: pod_name(&args.pod),
        container: container.to_owned(),
        ..GetPodLogsRequest::default()
    };
    logs::show(channel, request, out).await
}

fn ended(pod: &str, container: &str, end: &ContainerStateTerminated) -> Result<()> {
    match end.exit_code {
        0 => Ok(()),
        code if end.message.is_empty() => {
            bail!(
                "pod/{pod}: container {container} has ended with exit code {code} ({})",
                end.reason
            )
        }
        code => bail!(
            "pod/{pod}: container {container} has ended with exit code {code} ({}): {}",
            end.reason,
            end.message
        ),
    }
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{
        ContainerState, ContainerStateRunning, ContainerStateWaiting, ContainerStatus, PodStatus,
    };
    use rstest::rstest;

    use super::*;

    fn waiting(reason: &str, message: &str) -> State {
        State::Waiting(ContainerStateWaiting {
            reason: reason.into(),
            message: message.into(),
        })
    }

    fn ended_with(exit_code: i32) -> ContainerStateTerminated {
        ContainerStateTerminated {
            exit_code,
            reason: "Error".into(),
            ..ContainerStateTerminated::default()
        }
    }

    #[rstest]
    #[case::no_node("Pending", None, Stage::Waits("waits for its pod to be on a node".into()))]
    #[case::pulls(
        "Running",
        Some(waiting("ContainerCreating", "")),
        Stage::Waits(String::new())
    )]
    #[case::target("Running", Some(waiting("ContainerCreating", "waits for web")), Stage::Waits("waits for web".into()))]
    #[case::image("Running", Some(waiting("ErrImagePull", "not found")), Stage::Stuck("ErrImagePull: not found".into()))]
    #[case::runs(
        "Running",
        Some(State::Running(ContainerStateRunning::default())),
        Stage::Runs
    )]
    #[case::ended(
        "Running",
        Some(State::Terminated(ended_with(3))),
        Stage::Ended(ended_with(3))
    )]
    #[case::pod_ended("Succeeded", Some(waiting("ContainerCreating", "")), Stage::TooLate("Succeeded".into()))]
    fn the_status_of_the_container_tells_how_far_it_is(
        #[case] phase: &str,
        #[case] state: Option<State>,
        #[case] expected: Stage,
    ) {
        let of = |name: &str, state| ContainerStatus {
            name: name.into(),
            state: Some(ContainerState { state }),
            ..ContainerStatus::default()
        };
        let pod = Pod {
            status: Some(PodStatus {
                phase: phase.into(),
                ephemeral_container_statuses: vec![of("other", None), of("look", state)],
                ..PodStatus::default()
            }),
            ..Pod::default()
        };
        assert_eq!(Stage::of(&pod, "look"), expected);
    }

    #[test]
    fn generated_names_are_dns_labels_of_their_own() {
        let (one, other) = (generated_name(), generated_name());
        clone8s::names::check_dns_label(&one).unwrap();
        assert!(one.starts_with("debugger-") && one.len() == 14, "{one}");
        assert_ne!(one, other);
    }
}
