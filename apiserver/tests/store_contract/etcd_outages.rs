//! What happens between the store and an etcd that is stopped, hangs, forgets or is not ours.

use std::{collections::BTreeSet, fs, time::Duration};

use bytes::Bytes;
use clone8s_apiserver::store::{
    Precondition, Revision, Store, StoreError,
    etcd::{EtcdConfig, EtcdStore},
};
use clone8s_integration::{Etcd, Sandbox, pki::Ca, wait};
use futures::future::{join_all, try_join_all};
use rustix::process::Signal;

use super::{
    subject::config_of,
    suite::{next_change, next_item},
};

async fn connect(config: &EtcdConfig) -> EtcdStore {
    EtcdStore::connect(config).await.unwrap()
}

async fn put(store: &EtcdStore, key: &str) -> Revision {
    store.put(key, Bytes::new(), Precondition::Any).await.unwrap()
}

/// The words of an error that says that etcd is not available, with those of its causes.
fn unavailable(error: StoreError) -> String {
    match error {
        StoreError::Unavailable(cause) => clone8s_daemon::supervisor::chain(cause.as_ref()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_watch_goes_on_over_restarts_without_a_gap() {
    let sandbox = Sandbox::new();
    let mut etcd = Etcd::start(&sandbox).await;
    let config = config_of(&etcd);
    let store = connect(&config).await;
    let mut expected = Vec::new();
    let mut watch = store.watch("/k/", put(&store, "/k/first").await).await.unwrap();
    for round in 0..3 {
        expected.push(put(&store, &format!("/k/{round}")).await);
        if round == 1 {
            etcd.process.kill();
        } else {
            etcd.process.stop().unwrap();
        }
        etcd.start_again().await;
        // Written through another connection, at once: the watch is hardly back.
        let other = connect(&config).await;
        for _ in 0..5 {
            expected.push(put(&other, "/k/a").await);
        }
        expected.push(other.delete("/k/a", Precondition::Any).await.unwrap());
        for revision in expected.drain(..) {
            assert_eq!(next_change(&mut watch).await.revision, revision);
        }
        wait::until("the old connections work again", || async {
            Ok(store.get("/k/a").await.map(drop)?)
        })
        .await;
    }
}

#[tokio::test]
async fn a_watch_on_an_etcd_that_lost_its_data_says_so() {
    let sandbox = Sandbox::new();
    let mut etcd = Etcd::start(&sandbox).await;
    let store = connect(&config_of(&etcd)).await;
    let mut last = Revision(0);
    for _ in 0..5 {
        last = put(&store, "/k/a").await;
    }
    let mut watch = store.watch("/k/", last).await.unwrap();
    etcd.process.stop().unwrap();
    fs::remove_dir_all(sandbox.dir().join("etcd")).unwrap();
    etcd.start_again().await;
    let error = next_item(&mut watch).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Future { asked, newest } if asked == last && newest < last),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_stopped_etcd_is_unavailable_and_named_and_then_back() {
    let sandbox = Sandbox::new();
    let mut etcd = Etcd::start(&sandbox).await;
    let store = connect(&config_of(&etcd)).await;
    put(&store, "/k/a").await;
    etcd.process.stop().unwrap();
    let told = unavailable(store.get("/k/a").await.unwrap_err());
    assert!(told.contains(etcd.endpoint()), "{told}");
    assert!(store.watch("/k/", Revision(1)).await.is_err());
    etcd.start_again().await;
    wait::until("the store answers again", || async {
        Ok(store.get("/k/a").await?)
    })
    .await;
}

#[tokio::test]
async fn a_call_to_an_etcd_that_hangs_ends_in_time() {
    let sandbox = Sandbox::new();
    let mut etcd = Etcd::start(&sandbox).await;
    let config = EtcdConfig {
        request_timeout: Duration::from_millis(300),
        ..config_of(&etcd)
    };
    let store = connect(&config).await;
    // So short a time may be too short for the connection and the disk of a busy machine.
    wait::until("a write has come through in time", || async {
        store.put("/k/a", Bytes::new(), Precondition::Any).await?;
        Ok(())
    })
    .await;
    etcd.process.freeze().unwrap();
    for error in [
        store.get("/k/a").await.unwrap_err(),
        store
            .put("/k/a", Bytes::new(), Precondition::Any)
            .await
            .unwrap_err(),
        store.watch("/k/", Revision(1)).await.err().unwrap(),
    ] {
        let told = unavailable(error);
        assert!(told.contains("no answer within 300ms"), "{told}");
    }
    etcd.process.signal(Signal::CONT).unwrap();
    wait::until("the store answers again", || async {
        Ok(store.get("/k/a").await?)
    })
    .await;
}

#[tokio::test]
async fn an_etcd_of_another_root_is_not_trusted() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start(&sandbox).await;
    let other = Ca::new(&sandbox.make_dir("other"), "another root").unwrap();
    let config = EtcdConfig {
        ca: Some(other.certificate_file()),
        ..config_of(&etcd)
    };
    let told = unavailable(connect(&config).await.get("/k/a").await.unwrap_err());
    assert!(
        told.contains("UnknownIssuer") || told.contains("BadSignature"),
        "{told}"
    );
}

#[tokio::test]
async fn an_etcd_that_wants_a_client_certificate_gets_one_or_says_no() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start(&sandbox).await;
    let config = EtcdConfig {
        identity: None,
        ..config_of(&etcd)
    };
    let told = unavailable(connect(&config).await.get("/k/a").await.unwrap_err());
    assert!(told.contains(etcd.endpoint()), "{told}");
}

/// However many come together, an etcd whose space is used up takes no more.
#[tokio::test]
async fn a_full_etcd_takes_no_puts_whether_alone_or_together() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::with(&sandbox, &["--quota-backend-bytes", "4194304"]).await;
    let store = connect(&EtcdConfig::new([etcd.endpoint()])).await;
    let puts = async |round: usize, bytes: usize| {
        let puts = (0..64).map(|number| {
            let (store, value) = (&store, Bytes::from(vec![7; bytes]));
            async move {
                let key = format!("/k/{round}/{number}");
                store.put(&key, value, Precondition::Any).await
            }
        });
        join_all(puts).await
    };
    let mut written = 0;
    for round in 0..20 {
        let outcomes = puts(round, 20_000).await;
        written += outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    }
    // etcd looks at its size as it was some time ago.
    assert!(written < 20 * 64 / 2, "{written} were taken");
    for outcome in puts(20, 10).await {
        let told = unavailable(outcome.unwrap_err());
        assert!(told.contains("space exceeded"), "{told}");
    }
}

/// Set to less than it takes of itself, it refuses puts that come together, and takes each.
#[tokio::test]
async fn an_etcd_that_takes_little_at_a_time_takes_all() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::with(&sandbox, &["--max-txn-ops", "8", "--max-request-bytes", "16384"]).await;
    let store = connect(&EtcdConfig::new([etcd.endpoint()])).await;
    // The last ones come to more than gRPC takes for this etcd.
    for value in ["little", &"much".repeat(500), &"more".repeat(3_500)] {
        let puts = (0..300).map(|number| {
            let (store, value) = (&store, Bytes::copy_from_slice(value.as_bytes()));
            async move { store.put(&format!("/k/{number}"), value, Precondition::Any).await }
        });
        let revisions = try_join_all(puts).await.unwrap();
        assert_eq!(revisions.iter().collect::<BTreeSet<_>>().len(), 300);
    }
}

#[tokio::test]
async fn plain_http_needs_no_certificates() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::plain(&sandbox).await;
    put(&connect(&EtcdConfig::new([etcd.endpoint()])).await, "/k/a").await;
}

#[tokio::test]
async fn a_member_that_is_gone_is_passed_over() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start(&sandbox).await;
    let gone = format!("https://127.0.0.1:{}", clone8s_integration::process::free_port());
    let config = EtcdConfig {
        endpoints: vec![gone, etcd.endpoint().to_owned()],
        ..config_of(&etcd)
    };
    let store = connect(&config).await;
    for number in 0..50 {
        let revision = put(&store, "/k/a").await;
        let (found, _) = store.get("/k/a").await.unwrap();
        assert_eq!(found.unwrap().revision, revision, "call {number}");
        let mut watch = store.watch("/k/", Revision(revision.0 - 1)).await.unwrap();
        assert_eq!(next_change(&mut watch).await.revision, revision);
    }
}
