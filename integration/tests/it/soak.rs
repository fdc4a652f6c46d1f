//! Pods that come, change, fail and go at random on one node while its daemons are killed now and then: in the end nothing
//! is left of them, and nobody has grown. `scripts/soak` does this for half an hour.

use std::{env, fs, process::Command, time::Duration};

use anyhow::ensure;
use clone8s::{
    client::{DeleteOptions, Query, Resource as _},
    object::Object as _,
    v1::{Event, Pod},
};
use clone8s_integration::{
    ControlPlane, Node, Registry, Sandbox, command, counts::Counts, node::Place, pods, wait,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;
use tonic::{Code, Status};

const SEED: &str = "CLONE8S_SOAK_SEED";
const SECONDS: &str = "CLONE8S_SOAK_SECONDS";

/// How many pods of the API there are at most, and how many manifests.
const PODS: u32 = 16;
const MANIFESTS: u32 = 4;
/// Between two choices.
const PAUSE: Duration = Duration::from_millis(200);
/// Choices between two kills of a daemon.
const KILL_EVERY: u32 = 150;
/// A daemon does so once a minute.
const GIVE_BACK: Duration = Duration::from_secs(70);
/// What caches and the allocator may come to.
const GROWTH: u64 = 16 << 20;

fn number(variable: &str, default: u64) -> u64 {
    let told = env::var(variable).ok();
    told.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number"))
    })
}

/// What pods are like: one that serves, with volumes and probes; one that ends well; one that fails again and again; one on
/// the node's network; one of two containers, whose first waits for the other's file.
fn manifest(name: &str, kind: u32, image: &str) -> String {
    let (restart, network, containers) = match kind {
        0 => (
            "Always",
            false,
            format!(
                "
    - name: main
      image: {image}
      command: [sh, -c, 'mkdir -p /tmp/www; httpd -p 8080 -h /tmp/www; exec sleep 1000000']
      readinessProbe: {{exec: {{command: ['true']}}, periodSeconds: 1}}
      livenessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
      volumeMounts:
        - {{name: disk, mountPath: /disk}}
        - {{name: memory, mountPath: /memory}}"
            ),
        ),
        1 => (
            "Never",
            true,
            format!("\n    - {{name: main, image: {image}, command: [sh, -c, 'seq 1 200']}}"),
        ),
        2 => (
            "Always",
            false,
            format!("\n    - {{name: main, image: {image}, command: [sh, -c, 'echo bad; exit 3']}}"),
        ),
        3 => (
            "Always",
            true,
            format!("\n    - {{name: main, image: {image}, command: [sleep, '1000000']}}"),
        ),
        _ => (
            "Always",
            false,
            format!(
                "
    - name: waits
      image: {image}
      command: [sh, -c, 'until [ -e /disk/there ]; do sleep 1; done; exec sleep 1000000']
      volumeMounts: [{{name: disk, mountPath: /disk}}]
    - name: makes
      image: {image}
      command: [sh, -c, 'touch /disk/there; exec sleep 1000000']
      volumeMounts: [{{name: disk, mountPath: /disk}}]"
            ),
        ),
    };
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: {restart}
  hostNetwork: {network}
  terminationGracePeriodSeconds: 1
  volumes:
    - {{name: disk, emptyDir: {{}}}}
    - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
  containers:{containers}
"
    )
}

/// A cluster of one node, and what is chosen to happen to it.
struct Churn {
    plane: ControlPlane,
    node: Node,
    /// Two tags of the same.
    images: [String; 2],
    rng: StdRng,
}

impl Churn {
    async fn step(&mut self) {
        let name = format!("pod-{}", self.rng.random_range(0..PODS));
        match self.rng.random_range(0..100) {
            0..45 => {
                let kind = self.rng.random_range(0..5);
                let pod = pods::from_yaml(&manifest(&name, kind, &self.images[0]));
                settled(
                    &[Code::AlreadyExists],
                    Pod::create(&self.plane.channel(), pod).await,
                );
            }
            45..75 => {
                let options = DeleteOptions {
                    grace_period_seconds: [None, Some(0), Some(2)][self.rng.random_range(0..3)],
                    ..DeleteOptions::default()
                };
                let deleted = Pod::delete(&self.plane.channel(), "default", &name, &options).await;
                settled(&[Code::NotFound], deleted);
            }
            75..85 => self.change(&name).await,
            85..92 => self.kill_a_container().await,
            92..97 => {
                let file = format!("own-{}.yaml", self.rng.random_range(0..MANIFESTS));
                let own = manifest(file.trim_end_matches(".yaml"), 3, &self.images[0]);
                self.node.write_manifest(&file, &own);
            }
            _ => {
                let file = format!("own-{}.yaml", self.rng.random_range(0..MANIFESTS));
                // It may not be there.
                let _ = fs::remove_file(self.node.manifests().join(file));
            }
        }
    }

    async fn change(&mut self, name: &str) {
        let channel = self.plane.channel();
        let mut pod = match Pod::get(&channel, "default", name).await {
            Err(status) if status.code() == Code::NotFound => return,
            found => found.unwrap(),
        };
        let spec = pod.spec.as_mut().unwrap();
        // Another tag of the same: its container is made anew.
        let image = &mut spec.containers[0].image;
        let other = &self.images[usize::from(*image == self.images[0])];
        image.clone_from(other);
        let changed = Pod::update(&channel, pod).await;
        settled(
            &[Code::NotFound, Code::Aborted, Code::FailedPrecondition],
            changed,
        );
    }

    async fn kill_a_container(&mut self) {
        let Ok(runs) = self.node.runs().await else { return };
        let places: Vec<&Place> = runs.keys().collect();
        if let Some(place) = places.get(self.rng.random_range(0..places.len().max(1))) {
            // It may have ended meanwhile.
            let _ = command::run(Command::new("kill").args(["-9", &runs[*place].pid.to_string()]));
        }
    }

    async fn kill_a_daemon(&mut self) {
        match self.rng.random_range(0..3) {
            0 => {
                self.node.kubelet.kill();
                self.node.kubelet.start().unwrap();
            }
            1 => {
                self.node.shim.kill();
                self.node.shim.start().unwrap();
                self.node.shim_ready().await;
            }
            _ => {
                self.node.containerd.process.kill();
                self.node.containerd.start_again().await;
            }
        }
    }

    /// Takes every pod away, and waits until none is left anywhere.
    async fn end(&mut self) {
        for number in 0..MANIFESTS {
            let file = format!("own-{number}.yaml");
            let _ = fs::remove_file(self.node.manifests().join(file));
        }
        let channel = self.plane.channel();
        for number in 0..PODS {
            let name = format!("pod-{number}");
            let deleted = Pod::delete(&channel, "default", &name, &DeleteOptions::default()).await;
            settled(&[Code::NotFound], deleted);
        }
        wait::until("no pod is left", || async {
            let (left, _) = Pod::list_all(&channel, &Query::default()).await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await;
        self.node.runs_exactly(&[]).await;
        wait::until("the kubelet keeps no volume", || async {
            let left = fs::read_dir(self.node.dir().join("kubelet/pods"))
                .into_iter()
                .flatten()
                .count();
            ensure!(left == 0, "{left} folders of pods");
            Ok(())
        })
        .await;
    }

    /// Bytes of each daemon's own, without the events that the apiserver keeps for an hour, and after each has given back
    /// what its allocator keeps.
    async fn memory(&self) -> [(&'static str, u64); 4] {
        let channel = self.plane.channel();
        let (events, _) = Event::list_all(&channel, &Query::default()).await.unwrap();
        eprintln!("{} events are kept", events.len());
        for event in &events {
            let now = DeleteOptions::default();
            let deleted = Event::delete(&channel, event.namespace(), event.name(), &now).await;
            settled(&[Code::NotFound], deleted);
        }
        tokio::time::sleep(GIVE_BACK).await;
        [
            ("apiserver", own(self.plane.apiserver.pid())),
            ("controllers", own(self.plane.controllers.pid())),
            ("kubelet", own(self.node.kubelet.pid())),
            ("runtime-shim", own(self.node.shim.pid())),
        ]
    }
}

/// Panics on an answer that nothing here gives a reason for.
fn settled<T>(expected: &[Code], answer: Result<T, Status>) {
    if let Err(status) = answer {
        assert!(expected.contains(&status.code()), "{status:?}");
    }
}

/// What a daemon has in memory of its own: pages of its program's file come as they are used.
fn own(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

async fn churn(seed: u64, span: Duration) {
    eprintln!("seed {seed}, {span:?}");
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let images = ["busybox:1", "busybox:2"].map(|image| registry.image(image));
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "node").await;
    node.join(&plane, None).await;
    plane.node_ready("node").await;
    let mut churn = Churn {
        plane,
        node,
        images,
        rng: StdRng::seed_from_u64(seed),
    };
    // What stays with the first pod of each kind is no leak: images, the bridge, its rules.
    for (kind, image) in (0..5).zip(churn.images.iter().cycle()) {
        let pod = pods::from_yaml(&manifest(&format!("pod-{kind}"), kind, image));
        Pod::create(&churn.plane.channel(), pod).await.unwrap();
    }
    churn.plane.running("pod-0").await;
    churn.end().await;
    let (before, memory) = (Counts::of(&churn.node.places()).await, churn.memory().await);

    let start = Instant::now();
    let mut steps = 0;
    while start.elapsed() < span {
        churn.step().await;
        steps += 1;
        if steps % KILL_EVERY == 0 {
            churn.kill_a_daemon().await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    churn.end().await;
    before.returns(&churn.node.places()).await;
    eprintln!("{steps} choices; nothing is left");
    for ((daemon, then), (_, now)) in memory.into_iter().zip(churn.memory().await) {
        eprintln!("{daemon}: {} kB before, {} kB now", then >> 10, now >> 10);
        assert!(now < then + GROWTH, "{daemon} has grown");
    }
}

#[tokio::test]
#[ignore = "as long as it is told to run: scripts/soak"]
async fn pods_come_and_go_for_long_and_leave_nothing() {
    let span = Duration::from_secs(number(SECONDS, 1_800));
    Box::pin(churn(number(SEED, 1), span)).await;
}
