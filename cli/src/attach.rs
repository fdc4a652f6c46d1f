//! `c8s attach`: what a container's own process reads and writes, from now on.

use std::{future::ready, io::Write};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use clone8s::{
    client::Resource as _,
    v1::{
        AttachPodRequest, AttachPodResponse, AttachPodStart, Pod, PodStdinEnd, attach_pod_request,
        attach_pod_response, pod_service_client::PodServiceClient,
    },
};
use clone8s_daemon::channel::Channel;
use futures::{Stream, StreamExt as _, stream};
use tonic::{Status, Streaming};

use crate::session::{self, FromPod, SessionArgs, ToPod};

/// It ends with the container's output. With -i, the container's spec must say stdin, and with -t, tty.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s attach hello
  c8s attach -it hello -c shell")]
pub struct AttachArgs {
    #[command(flatten)]
    session: SessionArgs,
}

pub async fn run(args: &AttachArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    join(&args.session, channel, out).await
}

/// Until the container's output ends.
pub async fn join(session: &SessionArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let start = AttachPodStart {
        namespace: session.namespace.namespace.clone(),
        name: session.pod_name(),
        container: session.container.clone(),
        stdin: session.stdin,
    };
    if session.tty {
        check_terminal(session, channel).await?;
    }
    let (sender, requests) = session::requests();
    let responses = open(channel, start, requests)
        .await
        .map_err(|status| session.failed(&status))?;
    session.talk(sender, responses, told, out).await?;
    Ok(())
}

/// Keys and lines as they are make sense to a terminal alone.
async fn check_terminal(session: &SessionArgs, channel: &Channel) -> Result<()> {
    let name = session.pod_name();
    let pod = Pod::get(channel, &session.namespace.namespace, &name).await;
    let spec = pod
        .map_err(|status| session.failed(&status))?
        .spec
        .unwrap_or_default();
    let container = spec.choose_container(&session.container);
    let container = container.map_err(|error| anyhow!("pod/{name}: --container {error}"))?;
    if spec.container(container).is_some_and(|container| !container.tty) {
        bail!(
            "pod/{name}: container {container} has no terminal, as its spec does not say tty: attach without -t"
        );
    }
    Ok(())
}

async fn open(
    channel: &Channel,
    start: AttachPodStart,
    input: impl Stream<Item = ToPod> + Send + 'static,
) -> Result<Streaming<AttachPodResponse>, Status> {
    use attach_pod_request::Frame;
    let frames = input.map(|input| match input {
        ToPod::Stdin(bytes) => Frame::Stdin(bytes),
        ToPod::StdinEnd => Frame::StdinEnd(PodStdinEnd {}),
        ToPod::Resize(size) => Frame::Resize(size),
    });
    let frames = stream::once(ready(Frame::Start(start))).chain(frames);
    let requests = frames.map(|frame| AttachPodRequest { frame: Some(frame) });
    let call = PodServiceClient::new(channel.clone()).attach_pod(requests).await;
    Ok(call?.into_inner())
}

fn told(response: AttachPodResponse) -> Option<FromPod> {
    use attach_pod_response::Frame;
    Some(match response.frame? {
        Frame::Started(_) => FromPod::Started,
        Frame::Stdout(bytes) => FromPod::Stdout(bytes),
        Frame::Stderr(bytes) => FromPod::Stderr(bytes),
    })
}
