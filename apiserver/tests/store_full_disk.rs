//! A disk that is full for a while: writes are refused as long as it is, and no longer. Its own `main`, because the
//! limit of a file's size, which stands for the disk, is the process's.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{env, process::Command, time::Duration};

use bytes::Bytes;
use clone8s_apiserver::store::{
    Page, Precondition, Revision, Store as _, StoreError, WatchItem, embedded::EmbeddedStore,
};
use futures::StreamExt as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{sleep, timeout};

/// Makes this program the one that is limited.
const LIMITED: &str = "CLONE8S_TEST_LIMITED";
const LIMIT: u64 = 4 << 20;

#[tokio::main]
async fn main() {
    if env::var_os(LIMITED).is_some() {
        return a_store_writes_again_when_the_disk_has_room_again().await;
    }
    // The kernel ends who writes beyond the limit, unless the signal is ignored, as it is for good by a shell.
    let status = Command::new("/bin/sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\""])
        .arg(env::current_exe().unwrap())
        .env(LIMITED, "yes")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn limit_files(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let current = bytes;
    setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
}

async fn a_store_writes_again_when_the_disk_has_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path().join("store.db")).unwrap();
    let mut watch = store.watch("/", Revision(1)).await.unwrap();
    let value = Bytes::from(vec![1; 64 << 10]);
    let put = async |index: usize| {
        let key = format!("/k/{index}");
        match store.put(&key, value.clone(), Precondition::Absent).await {
            // A write that was refused may have been made.
            Err(StoreError::Exists { .. }) => Ok(store.get(&key).await.unwrap().0.unwrap().revision),
            done => done,
        }
    };

    limit_files(Some(LIMIT));
    let mut acknowledged = Vec::new();
    // The second time after the file was opened anew, which makes no room.
    for pause in [Duration::ZERO, Duration::from_millis(1_100)] {
        sleep(pause).await;
        let refused = loop {
            let index = acknowledged.len();
            assert!(index < 1_000, "the limit is never met");
            match put(index).await {
                Ok(revision) => acknowledged.push(revision),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    }

    limit_files(None);
    let written = timeout(Duration::from_mins(1), async {
        loop {
            match put(acknowledged.len()).await {
                Ok(revision) => break revision,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    });
    acknowledged.push(written.await.expect("the store never writes again"));

    let listing = store.list("/", Page::default(), None).await.unwrap();
    let mut listed: Vec<_> = listing.items.iter().map(|item| item.revision).collect();
    listed.sort_unstable();
    assert_eq!(listed, acknowledged);
    // A watch from before goes on, without a gap.
    let mut seen = Vec::new();
    while seen.len() < acknowledged.len() {
        let item = timeout(Duration::from_mins(1), watch.next()).await.unwrap();
        if let WatchItem::Change(change) = item.unwrap().unwrap() {
            seen.push(change.revision);
        }
    }
    assert_eq!(seen, acknowledged);
    println!("{} writes, none lost", acknowledged.len());
}
