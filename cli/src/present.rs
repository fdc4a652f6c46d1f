//! What there is of a query, looked at until it is as somebody waits for it to be.

use std::collections::BTreeMap;

use clone8s::{
    client::{From, Query, Resource},
    v1::WatchEventType,
};
use clone8s_daemon::{backoff, channel::Channel};
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::status::{explain, is_passing};

/// The objects by uid.
pub(crate) type Present<O> = BTreeMap<String, O>;

/// Shows what there is once that is known, and whenever it changes, until `look` has seen enough. A watch that breaks is
/// begun anew; a server that was never there is an error.
pub(crate) async fn until<O: Resource, T>(
    channel: &Channel,
    query: &Query,
    mut look: impl FnMut(&Present<O>) -> Option<T>,
) -> Result<T, Status> {
    let mut was_there = false;
    let mut pauses = backoff::reconnect();
    loop {
        match follow(channel, query, &mut was_there, &mut look).await {
            Err(status) if was_there && is_passing(&status) => {
                if status.code() != Code::OutOfRange {
                    eprintln!("note: {}; waiting for it to be back", explain(&status));
                }
                if let Some(pause) = pauses.next() {
                    sleep(pause).await;
                }
            }
            ended => return ended,
        }
    }
}

async fn follow<O: Resource, T>(
    channel: &Channel,
    query: &Query,
    was_there: &mut bool,
    look: &mut impl FnMut(&Present<O>) -> Option<T>,
) -> Result<T, Status> {
    let mut watch = O::watch(channel, query, From::InitialState).await?;
    let mut present = Present::new();
    let mut is_synced = false;
    while let Some(event) = watch.next().await? {
        *was_there = true;
        match (event.kind, event.object) {
            (WatchEventType::Added | WatchEventType::Modified, Some(object)) => {
                present.insert(object.uid().to_owned(), object);
            }
            (WatchEventType::Deleted, Some(object)) => {
                present.remove(object.uid());
            }
            (WatchEventType::Synced, _) => is_synced = true,
            _ => continue,
        }
        if is_synced && let Some(seen) = look(&present) {
            return Ok(seen);
        }
    }
    Err(Status::unavailable("the server ended the watch"))
}
