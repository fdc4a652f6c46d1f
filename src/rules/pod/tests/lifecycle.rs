//! Init containers, sidecars and hooks.

use rstest::rstest;

use super::*;
use crate::v1::{
    ContainerResizePolicy, EnvFromSource, ExecAction, HttpGetAction, Lifecycle, LifecycleHandler, Probe,
    SecretEnvSource, SleepAction, lifecycle_handler::Handler, probe,
};

fn sidecar(name: &str) -> Container {
    Container {
        restart_policy: "Always".to_owned(),
        ..container(name)
    }
}

fn before_stop(handler: Option<Handler>) -> Lifecycle {
    Lifecycle {
        post_start: None,
        pre_stop: Some(LifecycleHandler { handler }),
    }
}

fn sleep(seconds: i64) -> Handler {
    Handler::Sleep(SleepAction { seconds })
}

fn exec(words: &[&str]) -> Handler {
    Handler::Exec(ExecAction {
        command: words.iter().map(|word| (*word).to_owned()).collect(),
    })
}

fn asks() -> Probe {
    Probe {
        handler: Some(probe::Handler::Exec(ExecAction {
            command: vec!["true".to_owned()],
        })),
        ..Probe::default()
    }
}

#[test]
fn an_init_container_gets_the_defaults_of_a_container() {
    let mut pod = pod();
    pod.spec.as_mut().unwrap().init_containers = vec![Container {
        image: "busybox".to_owned(),
        ports: vec![ContainerPort {
            container_port: 80,
            ..ContainerPort::default()
        }],
        startup_probe: Some(asks()),
        lifecycle: Some(before_stop(Some(Handler::HttpGet(HttpGetAction {
            port: "80".to_owned(),
            ..HttpGetAction::default()
        })))),
        ..sidecar("proxy")
    }];
    pod.set_defaults();
    assert_eq!(words(&pod.validate()), [""; 0]);
    let proxy = pod.spec.unwrap().init_containers.remove(0);
    assert_eq!(proxy.image_pull_policy, "Always");
    assert_eq!(proxy.ports[0].protocol, "TCP");
    assert_eq!(proxy.startup_probe.unwrap().period_seconds, 10);
    let hook = proxy.lifecycle.unwrap().pre_stop.unwrap();
    let Some(Handler::HttpGet(get)) = hook.handler else {
        panic!("{hook:?}");
    };
    assert_eq!((get.path.as_str(), get.scheme.as_str()), ("/", "HTTP"));
}

type Edit = fn(&mut PodSpec);

#[rstest]
#[case::name_of_a_container(
    |spec: &mut PodSpec| spec.init_containers.push(container("app")),
    "spec.containers[0].name: \"app\" is the name of another container of the pod"
)]
#[case::name_of_another_init_container(
    |spec: &mut PodSpec| spec.init_containers = vec![container("a"), sidecar("a")],
    "spec.initContainers[1].name: \"a\" is the name of another container of the pod"
)]
#[case::restart_policy_of_an_init_container(
    |spec: &mut PodSpec| spec.init_containers.push(Container { restart_policy: "OnFailure".into(), ..container("a") }),
    "spec.initContainers[0].restartPolicy: must be \"Always\", which makes a sidecar of an init container, or be left \
     out, but is \"OnFailure\""
)]
#[case::restart_policy_of_a_container(
    |spec: &mut PodSpec| spec.containers[0].restart_policy = "Always".into(),
    "spec.containers[0].restartPolicy: cannot be set: only an init container can be a sidecar; the pod's \
     restartPolicy counts"
)]
#[case::resize_policy(
    |spec: &mut PodSpec| spec.containers[0].resize_policy = vec![ContainerResizePolicy {
        resource_name: "gpu".into(),
        restart_policy: "NotRequired".into(),
    }],
    "spec.containers[0].resizePolicy[0].resourceName: must be \"cpu\" or \"memory\", but is \"gpu\"; did you \
     mean \"cpu\"?"
)]
#[case::startup_probe(
    |spec: &mut PodSpec| spec.init_containers.push(Container { startup_probe: Some(asks()), ..container("a") }),
    "spec.initContainers[0].startupProbe: cannot be set on an init container that runs to its end; restartPolicy: \
     Always makes it a sidecar"
)]
#[case::hooks(
    |spec: &mut PodSpec| spec.init_containers.push(Container { lifecycle: Some(before_stop(Some(sleep(1)))), ..container("a") }),
    "spec.initContainers[0].lifecycle: cannot be set on an init container that runs to its end; restartPolicy: \
     Always makes it a sidecar"
)]
#[case::no_handler(
    |spec: &mut PodSpec| spec.containers[0].lifecycle = Some(before_stop(None)),
    "spec.containers[0].lifecycle.preStop: must have a handler: exec, httpGet or sleep"
)]
#[case::no_command(
    |spec: &mut PodSpec| spec.containers[0].lifecycle = Some(before_stop(Some(exec(&[])))),
    "spec.containers[0].lifecycle.preStop.exec.command: must have at least one word"
)]
#[case::no_sleep(
    |spec: &mut PodSpec| spec.containers[0].lifecycle = Some(before_stop(Some(sleep(0)))),
    "spec.containers[0].lifecycle.preStop.sleep.seconds: must be from 1 to the pod's terminationGracePeriodSeconds \
     (30), but is 0"
)]
#[case::a_sleep_beyond_the_grace(
    |spec: &mut PodSpec| {
        spec.termination_grace_period_seconds = Some(5);
        spec.containers[0].lifecycle = Some(before_stop(Some(sleep(6))));
    },
    "spec.containers[0].lifecycle.preStop.sleep.seconds: must be from 1 to the pod's terminationGracePeriodSeconds \
     (5), but is 6"
)]
#[case::a_volume_that_is_not_there(
    |spec: &mut PodSpec| spec.init_containers.push(Container {
        volume_mounts: vec![VolumeMount { name: "v".into(), mount_path: "/v".into(), ..VolumeMount::default() }],
        ..container("a")
    }),
    "spec.initContainers[0].volumeMounts[0].name: \"v\" is not a volume of the pod"
)]
fn what_an_init_container_or_a_hook_cannot_be_is_refused_by_its_path(
    #[case] edit: Edit,
    #[case] expected: &str,
) {
    assert_eq!(after(edit), [expected]);
}

#[test]
fn sidecars_with_probes_and_hooks_of_every_kind_are_allowed() {
    let found = after(|spec| {
        spec.init_containers = vec![
            container("first"),
            Container {
                readiness_probe: Some(asks()),
                startup_probe: Some(asks()),
                lifecycle: Some(Lifecycle {
                    post_start: Some(LifecycleHandler {
                        handler: Some(exec(&["true"])),
                    }),
                    pre_stop: Some(LifecycleHandler {
                        handler: Some(sleep(30)),
                    }),
                }),
                ..sidecar("proxy")
            },
        ];
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn what_an_init_container_refers_to_is_the_pods() {
    let mut pod = pod();
    let spec = pod.spec.as_mut().unwrap();
    spec.init_containers = vec![Container {
        env_from: vec![EnvFromSource {
            secret_ref: Some(SecretEnvSource {
                name: "keys".to_owned(),
                optional: false,
            }),
            ..EnvFromSource::default()
        }],
        ..container("first")
    }];
    let references = crate::references::References::of(spec);
    assert_eq!(references.secrets, ["keys".to_owned()].into());
}

#[test]
fn the_host_ports_of_a_sidecar_are_the_sandboxes() {
    let prepare = |spec: &mut PodSpec| spec.init_containers = vec![sidecar("proxy")];
    let found = updating(prepare, |spec| {
        spec.init_containers[0].ports.push(ContainerPort {
            container_port: 80,
            host_port: 80,
            protocol: "TCP".to_owned(),
            ..ContainerPort::default()
        });
    });
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("host ports cannot be changed"), "{found:?}");
}
