//! Config maps and secrets of pods on the runtime in memory.

use clone8s::v1::{
    ConfigMapVolumeSource, EnvVar, EnvVarSource, SecretKeySelector, Volume, VolumeMount, env_var_source,
    volume::Source as VolumeSource,
};

use super::*;
use crate::objects::ObjectKind;

fn configured() -> DesiredPod {
    let selector = SecretKeySelector {
        name: "login".to_owned(),
        key: "password".to_owned(),
        optional: false,
    };
    let mut web = container("web", "web:1");
    web.env = vec![EnvVar {
        name: "PASSWORD".to_owned(),
        value_from: Some(EnvVarSource {
            source: Some(env_var_source::Source::SecretKeyRef(selector)),
        }),
        ..Default::default()
    }];
    web.args = vec!["--password=$(PASSWORD)".to_owned()];
    web.volume_mounts = vec![VolumeMount {
        name: "settings".to_owned(),
        mount_path: "/settings".to_owned(),
        ..Default::default()
    }];
    with_spec(&pod("p", vec![web]), |spec| {
        spec.volumes = vec![Volume {
            name: "settings".to_owned(),
            source: Some(VolumeSource::ConfigMap(ConfigMapVolumeSource {
                name: "settings".to_owned(),
                ..Default::default()
            })),
        }];
    })
}

fn objects(color: &str, with_secret: bool) -> Objects {
    let settings = [("color", color)];
    let login = [("password", "hush")];
    let mut known = vec![(ObjectKind::ConfigMap, "settings", &settings[..])];
    if with_secret {
        known.push((ObjectKind::Secret, "login", &login[..]));
    }
    Objects::of_api(known)
}

impl Node {
    fn color(&self) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join("data/pods/p-uid/volumes/settings/color")).ok()
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_waits_for_its_objects_and_starts_as_soon_as_they_are_there() {
    let node = Node::start();
    node.want(&[&configured()]);
    node.until("it waits", |node| {
        node.waiting("p")
            .is_some_and(|(_, message)| message.contains("config map default/settings is not known yet"))
    })
    .await;
    node.objects.send_replace(objects("blue", false));
    node.until("it waits for the secret", |node| {
        node.waiting("p")
            .is_some_and(|(_, message)| message.contains("secret default/login is not known yet"))
    })
    .await;
    assert_eq!(node.calls_of("CreateContainer"), 0);
    let begun = node.clock.now();
    node.objects.send_replace(objects("blue", true));
    node.until_running(&["p/web#0"]).await;
    assert!(node.elapsed_since(begun) < Duration::from_secs(2));

    let config = node
        .runtime
        .config_of(&node.runtime.running_ids("web")[0])
        .unwrap();
    let env: Vec<_> = config
        .envs
        .iter()
        .map(|one| (one.key.as_str(), &one.value[..]))
        .collect();
    assert_eq!(env, [("PASSWORD", &b"hush"[..])]);
    assert_eq!(config.args, ["--password=hush"]);
    assert_eq!(node.color().as_deref(), Some("blue"));
}

#[tokio::test(start_paused = true)]
async fn volumes_follow_their_objects_and_no_container_restarts() {
    let mut node = Node::start();
    node.objects.send_replace(objects("blue", true));
    node.want(&[&configured()]);
    node.until_running(&["p/web#0"]).await;
    node.objects.send_replace(objects("green", true));
    node.until("the volume is green", |node| {
        node.color().as_deref() == Some("green")
    })
    .await;

    // What changed while no kubelet ran, too.
    node.stop_kubelet().await;
    node.objects.send_replace(objects("red", true));
    node.start_kubelet();
    node.until("the volume is red", |node| node.color().as_deref() == Some("red"))
        .await;
    settle().await;
    assert_eq!(node.runtime.running(), ["p/web#0"]);
}
