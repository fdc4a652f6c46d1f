//! `c8s logs`: what containers wrote.

mod since;

use std::io::Write;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use clone8s::{
    client::{Query, Resource as _},
    object::Object as _,
    v1::{GetPodLogsRequest, Pod, pod_service_client::PodServiceClient},
};
use clone8s_daemon::channel::Channel;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tonic::Status;

use crate::{
    namespace::NamespaceArgs,
    session::{failed, pod_name},
    status::{explain, none_failed},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s logs hello
  c8s logs -f hello -c web --tail 20
  c8s logs hello --since 10m --timestamps
  c8s logs -l app=web --all-containers -f

The lines of several containers begin with \"[pod/container] \". Without -f they come one container after the other.")]
pub struct LogsArgs {
    /// The pod's name
    #[arg(required_unless_present = "label_selector")]
    pod: Option<String>,
    /// The pods with these labels, such as "app=web,tier in (a,b)"
    #[arg(
        short = 'l',
        long = "selector",
        value_name = "SELECTOR",
        conflicts_with = "pod"
    )]
    label_selector: Option<String>,
    /// The container; may be left out when the pod has one
    #[arg(short = 'c', long, default_value = "", hide_default_value = true)]
    container: String,
    /// Every container of the pod, those of its start and those for looking into it included
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,
    /// Go on as the container writes
    #[arg(short = 'f', long)]
    follow: bool,
    /// Only the last lines of each container [default: all that is kept]
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(i32).range(0..))]
    tail: Option<i32>,
    /// Only lines of the last so many seconds, minutes or hours, such as 90s, 10m or "1h 30m"
    #[arg(long, value_name = "DURATION", value_parser = since::ago, conflicts_with = "since_time")]
    since: Option<jiff::SignedDuration>,
    /// Only lines since this time, such as 2026-01-02T03:04:05Z
    #[arg(long, value_name = "TIME")]
    since_time: Option<jiff::Timestamp>,
    /// Put the time before each line
    #[arg(long)]
    timestamps: bool,
    /// The run before the present one
    #[arg(short = 'p', long)]
    previous: bool,
    /// Do not say of several containers which one has written a line
    #[arg(long)]
    no_prefix: bool,
    #[command(flatten)]
    namespace: NamespaceArgs,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    pod: String,
    /// Empty for the one that the pod has.
    container: String,
}

pub async fn run(args: &LogsArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let sources = args.sources(channel).await?;
    let requests: Vec<_> = sources.iter().map(|source| args.request(source)).collect();
    match <[GetPodLogsRequest; 1]>::try_from(requests) {
        Ok([request]) => show(channel, request, out).await,
        Err(requests) => args.show_all(channel, requests, out).await,
    }
}

impl LogsArgs {
    async fn sources(&self, channel: &Channel) -> Result<Vec<Source>> {
        let of = |pod: &str| Source {
            pod: pod.to_owned(),
            container: self.container.clone(),
        };
        let namespace = &self.namespace.namespace;
        let mut pods = if let Some(pod) = self.pod.as_deref().map(pod_name) {
            if !self.all_containers {
                return Ok(vec![of(&pod)]);
            }
            let found = Pod::get(channel, namespace, &pod).await;
            vec![found.map_err(|status| failed(&pod, &status))?]
        } else {
            let query = Query {
                namespace: namespace.clone(),
                label_selector: self.label_selector.clone().unwrap_or_default(),
                ..Query::default()
            };
            let found = Pod::list_all(channel, &query).await;
            found.map_err(|status| anyhow!(explain(&status)))?.0
        };
        if pods.is_empty() {
            bail!("no pods with these labels in namespace {namespace}");
        }
        pods.sort_by(|one, other| one.name().cmp(other.name()));
        if !self.all_containers {
            return Ok(pods.iter().map(|pod| of(pod.name())).collect());
        }
        Ok(pods.iter().flat_map(containers).collect())
    }

    fn request(&self, source: &Source) -> GetPodLogsRequest {
        GetPodLogsRequest {
            namespace: self.namespace.namespace.clone(),
            name: source.pod.clone(),
            container: source.container.clone(),
            follow: self.follow,
            tail_lines: self.tail,
            timestamps: self.timestamps,
            previous: self.previous,
            since_time: self.since_time.map(since::timestamp),
            since_seconds: self.since.map(since::seconds),
        }
    }

    /// Goes through all even when some fail, then fails with what failed.
    async fn show_all(
        &self,
        channel: &Channel,
        requests: Vec<GetPodLogsRequest>,
        out: &mut impl Write,
    ) -> Result<()> {
        let parts = stream::iter(requests).map(|request| {
            let label = label(&request);
            lines(channel, request)
                .map(move |part| (label.clone(), part))
                .boxed()
        });
        let mut parts = if self.follow {
            parts.flatten_unordered(None).boxed()
        } else {
            parts.flatten().boxed()
        };
        let mut errors = Vec::new();
        while let Some((label, part)) = parts.next().await {
            match part {
                Ok(data) => {
                    for line in data.split_inclusive(|byte| *byte == b'\n') {
                        if !self.no_prefix {
                            write!(out, "[{label}] ")?;
                        }
                        out.write_all(line)?;
                    }
                    out.flush()?;
                }
                Err(status) => {
                    let error = format!("{label}: {}", explain(&status));
                    // The others may go on for as long as somebody looks at them.
                    if self.follow {
                        eprintln!("note: {error}");
                    }
                    errors.push(error);
                }
            }
        }
        none_failed(&errors)
    }
}

fn containers(pod: &Pod) -> Vec<Source> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let source = |container: &str| Source {
        pod: pod.name().to_owned(),
        container: container.to_owned(),
    };
    spec.container_names().map(source).collect()
}

fn label(request: &GetPodLogsRequest) -> String {
    if request.container.is_empty() {
        return request.name.clone();
    }
    format!("{}/{}", request.name, request.container)
}

/// What a container wrote, to its end.
pub async fn show(channel: &Channel, request: GetPodLogsRequest, out: &mut impl Write) -> Result<()> {
    let pod = request.name.clone();
    let mut parts = lines(channel, request);
    while let Some(data) = parts.try_next().await.map_err(|status| failed(&pod, &status))? {
        out.write_all(&data)?;
        out.flush()?;
    }
    Ok(())
}

/// Whole lines, one or several at a time.
fn lines(channel: &Channel, request: GetPodLogsRequest) -> BoxStream<'static, Result<Bytes, Status>> {
    let mut pods = PodServiceClient::new(channel.clone());
    let call = async move {
        let parts = pods.get_pod_logs(request).await?.into_inner();
        Ok::<_, Status>(parts.map_ok(|part| part.data))
    };
    stream::once(call).try_flatten().boxed()
}
