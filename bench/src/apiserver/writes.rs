//! Creates through the apiserver, beside plain puts of the same bytes to the same etcd, the same where the key is not there
//! yet, which is what a create is to etcd, and creates through an apiserver on its embedded store on the same disk.

use std::{
    fmt::Write as _,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clone8s::{
    client::{Query, Resource as _},
    object::{Object, store_key},
    v1::Pod,
    wire::{CreateRequest, Encoded, ObjectResponse},
};
use clone8s_integration::{ControlPlane, Process, Sandbox, programs::program, wait};
use etcd_client::{Compare, CompareOp, KvClient, Txn, TxnOp};
use tonic::transport::Channel;

use super::{call, load, pod};
use crate::machine;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Callers at a time (comma-separated)
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    callers: Vec<usize>,
    /// How long each measurement takes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let embedded = Embedded::start(&sandbox).await;
    let sides = Sides {
        api: plane.channel(),
        etcd: plane.etcd.client().await?.kv_client(),
        embedded: embedded.channel(),
        stored: Box::pin(stored(&plane)).await?,
        written: AtomicUsize::new(0),
    };
    let mut report = format!(
        "Pods of {} stored bytes, on: {}\n\n| callers | apiserver on etcd, creates/s | etcd, puts/s | ratio \
         | etcd, puts of absent keys/s | ratio | apiserver, embedded store, creates/s | ratio to puts \
         | CPU a create, µs: apiserver and etcd | etcd alone, a put | a put of an absent key | embedded \
         |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        sides.stored.len(),
        machine::describe()
    );
    let time = Duration::from_secs(args.seconds);
    let etcd = plane.etcd.process.pid();
    let both = [plane.apiserver.pid(), etcd];
    for &callers in &args.callers {
        ensure!(callers > 0, "--callers: 0 callers call nothing");
        // One right after the other, so that whatever else the machine does meets all.
        let api = load(callers, time, &both, |_| sides.create(&sides.api)).await?;
        let alone = load(callers, time, &[etcd], |_| sides.put()).await?;
        let absent = load(callers, time, &[etcd], |_| sides.put_absent()).await?;
        let own = load(callers, time, &[embedded.apiserver.pid()], |_| {
            sides.create(&sides.embedded)
        })
        .await?;
        // Writing to a string cannot fail.
        let _ = writeln!(
            report,
            "| {callers} | {:.0} | {:.0} | {:.2} | {:.0} | {:.2} | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} |",
            api.rate,
            alone.rate,
            api.rate / alone.rate,
            absent.rate,
            api.rate / absent.rate,
            own.rate,
            own.rate / alone.rate,
            api.cpu,
            alone.cpu,
            absent.cpu,
            own.cpu,
        );
    }
    Ok(report)
}

/// A pod as the apiserver puts it into etcd.
async fn stored(plane: &ControlPlane) -> anyhow::Result<Vec<u8>> {
    Pod::create(&plane.channel(), pod("pod-stored")).await?;
    let key = store_key::<Pod>("default", "pod-stored");
    let answer = plane.etcd.client().await?.get(key, None).await?;
    Ok(answer.kvs().first().context("no pod in etcd")?.value().to_vec())
}

/// The same writes on all.
struct Sides {
    api: Channel,
    etcd: KvClient,
    embedded: Channel,
    stored: Vec<u8>,
    written: AtomicUsize,
}

impl Sides {
    /// Each as long as the others, so that all pods have one size.
    fn name(&self) -> String {
        format!("pod-{:06}", self.written.fetch_add(1, Ordering::Relaxed))
    }

    async fn create(&self, side: &Channel) -> anyhow::Result<()> {
        let request = CreateRequest {
            object: Some(pod(&self.name())),
            ..CreateRequest::default()
        };
        let answer: ObjectResponse<Encoded> = call(side, Pod::CALLS.create, request).await?;
        answer.object.context("no pod").map(drop)
    }

    fn bench_key(&self) -> String {
        format!("/bench{}", store_key::<Pod>("default", &self.name()))
    }

    async fn put(&self) -> anyhow::Result<()> {
        let (key, value) = (self.bench_key(), self.stored.clone());
        self.etcd.clone().put(key, value, None).await?;
        Ok(())
    }

    async fn put_absent(&self) -> anyhow::Result<()> {
        let key = self.bench_key();
        let absent = Compare::version(key.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(key, self.stored.clone(), None);
        let txn = Txn::new().when([absent]).and_then([put]);
        let answer = self.etcd.clone().txn(txn).await?;
        ensure!(answer.succeeded(), "a key that nobody wrote is there");
        Ok(())
    }
}

/// An apiserver on the store in its own file.
struct Embedded {
    socket: PathBuf,
    apiserver: Process,
}

impl Embedded {
    async fn start(sandbox: &Sandbox) -> Self {
        let socket = sandbox.dir().join("embedded.sock");
        let apiserver = sandbox
            .process("embedded", program("apiserver"))
            .arg("--data-dir")
            .arg(sandbox.make_dir("embedded"))
            .arg("--socket")
            .arg(&socket)
            .started();
        let mut embedded = Self { socket, apiserver };
        embedded.ready().await;
        embedded
    }

    async fn ready(&mut self) {
        let channel = self.channel();
        wait::until("the apiserver on the embedded store answers", || {
            let alive = self.apiserver.check_running();
            let channel = channel.clone();
            async move {
                alive?;
                Pod::list_all(&channel, &Query::default()).await?;
                Ok(())
            }
        })
        .await;
    }

    fn channel(&self) -> Channel {
        clone8s_daemon::unix::channel(&self.socket)
    }
}
