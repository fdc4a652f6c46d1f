use super::{pod, words};
use crate::{
    mirror,
    object::Object as _,
    rules::Rules as _,
    v1::{OwnerReference, Pod},
};

fn mirror_of_web() -> Pod {
    let mut pod = pod();
    pod.spec.as_mut().unwrap().node_name = "n1".to_owned();
    let meta = pod.metadata_mut();
    meta.name = "web-n1".to_owned();
    meta.annotations
        .insert(mirror::MIRROR.to_owned(), "u1".to_owned());
    meta.owner_references = vec![OwnerReference {
        kind: "Node".to_owned(),
        name: "n1".to_owned(),
        uid: "node-1".to_owned(),
        ..OwnerReference::default()
    }];
    pod
}

#[test]
fn a_mirror_is_named_after_its_node_and_goes_with_it_alone() {
    assert_eq!(words(&mirror_of_web().validate()), Vec::<String>::new());
    let wrong = |change: fn(&mut Pod), place: &str| {
        let mut pod = mirror_of_web();
        change(&mut pod);
        let words = words(&pod.validate());
        assert!(words.len() == 1 && words[0].starts_with(place), "{words:?}");
    };
    wrong(|pod| pod.metadata_mut().name = "web".into(), "metadata.name");
    wrong(
        |pod| pod.metadata_mut().finalizers.push("a.b/c".into()),
        "metadata.finalizers",
    );
    let owners: [fn(&mut Vec<OwnerReference>); 4] = [
        Vec::clear,
        |owners| owners.push(owners[0].clone()),
        |owners| owners[0].name = "n2".into(),
        |owners| owners[0].block_owner_deletion = true,
    ];
    for change in owners {
        let mut pod = mirror_of_web();
        change(&mut pod.metadata_mut().owner_references);
        let words = words(&pod.validate());
        assert!(
            words.len() == 1 && words[0].starts_with("metadata.ownerReferences"),
            "{words:?}"
        );
    }
}

#[test]
fn a_pod_does_not_become_a_mirror_nor_a_mirror_a_pod() {
    let mirror = mirror_of_web();
    let mut other = mirror.clone();
    other.metadata_mut().annotations.clear();
    for (new, old) in [(&mirror, &other), (&other, &mirror)] {
        let words = words(&new.validate_update(old));
        assert!(
            words.len() == 1 && words[0].contains("config.mirror"),
            "{words:?}"
        );
    }
    assert!(mirror.validate_update(&mirror).is_empty());
}
