//! Where the revisions of an etcd lie for those who use the store.
//!
//! etcd counts its transactions, from 1 on in a new cluster, and no client can make it count from elsewhere. Two things
//! make the store's revisions other ones. A transaction may hold several puts ([`groups`](super::groups)), and each has
//! its own revision: the last one that of the transaction, those before it count down. And a store that is filled with
//! what another held must go on above that one's revisions, or a watch that resumes would take new changes for old ones:
//! so filling leaves a base, which is added to every revision from then on.
//!
//! ```text
//! revision of a transaction = revision of etcd × 100 + base          0 where etcd was never filled
//! revision of a put         = revision of its transaction − its distance from the last put
//! the history begins with the write of the base
//! ```

use clone8s_daemon::etcd::value::MOST_PUTS;
use etcd_client::{GetOptions, KeyValue};
use serde::{Deserialize, Serialize};

use super::{EtcdStore, error::Asked, prefix_end};
use crate::store::{Revision, StoreError};

/// What belongs to this etcd and not to what it holds: no backup has it.
pub(super) const OWN_PREFIX: &str = "/clone8s-store/";
pub(super) const BASE_KEY: &str = "/clone8s-store/base";
/// There while the store is being filled.
pub(super) const FILLING_KEY: &str = "/clone8s-store/filling";

/// The store's revisions for each of etcd's: one for each put of a transaction.
pub(super) const STEP: i64 = MOST_PUTS as i64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Base {
    added: i64,
    /// Nothing is known of what was before.
    begins: Revision,
}

/// The value of the base's key.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    added: i64,
}

/// The value of [`FILLING_KEY`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The store must go on above this revision, also when the filling is begun again.
    pub(super) above: i64,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "etcd at {endpoints} holds a part of a restore or a migration that was not finished: run that again to its end"
)]
struct Unfinished {
    endpoints: String,
}

/// What etcd says of itself as a store.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) base: Base,
    /// With the revision, of etcd's, at which it was written.
    pub(super) mark: Option<(Mark, i64)>,
}

impl Base {
    /// With a history that begins with etcd's.
    pub(super) fn adding(added: i64) -> Self {
        Self {
            added,
            begins: Revision(0),
        }
    }

    /// What is to be added so that a transaction has a revision.
    pub(super) fn added(of_etcd: i64, shown: Revision) -> i64 {
        shown.0 - of_etcd * STEP
    }

    /// The revision of a transaction.
    pub(super) fn shown(self, of_etcd: i64) -> Revision {
        Revision(of_etcd * STEP + self.added)
    }

    /// The last transaction, by etcd's revision, of which a revision has all.
    pub(super) fn whole(self, shown: Revision) -> i64 {
        (shown.0 - self.added).div_euclid(STEP)
    }

    /// The transaction, by etcd's revision, that a revision is in, and its distance from that one's end.
    pub(super) fn within(self, shown: Revision) -> (i64, u8) {
        let whole = self.whole(shown);
        match (shown.0 - self.added).rem_euclid(STEP) {
            0 => (whole, 0),
            past => (whole + 1, u8::try_from(STEP - past).unwrap_or(u8::MAX)),
        }
    }

    /// Refuses a revision from before the store was filled.
    pub(super) fn must_know(self, asked: Revision) -> Result<(), StoreError> {
        if asked < self.begins {
            return Err(StoreError::Compacted {
                asked,
                oldest: self.begins,
            });
        }
        Ok(())
    }

    /// The value of the base's key.
    pub(super) fn saved(added: i64) -> String {
        format!("added: {added}\n")
    }

    fn read(found: &KeyValue) -> Result<Self, StoreError> {
        let saved: Saved = parse(found)?;
        let base = Self::adding(saved.added);
        Ok(Self {
            begins: base.shown(found.mod_revision()),
            ..base
        })
    }
}

impl EtcdStore {
    /// The base, read once: it changes only while no apiserver runs.
    pub(super) async fn base(&self) -> Result<Base, StoreError> {
        if let Some(base) = self.base.get() {
            return Ok(*base);
        }
        // Large, and no other call is to carry it about.
        Box::pin(self.base.get_or_try_init(|| self.read_base()))
            .await
            .copied()
    }

    async fn read_base(&self) -> Result<Base, StoreError> {
        let own = self.own().await?;
        if own.mark.is_some() {
            return Err(StoreError::Broken(Box::new(Unfinished {
                endpoints: self.endpoints.clone(),
            })));
        }
        Ok(own.base)
    }

    pub(super) async fn own(&self) -> Result<Own, StoreError> {
        let options = GetOptions::new().with_range(prefix_end(OWN_PREFIX));
        let reply = self
            .call(Asked::at("read the base", None), |mut kv| {
                let options = options.clone();
                async move { kv.get(OWN_PREFIX, Some(options)).await }
            })
            .await?;
        let mut own = Own::default();
        for found in reply.kvs() {
            match found.key() {
                key if key == BASE_KEY.as_bytes() => own.base = Base::read(found)?,
                key if key == FILLING_KEY.as_bytes() => {
                    own.mark = Some((parse(found)?, found.mod_revision()));
                }
                _ => {}
            }
        }
        Ok(own)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(found: &KeyValue) -> Result<T, StoreError> {
    serde_yaml::from_slice(found.value()).map_err(|error| {
        let key = String::from_utf8_lossy(found.key());
        StoreError::Broken(format!("etcd's {key} cannot be read: {error}").into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_moves_revisions_and_nothing_from_before_it_is_known() {
        let base = Base {
            added: 1_007,
            begins: Revision(2_007),
        };
        assert_eq!(base.shown(12), Revision(2_207));
        assert_eq!(Base::added(12, Revision(2_207)), base.added);
        base.must_know(Revision(2_007)).unwrap();
        let refused = base.must_know(Revision(2_006)).unwrap_err();
        assert!(matches!(refused, StoreError::Compacted { oldest, .. } if oldest == base.begins));
        Base::default().must_know(Revision(0)).unwrap();
    }

    #[test]
    fn each_revision_is_in_one_transaction() {
        let base = Base::adding(1_007);
        for (shown, whole, within) in [
            (2_207, 12, (12, 0)),
            (2_208, 12, (13, 99)),
            (2_306, 12, (13, 1)),
            (2_307, 13, (13, 0)),
        ] {
            assert_eq!(base.whole(Revision(shown)), whole, "{shown}");
            assert_eq!(base.within(Revision(shown)), within, "{shown}");
        }
    }

    #[test]
    fn a_base_is_read_as_it_was_saved() {
        let saved: Saved = serde_yaml::from_str(&Base::saved(7)).unwrap();
        assert_eq!(saved.added, 7);
    }
}
