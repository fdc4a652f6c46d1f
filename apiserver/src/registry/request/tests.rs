use clone8s::{object::Object as _, v1::ConfigMap};
use rstest::rstest;

use super::*;
use crate::store::embedded::EmbeddedStore;

fn request(id: &str) -> RequestId {
    RequestId::parse(id, "Update").unwrap().unwrap()
}

#[rstest]
#[case("a b")]
#[case("a/../b")]
#[case("é")]
fn an_id_is_a_name_that_a_key_can_hold(#[case] id: &str) {
    assert!(RequestId::parse(id, "Update").is_err());
    assert!(RequestId::parse(&"a".repeat(65), "Update").is_err());
}

#[test]
fn an_object_knows_its_last_requests_and_forgets_those_before() {
    let mut object = ConfigMap::default();
    for at in 0..=REMEMBERED {
        request(&at.to_string()).record(&mut object);
    }
    assert_eq!(object.metadata_mut().handled_requests.len(), REMEMBERED);
    assert!(!request("0").is_done(&object).unwrap());
    assert!(request("1").is_done(&object).unwrap());
    assert!(request("8").is_done(&object).unwrap());
}

#[test]
fn the_name_of_another_call_is_refused() {
    let mut object = ConfigMap::default();
    request("a").record(&mut object);
    let create = RequestId::parse("a", "Create").unwrap().unwrap();
    let error = create.is_done(&object).unwrap_err().to_string();
    assert!(
        error.contains("has named another write before: Update"),
        "{error}"
    );
}

#[tokio::test]
async fn what_was_removed_long_ago_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path().join("store")).unwrap();
    let now = clock::now();
    for (name, age) in [("new", Duration::ZERO), ("old", KEPT + Duration::from_secs(1))] {
        let removed = Removed {
            time: Some(timestamp(now - age)),
            object: Bytes::new(),
        };
        let key = format!("{REMOVED_PREFIX}pods/{name}");
        let value = removed.encode_to_vec().into();
        store.put(&key, value, Precondition::Any).await.unwrap();
    }
    let garbage = format!("{REMOVED_PREFIX}pods/garbage");
    let value = Bytes::from_static(b"\xff");
    store.put(&garbage, value, Precondition::Any).await.unwrap();
    sweep_once(&store, now).await.unwrap();
    let left = store.list(REMOVED_PREFIX, Page::default(), None).await.unwrap();
    let keys: Vec<_> = left.items.iter().map(|kept| kept.key.as_str()).collect();
    assert_eq!(keys, [format!("{REMOVED_PREFIX}pods/new")]);
}
