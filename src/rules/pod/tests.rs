mod configuration;
mod ephemeral;
mod lifecycle;
mod mirrors;
mod probes;
mod resources;
mod security;
mod volumes;

use crate::{
    rules::{Rules, Violation},
    v1::{
        Capabilities, Container, ContainerPort, EnvVar, HostPathVolumeSource, Node, ObjectMeta, Pod, PodSpec,
        ResourceRequirements, SecurityContext, Volume, VolumeMount, volume::Source,
    },
};

fn pod() -> Pod {
    let mut pod = Pod {
        metadata: Some(ObjectMeta {
            name: "web".to_owned(),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container("app")],
            ..PodSpec::default()
        }),
        status: None,
    };
    pod.set_defaults();
    pod
}

fn container(name: &str) -> Container {
    Container {
        name: name.to_owned(),
        image: "busybox:1.36".to_owned(),
        ..Container::default()
    }
}

fn volume(name: &str, path: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        source: Some(Source::HostPath(HostPathVolumeSource {
            path: path.to_owned(),
            r#type: String::new(),
        })),
    }
}

/// The violations of a pod after a change to its spec and the defaults.
fn after(change: impl FnOnce(&mut PodSpec)) -> Vec<String> {
    let mut pod = pod();
    change(pod.spec.as_mut().unwrap());
    pod.set_defaults();
    words(&pod.validate())
}

/// The violations of an update of a pod's spec.
fn updating(prepare: impl FnOnce(&mut PodSpec), change: impl FnOnce(&mut PodSpec)) -> Vec<String> {
    let mut old = pod();
    prepare(old.spec.as_mut().unwrap());
    let mut new = old.clone();
    change(new.spec.as_mut().unwrap());
    words(&new.validate_update(&old))
}

fn words(violations: &[Violation]) -> Vec<String> {
    violations.iter().map(ToString::to_string).collect()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let pod = pod();
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(pod.metadata.as_ref().unwrap().namespace, "default");
    assert_eq!(spec.restart_policy, "Always");
    assert_eq!(spec.dns_policy, "ClusterFirst");
    assert_eq!(spec.termination_grace_period_seconds, Some(30));
    assert_eq!(spec.containers[0].image_pull_policy, "IfNotPresent");
    assert_eq!(pod.validate(), []);
}

#[test]
fn setting_defaults_twice_changes_nothing() {
    let mut again = pod();
    again.set_defaults();
    assert_eq!(again, pod());
}

#[test]
fn an_untagged_image_is_always_pulled() {
    let mut pod = pod();
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    container.image = "busybox".to_owned();
    container.image_pull_policy.clear();
    pod.set_defaults();
    assert_eq!(pod.spec.unwrap().containers[0].image_pull_policy, "Always");
}

#[test]
fn requests_default_to_limits() {
    let mut pod = pod();
    pod.spec.as_mut().unwrap().containers[0].resources = Some(ResourceRequirements {
        limits: [("memory".to_owned(), "64Mi".to_owned())].into(),
        ..ResourceRequirements::default()
    });
    pod.set_defaults();
    let resources = pod.spec.unwrap().containers[0].resources.clone().unwrap();
    assert_eq!(resources.requests, resources.limits);
}

#[test]
fn a_pod_without_containers_or_spec_is_refused() {
    assert_eq!(
        after(|spec| spec.containers.clear()),
        ["spec.containers: must have at least one container"]
    );
    let mut pod = pod();
    pod.spec = None;
    assert_eq!(
        words(&pod.validate()),
        ["spec: must be there, with at least one container"]
    );
}

#[test]
fn container_names_are_labels_and_unique() {
    let found = after(|spec| spec.containers = vec![container("app"), container("app"), container("My App")]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(
        found[0],
        "spec.containers[1].name: \"app\" is the name of another container of the pod"
    );
    assert!(
        found[1].starts_with("spec.containers[2].name: must consist of") && found[1].ends_with("\"my-app\""),
        "{found:?}"
    );
}

#[test]
fn a_hundred_containers_are_the_most() {
    let many = (0..101).map(|n| container(&format!("c{n}"))).collect();
    assert_eq!(
        after(|spec| spec.containers = many),
        ["spec.containers: must have at most 100 entries, but has 101"]
    );
}

#[test]
fn a_wrong_word_comes_with_the_nearest() {
    assert_eq!(
        after(|spec| spec.restart_policy = "always".to_owned()),
        [
            "spec.restartPolicy: must be \"Always\", \"OnFailure\" or \"Never\", but is \"always\"; did you mean \"Always\"?"
        ]
    );
    let found = after(|spec| spec.containers[0].image_pull_policy = "IfNotPresents".to_owned());
    assert!(found[0].ends_with("did you mean \"IfNotPresent\"?"), "{found:?}");
}

#[test]
fn a_mount_needs_a_volume_an_absolute_path_and_a_place_of_its_own() {
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    let found = after(|spec| {
        spec.volumes = vec![volume("data", "/srv/data")];
        spec.containers[0].volume_mounts = vec![
            mount("data", "/data"),
            mount("dta", "/other"),
            mount("data", "relative"),
            mount("data", "/data/"),
            mount("data", "/a/../b"),
        ];
    });
    assert_eq!(
        found,
        [
            "spec.containers[0].volumeMounts[1].name: \"dta\" is not a volume of the pod; did you mean \"data\"?",
            "spec.containers[0].volumeMounts[2].mountPath: must be an absolute path, but is \"relative\"; write \"/relative\"",
            "spec.containers[0].volumeMounts[3].mountPath: \"/data/\" is mounted already",
            "spec.containers[0].volumeMounts[4].mountPath: must not contain \"..\", but is \"/a/../b\"",
        ]
    );
}

#[test]
fn ports_are_in_range_and_a_host_port_is_used_once() {
    let port = |container_port, host_port| ContainerPort {
        container_port,
        host_port,
        ..ContainerPort::default()
    };
    let found = after(|spec| {
        spec.containers[0].ports = vec![port(80, 8080), port(81, 8080), port(0, 0), port(70000, 0)];
    });
    assert_eq!(
        found,
        [
            "spec.containers[0].ports[1].hostPort: 8080/TCP is taken by another port of the pod",
            "spec.containers[0].ports[2].containerPort: must be a port from 1 to 65535, but is 0",
            "spec.containers[0].ports[3].containerPort: must be a port from 1 to 65535, but is 70000",
        ]
    );
}

#[test]
fn on_the_host_network_a_port_is_what_it_is() {
    let found = after(|spec| {
        spec.host_network = true;
        spec.containers[0].ports = vec![
            ContainerPort {
                container_port: 80,
                host_port: 8080,
                ..ContainerPort::default()
            },
            ContainerPort {
                container_port: 443,
                ..ContainerPort::default()
            },
        ];
    });
    assert_eq!(
        found,
        [
            "spec.containers[0].ports[0].hostPort: must equal containerPort (80) on the host network, but is 8080"
        ]
    );
}

#[test]
fn a_fixed_address_is_an_address_of_the_pod_network() {
    assert_eq!(
        after(|spec| spec.pod_ip = "10.88.0.7".to_owned()),
        [] as [&str; 0]
    );
    assert_eq!(
        after(|spec| spec.pod_ip = "10.88.0".to_owned()),
        ["spec.podIP: must be an IP address such as \"10.1.2.3\", but is \"10.88.0\""]
    );
    assert_eq!(
        after(|spec| {
            spec.pod_ip = "10.88.0.7".to_owned();
            spec.host_network = true;
        }),
        ["spec.podIP: must be empty on the host network, where a pod has the node's addresses"]
    );
}

#[test]
fn namespaces_of_the_node_do_not_go_with_processes_or_users_of_the_pods_own() {
    let both = after(|spec| {
        spec.host_pid = true;
        spec.share_process_namespace = Some(true);
    });
    assert_eq!(both.len(), 1, "{both:?}");
    assert!(
        both[0].starts_with("spec.shareProcessNamespace: must not be true together with hostPID"),
        "{both:?}"
    );
    let users = after(|spec| {
        spec.host_users = Some(false);
        spec.host_network = true;
        spec.host_pid = true;
        spec.host_ipc = true;
    });
    assert_eq!(users.len(), 3, "{users:?}");
    for (found, field) in users.iter().zip(["hostNetwork", "hostPID", "hostIPC"]) {
        let start = format!("spec.{field}: must not be true where hostUsers is false");
        assert!(found.starts_with(&start), "{users:?}");
    }
    let good = after(|spec| {
        spec.host_ipc = true;
        spec.share_process_namespace = Some(true);
        spec.host_users = Some(true);
    });
    assert_eq!(good, [] as [&str; 0]);
}

#[test]
fn resources_are_known_whole_and_within_their_limits() {
    let found = after(|spec| {
        spec.containers[0].resources = Some(ResourceRequirements {
            limits: [("cpu", "100m"), ("memory", "100m"), ("memori", "1")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            requests: [("cpu".to_owned(), "0.2".to_owned())].into(),
        });
    });
    let joined = found.join("\n");
    for part in [
        "limits[memory]: must be a whole number of bytes",
        "limits[memori]: must be \"cpu\", \"memory\" or \"ephemeral-storage\", but is \"memori\"; did you mean \"memory\"?",
        "requests[cpu]: must not be more than the limit (100m), but is \"0.2\"",
    ] {
        assert!(joined.contains(part), "{joined}");
    }
}

#[test]
fn security_and_environment_are_checked() {
    let found = after(|spec| {
        spec.containers[0].env = vec![EnvVar {
            name: "A=B".to_owned(),
            ..EnvVar::default()
        }];
        spec.containers[0].security_context = Some(SecurityContext {
            run_as_user: Some(-1),
            capabilities: Some(Capabilities {
                add: vec!["CAP_NET_ADMIN".to_owned()],
                drop: vec!["ALL".to_owned()],
            }),
            ..SecurityContext::default()
        });
    });
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("spec.containers[0].env[0].name: must consist of"));
    assert!(found[1].starts_with("spec.containers[0].securityContext.runAsUser: must be from 0 to"));
    assert!(found[2].ends_with("did you mean \"NET_ADMIN\"?"));
}

#[test]
fn metadata_is_checked_with_every_key() {
    let mut pod = pod();
    let meta = pod.metadata.as_mut().unwrap();
    meta.labels.insert("bad key".to_owned(), "fine".to_owned());
    meta.labels.insert("fine".to_owned(), "bad value".to_owned());
    meta.annotations.insert("note".to_owned(), "x".repeat(300_000));
    meta.namespace = "No".to_owned();
    let fields: Vec<_> = pod
        .validate()
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    assert_eq!(
        fields,
        [
            "metadata.namespace",
            "metadata.labels[bad key]",
            "metadata.labels[fine]",
            "metadata.annotations"
        ]
    );
}

#[test]
fn an_object_beyond_the_bound_is_refused_as_a_whole() {
    let mut pod = pod();
    pod.spec.as_mut().unwrap().containers[0].args = vec!["x".repeat(100_000); 15];
    let found = pod.validate();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].field, "");
}

#[test]
fn a_kind_without_namespace_refuses_one() {
    let mut node = Node::default();
    node.metadata.get_or_insert_default().name = "n1".to_owned();
    node.metadata.get_or_insert_default().namespace = "default".to_owned();
    assert_eq!(
        words(&node.validate()),
        ["metadata.namespace: must be empty: a Node is in no namespace"]
    );
}

#[test]
fn an_update_may_change_containers_and_add_them() {
    assert_eq!(
        updating(
            |_| {},
            |spec| {
                spec.containers[0].image = "busybox:1.37".to_owned();
                spec.containers.push(container("second"));
                spec.restart_policy = "Never".to_owned();
            }
        ),
        [] as [&str; 0]
    );
}

#[test]
fn an_update_may_not_change_the_sandbox() {
    let found = updating(
        |_| {},
        |spec| {
            spec.host_network = true;
            spec.pod_ip = "10.0.0.1".to_owned();
            spec.hostname = "other".to_owned();
        },
    );
    let fields: Vec<_> = found.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(fields, ["spec.hostNetwork", "spec.hostname", "spec.podIP"]);
}

#[test]
fn a_node_is_given_once() {
    assert_eq!(
        updating(|_| {}, |spec| spec.node_name = "n1".to_owned()),
        [] as [&str; 0]
    );
    assert_eq!(
        updating(
            |spec| spec.node_name = "n1".to_owned(),
            |spec| spec.node_name = "n2".to_owned()
        ),
        ["spec.nodeName: cannot be changed; the pod has its node: delete it and create it anew to move it"]
    );
}

#[test]
fn a_volume_that_stays_keeps_its_source() {
    let prepare = |spec: &mut PodSpec| spec.volumes = vec![volume("data", "/a")];
    assert_eq!(updating(prepare, |spec| spec.volumes.clear()), [] as [&str; 0]);
    assert_eq!(
        updating(prepare, |spec| spec.volumes = vec![volume("data", "/b")]),
        ["spec.volumes[0]: the source of a volume cannot be changed; give the new volume another name"]
    );
}

#[test]
fn host_ports_stay() {
    let forward = |spec: &mut PodSpec, host_port| {
        spec.containers[0].ports = vec![ContainerPort {
            container_port: 80,
            host_port,
            ..ContainerPort::default()
        }];
    };
    assert_eq!(
        updating(|spec| forward(spec, 0), |spec| spec.containers[0].ports.clear()),
        [] as [&str; 0]
    );
    let found = updating(|spec| forward(spec, 8080), |spec| forward(spec, 8081));
    assert!(
        found[0].starts_with("spec.containers: host ports cannot be changed"),
        "{found:?}"
    );
}

#[test]
fn an_update_names_the_same_object() {
    let old = pod();
    let mut new = pod();
    new.metadata.as_mut().unwrap().name = "other".to_owned();
    let found = words(&new.validate_update(&old));
    assert!(
        found[0].starts_with("metadata.name: cannot be changed"),
        "{found:?}"
    );
}
