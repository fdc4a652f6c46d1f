use rstest::rstest;

use super::*;
use crate::{rules::check_added_container, v1::EphemeralContainer};

type Edit = fn(&mut PodSpec);

fn look(name: &str) -> EphemeralContainer {
    EphemeralContainer {
        name: name.into(),
        image: "busybox:1.36".into(),
        ..EphemeralContainer::default()
    }
}

#[test]
fn an_ephemeral_container_gets_the_defaults_of_a_container() {
    let mut pod = pod();
    pod.spec.as_mut().unwrap().ephemeral_containers = vec![EphemeralContainer {
        image: "busybox".into(),
        ..look("look")
    }];
    pod.set_defaults();
    assert_eq!(words(&pod.validate()), [""; 0]);
    assert_eq!(
        pod.spec.unwrap().ephemeral_containers[0].image_pull_policy,
        "Always"
    );
}

#[rstest]
#[case::name_of_a_container(
    |spec: &mut PodSpec| spec.ephemeral_containers = vec![look("app")],
    "spec.ephemeralContainers[0].name: \"app\" is the name of another container of the pod"
)]
#[case::name_of_another(
    |spec: &mut PodSpec| spec.ephemeral_containers = vec![look("a"), look("a")],
    "spec.ephemeralContainers[1].name: \"a\" is the name of another container of the pod"
)]
#[case::volume(
    |spec: &mut PodSpec| {
        let mount = VolumeMount { name: "data".into(), mount_path: "/data".into(), ..VolumeMount::default() };
        spec.ephemeral_containers = vec![EphemeralContainer { volume_mounts: vec![mount], ..look("a") }];
    },
    "spec.ephemeralContainers[0].volumeMounts[0].name: \"data\" is not a volume of the pod"
)]
#[case::part_of_a_volume(
    |spec: &mut PodSpec| {
        spec.volumes = vec![volume("data", "/data")];
        let mount = VolumeMount {
            name: "data".into(),
            mount_path: "/data".into(),
            sub_path: "part".into(),
            ..VolumeMount::default()
        };
        spec.ephemeral_containers = vec![EphemeralContainer { volume_mounts: vec![mount], ..look("a") }];
    },
    "spec.ephemeralContainers[0].volumeMounts[0].subPath: cannot be set for an ephemeral container: mount the whole \
     volume"
)]
fn what_is_wrong_with_one_is_told_with_its_place(#[case] edit: Edit, #[case] expected: &str) {
    assert_eq!(after(edit), [expected]);
}

#[test]
fn a_new_pod_has_none() {
    let mut pod = pod();
    assert_eq!(words(&pod.validate_new()), [""; 0]);
    pod.spec.as_mut().unwrap().ephemeral_containers = vec![look("look")];
    assert_eq!(
        words(&pod.validate_new()),
        [
            "spec.ephemeralContainers: cannot be set on a new pod: AddEphemeralContainer (c8s debug) adds one to a pod \
          that is there"
        ]
    );
}

#[rstest]
#[case::more(|spec: &mut PodSpec| spec.ephemeral_containers.push(look("more")))]
#[case::another(|spec: &mut PodSpec| spec.ephemeral_containers[0].image = "busybox:2".into())]
#[case::none(|spec: &mut PodSpec| spec.ephemeral_containers.clear())]
fn an_update_leaves_them_as_they_are(#[case] edit: Edit) {
    assert_eq!(
        updating(|spec| spec.ephemeral_containers = vec![look("look")], edit),
        [
            "spec.ephemeralContainers: cannot be changed; none of them can be changed or removed, and \
          AddEphemeralContainer (c8s debug) adds one to a pod that is there"
        ]
    );
}

#[test]
fn a_target_is_a_container_of_the_pod_when_it_is_added() {
    let mut spec = pod().spec.unwrap();
    spec.init_containers = vec![container("first")];
    let aiming = |target: &str| EphemeralContainer {
        target_container_name: target.into(),
        ..look("look")
    };
    for target in ["", "app", "first"] {
        spec.ephemeral_containers = vec![aiming("gone"), aiming(target)];
        assert_eq!(words(&check_added_container(&spec)), [""; 0], "{target}");
    }
    spec.ephemeral_containers.push(aiming("ap"));
    assert_eq!(
        words(&check_added_container(&spec)),
        [
            "spec.ephemeralContainers[2].targetContainerName: must be \"first\" or \"app\", but is \"ap\"; did you mean \
          \"app\"?"
        ]
    );
}

#[test]
fn one_is_privileged_only_where_another_container_is() {
    let privileged = || {
        Some(SecurityContext {
            privileged: Some(true),
            ..SecurityContext::default()
        })
    };
    let mut spec = pod().spec.unwrap();
    spec.ephemeral_containers = vec![EphemeralContainer {
        security_context: privileged(),
        ..look("look")
    }];
    assert_eq!(
        words(&check_added_container(&spec)),
        [
            "spec.ephemeralContainers[0].securityContext.privileged: needs a container of the pod that is privileged: \
          its sandbox was made for none"
        ]
    );
    spec.containers[0].security_context = privileged();
    assert_eq!(words(&check_added_container(&spec)), [""; 0]);
}
