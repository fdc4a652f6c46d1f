//! Gets and lists from the apiserver's memory, beside linearizable range reads of the same bytes from its etcd.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, ensure};
use clone8s::{
    object::{Object, store_key, store_prefix},
    v1::Pod,
    wire::{Encoded, GetRequest, ListRequest, ListResponse, ObjectResponse},
};
use clone8s_integration::{ControlPlane, Sandbox};
use etcd_client::{GetOptions, KvClient};
use tonic::transport::Channel;

use super::{Load, call, create_pods, load};
use crate::machine;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many pods there are
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pods: u32,
    /// Callers at a time (comma-separated)
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    callers: Vec<usize>,
    /// Objects a page of a list
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(i32).range(1..=1000))]
    page: i32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    create_pods(&plane, args.pods as usize).await?;
    let sides = Sides {
        api: plane.channel(),
        etcd: plane
            .etcd
            .client()
            .await?
            .kv_client()
            .max_decoding_message_size(64 << 20),
        pods: args.pods as usize,
        page: args.page,
    };
    let mut report = format!(
        "{} pods, on: {}\n\n| | callers | apiserver, calls/s | etcd, calls/s | ratio \
         | apiserver and etcd, CPU a call, µs | etcd alone, µs | ratio |\n|---|---:|---:|---:|---:|---:|---:|---:|\n",
        args.pods,
        machine::describe()
    );
    let time = Duration::from_secs(args.seconds);
    let etcd = plane.etcd.process.pid();
    let both = [plane.apiserver.pid(), etcd];
    for &callers in &args.callers {
        ensure!(callers > 0, "--callers: 0 callers call nothing");
        // One right after the other, so that whatever else the machine does meets both.
        let api = load(callers, time, &both, |number| sides.get(number)).await?;
        let alone = load(callers, time, &[etcd], |number| sides.etcd_get(number)).await?;
        row(&mut report, "get", callers, &api, &alone);
        let api = load(callers, time, &both, |_| sides.list()).await?;
        let alone = load(callers, time, &[etcd], |_| sides.etcd_list()).await?;
        row(
            &mut report,
            &format!("list of {}", args.page),
            callers,
            &api,
            &alone,
        );
    }
    Ok(report)
}

/// The same reads on both.
struct Sides {
    api: Channel,
    etcd: KvClient,
    pods: usize,
    page: i32,
}

impl Sides {
    fn name(&self, number: usize) -> String {
        format!("pod-{:06}", number % self.pods)
    }

    async fn get(&self, number: usize) -> anyhow::Result<()> {
        let request = GetRequest {
            namespace: "default".to_owned(),
            name: self.name(number),
        };
        let answer: ObjectResponse<Encoded> = call(&self.api, Pod::CALLS.get, request).await?;
        answer.object.context("no pod").map(drop)
    }

    async fn etcd_get(&self, number: usize) -> anyhow::Result<()> {
        let key = store_key::<Pod>("default", &self.name(number));
        let answer = self.etcd.clone().get(key, None).await?;
        answer.kvs().first().context("no pod").map(drop)
    }

    async fn list(&self) -> anyhow::Result<()> {
        let request = ListRequest {
            namespace: "default".to_owned(),
            page_size: self.page,
            ..ListRequest::default()
        };
        let answer: ListResponse<Encoded> = call(&self.api, Pod::CALLS.list, request).await?;
        ensure!(!answer.objects.is_empty(), "no pods");
        Ok(())
    }

    async fn etcd_list(&self) -> anyhow::Result<()> {
        let options = GetOptions::new().with_prefix().with_limit(self.page.into());
        let prefix = store_prefix::<Pod>("default");
        let answer = self.etcd.clone().get(prefix, Some(options)).await?;
        ensure!(!answer.kvs().is_empty(), "no pods");
        Ok(())
    }
}

fn row(report: &mut String, what: &str, callers: usize, api: &Load, etcd: &Load) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        report,
        "| {what} | {callers} | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} | {:.1} |",
        api.rate,
        etcd.rate,
        api.rate / etcd.rate,
        api.cpu,
        etcd.cpu,
        etcd.cpu / api.cpu,
    );
}
