//! The node's end of the tunnel: it listens on no port, so it waits for calls on a stream that it has opened, and
//! answers each on a stream of its own.
//!
//! ```text
//! waiting for a channel ──► waiting for calls ──(stream ends)──► pause ──► waiting for a channel
//!                             └─ call ─► a task: log file or session ─► frames ─► end
//! ```

mod answer;
mod logs;
mod place;
mod sessions;

use std::{convert::Infallible, time::Duration};

use clone8s::v1::{
    WatchNodeCallsRequest, WatchNodeCallsResponse, tunnel_service_client::TunnelServiceClient,
    watch_node_calls_response::Call,
};
use clone8s_daemon::{Shutdown, backoff, channel::Channel, supervisor::chain};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::Status;

use self::{
    answer::{Frames, Inputs, Reply},
    logs::{LogSources, send_logs},
    place::Pods,
    sessions::Sessions,
};
use crate::{Shared, has_changed, outage::Outage};

/// Calls that are answered at a time; one more is refused with RESOURCE_EXHAUSTED.
const CALLS_AT_A_TIME: usize = 64;
/// A stream that lasted this long was a good one.
const LASTING: Duration = Duration::from_secs(10);

/// Answers calls for as long as the kubelet runs.
#[derive(Debug)]
pub struct Tunnel {
    node: String,
    api: crate::ApiChannel,
    answers: Answers,
    calls: JoinSet<()>,
    outage: Outage,
}

/// What answers are made of.
#[derive(Debug, Clone)]
struct Answers {
    node: String,
    logs: LogSources,
    sessions: Sessions,
}

impl Tunnel {
    pub fn new(shared: &Shared) -> Self {
        let pods = Pods {
            node: shared.config.node_name.clone(),
            desired: shared.desired.clone(),
            statuses: shared.statuses.clone(),
        };
        Self {
            node: shared.config.node_name.clone(),
            api: shared.api.clone(),
            answers: Answers {
                node: shared.config.node_name.clone(),
                logs: LogSources {
                    root: shared.config.log_root.clone(),
                    pods: pods.clone(),
                },
                sessions: Sessions {
                    runtime: shared.runtime.clone(),
                    pods,
                },
            },
            calls: JoinSet::new(),
            outage: Outage::new("tunnel to the apiserver"),
        }
    }

    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            never = self.answer_for_ever() => never,
        }
    }

    async fn answer_for_ever(&mut self) -> Result<(), Infallible> {
        let mut delays = backoff::reconnect();
        loop {
            let channel = self.connected().await;
            let started = Instant::now();
            let status = self.wait_for_calls(channel).await;
            if started.elapsed() > LASTING {
                delays = backoff::reconnect();
            }
            self.outage.failed(chain(&status));
            sleep(delays.next().unwrap_or(LASTING)).await;
        }
    }

    async fn connected(&mut self) -> Channel {
        loop {
            if let Some(channel) = self.api.borrow_and_update().clone() {
                return channel;
            }
            has_changed(&mut self.api).await;
        }
    }

    /// Returns why no more calls come.
    async fn wait_for_calls(&mut self, channel: Channel) -> Status {
        let mut client = TunnelServiceClient::new(channel.clone());
        let request = WatchNodeCallsRequest {
            node_name: self.node.clone(),
        };
        let mut calls = match client.watch_node_calls(request).await {
            Ok(calls) => calls.into_inner(),
            Err(status) => return status,
        };
        self.outage.over();
        loop {
            tokio::select! {
                call = calls.message() => match call {
                    Ok(Some(call)) => self.take(call, channel.clone()),
                    Ok(None) => return Status::unavailable("the apiserver ended the stream"),
                    Err(status) => return status,
                },
                Some(ended) = self.calls.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "answering a call failed");
                },
            }
        }
    }

    fn take(&mut self, message: WatchNodeCallsResponse, channel: Channel) {
        let answers = self.answers.clone();
        let full = self.calls.len() >= CALLS_AT_A_TIME;
        self.calls.spawn(async move {
            let WatchNodeCallsResponse { call_id, call } = message;
            let reply = Reply::new(channel, call_id);
            reply
                .send(async |frames, inputs| {
                    if full {
                        let node = answers.node;
                        let words =
                            format!("{node} answers {CALLS_AT_A_TIME} calls already; try again later");
                        return Err(Status::resource_exhausted(words));
                    }
                    answers.answer(call, frames, inputs).await
                })
                .await;
        });
    }
}

impl Answers {
    async fn answer(self, call: Option<Call>, frames: &Frames, inputs: Inputs) -> Result<(), Status> {
        match call {
            Some(Call::GetPodLogs(request)) => send_logs(&self.logs, request, frames).await,
            Some(Call::ExecPod(start)) => self.sessions.exec(start, frames, inputs).await,
            Some(Call::AttachPod(start)) => self.sessions.attach(start, frames, inputs).await,
            Some(Call::PortForwardPod(start)) => self.sessions.port_forward(start, frames, inputs).await,
            None => Err(Status::unimplemented(format!(
                "the kubelet on {} does not know this call",
                self.node
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
