//! `c8s exec`: a command in a running container.

use std::{future::ready, io::Write, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use clone8s::v1::{
    ExecPodRequest, ExecPodResponse, ExecPodStart, PodStdinEnd, exec_pod_request, exec_pod_response,
    pod_service_client::PodServiceClient,
};
use clone8s_daemon::channel::Channel;
use futures::{Stream, StreamExt as _, stream};
use tonic::{Status, Streaming};

use crate::{
    session::{self, FromPod, SessionArgs, ToPod},
    terminal,
};

/// The exit code of c8s is the command's.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s exec hello -- ls -l /www
  c8s exec -it hello -c web -- sh
  echo hi | c8s exec -i hello -- cat")]
pub struct ExecArgs {
    #[command(flatten)]
    session: SessionArgs,
    /// The program and its arguments; no shell is added
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub async fn run(args: &ExecArgs, channel: &Channel, out: &mut impl Write) -> Result<ExitCode> {
    let session = &args.session;
    let tty = terminal::is_given("command", session.tty, session.stdin);
    let start = ExecPodStart {
        namespace: session.namespace.namespace.clone(),
        name: session.pod_name(),
        container: session.container.clone(),
        command: args.command.clone(),
        stdin: session.stdin,
        tty,
        size: tty.then(terminal::size).flatten(),
    };
    let (sender, requests) = session::requests();
    let responses = open(channel, start, requests)
        .await
        .map_err(|status| session.failed(&status))?;
    let code = session.talk(sender, responses, told, out).await?;
    let code = code.context("the command's end was not told")?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Starts a command.
pub async fn open(
    channel: &Channel,
    start: ExecPodStart,
    input: impl Stream<Item = ToPod> + Send + 'static,
) -> Result<Streaming<ExecPodResponse>, Status> {
    use exec_pod_request::Frame;
    let frames = input.map(|input| match input {
        ToPod::Stdin(bytes) => Frame::Stdin(bytes),
        ToPod::StdinEnd => Frame::StdinEnd(PodStdinEnd {}),
        ToPod::Resize(size) => Frame::Resize(size),
    });
    let frames = stream::once(ready(Frame::Start(start))).chain(frames);
    let requests = frames.map(|frame| ExecPodRequest { frame: Some(frame) });
    let call = PodServiceClient::new(channel.clone()).exec_pod(requests).await;
    Ok(call?.into_inner())
}

pub fn told(response: ExecPodResponse) -> Option<FromPod> {
    use exec_pod_response::Frame;
    Some(match response.frame? {
        Frame::Started(_) => FromPod::Started,
        Frame::Stdout(bytes) => FromPod::Stdout(bytes),
        Frame::Stderr(bytes) => FromPod::Stderr(bytes),
        Frame::ExitCode(code) => FromPod::ExitCode(code),
    })
}
