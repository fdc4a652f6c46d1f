use std::collections::BTreeMap;

use clone8s::{
    object::Object as _,
    v1::{
        ConfigMap, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HostPathVolumeSource, ObjectMeta,
        Pod, PodSpec, Probe, Secret, Volume, volume::Source,
    },
};
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp { seconds: 1, nanos: 0 };
const LATER: Timestamp = Timestamp { seconds: 2, nanos: 0 };

fn manager(name: &str) -> Manager {
    Manager::parse(name, Operation::Apply).unwrap().unwrap()
}

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect()
}

fn labelled(labels: &[(&str, &str)]) -> Pod {
    Pod {
        metadata: Some(ObjectMeta {
            name: "web".into(),
            labels: map(labels),
            ..ObjectMeta::default()
        }),
        ..Pod::default()
    }
}

fn pod(containers: Vec<Container>) -> Pod {
    Pod {
        spec: Some(PodSpec {
            containers,
            ..PodSpec::default()
        }),
        ..labelled(&[])
    }
}

fn container(name: &str, image: &str) -> Container {
    Container {
        name: name.into(),
        image: image.into(),
        ..Container::default()
    }
}

/// As the registry does it.
fn stored<K: Kind>(applied: Applied<K>, current: &K) -> K {
    let mut object = applied.object;
    let given = std::mem::take(object.metadata_mut());
    *object.metadata_mut() = ObjectMeta {
        labels: given.labels,
        annotations: given.annotations,
        finalizers: given.finalizers,
        owner_references: given.owner_references,
        managed_fields: applied.managed_fields,
        ..current.metadata().cloned().unwrap_or_default()
    };
    object
}

fn applied<K: Kind>(given: &K, current: &K, by: &str) -> K {
    let applied = apply(given, current, &manager(by), NOW).unwrap();
    assert_eq!(applied.conflicts, []);
    stored(applied, current)
}

fn conflicts<K: Kind>(given: &K, current: &K, by: &str) -> Vec<String> {
    let applied = apply(given, current, &manager(by), NOW).unwrap();
    let told = applied
        .conflicts
        .iter()
        .map(|it| format!("{} of {}", it.field, it.manager));
    told.collect()
}

fn labels(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.as_ref().unwrap().labels.clone()
}

fn containers(pod: &Pod) -> &[Container] {
    &pod.spec.as_ref().unwrap().containers
}

#[test]
fn what_is_named_no_more_goes_and_what_others_have_stays() {
    let bare = labelled(&[("theirs", "x")]);
    let first = applied(&labelled(&[("a", "1"), ("b", "2")]), &bare, "one");
    let second = applied(&labelled(&[("c", "3"), ("b", "2")]), &first, "two");
    let third = applied(&labelled(&[("a", "9")]), &second, "one");
    // "b" is two's as well, and "theirs" is nobody's.
    assert_eq!(
        labels(&third),
        map(&[("a", "9"), ("b", "2"), ("c", "3"), ("theirs", "x")])
    );
    let last = applied(&labelled(&[]), &third, "two");
    assert_eq!(labels(&last), map(&[("a", "9"), ("theirs", "x")]));
}

#[test]
fn a_field_of_another_manager_is_a_conflict_until_it_is_forced() {
    let first = applied(&pod(vec![container("web", "app:1")]), &pod(vec![]), "one");
    let other = pod(vec![container("web", "app:2")]);
    assert_eq!(
        conflicts(&other, &first, "two"),
        ["spec.containers[web].image of one"]
    );
    assert_eq!(
        conflicts(&pod(vec![container("web", "app:1")]), &first, "two"),
        [""; 0]
    );
    let forced = stored(apply(&other, &first, &manager("two"), NOW).unwrap(), &first);
    assert_eq!(containers(&forced)[0].image, "app:2");
    // It has changed hands.
    let again = pod(vec![container("web", "app:3")]);
    assert_eq!(
        conflicts(&again, &forced, "one"),
        ["spec.containers[web].image of two"]
    );
    assert_eq!(conflicts(&again, &forced, "two"), [""; 0]);
}

#[test]
fn elements_are_merged_by_their_names_in_the_order_of_the_manifest() {
    let live = pod(vec![
        container("injected", "proxy:1"),
        container("web", "app:1"),
        container("tail", "t:1"),
    ]);
    let given = pod(vec![container("init", "i:1"), container("web", "app:2")]);
    let next = applied(&given, &live, "one");
    let names: Vec<_> = containers(&next)
        .iter()
        .map(|it| (it.name.as_str(), it.image.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("init", "i:1"),
            ("injected", "proxy:1"),
            ("web", "app:2"),
            ("tail", "t:1")
        ]
    );
    assert_eq!(applied(&given, &next, "one"), next);
}

#[test]
fn an_element_that_is_dropped_goes_with_its_defaults_unless_another_has_something_in_it() {
    let probed = Container {
        liveness_probe: Some(Probe {
            period_seconds: 5,
            ..Probe::default()
        }),
        ..container("web", "app:1")
    };
    let mut live = applied(&pod(vec![probed, container("side", "s:1")]), &pod(vec![]), "one");
    for container in &mut live.spec.as_mut().unwrap().containers {
        container.image_pull_policy = "IfNotPresent".into();
        if let Some(probe) = &mut container.liveness_probe {
            probe.timeout_seconds = 1;
        }
    }
    let next = applied(&pod(vec![container("web", "app:1")]), &live, "one");
    assert_eq!(containers(&next).len(), 1);
    assert_eq!(containers(&next)[0].liveness_probe, None);
    assert_eq!(containers(&next)[0].image_pull_policy, "IfNotPresent");

    let side = Container {
        working_dir: "/srv".into(),
        ..container("side", "")
    };
    let shared = applied(&pod(vec![side]), &live, "two");
    let next = applied(&pod(vec![container("web", "app:1")]), &shared, "one");
    assert_eq!(containers(&next)[1].working_dir, "/srv");
    assert_eq!(containers(&next)[1].image, "");
}

#[test]
fn ports_are_told_apart_by_number_and_protocol() {
    let port = |number, protocol: &str| ContainerPort {
        container_port: number,
        protocol: protocol.into(),
        ..ContainerPort::default()
    };
    let with = |ports| {
        pod(vec![Container {
            ports,
            ..container("dns", "dns:1")
        }])
    };
    let mut live = applied(&with(vec![port(53, ""), port(53, "UDP")]), &pod(vec![]), "one");
    // The default is what the key stands for already.
    live.spec.as_mut().unwrap().containers[0].ports[0].protocol = "TCP".into();
    let next = applied(&with(vec![port(53, "")]), &live, "one");
    assert_eq!(containers(&next)[0].ports, [port(53, "TCP")]);
}

#[test]
fn one_source_of_a_volume_takes_the_place_of_another() {
    let with = |source| {
        let mut pod = pod(vec![]);
        pod.spec.as_mut().unwrap().volumes = vec![Volume {
            name: "data".into(),
            source: Some(source),
        }];
        pod
    };
    let empty = with(Source::EmptyDir(EmptyDirVolumeSource::default()));
    let host = with(Source::HostPath(HostPathVolumeSource {
        path: "/srv".into(),
        ..HostPathVolumeSource::default()
    }));
    let live = applied(&empty, &pod(vec![]), "one");
    let next = applied(&host, &live, "one");
    assert_eq!(
        next.spec.as_ref().unwrap().volumes,
        host.spec.as_ref().unwrap().volumes
    );
    assert_eq!(
        conflicts(&host, &live, "two"),
        ["spec.volumes[data].emptyDir of one"]
    );
}

#[test]
fn two_elements_of_one_name_are_refused() {
    let twice = Container {
        env: ["A", "B", "A"]
            .map(|name| EnvVar {
                name: name.into(),
                ..EnvVar::default()
            })
            .into(),
        ..container("web", "app:1")
    };
    let error = apply(&pod(vec![twice]), &pod(vec![]), &manager("one"), NOW).unwrap_err();
    assert!(error.to_string().contains("spec.containers[0].env[2]"), "{error}");
}

#[test]
fn an_update_takes_the_fields_that_it_changes() {
    let live = applied(&labelled(&[("a", "1"), ("b", "2")]), &labelled(&[]), "one");
    let mut next = live.clone();
    next.metadata_mut().labels = map(&[("a", "9"), ("c", "3")]);
    let managed = managed_after_update(&live, &next, None, NOW).unwrap().unwrap();
    let told: Vec<_> = managed
        .iter()
        .map(|it| (it.manager.as_str(), it.operation.as_str(), it.fields.as_str()))
        .collect();
    assert_eq!(told, [("unnamed", "Update", "metadata(labels([a],[c]))")]);
    next.metadata_mut().managed_fields = managed;
    assert_eq!(
        conflicts(&labelled(&[("a", "1")]), &next, "one"),
        ["metadata.labels[a] of unnamed"]
    );
}

#[test]
fn nobody_is_recorded_where_nobody_asked() {
    let (before, after) = (labelled(&[]), labelled(&[("a", "1")]));
    assert_eq!(managed_after_update(&before, &after, None, NOW).unwrap(), None);
}

#[test]
fn a_time_changes_with_the_fields_alone() {
    let given = labelled(&[("a", "1")]);
    let live = applied(&given, &labelled(&[]), "one");
    let again = apply(&given, &live, &manager("one"), LATER).unwrap();
    assert_eq!(stored(again, &live), live);
}

#[test]
fn neither_status_nor_what_the_apiserver_gives_is_anybodys() {
    let mut given = labelled(&[]);
    given.metadata_mut().uid = "uid".into();
    given.status.get_or_insert_default().phase = "Running".into();
    let applied = apply(&given, &labelled(&[]), &manager("one"), NOW).unwrap();
    assert_eq!(applied.managed_fields, []);
    assert_eq!(applied.object, Pod::default());
}

#[test]
fn only_the_keys_of_a_secret_are_recorded() {
    let mut secret = Secret::default();
    secret.data.insert("password".into(), "hunter2".into());
    let live = applied(&secret, &Secret::default(), "one");
    let managed = &live.metadata().unwrap().managed_fields;
    assert_eq!(managed[0].fields, "data([password])");
}

fn any_data() -> impl Strategy<Value = ConfigMap> {
    let entries = || prop::collection::btree_map("[a-d]", "[0-2]", 0..4);
    (entries(), entries(), any::<bool>()).prop_map(|(data, labels, immutable)| ConfigMap {
        metadata: Some(ObjectMeta {
            labels,
            ..ObjectMeta::default()
        }),
        data,
        immutable,
        ..ConfigMap::default()
    })
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let env = prop::collection::btree_map("[A-C]", "[0-2]", 0..3);
    let one = ("[0-2]", prop::collection::vec("[a-b]", 0..2), env);
    prop::collection::btree_map("[a-c]", one, 0..3).prop_map(|containers| {
        let containers = containers
            .into_iter()
            .map(|(name, (image, command, env))| Container {
                command,
                env: env
                    .into_iter()
                    .map(|(name, value)| EnvVar {
                        name,
                        value,
                        ..EnvVar::default()
                    })
                    .collect(),
                ..container(&name, &image)
            });
        pod(containers.collect())
    })
}

/// Each key its own manager's.
fn only(mut config: ConfigMap, keys: &[&str]) -> ConfigMap {
    config.data.retain(|key, _| keys.contains(&key.as_str()));
    config
        .metadata_mut()
        .labels
        .retain(|key, _| keys.contains(&key.as_str()));
    config.immutable = false;
    config
}

proptest! {
    #[test]
    fn applying_again_changes_nothing(live in any_pod(), given in any_pod()) {
        let once = applied(&given, &live, "one");
        prop_assert_eq!(applied(&given, &once, "one"), once);
    }

    #[test]
    fn the_last_manifest_of_the_only_manager_is_what_there_is(first in any_pod(), second in any_pod()) {
        let live = applied(&first, &labelled(&[]), "one");
        let next = applied(&second, &live, "one");
        prop_assert_eq!(containers(&next), containers(&second));
    }

    #[test]
    fn managers_of_different_fields_never_conflict(
        steps in prop::collection::vec((any::<bool>(), any_data()), 1..6),
    ) {
        let mut live = ConfigMap::default();
        let mut last = [ConfigMap::default(), ConfigMap::default()];
        for (first, config) in steps {
            let (by, keys): (_, &[&str]) = if first { ("one", &["a", "b"]) } else { ("two", &["c", "d"]) };
            let given = only(config, keys);
            live = applied(&given, &live, by);
            last[usize::from(!first)] = given;
        }
        let [mut expected, other] = last;
        expected.data.extend(other.data);
        prop_assert_eq!(live.data, expected.data);
    }

    #[test]
    fn what_a_manager_names_is_there_whatever_was_before(
        live in any_data(), theirs in any_data(), given in any_data(),
    ) {
        let live = applied(&theirs, &live, "two");
        let next = stored(apply(&given, &live, &manager("one"), NOW).unwrap(), &live);
        for (key, value) in &given.data {
            prop_assert_eq!(next.data.get(key), Some(value));
        }
        // And what it then drops goes, where the other has no claim.
        let left = applied(&ConfigMap::default(), &next, "one");
        for key in given.data.keys().filter(|key| !theirs.data.contains_key(*key)) {
            prop_assert!(!left.data.contains_key(key));
        }
    }
}
