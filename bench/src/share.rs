//! What a pod's start takes beside its runtime: apiserver, etcd, scheduler, RabbitMQ and kubelet, with a runtime in memory
//! that does its part at once and notes when.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use clone8s::{
    client::{DeleteOptions, Resource as _},
    v1::Pod,
};
use clone8s_daemon::clock;
use clone8s_integration::{ControlPlane, RabbitMq, Sandbox, pods, wait};
use clone8s_kubelet::{
    identity::POD_NAME,
    runtime::{ContainerId, Runtime as _},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    hollow::{Hollow, IMAGE},
    machine,
    samples::{Samples, ms},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many pods of each row
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(10..=30))]
    pods: u32,
}

/// Where a pod comes from.
#[derive(Clone, Copy)]
enum Source {
    Api,
    Folder,
}

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let sandbox = Sandbox::new();
    let broker = RabbitMq::start(&sandbox).await;
    let amqp = broker.vhost();
    let plane = ControlPlane::start(&sandbox, Some(&amqp)).await;
    let manifests = sandbox.make_dir("manifests");
    let mut node = Hollow::join(&plane, &amqp, sandbox.dir(), 0, Some(manifests.clone())).await?;
    let course = Course {
        plane: &plane,
        node: &node,
        drafts: sandbox.make_dir("drafts"),
        manifests: &manifests,
    };
    for source in [Source::Api, Source::Folder] {
        course.row("warm-up", source, 1, 2).await?;
    }

    let mut report = format!(
        "{} pods of each row, on: {}\n\n| | median ms | p95 ms |\n|---|---:|---:|\n",
        args.pods,
        machine::describe()
    );
    for (number, (source, at_a_time, what)) in [
        (Source::Api, 1, "CreatePod to running, one at a time"),
        (Source::Api, 10, "CreatePod to running, ten at a time"),
        (Source::Folder, 1, "a manifest written to running, one at a time"),
        (Source::Folder, 10, "a manifest written to running, ten at a time"),
    ]
    .into_iter()
    .enumerate()
    {
        let samples = course
            .row(&format!("row-{number}"), source, at_a_time, args.pods)
            .await?;
        // Writing to a string cannot fail.
        let _ = writeln!(
            report,
            "| {what} | {} | {} |",
            ms(samples.median()),
            ms(samples.percentile(95))
        );
    }
    node.stop().await?;
    Ok(report)
}

struct Course<'c> {
    plane: &'c ControlPlane,
    node: &'c Hollow,
    /// Where a manifest is written before it shows up whole in its folder.
    drafts: PathBuf,
    manifests: &'c Path,
}

impl Course<'_> {
    /// Starts so many pods, so many of them at a time, and takes them away again.
    async fn row(&self, row: &str, source: Source, at_a_time: usize, pods: u32) -> anyhow::Result<Samples> {
        let starts = stream::iter(0..pods)
            .map(|number| self.start(format!("{row}-{number}"), source))
            .buffer_unordered(at_a_time);
        let all: Vec<_> = starts.try_collect().await?;
        let mut samples = Samples::default();
        for took in all {
            samples.push(took);
        }
        for number in 0..pods {
            self.remove(&format!("{row}-{number}"), source).await?;
        }
        wait::until("the row's pods are gone", || async {
            let left = self.node.runtime.running();
            anyhow::ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await;
        Ok(samples)
    }

    async fn start(&self, name: String, source: Source) -> anyhow::Result<Duration> {
        let pod = pods::pod(&name, &[("main", IMAGE)]);
        let begun = match source {
            Source::Api => {
                let begun = clock::now();
                Pod::create(&self.plane.channel(), pod).await?;
                begun
            }
            Source::Folder => {
                let draft = self.drafts.join(&name);
                fs::write(&draft, clone8s::manifest::to_yaml(&pod.into()))?;
                let begun = clock::now();
                fs::rename(&draft, self.manifest(&name))?;
                begun
            }
        };
        let started = wait::until("a pod runs", || self.started(&name)).await;
        started
            .duration_since(begun)
            .with_context(|| format!("{name} ran before it was asked for"))
    }

    async fn remove(&self, name: &str, source: Source) -> anyhow::Result<()> {
        match source {
            Source::Api => {
                let now = DeleteOptions::default();
                Pod::delete(&self.plane.channel(), "default", name, &now).await?;
            }
            Source::Folder => fs::remove_file(self.manifest(name))?,
        }
        Ok(())
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.manifests.join(format!("{name}.yaml"))
    }

    /// When the runtime started the pod's container.
    async fn started(&self, name: &str) -> anyhow::Result<SystemTime> {
        let containers = self.node.runtime.list_containers(None).await?;
        let container = containers
            .into_iter()
            .find(|container| container.labels.get(POD_NAME).is_some_and(|pod| pod == name))
            .with_context(|| format!("{name} has no container"))?;
        let status = self
            .node
            .runtime
            .container_status(&ContainerId::new(container.id))
            .await?;
        anyhow::ensure!(status.started_at > 0, "{name} has not started");
        let since_epoch = Duration::from_nanos(u64::try_from(status.started_at)?);
        Ok(SystemTime::UNIX_EPOCH + since_epoch)
    }
}
