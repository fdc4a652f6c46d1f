use bytes::Bytes;
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::sources::fixtures::{NODE, stored};

fn message(content_type: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Message {
    Message {
        content_type: content_type.to_owned(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        body: body.into(),
        ..Message::default()
    }
}

fn from_apiserver(verb: &str, revision: &str) -> Message {
    let body = stored("web", "one", 7).encode_to_vec();
    let mut message = message(
        "application/x-protobuf",
        &[("verb", verb), ("revision", revision), ("kind", "Pod")],
        body,
    );
    message.kind = POD_MESSAGE.to_owned();
    message
}

fn reason(message: &Message) -> String {
    interpret(message, NODE).unwrap_err().to_string()
}

#[rstest]
#[case("added", HintedChange::Put)]
#[case("modified", HintedChange::Put)]
#[case("deleted", HintedChange::Deleted)]
fn the_apiservers_messages_carry_a_pod_a_verb_and_a_revision(
    #[case] verb: &str,
    #[case] change: HintedChange,
) {
    let Command::Stored(hint) = interpret(&from_apiserver(verb, "9"), NODE).unwrap() else {
        panic!("not the apiserver's");
    };
    assert_eq!((hint.revision, hint.change), (9, change));
    assert_eq!(hint.pod.name(), "web");
}

#[test]
fn the_apiservers_messages_may_be_json() {
    let body = serde_json::to_vec(&stored("web", "one", 7)).unwrap();
    let message = message("application/json; charset=utf-8", &[("verb", "added")], body);
    let Command::Stored(hint) = interpret(&message, NODE).unwrap() else {
        panic!("not the apiserver's");
    };
    assert_eq!(hint.revision, 7, "without the header, the pod's own");
}

const KUBERNETES_SHAPED: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [{"name": "main", "image": "one"}]}}"#;
const FLAT: &str = r#"{"version": "v0", "name": "web", "containers": [{"name": "main", "image": "one"}]}"#;

#[rstest]
#[case("application/json", "add", KUBERNETES_SHAPED)]
#[case("application/json", "update", KUBERNETES_SHAPED)]
#[case("application/yaml", "add", KUBERNETES_SHAPED)]
#[case("", "add", KUBERNETES_SHAPED)]
#[case("application/json", "add", FLAT)]
#[case(
    "application/x-yaml",
    "update",
    "\n  version: v0\n  name: web\n  containers:\n  - name: main\n    image: one"
)]
fn any_program_may_ask_for_a_pod(#[case] content_type: &str, #[case] action: &str, #[case] pod: &str) {
    let body = if pod.starts_with('{') {
        format!(r#"{{"action": "{action}", "pod": {pod}}}"#)
    } else {
        format!("action: {action}\npod: {pod}\n")
    };
    let Command::Apply(pod) = interpret(&message(content_type, &[], body), NODE).unwrap() else {
        panic!("not a request");
    };
    assert_eq!((pod.name(), pod.namespace()), ("web", "default"));
    assert_eq!(pod.spec.unwrap().containers[0].image, "one");
}

#[rstest]
#[case(KUBERNETES_SHAPED, "default", "web", "")]
#[case(FLAT, "default", "web", "")]
#[case(r#"{"name": "My Pod"}"#, "default", "my-pod", "")]
#[case(
    r#"{"metadata": {"name": "web", "namespace": "team", "uid": "u1"}}"#,
    "team",
    "web",
    "u1"
)]
fn a_deletion_needs_only_what_names_the_pod(
    #[case] pod: &str,
    #[case] namespace: &str,
    #[case] name: &str,
    #[case] uid: &str,
) {
    let body = format!(r#"{{"action": "delete", "pod": {pod}}}"#);
    let expected = Command::Remove {
        key: PodKey::new(namespace, name),
        uid: uid.to_owned(),
    };
    assert_eq!(
        interpret(&message("application/json", &[], body), NODE).unwrap(),
        expected
    );
}

#[rstest]
#[case("not a mapping", "body: is not {")]
#[case("{\"action\": ", "body: is not {")]
#[case(r#"{"pod": {"name": "x"}}"#, "action: is missing")]
#[case(r#"{"action": "start", "pod": {"name": "x"}}"#, "action: is \"start\"")]
#[case(r#"{"action": 7, "pod": {"name": "x"}}"#, "action: is \"not a text\"")]
#[case(r#"{"action": "add"}"#, "pod: is missing")]
#[case(
    r#"{"action": "add", "pod": {"name": "x"}, "node": "n"}"#,
    "node: is not known"
)]
#[case(r#"{"action": "add", "pod": {"kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "Main_", "image": "one"}]}}}"#, "pod: spec.containers[0].name")]
#[case(
    r#"{"action": "add", "pod": {"metadata": {"name": "x"}, "spec": {"containrs": []}}}"#,
    "containers"
)]
#[case(r#"{"action": "delete", "pod": {}}"#, "pod.name: must not be empty")]
#[case(
    r#"{"action": "delete", "pod": {"metadata": {"name": "../etc"}}}"#,
    "pod.metadata.name: must consist"
)]
#[case(
    r#"{"action": "delete", "pod": {"metadata": {"name": "x", "namespace": "a/b"}}}"#,
    "pod namespace: must consist"
)]
fn a_request_that_cannot_be_understood_names_what_is_wrong(#[case] body: &str, #[case] expected: &str) {
    let reason = reason(&message("application/json", &[], body.to_owned()));
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn what_the_apiserver_would_never_send_is_refused() {
    assert!(reason(&from_apiserver("patched", "9")).starts_with("header verb: is \"patched\""));
    assert!(reason(&from_apiserver("added", "soon")).starts_with("header revision: \"soon\""));
    let mut other_kind = from_apiserver("added", "9");
    other_kind.kind = "clone8s.v1.Node".to_owned();
    assert!(reason(&other_kind).starts_with("type: is \"clone8s.v1.Node\""));
    let mut no_pod = from_apiserver("added", "9");
    no_pod.body = Bytes::from_static(b"\xff\xff\xff");
    assert!(reason(&no_pod).starts_with("body: is not a protobuf"));
    let elsewhere = interpret(&from_apiserver("added", "9"), "node-2")
        .unwrap_err()
        .to_string();
    assert!(
        elsewhere.contains("\"node-1\"") && elsewhere.contains("\"node-2\""),
        "{elsewhere}"
    );
    let unknown = message("image/png", &[], "x");
    assert!(reason(&unknown).starts_with("content-type: is \"image/png\""));
    let huge = message("application/json", &[], vec![b' '; LARGEST_BODY + 1]);
    assert!(reason(&huge).starts_with("the body has"));
}

proptest! {
    #[test]
    fn no_message_stops_the_kubelet_and_every_reason_fits_a_header(
        body in prop::collection::vec(any::<u8>(), 0..400),
        content_type in prop::sample::select(vec!["", "application/json", "application/x-protobuf", "text/yaml"]),
        verb in prop::option::of("[a-z]{0,8}|added|deleted"),
    ) {
        let headers: Vec<_> = verb.iter().map(|verb| ("verb", verb.as_str())).collect();
        if let Err(reason) = interpret(&message(content_type, &headers, body), NODE) {
            let words = reason.to_string();
            prop_assert!(!words.is_empty() && words.len() <= Reason::LONGEST);
        }
    }

    #[test]
    fn no_request_stops_the_kubelet(
        action in "add|update|delete|.{0,5}",
        name in ".{0,12}",
        image in ".{0,12}",
    ) {
        let body = serde_json::json!({"action": action, "pod": {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "main", "image": image}]},
        }});
        let understood = interpret(&message("application/json", &[], body.to_string()), NODE);
        if let Ok(Command::Remove { key, .. }) = understood {
            prop_assert!(names::check_dns_subdomain(&key.name).is_ok());
        }
    }

    #[test]
    fn no_damaged_pod_stops_the_kubelet(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        verb in prop::sample::select(vec!["added", "modified", "deleted"]),
    ) {
        let whole = from_apiserver(verb, "9");
        let mut body = whole.body.to_vec();
        for (place, byte) in damage {
            let place = place.index(body.len());
            body[place] = byte;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        let damaged = Message { body: body.into(), ..whole };
        match interpret(&damaged, NODE) {
            // What gets in could be the name of a folder, and is this node's.
            Ok(Command::Stored(hint)) => {
                prop_assert!(names::check_dns_subdomain(hint.pod.name()).is_ok());
                prop_assert_eq!(hint.pod.spec.as_ref().map(|spec| spec.node_name.as_str()), Some(NODE));
            }
            Ok(other) => prop_assert!(false, "{other:?}"),
            Err(reason) => prop_assert!(!reason.to_string().is_empty()),
        }
    }

    #[test]
    fn nothing_like_a_request_stops_the_kubelet(
        text in prop::collection::vec(prop::sample::select(vec![
            "action: add\n", "action: delete\n", "pod:\n", "pod: ", "  apiVersion: v1\n", "  kind: Pod\n", "  version: v0\n",
            "  name: a\n", "  metadata: {name: a}\n", "  spec: {containers: [{name: a, image: b}]}\n", "- ", "{", "}", "[", "]",
            "&a ", "*a\n", "<<: ", "\"", "'", "|\n", "? ", ": ", "null", "---\n",
        ]), 0..20)
    ) {
        let _ = interpret(&message("application/yaml", &[], text.concat()), NODE);
    }
}

#[rstest]
#[case("[".repeat(1 << 20))]
#[case("{\"action\":".repeat(1 << 16))]
#[case("- ".repeat(1 << 19))]
#[case(format!("action: add\npod: {}", "{a: ".repeat(100_000)))]
fn depth_is_bounded(#[case] body: String) {
    for (content_type, headers) in [
        ("application/json", &[][..]),
        ("application/yaml", &[][..]),
        ("application/json", &[("verb", "added")][..]),
    ] {
        let reason = reason(&message(content_type, headers, body.clone()));
        assert!(reason.len() <= Reason::LONGEST, "{reason}");
    }
}
