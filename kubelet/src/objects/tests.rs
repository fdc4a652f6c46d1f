use clone8s::v1::{ConfigMapVolumeSource, Volume};
use clone8s_daemon::Shutdown;
use rstest::rstest;
use tokio::task::JoinSet;

use super::*;
use crate::pod::testing::{container, pod};

const SETTINGS: (ObjectKind, &str, &[(&str, &str)]) =
    (ObjectKind::ConfigMap, "settings", &[("color", "blue")]);

fn object(name: &str) -> ObjectRef {
    ObjectRef {
        kind: ObjectKind::ConfigMap,
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

/// A pod of this source that shows the config map "settings" as a volume.
fn showing(source: Source) -> DesiredPod {
    let mut pod = pod("p", vec![container("web", "web:1")]);
    pod.source = source;
    let spec = Arc::make_mut(&mut pod.pod).spec.as_mut().unwrap();
    spec.volumes = vec![Volume {
        name: "v".to_owned(),
        source: Some(Shown::ConfigMap(ConfigMapVolumeSource {
            name: "settings".to_owned(),
            ..Default::default()
        })),
    }];
    pod
}

#[test]
fn data_of_other_keys_or_values_have_another_digest() {
    let of = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), Bytes::from((*b).to_owned())));
        *Entries::new(pairs.collect()).digest()
    };
    assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]));
    assert_ne!(of(&[("a", "1"), ("b", "2")]), of(&[("a", "1b"), ("", "2")]));
    assert_ne!(of(&[("a", "1")]), of(&[("a", "2")]));
}

#[test]
fn values_are_not_shown_in_logs() {
    let entries = Entries::new([("password".to_owned(), Bytes::from("hush"))].into());
    let shown = format!("{entries:?}");
    assert!(shown.contains("password") && !shown.contains("hush"), "{shown}");
}

#[test]
fn pods_of_the_api_and_pods_of_the_node_see_their_own_objects() {
    let mut objects = Objects::of_api([SETTINGS]);
    assert!(objects.get(Source::Api, &object("settings")).is_ok());
    assert!(matches!(
        objects.get(Source::Api, &object("other")),
        Err(Missing::Unknown(..))
    ));
    assert!(matches!(
        objects.get(Source::Folder, &object("settings")),
        Err(Missing::NoFolder(_))
    ));
    objects.local = Local::Unread;
    assert!(matches!(
        objects.get(Source::Queue, &object("settings")),
        Err(Missing::Unknown(..))
    ));
    objects.local = Local::Read(BTreeMap::new());
    assert!(matches!(
        objects.get(Source::Queue, &object("settings")),
        Err(Missing::Absent(_))
    ));
}

#[rstest]
#[case::unknown_to_known(Objects::default(), Objects::of_api([SETTINGS]))]
#[case::another_value(
    Objects::of_api([SETTINGS]),
    Objects::of_api([(ObjectKind::ConfigMap, "settings", &[("color", "red")][..])])
)]
fn what_a_pod_sees_has_a_fingerprint(#[case] before: Objects, #[case] after: Objects) {
    let pod = showing(Source::Api);
    assert_ne!(before.seen_by(&pod), after.seen_by(&pod));
    assert_ne!(before.shown_to(&pod), after.shown_to(&pod));
    assert_eq!(after.shown_to(&pod), after.clone().shown_to(&pod));
    let plain = crate::pod::testing::pod("q", vec![container("web", "web:1")]);
    assert_eq!(before.seen_by(&plain), after.seen_by(&plain));
    assert_eq!(after.shown_to(&plain), None);
}

#[tokio::test]
async fn a_folder_tells_what_its_files_say_and_keeps_what_a_broken_one_said() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("objects");
    let sender = ObjectsSender::new();
    let objects = sender.subscribe();
    let local = LocalObjects::new(folder.clone(), sender).unwrap();
    let shutdown = Shutdown::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(local.run(shutdown.clone()));

    let pod = showing(Source::Folder);
    let write = |text: &str| std::fs::write(folder.join("all.yaml"), text).unwrap();
    let manifest = |color: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  color: {color}\n")
    };
    let told = |expected: Option<&'static str>| {
        let mut objects = objects.clone();
        async move {
            let is_told = |objects: &Objects| {
                let found = objects.get(Source::Folder, &object("settings")).ok();
                found
                    .and_then(|entries| entries.get("color"))
                    .map(|value| &value[..])
                    == expected.map(str::as_bytes)
            };
            let soon = std::time::Duration::from_secs(20);
            tokio::time::timeout(soon, objects.wait_for(is_told))
                .await
                .unwrap()
                .unwrap();
        }
    };
    write(&manifest("blue"));
    told(Some("blue")).await;
    write(&manifest("green"));
    told(Some("green")).await;
    // Neither a broken file nor one of another kind says anything new.
    write("apiVersion: v1\nkind: ConfigMap\n");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    told(Some("green")).await;
    std::fs::remove_file(folder.join("all.yaml")).unwrap();
    told(None).await;
    assert!(objects.borrow().unknown_to(&pod).is_empty());
    shutdown.cancel();
    tasks.join_next().await.unwrap().unwrap().unwrap();
}
