//! What a volume is, and what a container may ask of its mounts.

use super::*;
use crate::v1::ImageVolumeSource;

fn image(reference: &str) -> Volume {
    Volume {
        name: "image".to_owned(),
        source: Some(Source::Image(ImageVolumeSource {
            reference: reference.to_owned(),
            ..ImageVolumeSource::default()
        })),
    }
}

fn mount(path: &str, change: impl FnOnce(&mut VolumeMount)) -> VolumeMount {
    let mut mount = VolumeMount {
        name: "data".to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    change(&mut mount);
    mount
}

#[test]
fn an_image_volume_is_pulled_when_a_container_of_the_image_would_be() {
    for (reference, expected) in [("app", "Always"), ("app:1", "IfNotPresent")] {
        let mut pod = pod();
        pod.spec.as_mut().unwrap().volumes = vec![image(reference)];
        pod.set_defaults();
        let Some(Source::Image(image)) = &pod.spec.unwrap().volumes[0].source else {
            panic!("it is no image any more");
        };
        assert_eq!(image.pull_policy, expected);
    }
    let found = after(|spec| spec.volumes = vec![image("")]);
    assert_eq!(found, ["spec.volumes[0].image.reference: must not be empty"]);
}

#[test]
fn what_a_mount_asks_for_is_known_and_goes_together() {
    let found = after(|spec| {
        spec.volumes = vec![volume("data", "/srv/data")];
        spec.containers[0].volume_mounts = vec![
            mount("/a", |mount| mount.mount_propagation = "Bidirectional".into()),
            mount("/b", |mount| mount.mount_propagation = "hostToContainer".into()),
            mount("/c", |mount| mount.recursive_read_only = "Enabled".into()),
            mount("/d", |mount| {
                mount.read_only = true;
                mount.recursive_read_only = "IfPossible".into();
                mount.mount_propagation = "HostToContainer".into();
            }),
            mount("/e", |mount| {
                mount.sub_path = "a".into();
                mount.sub_path_expr = "../$(A)".into();
            }),
        ];
    });
    let of = |index: usize, field: &str, rest: &str| {
        format!("spec.containers[0].volumeMounts[{index}].{field}: {rest}")
    };
    assert_eq!(
        found,
        [
            of(
                0,
                "mountPropagation",
                "needs a privileged container: its mounts become the node's"
            ),
            of(
                1,
                "mountPropagation",
                "must be \"None\", \"HostToContainer\" or \"Bidirectional\", but is \"hostToContainer\"; did you mean \
                 \"HostToContainer\"?"
            ),
            of(2, "recursiveReadOnly", "needs readOnly beside it"),
            of(
                3,
                "recursiveReadOnly",
                "cannot be beside mountPropagation: what comes later would not be read-only"
            ),
            of(
                4,
                "subPathExpr",
                "must be a relative path without \"..\", but is \"../$(A)\""
            ),
            of(
                4,
                "subPathExpr",
                "cannot be beside subPath: one of them says which part of the volume"
            ),
        ]
    );
    let allowed = after(|spec| {
        spec.volumes = vec![volume("data", "/srv/data")];
        spec.containers[0].security_context = Some(SecurityContext {
            privileged: Some(true),
            ..SecurityContext::default()
        });
        spec.containers[0].volume_mounts = vec![
            mount("/a", |mount| mount.mount_propagation = "Bidirectional".into()),
            mount("/b", |mount| {
                mount.read_only = true;
                mount.recursive_read_only = "Enabled".into();
            }),
        ];
    });
    assert_eq!(allowed, [] as [&str; 0]);
}

#[test]
fn devices_are_hosts_paths_and_raw_ones_are_refused_by_their_path() {
    let found = after(|spec| {
        spec.volumes = vec![volume("data", "/dev/null")];
        if let Some(Source::HostPath(host_path)) = &mut spec.volumes[0].source {
            host_path.r#type = "CharDevice".to_owned();
        }
    });
    assert_eq!(found, [] as [&str; 0]);
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    image: a:1\n    \
                volumeDevices: [{name: d, devicePath: /dev/d}]\n";
    let refused = crate::manifest::parse("x.yaml", text).unwrap_err().to_string();
    assert!(
        refused.contains("spec.containers[0].volumeDevices: unknown field"),
        "{refused}"
    );
}
