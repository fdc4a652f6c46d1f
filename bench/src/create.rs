//! From `CreatePod` to the container running, pod after pod, beside `ctr run` of the same image.

use std::{fmt::Write as _, time::Duration};

use clone8s_integration::{ControlPlane, Image, Node, RabbitMq, Registry, Sandbox, pods, wait};
use tokio::time::Instant;

use crate::{
    machine,
    samples::{Samples, ms},
    timeline::{Journey, Observer},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many pods, one after another
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pods: u32,
}

/// One part of a journey.
type Step = fn(&Journey) -> Duration;

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let broker = RabbitMq::start(&sandbox).await;
    let vhost = broker.vhost();
    let plane = ControlPlane::start(&sandbox, Some(&vhost)).await;
    let mut node = Node::start(&sandbox, "bench").await;
    node.join(&plane, Some(&vhost)).await;
    plane.node_ready("bench").await;

    // Both sides have the image, and have run it once, before anything is measured.
    let image = Image::busybox().push(&registry, "plain:1")?;
    plane.create(pods::pod("warm-up", &[("main", &image)])).await;
    plane.running("warm-up").await;
    node.containerd
        .ctr("bench", &["images", "pull", "--plain-http", &image])?;
    ctr_run(&node, &image, "warm-up")?;

    let mut observer = Observer::start(&plane, &node, &vhost).await?;
    observe_something(&mut observer, &plane, &image).await;
    let mut journeys = Vec::new();
    let mut ctr = Samples::default();
    // One beside the other, so that whatever else the machine does meets both.
    for number in 0..args.pods {
        let pod = pods::pod(&format!("pod-{number}"), &[("main", &image)]);
        journeys.push(observer.follow(&plane, pod).await?);
        ctr.push(ctr_run(&node, &image, &format!("run-{number}"))?);
    }
    Ok(report(&journeys, &ctr))
}

/// containerd's event stream begins with its first event: pods until every step of one was seen.
async fn observe_something(observer: &mut Observer, plane: &ControlPlane, image: &str) {
    let (observer, tries) = (
        tokio::sync::Mutex::new(observer),
        std::sync::atomic::AtomicU32::new(0),
    );
    wait::until("the observer sees every step of a pod", || async {
        let number = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let pod = pods::pod(&format!("first-{number}"), &[("main", image)]);
        observer.lock().await.follow(plane, pod).await.map(drop)
    })
    .await;
}

/// One container on the node's network, as `ctr` starts it.
fn ctr_run(node: &Node, image: &str, id: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    node.containerd
        .ctr("bench", &["run", "--detach", "--net-host", image, id])?;
    Ok(start.elapsed())
}

fn report(journeys: &[Journey], ctr: &Samples) -> String {
    let collect = |step: Step| {
        let mut samples = Samples::default();
        for journey in journeys {
            samples.push(step(journey));
        }
        samples
    };
    let running = collect(|journey| journey.running);
    let reported = collect(|journey| journey.reported);
    let mut report = format!(
        "{} pods, one after another, on: {}\n\n| | median ms | p95 ms |\n|---|---:|---:|\n",
        journeys.len(),
        machine::describe()
    );
    for (name, samples) in [
        ("CreatePod to the container's process running", &running),
        ("CreatePod to a watch showing the pod ready", &reported),
        ("`ctr run --detach` of the same image", ctr),
    ] {
        row(
            &mut report,
            &[name, &ms(samples.median()), &ms(samples.percentile(95))],
        );
    }
    report.push_str("\n| step | median ms | p95 ms | share |\n|---|---:|---:|---:|\n");
    let steps: [(&str, Step); 5] = [
        ("store: CreatePod's answer, written by etcd", |journey| {
            journey.store
        }),
        ("schedule: a watch shows the node", |journey| journey.schedule),
        ("bus: the pod is in a queue for its node", |journey| journey.bus),
        ("kubelet and shim: checkpoint, plan, sandbox", |journey| {
            journey.plan
        }),
        ("containerd: snapshot, container, task", |journey| {
            journey.containerd
        }),
    ];
    for (name, step) in steps {
        let samples = collect(step);
        let share = 100.0 * samples.sum().as_secs_f64() / running.sum().as_secs_f64();
        row(
            &mut report,
            &[
                name,
                &ms(samples.median()),
                &ms(samples.percentile(95)),
                &format!("{share:.0} %"),
            ],
        );
    }
    report
}

fn row(report: &mut String, cells: &[&str]) {
    // Writing to a string cannot fail.
    let _ = writeln!(report, "| {} |", cells.join(" | "));
}
