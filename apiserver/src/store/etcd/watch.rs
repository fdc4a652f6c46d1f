//! A watch that outlives connections and restarts of etcd.
//!
//! ```text
//! connecting ──(created, start known)──► live ──(stream ends)──► waiting ──(backoff)──► connecting
//!     │                                    │
//!     └──────────── compacted ─────────────┴──► ended, with the error
//! ```
//! It goes on after the last revision that was delivered whole. The revision in an event response's header would be
//! wrong: during a catch-up it is ahead of the events.

use std::collections::VecDeque;

use clone8s_daemon::{backoff, supervisor::chain};
use etcd_client::{
    Client, Event, EventType, GetOptions, KvClient, WatchOptions, WatchResponse, WatchStream,
    proto::PbWatchResponse,
};
use futures::{StreamExt as _, stream};

use super::{
    Asked, DECODE_LIMIT, EtcdStore,
    base::Base,
    error::{map_error, timed_out, unavailable},
    key_value, prefix_end, revision,
};
use crate::store::{Change, KeyValue, Revision, StoreError, Watch, WatchItem};

pub(super) async fn watch(store: EtcdStore, prefix: String, after: Revision) -> Result<Watch, StoreError> {
    let base = store.base().await?;
    base.must_know(after)?;
    let mut watcher = Watcher {
        store,
        base,
        prefix,
        position: after,
        stream: None,
        incomplete: Vec::new(),
        ready: VecDeque::new(),
    };
    // The first connection is made here, so that what cannot be watched is refused at once.
    watcher.stream = Some(watcher.connect().await?);
    let items = stream::try_unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        Ok(Some((item, watcher)))
    });
    Ok(items.boxed())
}

/// The revision up to which etcd has compacted its history.
pub(super) async fn oldest(store: &EtcdStore, base: Base) -> Option<Revision> {
    let look = |member: Client| async move {
        let options = WatchOptions::new().with_start_revision(1);
        let mut stream = member.watch_client().watch("\0", Some(options)).await?;
        loop {
            match stream.message().await? {
                Some(response) if response.compact_revision() > 0 => {
                    return Ok(Some(base.shown(response.compact_revision())));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    };
    store.members.call(store.timeout, look).await?.ok()?
}

struct Watcher {
    store: EtcdStore,
    base: Base,
    prefix: String,
    /// Every write up to here is in `ready` or delivered.
    position: Revision,
    stream: Option<WatchStream>,
    /// Changes of the last transaction of a fragment: the next fragment may hold more of it.
    incomplete: Vec<Change>,
    ready: VecDeque<WatchItem>,
}

impl Watcher {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => self.reconnect().await?,
            };
            match stream.message().await {
                Ok(Some(response)) if response.canceled() => match self.canceled(&response) {
                    ended @ StoreError::Compacted { .. } => return Err(ended),
                    passing => self.lost(&chain(&passing)),
                },
                Ok(Some(response)) => {
                    self.take_in(&response)?;
                    self.stream = Some(stream);
                }
                Ok(None) => self.lost("etcd ended it"),
                Err(error) => self.lost(&chain(&map_error(
                    &self.store.endpoints,
                    &Asked::at("watch", None),
                    error,
                ))),
            }
        }
    }

    fn lost(&mut self, cause: &str) {
        // They come again, whole.
        self.incomplete.clear();
        tracing::warn!(
            prefix = self.prefix,
            position = self.position.0,
            cause,
            "watch lost, resuming"
        );
    }

    async fn reconnect(&mut self) -> Result<WatchStream, StoreError> {
        let mut delays = backoff::reconnect();
        loop {
            match self.connect().await {
                Ok(stream) => {
                    tracing::info!(prefix = self.prefix, position = self.position.0, "watch resumed");
                    return Ok(stream);
                }
                Err(StoreError::Unavailable(cause)) => {
                    tracing::debug!(
                        prefix = self.prefix,
                        cause = chain(cause.as_ref()),
                        "watch not resumed yet"
                    );
                }
                Err(other) => return Err(other),
            }
            tokio::time::sleep(delays.next().unwrap_or_default()).await;
        }
    }

    async fn connect(&self) -> Result<WatchStream, StoreError> {
        let store = &self.store;
        let options = WatchOptions::new()
            .with_range(prefix_end(&self.prefix))
            .with_start_revision(self.base.whole(self.position) + 1)
            .with_prev_key()
            .with_progress_notify()
            .with_fragment();
        let start = if self.prefix.is_empty() {
            "\0"
        } else {
            &self.prefix
        };
        let create = |member: Client| {
            let options = options.clone();
            async move {
                let mut client = member.watch_client().max_decoding_message_size(DECODE_LIMIT);
                let mut stream = client.watch(start, Some(options)).await?;
                let response = stream.message().await?;
                Ok((stream, response))
            }
        };
        let asked = Asked::at("watch", Some(self.position));
        let Some(created) = store.members.call(store.timeout, create).await else {
            return Err(timed_out(&store.endpoints, "watch", store.timeout));
        };
        let (stream, response) = created.map_err(|error| map_error(&store.endpoints, &asked, error))?;
        match response {
            Some(response) if response.canceled() => return Err(self.canceled(&response)),
            Some(response) if response.created() => {}
            _ => return Err(unavailable(&store.endpoints, "watch", "not created".to_owned())),
        }

        // Asked after the watch is made, so that nothing is compacted unseen in between. etcd itself would wait
        // silently for a revision in the future, and at the very edge of what is compacted skip a delete.
        let options = GetOptions::new()
            .with_count_only()
            .with_revision(self.base.whole(self.position));
        let look = |mut kv: KvClient| {
            let options = options.clone();
            async move { kv.get(start, Some(options)).await }
        };
        let reply = store.call(asked, look).await?;
        let newest = revision(reply.header(), self.base)?;
        if newest < self.position {
            return Err(StoreError::Future {
                asked: self.position,
                newest,
            });
        }
        Ok(stream)
    }

    fn canceled(&self, response: &WatchResponse) -> StoreError {
        if response.compact_revision() > 0 {
            return StoreError::Compacted {
                asked: self.position,
                oldest: self.base.shown(response.compact_revision()),
            };
        }
        let reason = match response.cancel_reason() {
            "" => "etcd canceled the watch",
            reason => reason,
        };
        unavailable(&self.store.endpoints, "watch", reason.to_owned())
    }

    fn take_in(&mut self, response: &WatchResponse) -> Result<(), StoreError> {
        let WatchResponse(PbWatchResponse { fragment, .. }) = response;
        let fragment = *fragment;
        if response.events().is_empty() {
            // A created response says nothing about how far the events are.
            if !response.created() && !fragment {
                let progress = revision(response.header(), self.base)?;
                if progress > self.position {
                    self.position = progress;
                    self.ready.push_back(WatchItem::Progress(progress));
                }
            }
            return Ok(());
        }
        for event in response.events() {
            let change = change(event, self.position, self.base)?;
            let transaction = |change: &Change| self.base.within(change.revision).0;
            if self
                .incomplete
                .last()
                .is_some_and(|last| transaction(last) < transaction(&change))
            {
                self.complete();
            }
            self.incomplete.push(change);
        }
        if !fragment {
            self.complete();
        }
        Ok(())
    }

    fn complete(&mut self) {
        let Some(last) = self.incomplete.last().map(|change| change.revision) else {
            return;
        };
        let before = self.position;
        // A watch that began within a transaction is told all of it.
        let news = self
            .incomplete
            .drain(..)
            .filter(|change| change.revision > before);
        self.ready.extend(news.map(WatchItem::Change));
        self.position = self.base.shown(self.base.within(last).0);
        if last < self.position {
            // What comes after it in the transaction is none of this watch's, or was refused.
            self.ready.push_back(WatchItem::Progress(self.position));
        }
    }
}

fn change(event: &Event, position: Revision, base: Base) -> Result<Change, StoreError> {
    let written = event
        .kv()
        .ok_or_else(|| StoreError::Broken("etcd sent an event without a key".into()))?;
    let is_put = event.event_type() == EventType::Put;
    let creates = is_put && written.version() == 1;
    if !creates && event.prev_kv().is_none() {
        // It was compacted between the write and now. Whoever needs to know what was there must start over.
        return Err(StoreError::Compacted {
            asked: position,
            oldest: base.shown(written.mod_revision()),
        });
    }
    let KeyValue { key, value, revision } = key_value(written, base)?;
    Ok(Change {
        key,
        value: is_put.then_some(value),
        previous: event
            .prev_kv()
            .map(|before| key_value(before, base))
            .transpose()?,
        revision,
    })
}
