//! Changes to many watchers of one kind: how late the last of them is, and what one change costs for each.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clone8s::{
    client::Resource as _,
    object::Object,
    v1::{Pod, WatchEventType},
    wire::{Encoded, WatchRequest, WatchResponse},
};
use clone8s_integration::{ControlPlane, Sandbox};
use prost::Message as _;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tonic::{Request, Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::pod;
use crate::{
    machine,
    samples::{Samples, ms},
};

/// Watches on one connection; the apiserver takes 1,000.
const PER_CONNECTION: usize = 500;
/// How long the last change may take to the last watcher.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many watchers
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    watchers: u32,
    /// Changes a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// How many changes
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
}

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let writer = plane.channel();
    let mut changing = Pod::create(&writer, pod("changing")).await?;
    let from = changing.resource_version();

    let (last, last_seen) = watch::channel(None);
    let mut watchers = JoinSet::new();
    let mut connection = plane.channel();
    for number in 0..args.watchers as usize {
        if number % PER_CONNECTION == 0 {
            connection = plane.channel();
        }
        let events = open(&connection, from).await?;
        watchers.spawn(follow(events, last_seen.clone()));
    }

    let before = machine::process_cpu(plane.apiserver.pid())?;
    let mut committed = Vec::new();
    let mut ticks = interval(Duration::from_secs(1) / args.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..args.changes {
        ticks.tick().await;
        let labels = &mut changing.metadata_mut().labels;
        labels.insert("change".to_owned(), number.to_string());
        changing = Pod::update(&writer, changing).await?;
        committed.push((changing.resource_version(), Instant::now()));
    }
    last.send_replace(Some(changing.resource_version()));
    let mut arrivals: HashMap<i64, (u32, Instant)> = HashMap::new();
    let mut seen = Vec::new();
    while let Some(ended) = watchers.join_next().await {
        seen.push(ended??);
    }
    let cpu = machine::process_cpu(plane.apiserver.pid())?.saturating_sub(before);
    for (revision, at) in seen.into_iter().flatten() {
        let (count, latest) = arrivals.entry(revision).or_insert((0, at));
        *count += 1;
        *latest = at.max(*latest);
    }
    let mut late = Samples::default();
    for (revision, at) in committed {
        let (count, latest) = arrivals.get(&revision).context("a change that nobody saw")?;
        ensure!(
            *count == args.watchers,
            "{count} watchers saw the change of revision {revision}"
        );
        late.push(latest.saturating_duration_since(at));
    }
    Ok(report(args, &late, cpu, &changing))
}

async fn open(channel: &Channel, after: i64) -> anyhow::Result<Streaming<WatchResponse<Encoded>>> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let request = Request::new(WatchRequest {
        resource_version: after,
        ..WatchRequest::default()
    });
    let path = PathAndQuery::from_static(Pod::CALLS.watch);
    let response = grpc
        .server_streaming(request, path, ProstCodec::default())
        .await?;
    Ok(response.into_inner())
}

/// Notes when each change came, until the last.
async fn follow(
    mut events: Streaming<WatchResponse<Encoded>>,
    mut last: watch::Receiver<Option<i64>>,
) -> anyhow::Result<Vec<(i64, Instant)>> {
    let mut seen = Vec::new();
    loop {
        let newest = seen.last().map_or(0, |(revision, _)| *revision);
        if (*last.borrow()).is_some_and(|last| newest >= last) {
            return Ok(seen);
        }
        let event = tokio::select! {
            event = timeout(PATIENCE, events.message()) => event.context("a change does not come")??,
            _ = last.changed() => continue,
        };
        let Some(event) = event else {
            bail!("the watch ended");
        };
        if event.r#type() == WatchEventType::Modified {
            seen.push((event.resource_version, Instant::now()));
        }
    }
}

fn report(args: &Args, late: &Samples, cpu: Duration, pod: &Pod) -> String {
    let deliveries = f64::from(args.watchers) * f64::from(args.changes);
    let mut report = format!(
        "{} watchers, {} changes at {}/s of a pod of {} bytes, on: {}\n\n| | |\n|---|---:|\n",
        args.watchers,
        args.changes,
        args.rate,
        pod.encoded_len(),
        machine::describe()
    );
    for (what, value) in [
        (
            "UpdatePod's answer to the last watcher, median ms",
            ms(late.median()),
        ),
        ("the same, p99 ms", ms(late.percentile(99))),
        (
            "the apiserver's CPU for a change and a watcher, µs",
            format!("{:.1}", cpu.as_secs_f64() * 1e6 / deliveries),
        ),
        (
            "a clone and an encoding alone, as for each watcher without sharing, µs",
            format!("{:.1}", encoding(pod).as_secs_f64() * 1e6),
        ),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(report, "| {what} | {value} |");
    }
    report
}

/// What it takes to make a message for one watcher from the object.
fn encoding(pod: &Pod) -> Duration {
    const TIMES: u32 = 10_000;
    let start = Instant::now();
    for _ in 0..TIMES {
        let message = WatchResponse {
            r#type: WatchEventType::Modified.into(),
            object: Some(pod.clone()),
            resource_version: 1,
            previous: None,
        };
        std::hint::black_box(message.encode_to_vec());
    }
    start.elapsed() / TIMES
}
