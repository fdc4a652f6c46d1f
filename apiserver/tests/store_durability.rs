//! An acknowledged write survives kill -9: a child process writes and tells what was acknowledged, and dies in the
//! middle of it. Its own `main`, because the child is this program again.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use clone8s_apiserver::store::{Page, Precondition, Revision, Store as _, embedded::EmbeddedStore};

/// Makes this program the child, which writes to that file.
const FILE: &str = "CLONE8S_TEST_STORE_FILE";
const WRITERS: usize = 8;
const ROUNDS: usize = 4;
const WRITES_A_ROUND: usize = 400;

#[tokio::main]
async fn main() {
    match env::var_os(FILE) {
        Some(path) => write_until_killed(Path::new(&path)).await,
        None => acknowledged_writes_survive_kill_9().await,
    }
}

async fn acknowledged_writes_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let mut acknowledged: Vec<(String, Revision)> = Vec::new();
    for round in 1..=ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = 0;
        for line in lines.map_while(Result::ok) {
            let (key, revision) = line.split_once(' ').expect("a whole line");
            acknowledged.push((key.to_owned(), Revision(revision.parse().unwrap())));
            told += 1;
            if told == WRITES_A_ROUND {
                // What the child wrote until then is still in the pipe, and counts.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(
            told >= WRITES_A_ROUND,
            "the child ended early, after {told} writes"
        );

        let store = EmbeddedStore::open(&path).unwrap();
        for (key, revision) in &acknowledged {
            let (found, newest) = store.get(key).await.unwrap();
            let found = found.unwrap_or_else(|| panic!("{key} was acknowledged at {revision} and is gone"));
            assert_eq!((found.revision, found.value.len()), (*revision, 512));
            assert!(newest >= *revision);
        }
        // The history is whole as well: each revision up to the newest is one write.
        let listing = store.list("/", Page::default(), None).await.unwrap();
        let mut revisions: Vec<_> = listing.items.iter().map(|item| item.revision.0).collect();
        revisions.sort_unstable();
        assert_eq!(revisions, (2..=listing.revision.0).collect::<Vec<_>>());
        println!(
            "round {round}: {} acknowledged writes, none lost",
            acknowledged.len()
        );
    }
}

async fn write_until_killed(path: &Path) {
    let store = EmbeddedStore::open(path).unwrap();
    let writers = (0..WRITERS).map(|_| async {
        loop {
            let key = format!("/k/{}", uuid::Uuid::new_v4());
            let value = Bytes::from(vec![1; 512]);
            let revision = store.put(&key, value, Precondition::Absent).await.unwrap();
            // One call a line, so that the death leaves no half line.
            let line = format!("{key} {revision}\n");
            std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        }
    });
    futures::future::join_all(writers).await;
}
