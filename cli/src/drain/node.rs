//! One node's pods, on their way out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::Write,
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use clone8s::{
    client::{From, Query, Resource as _, WatchEvent},
    mirror,
    object::Object as _,
    v1::{EvictPodRequest, Node, Pod, WatchEventType, pod_service_client::PodServiceClient},
};
use clone8s_daemon::{backoff, channel::Channel};
use tokio::time::sleep;
use tonic::{Code, Status};

use super::DrainArgs;
use crate::status::{explain, is_passing};

/// Which pod it is, whatever other pods of its name come and go.
#[derive(Debug, Clone)]
struct Place {
    namespace: String,
    name: String,
}

impl Place {
    fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {}/{}", self.namespace, self.name)
    }
}

pub(super) struct Draining<'a> {
    args: &'a DrainArgs,
    channel: &'a Channel,
    node: &'a str,
    /// What is there, by uid.
    present: BTreeMap<String, Place>,
    /// Pods that the server will not evict, and why.
    refused: BTreeMap<String, String>,
    /// Pods that are the node's own, by the uid that they have there.
    own: BTreeSet<String>,
}

impl<'a> Draining<'a> {
    pub(super) fn new(args: &'a DrainArgs, channel: &'a Channel, node: &'a str) -> Self {
        Self {
            args,
            channel,
            node,
            present: BTreeMap::new(),
            refused: BTreeMap::new(),
            own: BTreeSet::new(),
        }
    }

    /// Until no pod is left that can be evicted. What cannot be is told when all the others are gone.
    pub(super) async fn run(&mut self, out: &mut impl Write) -> Result<()> {
        let mut retries = backoff::reconnect();
        loop {
            match self.follow(out).await {
                Ok(()) if self.refused.is_empty() => return Ok(()),
                Ok(()) => {
                    let refused: Vec<_> = self.refused.values().cloned().collect();
                    bail!(refused.join("\n"));
                }
                Err(Failure::Call(status)) if is_passing(&status) => {
                    tracing::debug!(%status, "the watch of the node's pods ended: trying again");
                }
                Err(Failure::Call(status)) => bail!(explain(&status)),
                Err(Failure::Output(error)) => return Err(error.into()),
            }
            sleep(retries.next().unwrap_or(Duration::from_secs(5))).await;
        }
    }

    /// What to say when the time is over.
    pub(super) fn late(&self, seconds: u64) -> anyhow::Error {
        let mut left: Vec<_> = self.present.values().map(ToString::to_string).collect();
        left.extend(self.refused.values().cloned());
        if left.is_empty() {
            return anyhow!("not drained after {seconds} s: the apiserver cannot be reached; try again");
        }
        anyhow!(
            "not drained after {seconds} s; still there: {}; see `c8s describe pod NAME`. Where the node itself is gone, \
             `c8s delete pod NAME --grace-period 0` removes what it can no longer stop",
            left.join(", ")
        )
    }

    async fn follow(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        let query = query(self.args, self.node);
        let mut watch = Pod::watch(self.channel, &query, From::InitialState).await?;
        let before = std::mem::take(&mut self.present);
        let mut is_synced = false;
        loop {
            let Some(event) = watch.next().await? else {
                return Err(Status::unavailable("the server ended the watch").into());
            };
            match event.kind {
                WatchEventType::Added | WatchEventType::Modified => self.meet(event, out).await?,
                WatchEventType::Deleted => self.part(&event, out)?,
                WatchEventType::Synced => {
                    is_synced = true;
                    // They went while nobody watched.
                    for (uid, place) in &before {
                        if !self.present.contains_key(uid) && !self.refused.contains_key(uid) {
                            writeln!(out, "{place} evicted")?;
                        }
                    }
                }
                _ => {}
            }
            out.flush()?;
            if is_synced && self.present.is_empty() {
                return Ok(());
            }
        }
    }

    async fn meet(&mut self, event: WatchEvent<Pod>, out: &mut impl Write) -> Result<(), Failure> {
        let Some(pod) = event.object else {
            return Ok(());
        };
        let (uid, place) = (pod.uid().to_owned(), Place::of(&pod));
        if let Some(source) = mirror::annotation(&pod, mirror::SOURCE) {
            // Deleted mirrors come again.
            if self.own.insert(mirror::uid_on_node(&pod).to_owned()) {
                writeln!(out, "{}", stays(&place, source))?;
            }
            return Ok(());
        }
        if self.refused.contains_key(&uid) || self.present.contains_key(&uid) {
            return Ok(());
        }
        let is_ending = pod
            .metadata
            .as_ref()
            .is_some_and(|meta| meta.deletion_timestamp.is_some());
        writeln!(out, "evicting {place}")?;
        out.flush()?;
        // One that is ending may be told to be quicker.
        if !is_ending || self.args.grace_period.is_some() {
            match evict(self.args, self.channel, self.node, &pod).await {
                Ok(()) => {}
                Err(status) if is_passing(&status) => return Err(status.into()),
                Err(status) => {
                    self.refused.insert(uid, format!("{place}: {}", explain(&status)));
                    return Ok(());
                }
            }
        }
        self.present.insert(uid, place);
        Ok(())
    }

    fn part(&mut self, event: &WatchEvent<Pod>, out: &mut impl Write) -> Result<(), Failure> {
        let uid = event.object.as_ref().map_or("", |pod| pod.uid());
        self.refused.remove(uid);
        if let Some(place) = self.present.remove(uid) {
            writeln!(out, "{place} evicted")?;
        }
        Ok(())
    }
}

enum Failure {
    Call(Status),
    Output(std::io::Error),
}

impl std::convert::From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

impl std::convert::From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// The node must be there: a name that is mistyped is not a node without pods.
pub(super) async fn check(channel: &Channel, name: &str) -> Result<()> {
    match Node::get(channel, "", name).await {
        Ok(_) => Ok(()),
        Err(status) => bail!(explain(&status)),
    }
}

pub(super) async fn try_evictions(
    args: &DrainArgs,
    channel: &Channel,
    node: &str,
    out: &mut impl Write,
) -> Result<()> {
    let (pods, _) = Pod::list_all(channel, &query(args, node))
        .await
        .map_err(|status| anyhow!(explain(&status)))?;
    let mut refused = Vec::new();
    for pod in &pods {
        let place = Place::of(pod);
        if let Some(source) = mirror::annotation(pod, mirror::SOURCE) {
            writeln!(out, "{}", stays(&place, source))?;
            continue;
        }
        match evict(args, channel, node, pod).await {
            Ok(()) => writeln!(out, "{place} evicted (dry run)")?,
            Err(status) => refused.push(format!("{place}: {}", explain(&status))),
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    bail!(refused.join("\n"))
}

/// What is said of a mirror.
fn stays(place: &Place, source: &str) -> String {
    format!("{place} stays: the node has it from its own {source}")
}

fn query(args: &DrainArgs, node: &str) -> Query {
    Query {
        namespace: String::new(),
        label_selector: args.label_selector.clone(),
        field_selector: format!("spec.nodeName={node}"),
    }
}

async fn evict(args: &DrainArgs, channel: &Channel, node: &str, pod: &Pod) -> Result<(), Status> {
    let request = EvictPodRequest {
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        grace_period_seconds: args.grace_period,
        message: format!("node {node} is drained"),
        validate_only: args.dry_run,
        ..EvictPodRequest::default()
    };
    match PodServiceClient::new(channel.clone()).evict_pod(request).await {
        Ok(_) => Ok(()),
        // It is gone, or another has its name.
        Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => Ok(()),
        Err(status) => Err(status),
    }
}
