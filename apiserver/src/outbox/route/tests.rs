use bytes::Bytes;
use clone8s::{
    object::{self, Object},
    v1::{Condition, ConfigMap, Node, NodeStatus, ObjectMeta, Pod, PodSpec, Secret},
};
use prost::Message as _;
use rstest::rstest;

use super::*;

const UID: &str = "3f2c0c1e";

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        uid: UID.to_owned(),
        ..ObjectMeta::default()
    }
}

fn pod(node: &str) -> Pod {
    Pod {
        metadata: Some(meta("shop", "web")),
        spec: Some(PodSpec {
            node_name: node.to_owned(),
            ..PodSpec::default()
        }),
        ..Pod::default()
    }
}

fn stored<O: Object>(object: &O, revision: i64) -> KeyValue {
    KeyValue {
        key: object.store_key(),
        value: object.encode_to_vec().into(),
        revision: Revision(revision),
    }
}

fn change<O: Object>(before: Option<&O>, now: Option<&O>) -> Change {
    Change {
        key: now.or(before).unwrap().store_key(),
        value: now.map(|now| now.encode_to_vec().into()),
        previous: before.map(|before| stored(before, 4)),
        revision: Revision(9),
    }
}

/// Each message as `<exchange> <routing key>: <verb>`.
fn told(publications: &[Publication]) -> Vec<String> {
    let line = |publication: &Publication| {
        let verb = &publication.message.headers["verb"];
        format!("{} {}: {verb}", publication.exchange, publication.routing_key)
    };
    publications.iter().map(line).collect()
}

#[rstest]
#[case::created(None, Some(""), &["clone8s.events pods.added.shop.web: added"])]
#[case::created_on_a_node(None, Some("a"), &[
    "clone8s.nodes a: added",
    "clone8s.events pods.added.shop.web: added",
])]
#[case::bound(Some(""), Some("a"), &[
    "clone8s.nodes a: added",
    "clone8s.events pods.modified.shop.web: modified",
])]
#[case::changed(Some("a"), Some("a"), &[
    "clone8s.nodes a: modified",
    "clone8s.events pods.modified.shop.web: modified",
])]
#[case::moved(Some("a"), Some("b"), &[
    "clone8s.nodes a: deleted",
    "clone8s.nodes b: added",
    "clone8s.events pods.modified.shop.web: modified",
])]
#[case::unbound(Some("a"), Some(""), &[
    "clone8s.nodes a: deleted",
    "clone8s.events pods.modified.shop.web: modified",
])]
#[case::deleted(Some("a"), None, &[
    "clone8s.nodes a: deleted",
    "clone8s.events pods.deleted.shop.web: deleted",
])]
#[case::deleted_without_a_node(Some(""), None, &["clone8s.events pods.deleted.shop.web: deleted"])]
fn a_pods_change_goes_to_everybody_and_to_its_nodes(
    #[case] before: Option<&str>,
    #[case] now: Option<&str>,
    #[case] expected: &[&str],
) {
    let (before, now) = (before.map(pod), now.map(pod));
    let publications = route(&change(before.as_ref(), now.as_ref())).unwrap();
    assert_eq!(told(&publications), expected);
    for publication in &publications {
        let message = &publication.message;
        assert_eq!(message.message_id, format!("{UID}/9"));
        assert_eq!(message.content_type, "application/x-protobuf");
        assert_eq!(message.kind, "clone8s.v1.Pod");
        assert_eq!(message.headers["kind"], "Pod");
        assert_eq!(message.headers["revision"], "9");
        let body = Pod::decode(message.body.clone()).unwrap();
        assert_eq!((body.name(), body.resource_version()), ("web", 9));
        if publication.exchange == NODES_EXCHANGE {
            // A node is told of its own pods only, as they are or last were on it.
            assert_eq!(body.spec.unwrap().node_name, publication.routing_key);
        }
    }
}

#[test]
fn a_kind_without_namespaces_has_a_dash_in_its_place() {
    let node = Node {
        metadata: Some(meta("", "alpha")),
        ..Node::default()
    };
    let publications = route(&change(None, Some(&node))).unwrap();
    assert_eq!(told(&publications), ["clone8s.events nodes.added.-.alpha: added"]);
}

#[test]
fn a_name_with_dots_keeps_the_words_before_it_in_place() {
    let config = ConfigMap {
        metadata: Some(meta("shop", "a.b.c")),
        ..ConfigMap::default()
    };
    let publications = route(&change(None, Some(&config))).unwrap();
    assert_eq!(
        told(&publications),
        ["clone8s.events configmaps.added.shop.a.b.c: added"]
    );
}

#[test]
fn a_routing_key_is_never_longer_than_amqp_carries() {
    let config = ConfigMap {
        metadata: Some(meta(&"n".repeat(63), &"x".repeat(253))),
        ..ConfigMap::default()
    };
    let publications = route(&change(None, Some(&config))).unwrap();
    assert_eq!(publications[0].routing_key.len(), 255);
    let body = ConfigMap::decode(publications[0].message.body.clone()).unwrap();
    assert_eq!(body.name().len(), 253);
}

#[test]
fn nothing_of_a_secret_but_its_metadata_is_published() {
    let mut secret = Secret {
        metadata: Some(meta("shop", "db")),
        data: [("password".to_owned(), Bytes::from_static(b"hunter2"))].into(),
        string_data: [("token".to_owned(), "hunter2".to_owned())].into(),
        r#type: "Opaque".to_owned(),
        ..Secret::default()
    };
    let annotations = &mut secret.metadata_mut().annotations;
    annotations.insert("last-applied".to_owned(), r#"{"token":"hunter2"}"#.to_owned());
    let changes = [
        change(None, Some(&secret)),
        change(Some(&secret), Some(&secret)),
        change(Some(&secret), None),
    ];
    let routed = changes.iter().flat_map(|change| route(change).unwrap());
    let restated = restate(&stored(&secret, 3)).unwrap();
    let all: Vec<_> = routed.chain(restated).collect();
    assert_eq!(all.len(), 4);
    for publication in all {
        let bytes = publication.message.body;
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        let published = Secret::decode(bytes).unwrap();
        assert_eq!((published.name(), published.r#type.as_str()), ("db", "Opaque"));
    }
}

#[test]
fn an_object_is_restated_as_modified_at_its_own_revision() {
    let publications = restate(&stored(&pod("a"), 3)).unwrap();
    assert_eq!(
        told(&publications),
        [
            "clone8s.nodes a: modified",
            "clone8s.events pods.modified.shop.web: modified",
        ]
    );
    assert_eq!(publications[0].message.message_id, format!("{UID}/3"));
}

#[test]
fn what_cannot_be_read_is_named() {
    let mut broken = change(None, Some(&pod("a")));
    broken.value = Some(Bytes::from_static(b"\xff\xff"));
    let error = route(&broken).unwrap_err().to_string();
    assert_eq!(
        error,
        "/clone8s/objects/pods/shop/web at revision 9: not a readable object"
    );
    broken.key = format!("{}gadgets/shop/web", object::OBJECTS_PREFIX);
    let error = route(&broken).unwrap_err().to_string();
    assert!(
        error.starts_with("/clone8s/objects/gadgets/shop/web: not the key"),
        "{error}"
    );
}

#[test]
fn a_mirror_is_told_to_everybody_but_to_the_node_that_it_comes_from() {
    let mut mirror = pod("a");
    mirror
        .metadata_mut()
        .annotations
        .insert(clone8s::mirror::MIRROR.to_owned(), "u1".to_owned());
    let publications = route(&change(None, Some(&mirror))).unwrap();
    assert_eq!(told(&publications), ["clone8s.events pods.added.shop.web: added"]);
}

#[rstest]
#[case::of_a_node_that_waits_for_it("QueueReady", "False", true)]
#[case::of_a_node_of_which_nobody_knows("QueueReady", "Unknown", true)]
#[case::of_none_that_consumes_it("QueueReady", "True", false)]
#[case::of_none_that_takes_pods_by_watch("Ready", "False", false)]
fn a_queue_is_missed(#[case] kind: &str, #[case] status: &str, #[case] missed: bool) {
    let node = Node {
        metadata: Some(meta("", "alpha")),
        status: Some(NodeStatus {
            conditions: vec![Condition {
                r#type: kind.to_owned(),
                status: status.to_owned(),
                ..Condition::default()
            }],
            ..NodeStatus::default()
        }),
        ..Node::default()
    };
    let expected = missed.then(|| "alpha".to_owned());
    assert_eq!(queue_missed_by(&change(None, Some(&node))), expected);
    assert_eq!(queue_missed_by(&change(Some(&node), Some(&node))), expected);
    assert_eq!(queue_missed_by(&change(Some(&node), None)), None, "deleted");
}
