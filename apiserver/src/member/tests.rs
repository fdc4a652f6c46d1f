use clone8s_daemon::Shutdown;
use tokio::{
    task::JoinSet,
    time::{advance, sleep, timeout},
};

use super::*;
use crate::store::far::FarStore;

mod view;

/// A member that follows the others while it lives.
struct Living {
    member: Arc<Member>,
    _keeping: JoinSet<()>,
}

impl Living {
    async fn join(store: &FarStore, identity: &str) -> Self {
        let member = member(store, identity);
        let session = Session::join(&member).await.unwrap();
        Self::of(session)
    }

    fn of(session: Session) -> Self {
        let member = Arc::clone(session.member());
        let mut keeping = JoinSet::new();
        keeping.spawn(async { keep(session, Shutdown::new()).await.unwrap() });
        Self {
            member,
            _keeping: keeping,
        }
    }

    /// Shows no sign of life any more, and does not know of it.
    fn freeze(self) -> Arc<Member> {
        self.member
    }
}

fn member(store: &FarStore, identity: &str) -> Arc<Member> {
    Arc::new(Member::new(Arc::new(store.clone()), identity.to_owned()))
}

/// Takes its time, and loses nothing.
fn store() -> FarStore {
    let store = FarStore::new(1);
    store.calm();
    store
}

async fn put(member: &Member, key: &str) -> Result<Revision, StoreError> {
    member.put(key, Bytes::from_static(b"1"), Precondition::Any).await
}

async fn until_alone(member: &Member) -> Revision {
    timeout(EXPIRE, async {
        loop {
            if let Some(known) = member.newest_known() {
                return known;
            }
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it does not find out that it is alone")
}

#[tokio::test(start_paused = true)]
async fn the_only_apiserver_knows_the_newest_write_without_asking() {
    let store = store();
    let only = Living::join(&store, "a").await;
    until_alone(&only.member).await;
    for _ in 0..100 {
        let written = put(&only.member, "/key").await.unwrap();
        assert!(only.member.newest_known().is_some_and(|known| known >= written));
        sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_among_others_asks() {
    let store = store();
    let first = Living::join(&store, "a").await;
    until_alone(&first.member).await;
    let second = Living::join(&store, "b").await;
    // It may write from here on.
    assert_eq!(first.member.newest_known(), None);
    put(&second.member, "/key").await.unwrap();
    put(&first.member, "/key").await.unwrap();
    for _ in 0..100 {
        assert_eq!(
            (first.member.newest_known(), second.member.newest_known()),
            (None, None)
        );
        sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_stays_when_the_others_leave_knows_what_they_have_written() {
    let store = store();
    let first = Living::join(&store, "a").await;
    let second = Living::join(&store, "b").await;
    let last = put(&second.member, "/key").await.unwrap();
    second.freeze().leave().await;
    let left = Instant::now();
    assert!(until_alone(&first.member).await >= last);
    assert!(left.elapsed() < RENEW, "{:?}", left.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_shows_no_sign_of_life_neither_knows_nor_writes_once_another_may() {
    let store = store();
    let first = Living::join(&store, "a").await;
    until_alone(&first.member).await;
    let frozen = first.freeze();
    let since = Instant::now();
    let second = Living::join(&store, "b").await;
    assert_eq!(frozen.newest_known(), None);
    assert!(since.elapsed() + RENEW >= EXPIRE, "{:?}", since.elapsed());
    let refused = put(&frozen, "/key").await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    let refused = frozen.delete("/key", Precondition::Any).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    put(&second.member, "/key").await.unwrap();
    until_alone(&second.member).await;
}

#[tokio::test(start_paused = true)]
async fn who_was_taken_for_dead_joins_again() {
    let store = store();
    let member = member(&store, "a");
    let session = Session::join(&member).await.unwrap();
    let _other = Living::join(&store, "b").await;
    // Nobody follows for the first.
    sleep(EXPIRE + RENEW).await;
    put(&member, "/key").await.unwrap_err();
    let _again = Living::of(session);
    let joined = timeout(EXPIRE, async {
        while put(&member, "/key").await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    joined.await.expect("it does not join again");
}

#[tokio::test(start_paused = true)]
async fn an_apiserver_that_starts_again_ends_what_it_had_under_way_before() {
    let store = store();
    let before = Living::join(&store, "a").await.freeze();
    let since = Instant::now();
    let after = Living::join(&store, "a").await;
    // Its own earlier run is nobody to wait for.
    assert!(since.elapsed() < RENEW, "{:?}", since.elapsed());
    put(&before, "/key").await.unwrap_err();
    put(&after.member, "/key").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_one_that_is_gone_goes_too() {
    let store = store();
    let first = Living::join(&store, "a").await;
    drop(Living::join(&store, "b").await.freeze());
    sleep(2 * EXPIRE).await;
    let left = first.member.list(PREFIX, Page::default(), None).await.unwrap();
    let keys: Vec<_> = left.items.into_iter().map(|item| item.key).collect();
    assert_eq!(keys, [key("a", LEASE), key("a", MEMBERSHIP)]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_nothing_to_believe_in() {
    let store = store();
    let only = Living::join(&store, "a").await;
    until_alone(&only.member).await;
    store.set_away(true);
    advance(BELIEVE).await;
    assert_eq!(only.member.newest_known(), None);
    sleep(Duration::from_mins(1)).await;
    store.set_away(false);
    until_alone(&only.member).await;
    put(&only.member, "/key").await.unwrap();
}
