//! From a write's answer to the change in a queue of the broker, at a steady rate of changes.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use anyhow::{Context as _, ensure};
use clone8s::{
    client::Resource as _,
    object::Object as _,
    v1::{ConfigMap, ObjectMeta},
};
use clone8s_bus::{
    EVENTS_EXCHANGE, EventBus as _, Queue, Subscription,
    amqp::{AmqpBus, AmqpConfig},
};
use clone8s_integration::{ControlPlane, RabbitMq, Sandbox};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tonic::transport::Channel;

use crate::{
    machine,
    samples::{Samples, ms},
};

/// How long the last change may take.
const PATIENCE: Duration = Duration::from_mins(1);
const PREFETCH: u16 = 1_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Changes a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How many config maps change, each by a writer of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    objects: u32,
    /// For how long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// A change by its revision, and when it was answered or arrived.
type Moments = HashMap<i64, Instant>;

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let changes_each = args.rate * args.seconds / args.objects;
    ensure!(changes_each > 0, "--objects: more than there are changes");
    let sandbox = Sandbox::new();
    let broker = RabbitMq::start(&sandbox).await;
    let amqp = broker.vhost();
    let plane = ControlPlane::start(&sandbox, Some(&amqp)).await;
    let bus = AmqpBus::connect(&AmqpConfig::new(amqp))?;
    let queue = Queue::Temporary {
        exchange: EVENTS_EXCHANGE,
        pattern: "configmaps.modified.#".to_owned(),
    };
    let told = bus.subscribe(queue, PREFETCH).await?;

    let channel = plane.channel();
    let mut writers = JoinSet::new();
    let start = Instant::now() + Duration::from_millis(100);
    let period = Duration::from_secs(1) * args.objects / args.rate;
    for number in 0..args.objects {
        let object = ConfigMap::create(&channel, config_map(number)).await?;
        // Spread over the period, as writers who do not know of each other are.
        let first = start + period * number / args.objects;
        writers.spawn(write(channel.clone(), object, changes_each, first, period));
    }
    let changes = (changes_each * args.objects) as usize;
    let (ended, end) = oneshot::channel();
    let written = async {
        let mut answered = Moments::new();
        while let Some(written) = writers.join_next().await {
            answered.extend(written??);
        }
        // From now on who follows waits no longer than it must; it may have seen all already.
        let _ = ended.send(());
        anyhow::Ok((answered, start.elapsed()))
    };
    let ((answered, took), arrived) = tokio::try_join!(written, follow(told, changes, end))?;

    let mut late = Samples::default();
    for (revision, at) in &answered {
        let arrival = arrived.get(revision).context("a change that was not told")?;
        late.push(arrival.saturating_duration_since(*at));
    }
    Ok(report(args, &late, changes, took))
}

/// Of about 1 KiB; of no node, to which there would be nothing to send.
fn config_map(number: u32) -> ConfigMap {
    ConfigMap {
        metadata: Some(ObjectMeta {
            name: format!("object-{number:06}"),
            namespace: "default".to_owned(),
            ..ObjectMeta::default()
        }),
        data: [("filler".to_owned(), "x".repeat(700))].into(),
        ..ConfigMap::default()
    }
}

/// Changes one object again and again.
async fn write(
    channel: Channel,
    mut object: ConfigMap,
    changes: u32,
    first: Instant,
    period: Duration,
) -> anyhow::Result<Moments> {
    let mut ticks = interval_at(first, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut answered = Moments::new();
    for number in 0..changes {
        ticks.tick().await;
        object.data.insert("change".to_owned(), number.to_string());
        object = ConfigMap::update(&channel, object).await?;
        answered.insert(object.resource_version(), Instant::now());
    }
    Ok(answered)
}

/// Notes when each change came.
async fn follow(
    mut told: Box<dyn Subscription>,
    changes: usize,
    mut end: oneshot::Receiver<()>,
) -> anyhow::Result<Moments> {
    let mut arrived = Moments::new();
    let mut deadline = None;
    while arrived.len() < changes {
        let delivery = tokio::select! {
            delivery = told.next() => delivery?,
            _ = &mut end, if deadline.is_none() => {
                deadline = Some(Instant::now() + PATIENCE);
                continue;
            }
            () = until(deadline) => {
                anyhow::bail!("{} of {changes} changes are told after {PATIENCE:?}", arrived.len())
            }
        };
        let revision = &delivery.message().headers["revision"];
        // At least once: the first time counts.
        arrived.entry(revision.parse()?).or_insert_with(Instant::now);
        timeout(PATIENCE, delivery.ack()).await??;
    }
    Ok(arrived)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn report(args: &Args, late: &Samples, changes: usize, took: Duration) -> String {
    let mut report = format!(
        "{changes} changes of {} config maps at {}/s, on: {}\n\n| | |\n|---|---:|\n",
        args.objects,
        args.rate,
        machine::describe()
    );
    let rate = f64::from(u32::try_from(changes).unwrap_or(u32::MAX)) / took.as_secs_f64();
    for (what, value) in [
        ("changes a second that were written", format!("{rate:.0}")),
        (
            "UpdateConfigMap's answer to a queue's consumer, median ms",
            ms(late.median()),
        ),
        ("the same, p99 ms", ms(late.percentile(99))),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(report, "| {what} | {value} |");
    }
    report
}
