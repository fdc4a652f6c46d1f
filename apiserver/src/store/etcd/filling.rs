//! An etcd that becomes the store once it is whole: until then it holds a mark, and every apiserver refuses it.
//!
//! ```text
//! mark ─► what was there is removed ─► entries, many a transaction ─► base, and the mark goes, in one transaction
//! ```
//! Each step asks for the mark as this process wrote it: of two that fill one etcd, the first one stops.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp};
use futures::StreamExt as _;
use tokio::time::sleep;

use super::{
    EtcdStore,
    base::{BASE_KEY, Base, FILLING_KEY, Mark, Own},
    error::Asked,
    prefix_end,
};
use crate::{
    backup::{Entries, Existing, FillError, Filled, GAP},
    outbox::LEADER_KEY,
    store::{EVERYTHING, Revision, StoreError},
};
use clone8s_daemon::etcd::value::stored;

/// Of one transaction: etcd takes 128 operations and 1.5 MiB.
const OPERATIONS: usize = 100;
const BYTES: usize = 1 << 20;

/// In this time every apiserver that serves lets the leader among them write its lease, at least once.
const LOOK: Duration = Duration::from_secs(7);

#[derive(Debug)]
pub(crate) struct Filling {
    store: EtcdStore,
    own: Own,
    /// Of the store, as it is now.
    newest: Revision,
    /// Of etcd's revisions, that of our mark; 0 before it is set.
    marked_at: i64,
    /// The last transaction's.
    latest: i64,
}

impl Filling {
    pub(crate) async fn open(store: EtcdStore, existing: Existing) -> Result<Self, FillError> {
        let own = store.own().await?;
        let all = GetOptions::new()
            .with_range(prefix_end(EVERYTHING))
            .with_count_only();
        let reply = store
            .call(Asked::at("count", None), |mut kv| {
                let options = all.clone();
                async move { kv.get(EVERYTHING, Some(options)).await }
            })
            .await?;
        // Of a part of an earlier try nothing is to be kept.
        let is_empty = reply.count() == 0 || own.mark.is_some();
        let filling = Self {
            newest: own
                .base
                .shown(reply.header().map_or(0, etcd_client::ResponseHeader::revision)),
            marked_at: own.mark.as_ref().map_or(0, |(_, revision)| *revision),
            latest: 0,
            own,
            store,
        };
        if !is_empty {
            if existing == Existing::Refuse {
                return Err(FillError::NotEmpty {
                    store: filling.name(),
                });
            }
            filling.refuse_in_use().await?;
        }
        Ok(filling)
    }

    pub(crate) async fn fill(mut self, mut entries: Entries, above: Revision) -> Result<Filled, FillError> {
        let begun_before = self.own.mark.take().map_or(0, |(mark, _)| mark.above);
        let above = self.newest.0.max(above.0).max(begun_before);
        self.begin(&Mark { above }).await?;
        let mut filled = Filled {
            entries: 0,
            revision: Revision(0),
        };
        let mut batch = Batch::default();
        while let Some(part) = entries.next().await {
            for (key, value) in part.map_err(FillError::Source)? {
                filled.entries += 1;
                if !batch.has_room_for(&key, &value) {
                    self.commit(batch.take()).await?;
                }
                batch.add(&key, &value);
            }
        }
        self.commit(batch.take()).await?;
        // The next transaction is at least one further.
        let added = Base::added(self.latest, Revision(above + GAP));
        let last = vec![
            TxnOp::put(BASE_KEY, Base::saved(added), None),
            TxnOp::delete(FILLING_KEY, None),
        ];
        self.commit(last).await?;
        filled.revision = Base::adding(added).shown(self.latest);
        Ok(filled)
    }

    /// Sets the mark, and removes all else that is ours.
    async fn begin(&mut self, mark: &Mark) -> Result<(), FillError> {
        let mark = format!("above: {}\n", mark.above);
        self.commit(vec![TxnOp::put(FILLING_KEY, mark, None)]).await?;
        self.marked_at = self.latest;
        let all = DeleteOptions::new().with_range(prefix_end(EVERYTHING));
        self.commit(vec![TxnOp::delete(EVERYTHING, Some(all))]).await
    }

    async fn commit(&mut self, operations: Vec<TxnOp>) -> Result<(), FillError> {
        let ours = Compare::mod_revision(FILLING_KEY, CompareOp::Equal, self.marked_at);
        let txn = Txn::new().when([ours]).and_then(operations);
        let reply = self
            .store
            .call(Asked::at("fill", None), |mut kv| {
                let txn = txn.clone();
                async move { kv.txn(txn).await }
            })
            .await?;
        if !reply.succeeded() {
            return Err(FillError::Overtaken { store: self.name() });
        }
        self.latest = reply
            .header()
            .map(etcd_client::ResponseHeader::revision)
            .ok_or_else(|| StoreError::Broken("etcd's reply has no header".into()))?;
        Ok(())
    }

    /// One of the apiservers that serve from an etcd is their leader, and writes that often.
    async fn refuse_in_use(&self) -> Result<(), FillError> {
        let before = self.leader_written().await?;
        sleep(LOOK).await;
        if self.leader_written().await? == before {
            return Ok(());
        }
        Err(FillError::InUse { store: self.name() })
    }

    async fn leader_written(&self) -> Result<Option<i64>, StoreError> {
        let reply = self
            .store
            .call(Asked::key("get", LEADER_KEY), |mut kv| async move {
                kv.get(LEADER_KEY, None).await
            })
            .await?;
        Ok(reply.kvs().first().map(etcd_client::KeyValue::mod_revision))
    }

    fn name(&self) -> String {
        format!("etcd at {}", self.store.endpoints)
    }
}

/// Writes of the next transaction.
#[derive(Debug, Default)]
struct Batch {
    operations: Vec<TxnOp>,
    bytes: usize,
}

impl Batch {
    /// One that is larger than all room goes alone.
    fn has_room_for(&self, key: &str, value: &[u8]) -> bool {
        let bytes = self.bytes + key.len() + value.len();
        self.operations.is_empty() || (self.operations.len() < OPERATIONS && bytes <= BYTES)
    }

    fn add(&mut self, key: &str, value: &[u8]) {
        self.bytes += key.len() + value.len();
        self.operations.push(TxnOp::put(key, stored(value, 0), None));
    }

    fn take(&mut self) -> Vec<TxnOp> {
        self.bytes = 0;
        std::mem::take(&mut self.operations)
    }
}
