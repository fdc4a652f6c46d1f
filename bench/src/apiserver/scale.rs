//! Many pods: the apiserver's memory beside the stored bytes, the start, and a list by pages.

use std::{fmt::Write as _, fs, time::Duration};

use anyhow::Context as _;
use clone8s::{
    object::{Object, store_prefix},
    v1::Pod,
    wire::{Encoded, ListRequest, ListResponse},
};
use clone8s_integration::{ControlPlane, Sandbox};
use etcd_client::GetOptions;
use tokio::time::Instant;

use super::{call, create_pods};
use crate::{machine, samples::ms};

/// Objects a page, of the list and of etcd's range reads.
const PAGE: i32 = 500;
/// After this the apiserver has given back what a start has needed.
const QUIET: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many pods there are
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pods: u32,
}

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let sandbox = Sandbox::new();
    let mut plane = ControlPlane::start(&sandbox, None).await;
    let empty = resident(&plane)?;
    create_pods(&plane, args.pods as usize).await?;
    let stored = stored_bytes(&plane).await?;
    tokio::time::sleep(QUIET).await;
    let grown = resident(&plane)?;

    plane.apiserver.stop()?;
    let start = Instant::now();
    plane.start_apiserver().await;
    let ready = start.elapsed();
    tokio::time::sleep(QUIET).await;
    let restarted = resident(&plane)?;

    let pid = plane.apiserver.pid();
    // proc(5), clear_refs: 5 sets the peak to what is resident now.
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("forget the peak of the apiserver's memory")?;
    let start = Instant::now();
    let listed = list(&plane).await?;
    let took = start.elapsed();
    let peak = machine::process_memory(pid, "VmHWM:")?;

    let mut report = format!(
        "{listed} pods, on: {}\n\n| | |\n|---|---:|\n",
        machine::describe()
    );
    for (what, value) in [
        ("stored keys and values, MB", mb(stored)),
        ("apiserver without pods, MB", mb(empty)),
        ("apiserver that has taken the pods, MB", mb(grown)),
        ("the same after a restart, MB", mb(restarted)),
        (
            "its own for the pods, to the stored bytes",
            format!(
                "{:.2}",
                machine::megabytes(restarted.saturating_sub(empty)) / machine::megabytes(stored)
            ),
        ),
        ("start to the first answer, ms", ms(ready)),
        ("a list of all by pages, ms", ms(took)),
        (
            "memory that the list took at its peak, MB",
            mb(peak.saturating_sub(restarted)),
        ),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(report, "| {what} | {value} |");
    }
    Ok(report)
}

fn resident(plane: &ControlPlane) -> anyhow::Result<u64> {
    machine::process_memory(plane.apiserver.pid(), "VmRSS:")
}

fn mb(bytes: u64) -> String {
    format!("{:.1}", machine::megabytes(bytes))
}

/// Of all pods in etcd.
async fn stored_bytes(plane: &ControlPlane) -> anyhow::Result<u64> {
    let prefix = store_prefix::<Pod>("default");
    let end = [prefix.as_bytes(), &[0xff]].concat();
    let mut from = prefix.into_bytes();
    let mut etcd = plane.etcd.client().await?;
    let mut bytes = 0;
    loop {
        let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE.into());
        let page = etcd.get(from, Some(options)).await?;
        for entry in page.kvs() {
            bytes += (entry.key().len() + entry.value().len()) as u64;
        }
        match page.kvs().last() {
            Some(last) if page.more() => from = [last.key(), &[0]].concat(),
            _ => return Ok(bytes),
        }
    }
}

async fn list(plane: &ControlPlane) -> anyhow::Result<usize> {
    let channel = plane.channel();
    let mut listed = 0;
    let mut page_token = String::new();
    loop {
        let request = ListRequest {
            namespace: "default".to_owned(),
            page_size: PAGE,
            page_token,
            ..ListRequest::default()
        };
        let page: ListResponse<Encoded> = call(&channel, Pod::CALLS.list, request).await?;
        listed += page.objects.len();
        if page.next_page_token.is_empty() {
            return Ok(listed);
        }
        page_token = page.next_page_token;
    }
}
