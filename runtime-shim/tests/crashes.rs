//! kill -9 of the shim and of containerd in the middle of calls, and pods by the dozen: nothing may be left.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "crashes/calls.rs"]
mod calls;
#[path = "crashes/proxy.rs"]
mod proxy;
#[path = "rig/mod.rs"]
mod rig;

use std::{env, time::Duration};

use clone8s::cri::{self, runtime_service_client::RuntimeServiceClient};
use clone8s_integration::{counts::Counts, wait};
use futures::future::join_all;
use tokio::time::{Instant, sleep};
use tonic::{Status, transport::Channel};

use self::rig::{Rig, namespaces, script};

/// How long a call is made again and again.
const PATIENCE: Duration = Duration::from_secs(90);

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// A small generator of its own: a seed that is printed replays the run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// A client that makes each call until it succeeds.
#[derive(Clone)]
struct Stubborn(RuntimeServiceClient<Channel>);

impl Stubborn {
    async fn until_done<T, F: Future<Output = Result<T, Status>>>(
        &self,
        what: &str,
        call: impl Fn(RuntimeServiceClient<Channel>) -> F,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match call(self.0.clone()).await {
                Ok(reply) => return reply,
                Err(status) => assert!(Instant::now() < deadline, "{what}: {status:?}"),
            }
            sleep(Duration::from_millis(30)).await;
        }
    }

    /// A pod's whole life.
    async fn live(&self, config: cri::PodSandboxConfig) {
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        let run = |mut client: RuntimeServiceClient<Channel>| {
            let request = request.clone();
            async move { client.run_pod_sandbox(request).await }
        };
        let pod_sandbox_id = self.until_done("run", run).await.into_inner().pod_sandbox_id;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(script("main", "sleep 1000")),
            sandbox_config: Some(config),
        };
        let create = |mut client: RuntimeServiceClient<Channel>| {
            let request = request.clone();
            async move { client.create_container(request).await }
        };
        let container_id = self.until_done("create", create).await.into_inner().container_id;
        let start = |mut client: RuntimeServiceClient<Channel>| {
            let container_id = container_id.clone();
            async move {
                client
                    .start_container(cri::StartContainerRequest { container_id })
                    .await
            }
        };
        self.until_done("start", start).await;
        let stop = |mut client: RuntimeServiceClient<Channel>| {
            let container_id = container_id.clone();
            let request = cri::StopContainerRequest {
                container_id,
                timeout: 0,
            };
            async move { gone_is_fine(client.stop_container(request).await) }
        };
        self.until_done("stop", stop).await;
        let stop = |mut client: RuntimeServiceClient<Channel>| {
            let pod_sandbox_id = pod_sandbox_id.clone();
            async move {
                client
                    .stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id })
                    .await
            }
        };
        self.until_done("stop the sandbox", stop).await;
        let remove = |mut client: RuntimeServiceClient<Channel>| {
            let pod_sandbox_id = pod_sandbox_id.clone();
            async move {
                client
                    .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id })
                    .await
            }
        };
        self.until_done("remove the sandbox", remove).await;
    }
}

fn gone_is_fine<T>(outcome: Result<T, Status>) -> Result<(), Status> {
    match outcome {
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// Pods live while something dies again and again; then all is as it was.
async fn survive(mut rig: Rig, die: impl AsyncFn(&mut Rig)) {
    let seed = number("CLONE8S_CRASH_SEED", u64::from(std::process::id()));
    let rounds = number("CLONE8S_CRASH_ROUNDS", 10);
    eprintln!("seed {seed}: replay with CLONE8S_CRASH_SEED={seed}");
    let mut dice = Dice(seed);
    let client = Stubborn(rig.runtime());
    client.live(rig.pod("warm-up")).await;
    let before = Counts::of(&rig.places()).await;
    for round in 0..rounds {
        // One with a network of its own; one on the host's, whose containers share their processes.
        let mut shared = rig.host_pod(&format!("host-{round}"));
        namespaces(&mut shared).pid = cri::NamespaceMode::Pod.into();
        let pods = [rig.pod(&format!("own-{round}")), shared];
        let after = Duration::from_millis(dice.roll(700));
        let lives = join_all(pods.map(|pod| client.live(pod)));
        let death = async {
            sleep(after).await;
            die(&mut rig).await;
        };
        tokio::join!(lives, death);
    }
    before.returns(&rig.places()).await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_killed_in_the_middle_of_calls_leaves_nothing_and_every_call_succeeds_in_the_end() {
    let rig = Rig::start().await;
    survive(rig, async |rig: &mut Rig| rig.kill_and_restart().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containerd_killed_in_the_middle_of_calls_leaves_nothing_and_every_call_succeeds_in_the_end() {
    let rig = Rig::start().await;
    let die = async |rig: &mut Rig| {
        rig.containerd.process.kill();
        rig.containerd.start_again().await;
    };
    survive(rig, die).await;
}

/// 60 pods; with `CLONE8S_LEAK_PODS=500` as many as that.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_come_and_go_ten_at_a_time_leave_nothing() {
    const AT_ONCE: u64 = 10;
    let rig = Rig::start().await;
    let pods = number("CLONE8S_LEAK_PODS", 60);
    let client = Stubborn(rig.runtime());
    let cycle = async |from: u64, count: u64| {
        let lives = (0..AT_ONCE).map(|lane| {
            let (client, rig) = (&client, &rig);
            async move {
                for pod in (from..from + count).filter(|pod| pod % AT_ONCE == lane) {
                    client.live(rig.pod(&format!("pod-{pod}"))).await;
                }
            }
        });
        join_all(lives).await;
    };
    // The first make what stays: the bridge, threads, buffers.
    cycle(0, AT_ONCE).await;
    let before = Counts::of(&rig.places()).await;
    let began = Instant::now();
    cycle(AT_ONCE, pods).await;
    eprintln!("{pods} pods in {:?}", began.elapsed());
    before.returns(&rig.places()).await;
    wait::until("no sandbox is listed", || async {
        anyhow::ensure!(rig.list_sandboxes().await.is_empty());
        Ok(())
    })
    .await;
    rig.finish().await;
}
