use super::*;

fn reported() -> Node {
    let mut node = Node::default();
    node.metadata_mut().name = "node-1".to_owned();
    node.metadata_mut()
        .labels
        .insert("kubernetes.io/os".to_owned(), "linux".to_owned());
    node.status
        .get_or_insert_default()
        .capacity
        .insert("cpu".to_owned(), "4".to_owned());
    node
}

#[test]
fn a_new_node_gets_an_identity_and_an_old_one_keeps_it_with_what_people_have_set() {
    let uid = Uuid::new_v4();
    let first = merged(None, &reported(), uid);
    assert_eq!(first.uid(), uid.to_string());
    assert_eq!(first.store_key(), "/clone8s/objects/nodes/node-1");

    let mut stored = first.clone();
    stored.spec.get_or_insert_default().unschedulable = true;
    stored
        .metadata_mut()
        .labels
        .insert("disk".to_owned(), "fast".to_owned());
    stored.status = None;
    let second = merged(Some(stored), &reported(), Uuid::new_v4());
    assert_eq!(second.uid(), first.uid());
    assert!(second.spec.unwrap().unschedulable);
    let labels = &second.metadata.as_ref().unwrap().labels;
    assert_eq!(
        (labels["disk"].as_str(), labels["kubernetes.io/os"].as_str()),
        ("fast", "linux")
    );
    assert_eq!(second.status, reported().status);
}

#[test]
fn an_etcd_without_tls_or_without_an_address_is_refused() {
    let config = |endpoints: &[&str]| EtcdConfig {
        endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
        ca_file: "/nowhere/ca.crt".into(),
        client_identity: None,
    };
    let error = |endpoints| EtcdSink::new(&config(endpoints)).unwrap_err().to_string();
    assert!(error(&[]).contains("no etcd endpoint"));
    assert!(error(&["http://127.0.0.1:2379"]).contains("over TLS alone"));
    assert!(error(&["https://127.0.0.1:2379"]).contains("/nowhere/ca.crt"));
}
