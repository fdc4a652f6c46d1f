//! `c8s attach`: what a container's own process reads and writes, from now on.

use std::{future::ready, io::Write};

use anyhow::Result;
use clap::Args;
use clone8s::v1::{
    AttachPodRequest, AttachPodResponse, AttachPodStart, PodStdinEnd, attach_pod_request,
    attach_pod_response, pod_service_client::PodServiceClient,
};
use futures::{Stream, StreamExt as _, stream};
use tonic::{Status, Streaming, transport::Channel};

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
    let session = &args.session;
    let start = AttachPodStart {
        namespace: session.namespace.namespace.clone(),
        name: session.pod_name(),
        container: session.container.clone(),
        stdin: session.stdin,
    };
    let (sender, requests) = session::requests();
    let responses = open(channel, start, requests)
        .await
        .map_err(|status| session.failed(&status))?;
    session.talk(sender, responses, told, out).await?;
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
