//! `c8s logs`: what a container wrote.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use clone8s::v1::{GetPodLogsRequest, pod_service_client::PodServiceClient};
use clone8s_daemon::channel::Channel;

use crate::{
    namespace::NamespaceArgs,
    session::{failed, pod_name},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s logs hello
  c8s logs -f hello -c web --tail 20")]
pub struct LogsArgs {
    /// The pod's name
    pod: String,
    /// The container; may be left out when the pod has one
    #[arg(short = 'c', long, default_value = "", hide_default_value = true)]
    container: String,
    /// Go on as the container writes
    #[arg(short = 'f', long)]
    follow: bool,
    /// Only the last lines [default: all that is kept]
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(i32).range(0..))]
    tail: Option<i32>,
    /// Put the time before each line
    #[arg(long)]
    timestamps: bool,
    /// The run before the present one
    #[arg(short = 'p', long)]
    previous: bool,
    #[command(flatten)]
    namespace: NamespaceArgs,
}

pub async fn run(args: &LogsArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let request = GetPodLogsRequest {
        namespace: args.namespace.namespace.clone(),
        name: pod_name(&args.pod),
        container: args.container.clone(),
        follow: args.follow,
        tail_lines: args.tail,
        timestamps: args.timestamps,
        previous: args.previous,
    };
    show(channel, request, out).await
}

/// What a container wrote, to its end.
pub async fn show(channel: &Channel, request: GetPodLogsRequest, out: &mut impl Write) -> Result<()> {
    let pod = request.name.clone();
    let failed = |status: tonic::Status| failed(&pod, &status);
    let mut stream = PodServiceClient::new(channel.clone())
        .get_pod_logs(request)
        .await
        .map_err(failed)?
        .into_inner();
    while let Some(part) = stream.message().await.map_err(failed)? {
        out.write_all(&part.data)?;
        out.flush()?;
    }
    Ok(())
}
