//! Pods from the apiserver: list, then watch, for the pods that are bound to this node.
//!
//! ```text
//! waiting for a channel ──► listing ──► watching ──(stream ends)──► pause ──► watching from the same revision
//!        ▲                     ▲           └──(OUT_OF_RANGE, or a hint that proved wrong)──► listing
//!        └── no channel        └──(failed)── pause
//! ```
//! In every state but listing, hints from the queue are taken too.

mod view;

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use clone8s::{
    mirror::is_mirror,
    object::Object as _,
    v1::{
        ListPodsRequest, Pod, WatchEventType, WatchPodsRequest, WatchPodsResponse,
        pod_service_client::PodServiceClient,
    },
};
use clone8s_daemon::{Shutdown, backoff, channel::Channel, supervisor::chain};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tonic::{Code, Status};

use self::view::{ApiView, Next};
pub(crate) use self::view::{Hint, HintedChange};
use super::{
    checkpoint::{Checkpoint, Saved},
    door,
    view::{View, ViewSender},
};
use crate::{ApiChannel, desired::PodKey, has_changed, mirrors::Mirrors, outage::Outage};

/// A list that takes longer is given up: hints wait for it.
const LIST_DEADLINE: Duration = Duration::from_secs(15);
const PAGE: i32 = 500;
/// A pod of more than 4 MiB cannot be stored, but a page of many can be large.
const LARGEST_MESSAGE: usize = 64 << 20;

/// A hint, and whom to tell when it is on disk.
#[derive(Debug)]
pub(crate) struct HintDelivery {
    pub hint: Hint,
    pub checkpointed: oneshot::Sender<()>,
}

/// Lists and watches for as long as the kubelet runs.
#[derive(Debug)]
pub(crate) struct ApiSource {
    node: String,
    api: ApiChannel,
    hints: Option<mpsc::Receiver<HintDelivery>>,
    pods: ApiView,
    checkpoint: Checkpoint,
    spoken: bool,
    /// The pods of the last list and what came after are all that the apiserver has for this node.
    listed: bool,
    view: ViewSender,
    mirrors: watch::Sender<Option<Mirrors>>,
    outage: Outage,
}

impl ApiSource {
    /// Shows the pods of the checkpoint at once.
    pub(crate) fn new(
        node: &str,
        api: ApiChannel,
        hints: Option<mpsc::Receiver<HintDelivery>>,
        checkpoint: Checkpoint,
        view: ViewSender,
        mirrors: watch::Sender<Option<Mirrors>>,
    ) -> Self {
        let pods = checkpoint.pods().values().map(|saved| saved.pod.clone());
        let restored = ApiView::new(pods, checkpoint.revision());
        let source = Self {
            node: node.to_owned(),
            api,
            hints,
            // What runs was on this disk before it was started, unless the disk has lost something.
            spoken: checkpoint.is_whole() && !checkpoint.is_new(),
            pods: restored,
            checkpoint,
            listed: false,
            view,
            mirrors,
            outage: Outage::new("list and watch of this node's pods"),
        };
        source.show();
        source
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            never = self.follow_for_ever() => never,
        }
    }

    async fn follow_for_ever(&mut self) -> Result<(), Infallible> {
        let mut delays = backoff::reconnect();
        loop {
            let channel = self.connected().await;
            let started = Instant::now();
            let status = match self.follow(channel).await {
                Ok(()) => continue,
                Err(status) => status,
            };
            if started.elapsed() > LIST_DEADLINE {
                delays = backoff::reconnect();
            }
            self.outage.failed(chain(&status));
            let delay = delays.next().unwrap_or(LIST_DEADLINE);
            self.take_hints_until(Instant::now() + delay).await;
        }
    }

    /// One list, where one is needed, and one watch. Returns well when the next one is to follow at once.
    async fn follow(&mut self, channel: Channel) -> Result<(), Status> {
        let mut client = PodServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let resumed = self.pods.resume_from();
        let position = match resumed {
            Some(position) => position,
            None => self.list(&mut client).await?,
        };
        let request = WatchPodsRequest {
            field_selector: on_node(&self.node),
            resource_version: position,
            ..WatchPodsRequest::default()
        };
        let mut events = match timeout(LIST_DEADLINE, client.watch_pods(request)).await {
            Ok(Ok(events)) => events.into_inner(),
            Ok(Err(status)) => return self.watch_failed(status, resumed),
            Err(_) => {
                return Err(Status::deadline_exceeded(
                    "the watch of pods took too long to start",
                ));
            }
        };
        self.outage.over();
        loop {
            let hint = next_hint(&mut self.hints);
            tokio::select! {
                event = events.message() => match event {
                    Ok(Some(event)) => if self.take_event(event).await == Next::Relist {
                        return Ok(());
                    },
                    Ok(None) => return Err(Status::unavailable("the apiserver ended the watch")),
                    Err(status) => return self.watch_failed(status, Some(position)),
                },
                hint = hint => self.take_hint(hint).await,
                // A new certificate, or another way to the apiserver.
                () = has_changed(&mut self.api) => return Ok(()),
            }
        }
    }

    async fn list(&mut self, client: &mut PodServiceClient<Channel>) -> Result<i64, Status> {
        let (pods, revision) = timeout(LIST_DEADLINE, list(client, &self.node))
            .await
            .map_err(|_| Status::deadline_exceeded("the list of pods took too long"))??;
        let pods = pods.into_iter().filter(|pod| self.is_ours(pod)).collect();
        self.pods.listed(pods, revision);
        self.spoken = true;
        self.listed = true;
        self.keep().await;
        if let Err(error) = self.checkpoint.clear_set_aside().await {
            tracing::warn!(error = chain(&error), "an unreadable checkpoint stays on disk");
        }
        self.show();
        Ok(revision)
    }

    /// `from` is where the watch went on, or was to; None for one that could not follow the list just before it.
    fn watch_failed(&mut self, status: Status, from: Option<i64>) -> Result<(), Status> {
        match status.code() {
            Code::OutOfRange if from.is_some() => {
                tracing::info!(reason = status.message(), "the watch cannot go on; listing again");
                self.pods.forget_position();
                Ok(())
            }
            // Not an outage, and asking the same again would bring the same answer.
            Code::OutOfRange | Code::InvalidArgument | Code::FailedPrecondition => {
                self.pods.forget_position();
                Err(status)
            }
            _ => Err(status),
        }
    }

    /// A channel to the apiserver, once there is one.
    async fn connected(&mut self) -> Channel {
        loop {
            if let Some(channel) = self.api.borrow_and_update().clone() {
                return channel;
            }
            let hint = next_hint(&mut self.hints);
            tokio::select! {
                () = has_changed(&mut self.api) => {}
                hint = hint => self.take_hint(hint).await,
            }
        }
    }

    async fn take_hints_until(&mut self, deadline: Instant) {
        loop {
            tokio::select! {
                () = sleep_until(deadline) => return,
                hint = next_hint(&mut self.hints) => self.take_hint(hint).await,
            }
        }
    }

    async fn take_event(&mut self, mut event: WatchPodsResponse) -> Next {
        // One that goes is told as it was, and was not taken in if it was not ours.
        let goes = event.r#type() == WatchEventType::Deleted;
        event.pod = event.pod.filter(|pod| goes || self.is_ours(pod));
        let next = self.pods.watched(event);
        self.keep().await;
        self.show();
        next
    }

    /// Whoever is the apiserver, or stands in its place, a pod of it makes no file outside the kubelet's folders.
    fn is_ours(&self, pod: &Pod) -> bool {
        match door::check_identity(pod, &self.node) {
            Ok(()) => true,
            Err(reason) => {
                let (namespace, name) = (pod.namespace(), pod.name());
                tracing::error!(
                    namespace,
                    name,
                    reason,
                    "passed over a pod that cannot be this node's"
                );
                false
            }
        }
    }

    async fn take_hint(&mut self, delivery: HintDelivery) {
        self.pods.hinted(delivery.hint);
        if self.keep().await {
            // An error says that the queue was closed: the message comes again.
            let _ = delivery.checkpointed.send(());
        }
        self.show();
    }

    /// Checkpoints; false when that failed. The apiserver has the truth, so its pods run all the same.
    async fn keep(&mut self) -> bool {
        let wanted = self
            .to_run()
            .map(|(key, pod)| {
                let origin = String::new();
                (
                    key.clone(),
                    Saved {
                        pod: pod.clone(),
                        origin,
                    },
                )
            })
            .collect();
        match self.checkpoint.keep_at(&wanted, self.pods.newest()).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(error = chain(&error), "the apiserver's pods are not checkpointed");
                false
            }
        }
    }

    fn show(&self) {
        self.view.replace(View {
            pods: self
                .to_run()
                .map(|(key, pod)| (key.clone(), pod.clone()))
                .collect(),
            spoken: self.spoken,
        });
        if !self.listed {
            return;
        }
        let mirrors: BTreeMap<_, _> = self
            .pods
            .pods()
            .filter(|(_, pod)| is_mirror(pod))
            .map(|(key, pod)| (key.clone(), pod.clone()))
            .collect();
        self.mirrors.send_if_modified(|shown| {
            let is_news = shown.as_deref() != Some(&mirrors);
            if is_news {
                *shown = Some(Arc::new(mirrors));
            }
            is_news
        });
    }

    /// What the apiserver has for this node beside what it shows of the node's own pods.
    fn to_run(&self) -> impl Iterator<Item = (&PodKey, &Arc<Pod>)> {
        self.pods.pods().filter(|(_, pod)| !is_mirror(pod))
    }
}

async fn list(client: &mut PodServiceClient<Channel>, node: &str) -> Result<(Vec<Pod>, i64), Status> {
    let mut pods = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListPodsRequest {
            field_selector: on_node(node),
            page_size: PAGE,
            page_token,
            ..ListPodsRequest::default()
        };
        let page = client.list_pods(request).await?.into_inner();
        pods.extend(page.pods);
        if page.next_page_token.is_empty() {
            return Ok((pods, page.resource_version));
        }
        page_token = page.next_page_token;
    }
}

fn on_node(node: &str) -> String {
    format!("spec.nodeName={node}")
}

async fn next_hint(hints: &mut Option<mpsc::Receiver<HintDelivery>>) -> HintDelivery {
    match hints {
        Some(hints) => match hints.recv().await {
            Some(hint) => hint,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
