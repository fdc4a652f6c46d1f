//! The store on an etcd cluster. Where its revisions lie is told in [`base`], how puts share transactions in [`groups`].
//!
//! Every call has a timeout, and a member that hangs is noticed by keep-alive pings. History is bounded by
//! [`compaction`]. `--experimental-watch-progress-notify-interval=5s` (etcd 3.4; without `experimental-` from 3.6) makes
//! [`WatchItem::Progress`](super::WatchItem::Progress) as frequent as in the embedded store; the default is 10
//! minutes.

mod base;
pub(crate) mod compaction;
mod config;
mod error;
mod filling;
mod groups;
mod members;
mod watch;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use clone8s_daemon::etcd::value::{self, bounds, stored};
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, GetResponse, KvClient,
    ResponseHeader, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use futures::{StreamExt as _, stream};
use tokio::sync::OnceCell;

pub use self::config::{ClientIdentity, ConfigError, EtcdConfig};
pub(crate) use self::filling::Filling;
use self::{
    base::Base,
    config::tls_options,
    error::{Asked, map_error, timed_out},
    groups::{Groups, Put},
    members::Members,
};
use super::{
    DUMP_PART, Dump, History, KeyValue, Listing, Page, Precondition, Record, Revision, Size, Store,
    StoreError, Unchanged, Watch, check_size,
};

/// etcd refuses to be pinged more often than every 5 seconds, and closes the connection of who does. It also closes one
/// without any open call after some pings, which costs nothing: the next call opens another.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A listing without a limit is fetched in pages of this many keys.
const FETCH: usize = 500;
/// A page of the largest values, several times over; the decoder takes only what comes.
const DECODE_LIMIT: usize = 1 << 30;

/// The store. Clones share its connections.
#[derive(Clone)]
pub struct EtcdStore {
    members: Members,
    /// What is added to etcd's revisions; read with the first call.
    base: Arc<OnceCell<Base>>,
    groups: Arc<Groups>,
    endpoints: String,
    timeout: Duration,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Reads the certificates and prepares the connections; whether etcd answers shows at the first call.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, ConfigError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            // A member cut off from its peers says so, instead of serving what is old.
            .with_require_leader(true);
        if let Some(tls) = tls_options(config)? {
            options = options.with_tls(tls);
        }
        let members = Members::new(&config.endpoints, &options)
            .await
            .map_err(|(endpoint, error)| ConfigError::BadEndpoint {
                endpoint,
                cause: error.to_string(),
            })?;
        Ok(Self {
            members,
            base: Arc::default(),
            groups: Arc::default(),
            endpoints: config.endpoints.join(", "),
            timeout: config.request_timeout,
        })
    }

    async fn call<T, Call>(&self, asked: Asked<'_>, call: impl Fn(KvClient) -> Call) -> Result<T, StoreError>
    where
        Call: Future<Output = Result<T, etcd_client::Error>>,
    {
        let answer = self.members.call(self.timeout, |member| call(kv(&member))).await;
        self.answer(asked, answer).await
    }

    /// An answer of a member, or None where it took too long.
    async fn answer<T>(
        &self,
        asked: Asked<'_>,
        answer: Option<Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        match answer {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(error)) => Err(self.explain(asked, error).await),
            None => Err(timed_out(&self.endpoints, asked.action, self.timeout)),
        }
    }

    /// Forgets what was before a revision; that etcd has forgotten more already is fine.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let of_etcd = self.base().await?.whole(revision);
        if of_etcd <= 0 {
            // Of before the store was filled: nothing is known of that anyway.
            return Ok(());
        }
        let asked = Asked::at("compact", Some(revision));
        let done = self
            .call(asked, |mut kv| async move { kv.compact(of_etcd, None).await })
            .await;
        match done {
            Ok(_) | Err(StoreError::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// etcd says that a revision is compacted or in the future, but not which would do: that takes another call.
    async fn explain(&self, asked: Asked<'_>, error: etcd_client::Error) -> StoreError {
        // Nothing is asked about a revision before the base is known.
        let base = self.base.get().copied().unwrap_or_default();
        match map_error(&self.endpoints, &asked, error) {
            StoreError::Compacted { asked, oldest } => StoreError::Compacted {
                asked,
                oldest: watch::oldest(self, base).await.unwrap_or(oldest),
            },
            StoreError::Future { asked, newest } => StoreError::Future {
                asked,
                newest: self.newest(base).await.unwrap_or(newest),
            },
            other => other,
        }
    }

    async fn newest(&self, base: Base) -> Option<Revision> {
        let look = |member: Client| async move {
            let options = GetOptions::new().with_count_only();
            kv(&member).get("\0", Some(options)).await
        };
        let reply = self.members.call(self.timeout, look).await?;
        revision(reply.ok()?.header(), base).ok()
    }

    /// One page of `[start, end)`.
    async fn range(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        at: Option<Revision>,
        base: Base,
    ) -> Result<GetResponse, StoreError> {
        let mut options = GetOptions::new()
            .with_range(end)
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        if let Some(at) = at {
            options = options.with_revision(base.within(at).0);
        }
        self.call(Asked::at("list", at), |mut kv| {
            let options = options.clone();
            async move { kv.get(start, Some(options)).await }
        })
        .await
    }

    /// A key of a transaction as it was before that.
    async fn before(&self, key: &str, at: Revision, base: Base) -> Result<Option<KeyValue>, StoreError> {
        let options = GetOptions::new().with_revision(base.within(at).0 - 1);
        let reply = self
            .call(Asked::at("list", Some(at)), |mut kv| {
                let options = options.clone();
                async move { kv.get(key, Some(options)).await }
            })
            .await?;
        reply
            .kvs()
            .first()
            .map(|found| key_value(found, base))
            .transpose()
    }

    async fn transact(&self, txn: &Txn) -> Option<Result<TxnResponse, etcd_client::Error>> {
        let call = |member: Client| async move { kv(&member).txn(txn.clone()).await };
        self.members.call(self.timeout, call).await
    }

    /// The revision, or where the conditions do not hold what was found instead.
    async fn write(
        &self,
        asked: Asked<'_>,
        txn: Txn,
        base: Base,
    ) -> Result<Result<Revision, Vec<Option<i64>>>, StoreError> {
        let reply = self.answer(asked, self.transact(&txn).await).await?;
        if reply.succeeded() {
            return revision(reply.header(), base).map(Ok);
        }
        Ok(Err(found(&reply)))
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let base = self.base().await?;
        let reply = self
            .call(
                Asked::key("get", key),
                |mut kv| async move { kv.get(key, None).await },
            )
            .await?;
        let found = reply.kvs().first();
        let found = found.map(|found| key_value(found, base)).transpose()?;
        Ok((found, revision(reply.header(), base)?))
    }

    async fn list(&self, prefix: &str, page: Page, at: Option<Revision>) -> Result<Listing, StoreError> {
        let base = self.base().await?;
        at.map_or(Ok(()), |at| base.must_know(at))?;
        let wanted = page.limit.map_or(usize::MAX, |limit| limit.max(1));
        let end = prefix_end(prefix);
        let mut start = match page.after.as_deref() {
            Some(after) if after >= prefix => just_after(after.as_bytes()),
            _ if prefix.is_empty() => b"\0".to_vec(),
            _ => prefix.as_bytes().to_vec(),
        };
        let mut listing = Listing {
            items: Vec::new(),
            more: false,
            revision: at.unwrap_or(Revision(0)),
        };
        let mut at = at;
        loop {
            let limit = FETCH.min(wanted - listing.items.len());
            let reply = self.range(&start, &end, limit, at, base).await?;
            if at.is_none() {
                listing.revision = revision(reply.header(), base)?;
                // The pages that follow show the same state.
                at = Some(listing.revision);
            }
            for found in reply.kvs() {
                let found = key_value(found, base)?;
                // Of the transaction that the revision is in, etcd shows all.
                let found = match at.filter(|at| found.revision > *at) {
                    Some(at) => self.before(&found.key, at, base).await?,
                    None => Some(found),
                };
                listing.items.extend(found);
            }
            listing.more = reply.more();
            let rest = listing.more && listing.items.len() < wanted;
            let Some(last) = reply.kvs().last().filter(|_| rest) else {
                return Ok(listing);
            };
            start = just_after(last.key());
        }
    }

    async fn dump(&self, prefix: &str) -> Result<Dump, StoreError> {
        let (_, revision) = self.get(prefix).await?;
        let (store, prefix) = (self.clone(), prefix.to_owned());
        let first = Page {
            limit: Some(DUMP_PART),
            after: None,
        };
        let parts = stream::try_unfold(Some(first), move |rest| {
            let (store, prefix) = (store.clone(), prefix.clone());
            async move {
                let Some(mut page) = rest else {
                    return Ok(None);
                };
                let listing = store.list(&prefix, page.clone(), Some(revision)).await?;
                page.after = listing.items.last().map(|item| item.key.clone());
                Ok(Some((listing.items, listing.more.then_some(page))))
            }
        });
        Ok(Dump {
            revision,
            parts: parts.boxed(),
        })
    }

    async fn put_while(
        &self,
        unchanged: &[Unchanged],
        key: &str,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        check_size(key, &value)?;
        let base = self.base().await?;
        let put = Put {
            key: key.to_owned(),
            value,
            precondition,
            unchanged: unchanged.to_vec(),
        };
        self.groups.put(self, base, put).await
    }

    async fn delete_while(
        &self,
        unchanged: &[Unchanged],
        record: Option<Record>,
        key: &str,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        let base = self.base().await?;
        let mut conditions = match precondition {
            Precondition::Any => vec![Compare::version(key, CompareOp::Greater, 0)],
            Precondition::Revision(seen) => exists_at(key, seen, base),
            // Cannot hold for a key that is there to be deleted: the reply only tells which of the two it is.
            Precondition::Absent => vec![Compare::version(key, CompareOp::Less, 0)],
        };
        // Of one transaction, watches tell in this order.
        let mut writes = vec![TxnOp::delete(key, Some(DeleteOptions::new()))];
        let mut looks = vec![look(key)];
        require(unchanged, &mut conditions, &mut looks, base);
        if let Some(record) = &record {
            check_size(&record.key, &record.value)?;
            conditions.push(absent(&record.key));
            writes.push(TxnOp::put(record.key.as_str(), stored(&record.value, 0), None));
            looks.push(look(&record.key));
        }
        let txn = Txn::new().when(conditions).and_then(writes).or_else(looks);
        let outcome = self.write(Asked::key("delete", key), txn, base).await?;
        outcome.map_err(|found| {
            if let Some(changed) = changed(unchanged, found.get(1..), base) {
                return changed;
            }
            let found = |place: usize| found.get(place).copied().flatten();
            let of_record = found(1 + unchanged.len());
            match &record {
                Some(record) if of_record.is_some() => refused(&record.key, Precondition::Absent, of_record),
                _ => refused(key, precondition, found(0)),
            }
        })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        watch::watch(self.clone(), prefix.to_owned(), after).await
    }

    async fn size(&self) -> Result<Size, StoreError> {
        let base = self.base().await?;
        let look = |member: Client| async move { member.maintenance_client().status().await };
        let status = self.members.call(self.timeout, look).await;
        let status = self.answer(Asked::at("status", None), status).await?;
        Ok(Size {
            bytes: u64::try_from(status.db_size()).unwrap_or(0),
            revision: revision(status.header(), base)?,
        })
    }
}

fn kv(member: &Client) -> KvClient {
    member.kv_client().max_decoding_message_size(DECODE_LIMIT)
}

/// What must hold for a put.
fn conditions(key: &str, precondition: Precondition, base: Base) -> Vec<Compare> {
    match precondition {
        Precondition::Any => Vec::new(),
        Precondition::Absent => vec![absent(key)],
        Precondition::Revision(seen) => exists_at(key, seen, base),
    }
}

/// Adds what must hold of other keys, and looks at them for where it does not.
fn require(unchanged: &[Unchanged], conditions: &mut Vec<Compare>, looks: &mut Vec<TxnOp>, base: Base) {
    for Unchanged { key, revision } in unchanged {
        conditions.extend(exists_at(key, *revision, base));
        looks.push(look(key));
    }
}

/// Etcd's revisions of the keys that a transaction looked at instead of writing, of those that are there.
fn found(reply: &TxnResponse) -> Vec<Option<i64>> {
    let found = reply.op_responses().into_iter().map(|reply| match reply {
        TxnOpResponse::Get(found) => found.kvs().first().map(etcd_client::KeyValue::mod_revision),
        _ => None,
    });
    found.collect()
}

/// The first of the keys that is not what it was, by what was found of them.
fn changed(unchanged: &[Unchanged], found: Option<&[Option<i64>]>, base: Base) -> Option<StoreError> {
    let found = found.unwrap_or_default();
    let mut pairs = unchanged.iter().zip(found);
    pairs
        .find(|(unchanged, found)| **found != Some(base.within(unchanged.revision).0))
        .map(|(Unchanged { key, revision }, found)| refused(key, Precondition::Revision(*revision), *found))
}

fn absent(key: &str) -> Compare {
    Compare::version(key, CompareOp::Equal, 0)
}

fn look(key: &str) -> TxnOp {
    TxnOp::get(key, Some(GetOptions::new().with_keys_only()))
}

/// That a key is there, and its last write is this one. To whom asks for the end of a transaction, a put within it is
/// this one as well: the key has not changed between the two.
fn exists_at(key: &str, seen: Revision, base: Base) -> Vec<Compare> {
    let (transaction, distance) = base.within(seen);
    if transaction <= 0 {
        // No write has such a revision, but to etcd a key that is absent has revision 0.
        return vec![Compare::version(key, CompareOp::Less, 0)];
    }
    let mut conditions = vec![Compare::mod_revision(key, CompareOp::Equal, transaction)];
    if distance > 0 {
        let [over, under] = bounds(distance);
        conditions.push(Compare::value(key, CompareOp::Greater, over));
        conditions.push(Compare::value(key, CompareOp::Less, under));
    }
    conditions
}

fn refused(key: &str, precondition: Precondition, found: Option<i64>) -> StoreError {
    let key = key.to_owned();
    match (precondition, found) {
        (_, None) => StoreError::NotFound { key },
        (Precondition::Absent, Some(_)) => StoreError::Exists { key },
        (Precondition::Revision(_) | Precondition::Any, Some(_)) => StoreError::Stale { key },
    }
}

fn revision(header: Option<&ResponseHeader>, base: Base) -> Result<Revision, StoreError> {
    header
        .map(|header| base.shown(header.revision()))
        .ok_or_else(|| StoreError::Broken("etcd's reply has no header".into()))
}

fn key_value(found: &etcd_client::KeyValue, base: Base) -> Result<KeyValue, StoreError> {
    let (value, distance) = value::read(found.value());
    Ok(KeyValue {
        key: key_name(found)?,
        value: Bytes::copy_from_slice(value),
        revision: Revision(base.shown(found.mod_revision()).0 - i64::from(distance)),
    })
}

fn key_name(found: &etcd_client::KeyValue) -> Result<String, StoreError> {
    let name = found.key_str().map_err(|_| {
        let key = String::from_utf8_lossy(found.key());
        StoreError::Broken(format!("etcd holds the key {key}, which is not UTF-8; remove it").into())
    })?;
    Ok(name.to_owned())
}

/// The first key after all that start with the prefix.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        // The bytes of UTF-8 are all below 0xff.
        Some(last) => *last += 1,
        // To etcd this means: every key.
        None => end.push(0),
    }
    end
}

fn just_after(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_past_it() {
        assert_eq!(prefix_end("/a/"), b"/a0");
        assert_eq!(prefix_end(""), b"\0");
        let end = prefix_end("é");
        assert!(end.as_slice() > "é\u{10ffff}".as_bytes());
        assert!(end.as_slice() <= "ê".as_bytes());
    }
}
