//! A store that is filled with what another holds: whole or not at all, also when the process dies in the middle.
//! Its own `main`, because the child that dies is this program again.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use clone8s_apiserver::{
    StoreConfig,
    backup::{self, Entries, Existing, Filled, Target},
    store::{
        Page, Precondition, Revision, Store, StoreError,
        embedded::EmbeddedStore,
        etcd::{ClientIdentity, EtcdConfig, EtcdStore},
    },
};
use clone8s_integration::{Etcd, Sandbox, process};
use futures::{StreamExt as _, stream};

/// Makes this program the child: the file of an embedded store, or the folder of etcd's certificates.
const FILE: &str = "CLONE8S_TEST_STORE_FILE";
const ENDPOINT: &str = "CLONE8S_TEST_ETCD";
const PKI: &str = "CLONE8S_TEST_ETCD_PKI";

const PARTS: usize = 200;
const OF_A_PART: usize = 50;

#[tokio::main]
async fn main() {
    clone8s_daemon::process::install_tls_provider();
    if let Some(config) = of_child() {
        let target = Target::open(&config, Existing::Replace).await.unwrap();
        target.fill(told(), Revision(70)).await.unwrap();
        return;
    }
    let sandbox = Sandbox::new();
    let etcd = Etcd::start(&sandbox).await;
    let etcd_config = StoreConfig::Etcd(EtcdConfig {
        ca: Some(etcd.ca().certificate_file()),
        identity: Some(ClientIdentity {
            certificate: etcd.client_pair().certificate_file.clone(),
            key: etcd.client_pair().key_file.clone(),
        }),
        ..EtcdConfig::new([etcd.endpoint()])
    });
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| StoreConfig::Embedded {
        path: dir.path().join(name),
    };

    a_store_that_dies_half_filled_is_never_taken_for_whole(&file("killed"), None).await;
    a_store_that_dies_half_filled_is_never_taken_for_whole(&etcd_config, Some(&etcd)).await;
    what_is_there_is_replaced_only_when_told(&file("killed")).await;
    what_is_there_is_replaced_only_when_told(&etcd_config).await;
    an_etcd_whose_apiservers_run_is_refused(&etcd_config).await;
    every_store_becomes_every_other_without_loss(&file("first"), &etcd_config, &file("last")).await;
    the_largest_values_that_a_store_takes_come_over(&etcd_config).await;
    drop(etcd);
    sandbox.assert_nothing_left().await;
    println!("test result: ok");
}

fn of_child() -> Option<StoreConfig> {
    if let Some(path) = env::var_os(FILE) {
        return Some(StoreConfig::Embedded { path: path.into() });
    }
    let endpoint = env::var(ENDPOINT).ok()?;
    let files: Vec<PathBuf> = env::var(PKI).ok()?.split(':').map(PathBuf::from).collect();
    Some(StoreConfig::Etcd(EtcdConfig {
        ca: Some(files[0].clone()),
        identity: Some(ClientIdentity {
            certificate: files[1].clone(),
            key: files[2].clone(),
        }),
        ..EtcdConfig::new([endpoint])
    }))
}

fn key(number: usize) -> String {
    format!("/clone8s/objects/pods/default/p{number:05}")
}

fn part(number: usize) -> Vec<(String, Bytes)> {
    let numbers = number * OF_A_PART..(number + 1) * OF_A_PART;
    numbers
        .map(|number| (key(number), Bytes::from(vec![1; 512])))
        .collect()
}

fn entries() -> Entries {
    stream::iter((0..PARTS).map(|number| Ok(part(number)))).boxed()
}

/// Slowly, and telling the parent how far it is.
fn told() -> Entries {
    let parts = stream::iter(0..PARTS).then(|number| async move {
        tokio::time::sleep(Duration::from_millis(2)).await;
        println!("{number}");
        Ok(part(number))
    });
    parts.boxed()
}

async fn open(config: &StoreConfig) -> Box<dyn Store> {
    match config {
        StoreConfig::Embedded { path } => Box::new(EmbeddedStore::open(path).unwrap()),
        StoreConfig::Etcd(config) => Box::new(EtcdStore::connect(config).await.unwrap()),
    }
}

async fn fill(config: &StoreConfig, existing: Existing, above: Revision) -> Filled {
    let target = Target::open(config, existing).await.unwrap();
    target.fill(entries(), above).await.unwrap()
}

/// Kills a child after it has told so many parts.
fn kill_a_child(config: &StoreConfig, etcd: Option<&Etcd>, after: usize) {
    let mut child = Command::new(env::current_exe().unwrap());
    match (config, etcd) {
        (StoreConfig::Embedded { path }, _) => child.env(FILE, path),
        (StoreConfig::Etcd(_), Some(etcd)) => {
            let pair = etcd.client_pair();
            let ca = etcd.ca().certificate_file();
            let files = [&ca, &pair.certificate_file, &pair.key_file].map(|file| file.to_str().unwrap());
            child.env(ENDPOINT, etcd.endpoint()).env(PKI, files.join(":"))
        }
        (StoreConfig::Etcd(_), None) => unreachable!("an etcd has its server"),
    };
    let mut child = process::spawn(child.stdout(Stdio::piped())).unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let read = lines.map_while(Result::ok).take(after).count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(read, after, "the child ended early");
}

async fn a_store_that_dies_half_filled_is_never_taken_for_whole(config: &StoreConfig, etcd: Option<&Etcd>) {
    for after in [1, 30, 150] {
        kill_a_child(config, etcd, after);
        match config {
            StoreConfig::Embedded { path } => assert!(!path.exists(), "a half is in the store's place"),
            StoreConfig::Etcd(_) => {
                let error = open(config).await.get("/clone8s/").await.unwrap_err();
                assert!(
                    matches!(&error, StoreError::Broken(cause) if cause.to_string().contains("not finished")),
                    "{error:?}"
                );
            }
        }
    }
    // Nothing of a half is to be kept, so that nobody has to say that it may go.
    let filled = fill(config, Existing::Refuse, Revision(70)).await;
    assert_eq!(filled.entries, u64::try_from(PARTS * OF_A_PART).unwrap());
    assert!(filled.revision.0 > 100_000_000_000, "{filled:?}");
    check_whole(config, filled).await;
}

/// All is there, nothing else is, and no earlier revision is known.
async fn check_whole(config: &StoreConfig, filled: Filled) {
    let store = open(config).await;
    let listing = store.list("/", Page::default(), None).await.unwrap();
    let found: Vec<_> = listing
        .items
        .iter()
        .filter(|item| item.key.starts_with("/clone8s/objects/"))
        .collect();
    assert_eq!(found.len(), PARTS * OF_A_PART);
    for (number, item) in found.iter().enumerate() {
        assert_eq!((&item.key, item.value.len()), (&key(number), 512));
    }
    for early in [Revision(1), Revision(71), Revision(filled.revision.0 - 1)] {
        assert!(matches!(
            store.watch("/", early).await,
            Err(StoreError::Compacted { .. })
        ));
        let listed = store.list("/", Page::default(), Some(early)).await;
        assert!(matches!(listed, Err(StoreError::Compacted { .. })), "{listed:?}");
    }
    // It goes on as any store does.
    let mut watch = store.watch("/clone8s/objects/", filled.revision).await.unwrap();
    let first = found[0].revision;
    let written = store
        .put(&key(0), Bytes::from_static(b"new"), Precondition::Revision(first))
        .await
        .unwrap();
    assert!(written > filled.revision);
    let change = loop {
        match watch.next().await.unwrap().unwrap() {
            clone8s_apiserver::store::WatchItem::Change(change) => break change,
            clone8s_apiserver::store::WatchItem::Progress(_) => {}
        }
    };
    assert_eq!(
        (change.revision, change.previous.unwrap().revision),
        (written, first)
    );
    let stale = store.delete(&key(0), Precondition::Revision(first)).await;
    assert!(matches!(stale, Err(StoreError::Stale { .. })), "{stale:?}");
}

async fn what_is_there_is_replaced_only_when_told(config: &StoreConfig) {
    let newest = open(config).await.get("/").await.unwrap().1;
    let refused = Target::open(config, Existing::Refuse).await.unwrap_err();
    assert!(refused.to_string().contains("--replace"), "{refused}");
    let extra = "/clone8s/objects/pods/default/extra";
    open(config)
        .await
        .put(extra, Bytes::new(), Precondition::Any)
        .await
        .unwrap();
    let filled = fill(config, Existing::Replace, Revision(70)).await;
    assert!(filled.revision > newest, "revisions never go back");
    check_whole(config, filled).await;

    // What cannot be read to its end leaves what was there, or says that it is not whole.
    let broken: Entries = stream::iter([Ok(part(0)), Err("torn".into())]).boxed();
    let target = Target::open(config, Existing::Replace).await.unwrap();
    target.fill(broken, Revision(70)).await.unwrap_err();
    match config {
        StoreConfig::Embedded { .. } => {
            let present = open(config).await.get(&key(9_999)).await.unwrap().0;
            assert!(present.is_some());
        }
        StoreConfig::Etcd(_) => {
            open(config).await.get(&key(0)).await.unwrap_err();
        }
    }
    let filled = fill(config, Existing::Replace, Revision(70)).await;
    check_whole(config, filled).await;
}

async fn an_etcd_whose_apiservers_run_is_refused(config: &StoreConfig) {
    let store = open(config).await;
    // As their leader does.
    let lease = async {
        loop {
            let key = "/clone8s/system/outbox/leader";
            store.put(key, Bytes::new(), Precondition::Any).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    };
    let opened = tokio::select! {
        () = lease => unreachable!("the leader goes on"),
        opened = Target::open(config, Existing::Replace) => opened,
    };
    let refused = opened.unwrap_err().to_string();
    assert!(refused.contains("in use by an apiserver"), "{refused}");
}

async fn the_largest_values_that_a_store_takes_come_over(config: &StoreConfig) {
    let large = Bytes::from(vec![7; clone8s_apiserver::store::VALUE_LIMIT]);
    let items = (0..3).flat_map(|number| {
        [
            (key(2 * number), Bytes::new()),
            (key(2 * number + 1), large.clone()),
        ]
    });
    let entries: Entries = stream::iter([Ok(items.collect())]).boxed();
    let target = Target::open(config, Existing::Replace).await.unwrap();
    assert_eq!(target.fill(entries, Revision(70)).await.unwrap().entries, 6);
    assert_eq!(contents(config).await[5].1, large);
}

async fn every_store_becomes_every_other_without_loss(
    first: &StoreConfig,
    etcd: &StoreConfig,
    last: &StoreConfig,
) {
    fill(first, Existing::Refuse, Revision(70)).await;
    let before = contents(first).await;
    let StoreConfig::Embedded { path } = first else {
        unreachable!("a file comes first")
    };
    let moved = move_into(etcd, path).await;
    assert_eq!(contents(etcd).await, before);

    let store = open(etcd).await;
    let dump = store.dump("/clone8s/objects/").await.unwrap();
    assert!(dump.revision >= moved.revision);
    let entries = dump.parts.map(|part| {
        let part = part.map_err(Box::new)?;
        Ok(part.into_iter().map(|item| (item.key, item.value)).collect())
    });
    let target = Target::open(last, Existing::Refuse).await.unwrap();
    let filled = target.fill(entries.boxed(), dump.revision).await.unwrap();
    assert!(filled.revision.0 >= dump.revision.0 + 1_000_000_000);
    assert_eq!(contents(last).await, before);
}

async fn move_into(etcd: &StoreConfig, file: &Path) -> Filled {
    let (entries, revision) = backup::entries_of(EmbeddedStore::open(file).unwrap())
        .await
        .unwrap();
    let target = Target::open(etcd, Existing::Replace).await.unwrap();
    let filled = target.fill(entries, revision).await.unwrap();
    assert!(filled.revision > revision);
    filled
}

async fn contents(config: &StoreConfig) -> Vec<(String, Bytes)> {
    let listing = open(config)
        .await
        .list("/clone8s/objects/", Page::default(), None)
        .await
        .unwrap();
    listing
        .items
        .into_iter()
        .map(|item| (item.key, item.value))
        .collect()
}
