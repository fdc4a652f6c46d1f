//! The apiserver beside what it stands on: reads and writes beside etcd's own, changes to watchers and to the broker,
//! and memory beside the stored bytes.

pub mod publish;
pub mod reads;
pub mod scale;
pub mod watch;
pub mod writes;

use std::time::Duration;

use anyhow::Context as _;
use clone8s::{
    client::Resource as _,
    v1::{Container, ObjectMeta, Pod, PodSpec},
};
use clone8s_integration::ControlPlane;
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use prost::Message;
use tokio::time::Instant;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use crate::machine;

/// Creates pods that no node takes, of about 1 KiB each.
async fn create_pods(plane: &ControlPlane, pods: usize) -> anyhow::Result<()> {
    let channel = plane.channel();
    stream::iter(0..pods)
        .map(|number| Pod::create(&channel, pod(&format!("pod-{number:06}"))))
        .buffer_unordered(32)
        .try_collect::<Vec<_>>()
        .await
        .context("create pods")?;
    Ok(())
}

fn pod(name: &str) -> Pod {
    let filler = ("bench.clone8s/filler".to_owned(), "x".repeat(700));
    Pod {
        metadata: Some(ObjectMeta {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            labels: [("app".to_owned(), "bench".to_owned())].into(),
            annotations: [filler].into(),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "main".to_owned(),
                image: "registry.example/bench:1".to_owned(),
                ..Container::default()
            }],
            // Of a node that there is not, so that the controllers leave it alone.
            node_name: "nowhere".to_owned(),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// One call of the API; objects in the answer stay bytes, as they do in etcd's client.
async fn call<Answer: Message + Default + 'static>(
    channel: &Channel,
    path: &'static str,
    request: impl Message + 'static,
) -> anyhow::Result<Answer> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static(path);
    let response = grpc
        .unary(Request::new(request), path, ProstCodec::default())
        .await?;
    Ok(response.into_inner())
}

/// What servers did for callers who each call again as soon as they are answered.
struct Load {
    /// Calls a second.
    rate: f64,
    /// The servers' CPU for a call, in µs. What the callers themselves take, on the same cores, is not in it.
    cpu: f64,
}

async fn load<Call>(
    callers: usize,
    time: Duration,
    servers: &[u32],
    call: impl Fn(usize) -> Call,
) -> anyhow::Result<Load>
where
    Call: Future<Output = anyhow::Result<()>>,
{
    let before = cpu(servers)?;
    let start = Instant::now();
    let counts = try_join_all((0..callers).map(|caller| {
        let call = &call;
        async move {
            let mut count: usize = 0;
            while start.elapsed() < time {
                // Spread over all keys, each caller in an order of its own.
                call(caller.wrapping_mul(7_919) + count * 31).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }
    }))
    .await?;
    let count = f64::from(u32::try_from(counts.iter().sum::<usize>())?);
    let rate = count / start.elapsed().as_secs_f64();
    let spent = cpu(servers)?.saturating_sub(before);
    Ok(Load {
        rate,
        cpu: spent.as_secs_f64() * 1e6 / count,
    })
}

fn cpu(processes: &[u32]) -> anyhow::Result<Duration> {
    processes.iter().map(|&pid| machine::process_cpu(pid)).sum()
}
