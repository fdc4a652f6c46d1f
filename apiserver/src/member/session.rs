//! A member's dealings with the others: it joins, follows what they write, and says what it is.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use clone8s_daemon::{Shutdown, backoff, supervisor::chain};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    LEASE, MEMBERSHIP, Member, PREFIX, RENEW, key,
    view::{Other, Sign, Step, View},
};
use crate::store::{Page, Precondition, Revision, StoreError, Unchanged, Watch, WatchItem};

/// The value of a lease.
#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    alone: bool,
}

/// Follows the others from one point of the store's history on.
pub(crate) struct Session {
    member: Arc<Member>,
    membership: Unchanged,
    /// Whether it may write: nobody else was alone since it has come.
    admitted: bool,
    view: View,
    watch: Watch,
}

impl Session {
    /// Becomes a member, and returns once it may write.
    pub(crate) async fn join(member: &Arc<Member>) -> Result<Self, StoreError> {
        let mut session = Self::open(member).await?;
        while !session.admitted {
            session.step().await?;
        }
        Ok(session)
    }

    async fn open(member: &Arc<Member>) -> Result<Self, StoreError> {
        let (membership, admitted) = match member.membership() {
            Ok(membership) => (membership, true),
            Err(_) => (register(member).await?, false),
        };
        let mut view = View::new(Instant::now());
        let revision = look(member, &mut view).await?;
        Ok(Self {
            membership,
            admitted,
            view,
            watch: member.store.watch(PREFIX, revision).await?,
            member: Arc::clone(member),
        })
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Until the membership is lost or the store fails.
    async fn run(&mut self) -> StoreError {
        loop {
            if let Err(error) = self.step().await {
                return error;
            }
        }
    }

    /// Does what is next, and sees what came of it or what others did.
    async fn step(&mut self) -> Result<(), StoreError> {
        if self.admitted {
            self.member.membership()?;
        } else if !self.view.another_is_alone() {
            self.member.admit(self.membership.clone());
            self.admitted = true;
        }
        match self.view.next(Instant::now()) {
            Step::Lease { alone } => self.lease(alone).await,
            Step::Expel { identity, other } => self.expel(&identity, &other).await,
            Step::Wait(until) => tokio::select! {
                seen = self.watch.next() => self.see(seen),
                () = sleep_until(until) => Ok(()),
            },
        }
    }

    async fn lease(&mut self, alone: bool) -> Result<(), StoreError> {
        if !alone {
            self.member.be_among_others();
        }
        let sent = Instant::now();
        let outcome = self
            .member
            .store
            .put_while(
                std::slice::from_ref(&self.membership),
                &self.member.own(LEASE),
                encode(&Lease { alone }),
                Precondition::Any,
            )
            .await;
        self.member.wrote(&self.membership, outcome)?;
        self.view.leased(alone, sent);
        if alone {
            // Who has come before this look is seen by it; who comes after it sees the lease.
            let newest = look(&self.member, &mut self.view).await?;
            if self.view.is_alone() {
                self.member.be_alone(sent, newest);
            }
        }
        Ok(())
    }

    /// Takes the membership of one that shows no sign of life, unless it shows one meanwhile, and what else is left of it.
    async fn expel(&mut self, identity: &str, other: &Other) -> Result<(), StoreError> {
        let lease = other.lease.map(|revision| Unchanged {
            key: key(identity, LEASE),
            revision,
        });
        if let Some(revision) = other.membership {
            let membership = Unchanged {
                key: key(identity, MEMBERSHIP),
                revision,
            };
            if remove(&self.member, &membership, lease.as_slice()).await? {
                tracing::warn!(
                    identity,
                    "an apiserver shows no sign of life: it may not write any more"
                );
            }
        }
        if let Some(lease) = &lease {
            remove(&self.member, lease, &[]).await?;
        }
        look(&self.member, &mut self.view).await.map(drop)
    }

    fn see(&mut self, seen: Option<Result<WatchItem, StoreError>>) -> Result<(), StoreError> {
        match seen {
            Some(Ok(WatchItem::Change(change))) => {
                let written = change.value.is_some().then_some(change.revision);
                let value = change.value.unwrap_or_default();
                if let Some((identity, sign)) = sign(&change.key, written, &value)
                    && identity != self.member.identity
                {
                    self.view.see(identity, sign, Instant::now());
                }
                Ok(())
            }
            Some(Ok(WatchItem::Progress(_))) => Ok(()),
            Some(Err(error)) => Err(error),
            None => Err(StoreError::Unavailable("the store ended the watch".into())),
        }
    }
}

/// Takes a new membership, which ends whatever an earlier run of this apiserver still has under way.
async fn register(member: &Member) -> Result<Unchanged, StoreError> {
    let (store, lease) = (&member.store, Lease { alone: false });
    // First, so that no membership is without one.
    store
        .put(&member.own(LEASE), encode(&lease), Precondition::Any)
        .await?;
    let key = member.own(MEMBERSHIP);
    match store.delete(&key, Precondition::Any).await {
        Ok(_) | Err(StoreError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let revision = store.put(&key, Bytes::new(), Precondition::Absent).await?;
    Ok(Unchanged { key, revision })
}

/// Removes a key as it was seen, while others are as they were. False where something has changed.
async fn remove(member: &Member, seen: &Unchanged, unchanged: &[Unchanged]) -> Result<bool, StoreError> {
    let precondition = Precondition::Revision(seen.revision);
    let removed = member
        .store
        .delete_while(unchanged, None, &seen.key, precondition)
        .await;
    match removed {
        Ok(_) => Ok(true),
        Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sees who else there is, and gives the revision at which it was so.
async fn look(member: &Member, view: &mut View) -> Result<Revision, StoreError> {
    let listing = member.store.list(PREFIX, Page::default(), None).await?;
    let signs = listing
        .items
        .iter()
        .filter_map(|item| sign(&item.key, Some(item.revision), &item.value))
        .filter(|(identity, _)| *identity != member.identity);
    view.see_all(signs, Instant::now());
    Ok(listing.revision)
}

/// What a write of a key says of whom.
fn sign<'k>(key: &'k str, written: Option<Revision>, value: &[u8]) -> Option<(&'k str, Sign)> {
    let (identity, what) = key.strip_prefix(PREFIX)?.split_once('/')?;
    let sign = match what {
        MEMBERSHIP => Sign::Membership(written),
        LEASE => Sign::Lease {
            written,
            // What cannot be read may say so too.
            alone: written.is_some()
                && serde_yaml::from_slice::<Lease>(value).map_or(true, |lease| lease.alone),
        },
        _ => return None,
    };
    Some((identity, sign))
}

fn encode(lease: &Lease) -> Bytes {
    format!("alone: {}\n", lease.alone).into()
}

/// Stays a member until shutdown, and becomes one again where the others have taken it for dead.
pub(crate) async fn keep(mut session: Session, shutdown: Shutdown) -> Result<(), Infallible> {
    let member = Arc::clone(&session.member);
    let mut retries = backoff::reconnect();
    loop {
        let error = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            error = session.run() => error,
        };
        tracing::warn!(
            error = chain(&error),
            "joining the other apiservers of the store again"
        );
        session = loop {
            let again = async {
                sleep(retries.next().unwrap_or(RENEW)).await;
                Session::join(&member).await
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                joined = again => match joined {
                    Ok(session) => break session,
                    Err(error) => tracing::debug!(error = chain(&error), "not joined yet"),
                },
            }
        };
        retries = backoff::reconnect();
    }
}
