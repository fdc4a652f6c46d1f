use std::sync::atomic::AtomicI64;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{future::join_all, poll};
use tokio::sync::Semaphore;

use super::*;
use crate::store::{Dump, KeyValue, Listing, Page, Precondition, Record, Size, Unchanged, Watch};

/// A store whose answers wait until they are let through, each with a revision of its own.
#[derive(Debug)]
struct Gated {
    asked: AtomicI64,
    gate: Semaphore,
}

#[async_trait]
impl Store for Gated {
    async fn get(&self, _key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let revision = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.gate.acquire().await.unwrap().forget();
        Ok((None, Revision(revision)))
    }
    async fn list(&self, _prefix: &str, _page: Page, _at: Option<Revision>) -> Result<Listing, StoreError> {
        unreachable!()
    }
    async fn dump(&self, _prefix: &str) -> Result<Dump, StoreError> {
        unreachable!()
    }
    async fn delete_while(
        &self,
        _unchanged: &[Unchanged],
        _record: Option<Record>,
        _key: &str,
        _precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        unreachable!()
    }
    async fn watch(&self, _prefix: &str, _after: Revision) -> Result<Watch, StoreError> {
        unreachable!()
    }
    async fn size(&self) -> Result<Size, StoreError> {
        unreachable!()
    }
    async fn put_while(
        &self,
        _unchanged: &[Unchanged],
        _key: &str,
        _value: Bytes,
        _precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        unreachable!()
    }
}

fn gated() -> (Arc<Gated>, Newest) {
    let store = Arc::new(Gated {
        asked: AtomicI64::new(0),
        gate: Semaphore::new(0),
    });
    (Arc::clone(&store), Newest::new(store))
}

#[tokio::test]
async fn who_asks_while_a_question_is_on_its_way_shares_the_next_one() {
    let (store, newest) = gated();
    let mut first = Box::pin(newest.get());
    assert!(poll!(&mut first).is_pending());
    let mut others: Vec<_> = (0..50).map(|_| Box::pin(newest.get())).collect();
    for other in &mut others {
        assert!(poll!(other).is_pending());
    }
    assert_eq!(store.asked.load(Ordering::SeqCst), 1);
    store.gate.add_permits(2);
    assert_eq!(first.await.unwrap(), Revision(1));
    for answer in join_all(others).await {
        assert_eq!(answer.unwrap(), Revision(2));
    }
    assert_eq!(store.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn who_hangs_up_holds_up_nobody() {
    let (store, newest) = gated();
    let mut first = Box::pin(newest.get());
    assert!(poll!(&mut first).is_pending());
    let mut second = Box::pin(newest.get());
    let mut third = Box::pin(newest.get());
    assert!(poll!(&mut second).is_pending());
    assert!(poll!(&mut third).is_pending());
    drop(first);
    drop(second);
    store.gate.add_permits(2);
    assert_eq!(third.await.unwrap(), Revision(2));
    store.gate.add_permits(1);
    assert_eq!(newest.get().await.unwrap(), Revision(3));
}
