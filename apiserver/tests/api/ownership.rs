//! Names that the apiserver makes, and what becomes of objects whose owners are deleted.

use clone8s::{
    client::{DeleteOptions, Resource},
    object::Object as _,
    v1::*,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, transport::Channel};

use crate::harness::{PATIENCE, Server, create_pod, details, meta, pod, told};

async fn config_map(channel: &Channel, name: &str) -> ConfigMap {
    let map = ConfigMap {
        metadata: meta(name),
        ..ConfigMap::default()
    };
    ConfigMap::create(channel, map).await.unwrap()
}

fn owned_by(owners: &[&ConfigMap], name: &str) -> Pod {
    let mut pod = pod(name);
    let references = owners.iter().map(|owner| OwnerReference {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        name: owner.name().into(),
        uid: owner.uid().into(),
        controller: false,
        block_owner_deletion: true,
    });
    pod.metadata.as_mut().unwrap().owner_references = references.collect();
    pod
}

async fn delete(channel: &Channel, owner: &ConfigMap, policy: &str) {
    let options = DeleteOptions {
        propagation_policy: policy.into(),
        ..DeleteOptions::default()
    };
    ConfigMap::delete(channel, "", owner.name(), &options)
        .await
        .unwrap();
}

async fn is_gone<O: Resource>(channel: &Channel, name: &str) -> bool {
    match O::get(channel, "", name).await {
        Ok(_) => false,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound);
            true
        }
    }
}

async fn until_gone<O: Resource>(channel: &Channel, name: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !is_gone::<O>(channel, name).await {
        assert!(Instant::now() < deadline, "{name} is still there");
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_name_is_made_where_only_its_beginning_is_given() {
    let server = Server::start().await;
    let root = server.root();
    let generated = || {
        let mut pod = pod("");
        pod.metadata.as_mut().unwrap().generate_name = "web-".into();
        pod
    };
    let (one, other) = (
        create_pod(&root, generated()).await,
        create_pod(&root, generated()).await,
    );
    assert_ne!(one.name(), other.name());
    assert!(
        one.name().starts_with("web-") && one.name().len() == 9,
        "{}",
        one.name()
    );
    assert_eq!(Pod::get(&root, "", one.name()).await.unwrap(), one);
    let mut bad = generated();
    bad.metadata.as_mut().unwrap().generate_name = "Web_".into();
    let refused = Pod::create(&root, bad).await.unwrap_err();
    assert_eq!(told(&refused), (Code::InvalidArgument, "INVALID".into()));
    server.stop().await;
}

#[tokio::test]
async fn an_object_goes_when_the_last_of_its_owners_has_gone() {
    let server = Server::start().await;
    let root = server.root();
    let (one, other) = (config_map(&root, "one").await, config_map(&root, "other").await);
    create_pod(&root, owned_by(&[&one, &other], "both")).await;
    create_pod(&root, owned_by(&[&one], "single")).await;
    create_pod(&root, pod("free")).await;
    // Of a kind that only its own program knows.
    let mut foreign = owned_by(&[&one], "foreign");
    foreign.metadata.as_mut().unwrap().owner_references[0].kind = "Widget".into();
    create_pod(&root, foreign).await;

    delete(&root, &one, "").await;
    until_gone::<Pod>(&root, "single").await;
    assert!(!is_gone::<Pod>(&root, "both").await);
    delete(&root, &other, "Background").await;
    until_gone::<Pod>(&root, "both").await;
    for name in ["free", "foreign"] {
        assert!(!is_gone::<Pod>(&root, name).await, "{name}");
    }

    // Another object of its name is not its owner.
    let again = config_map(&root, "one").await;
    assert_ne!(again.uid(), one.uid());
    create_pod(&root, owned_by(&[&one], "late")).await;
    delete(&root, &again, "").await;
    until_gone::<Pod>(&root, "late").await;
    server.stop().await;
}

#[tokio::test]
async fn an_owner_that_is_deleted_in_the_foreground_goes_last() {
    let server = Server::start().await;
    let root = server.root();
    let owner = config_map(&root, "owner").await;
    let mut held = owned_by(&[&owner], "held");
    held.metadata.as_mut().unwrap().finalizers = vec!["example.com/hold".into()];
    let held = create_pod(&root, held).await;
    delete(&root, &owner, "Foreground").await;

    let deadline = Instant::now() + PATIENCE;
    let mut ending = loop {
        let found = Pod::get(&root, "", held.name()).await.unwrap();
        if found.metadata.as_ref().unwrap().deletion_timestamp.is_some() {
            break found;
        }
        assert!(Instant::now() < deadline, "the dependent was not asked to go");
        sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(!is_gone::<ConfigMap>(&root, "owner").await);
    let meta = ending.metadata.as_mut().unwrap();
    meta.finalizers
        .retain(|finalizer| finalizer != "example.com/hold");
    meta.resource_version = 0;
    Pod::update(&root, ending).await.unwrap();
    until_gone::<Pod>(&root, "held").await;
    until_gone::<ConfigMap>(&root, "owner").await;
    server.stop().await;
}

#[tokio::test]
async fn orphans_stay_without_the_reference() {
    let server = Server::start().await;
    let root = server.root();
    let owner = config_map(&root, "owner").await;
    create_pod(&root, owned_by(&[&owner], "orphan")).await;
    delete(&root, &owner, "Orphan").await;
    until_gone::<ConfigMap>(&root, "owner").await;
    let orphan = Pod::get(&root, "", "orphan").await.unwrap().metadata.unwrap();
    assert_eq!(orphan.owner_references, []);
    assert!(orphan.deletion_timestamp.is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_policy_that_is_none_is_refused() {
    let server = Server::start().await;
    let root = server.root();
    config_map(&root, "owner").await;
    let options = DeleteOptions {
        propagation_policy: "Sideways".into(),
        ..DeleteOptions::default()
    };
    let refused = ConfigMap::delete(&root, "", "owner", &options).await.unwrap_err();
    let field = details(&refused).bad_request().unwrap().field_violations[0]
        .field
        .clone();
    assert_eq!(field, "propagation_policy");
    server.stop().await;
}
