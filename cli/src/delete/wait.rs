//! Until what was deleted is gone.

use std::{collections::HashSet, time::Duration};

use anyhow::{Result, anyhow, bail};
use clone8s::{
    client::{From, Query, Resource},
    v1::WatchEventType,
};
use clone8s_daemon::channel::Channel;
use tonic::Status;

use crate::status::explain;

/// Waits for the objects with these uids, whichever others of their names there are. An error says what is still
/// there after the timeout, and how to see why.
pub(super) async fn until_gone<O: Resource>(
    channel: &Channel,
    query: &Query,
    uids: HashSet<String>,
    timeout: Duration,
) -> Result<()> {
    match tokio::time::timeout(timeout, watch::<O>(channel, query, uids)).await {
        Ok(watched) => watched.map_err(|status| anyhow!(explain(&status))),
        Err(_) => bail!(
            "marked for deletion, but still there after {} s; see `c8s describe {}`",
            timeout.as_secs(),
            O::KIND.to_lowercase()
        ),
    }
}

async fn watch<O: Resource>(
    channel: &Channel,
    query: &Query,
    mut awaited: HashSet<String>,
) -> Result<(), Status> {
    let mut watch = O::watch(channel, query, From::InitialState).await?;
    let mut present = HashSet::new();
    let mut is_synced = false;
    while let Some(event) = watch.next().await? {
        let uid = event.object.as_ref().map_or("", |object| object.uid());
        match event.kind {
            WatchEventType::Added if !is_synced => {
                present.insert(uid.to_owned());
            }
            WatchEventType::Deleted => {
                awaited.remove(uid);
            }
            WatchEventType::Synced => {
                is_synced = true;
                awaited.retain(|uid| present.contains(uid));
            }
            _ => {}
        }
        if is_synced && awaited.is_empty() {
            return Ok(());
        }
    }
    Err(Status::unavailable("the server ended the watch"))
}
