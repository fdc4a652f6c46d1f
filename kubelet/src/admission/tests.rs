use clone8s::v1::ContainerPort;

use super::*;
use crate::pod::testing::{container, pod};

fn with_port(name: &str, port: i32, created: i64) -> DesiredPod {
    let mut pod = pod(name, vec![container("a", "a:1")]);
    edit(&mut pod, |pod| {
        pod.metadata.as_mut().unwrap().creation_timestamp = Some(pbjson_types::Timestamp {
            seconds: created,
            nanos: 0,
        });
        pod.spec.as_mut().unwrap().containers[0].ports = vec![ContainerPort {
            container_port: 80,
            host_port: port,
            ..Default::default()
        }];
    });
    pod
}

fn edit(pod: &mut DesiredPod, change: impl FnOnce(&mut Pod)) {
    change(Arc::make_mut(&mut pod.pod));
}

fn admit(pods: &[DesiredPod], running: &[&DesiredPod]) -> BTreeMap<String, Want> {
    let desired = Arc::new(pods.iter().map(|pod| (pod.key(), pod.clone())).collect());
    let running = running.iter().map(|pod| pod.uid()).collect();
    let wants = Admitted::new(Vec::new()).admit(&desired, &running, &Evictions::default());
    wants.into_iter().map(|(key, want)| (key.name, want)).collect()
}

fn refusal(want: &Want) -> Option<&Refusal> {
    match want {
        Want::Refuse { refusal, .. } => Some(refusal),
        _ => None,
    }
}

#[test]
fn of_two_pods_that_want_one_port_the_older_runs() {
    let (young, old) = (with_port("a", 8080, 200), with_port("b", 8080, 100));
    let wants = admit(&[young, old], &[]);
    assert!(matches!(wants["b"], Want::Run(_)));
    let refusal = refusal(&wants["a"]).unwrap();
    assert_eq!(refusal.reason, "HostPortConflict");
    assert!(
        refusal.message.contains("8080/TCP is taken by pod default/b"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_pod_that_runs_keeps_its_port() {
    let (young, old) = (with_port("a", 8080, 200), with_port("b", 8080, 100));
    let wants = admit(&[young.clone(), old], &[&young]);
    assert!(matches!(wants["a"], Want::Run(_)));
    assert!(refusal(&wants["b"]).is_some());
}

#[test]
fn different_addresses_or_protocols_share_a_port() {
    let mut one = with_port("a", 53, 1);
    let mut other = with_port("b", 53, 1);
    edit(&mut one, |pod| {
        pod.spec.as_mut().unwrap().containers[0].ports[0].host_ip = "127.0.0.1".into();
    });
    edit(&mut other, |pod| {
        pod.spec.as_mut().unwrap().containers[0].ports[0].host_ip = "127.0.0.2".into();
    });
    assert!(
        admit(&[one.clone(), other], &[])
            .values()
            .all(|want| refusal(want).is_none())
    );
    let mut udp = with_port("c", 53, 1);
    edit(&mut udp, |pod| {
        pod.spec.as_mut().unwrap().containers[0].ports[0].protocol = "UDP".into();
    });
    assert!(
        admit(&[one.clone(), udp], &[])
            .values()
            .all(|want| refusal(want).is_none())
    );
    let every = with_port("d", 53, 2);
    assert!(refusal(&admit(&[one, every], &[])["d"]).is_some());
}

#[test]
fn a_terminating_pod_holds_its_port_until_it_is_gone() {
    let mut leaving = with_port("a", 8080, 100);
    edit(&mut leaving, |pod| {
        pod.metadata.as_mut().unwrap().deletion_timestamp = Some(pbjson_types::Timestamp::default());
    });
    let next = with_port("b", 8080, 200);
    let wants = admit(&[leaving.clone(), next.clone()], &[&leaving]);
    assert!(matches!(wants["a"], Want::Stop { pod: Some(_) }));
    assert!(refusal(&wants["b"]).is_some());
    assert!(refusal(&admit(&[leaving, next], &[])["b"]).is_none());
}

#[test]
fn two_pods_cannot_have_one_address() {
    let fixed = |name: &str| {
        let mut pod = pod(name, vec![container("a", "a:1")]);
        edit(&mut pod, |pod| {
            pod.spec.as_mut().unwrap().pod_ip = "10.88.0.9".into();
        });
        pod
    };
    let wants = admit(&[fixed("a"), fixed("b")], &[]);
    assert!(matches!(wants["a"], Want::Run(_)));
    assert_eq!(refusal(&wants["b"]).unwrap().reason, "PodIPConflict");
}

#[test]
fn a_pod_that_breaks_the_rules_is_refused_with_every_reason() {
    let broken = pod("a", vec![container("Not A Label", "a:1"), container("b", "")]);
    let wants = admit(&[broken], &[]);
    let refusal = refusal(&wants["a"]).unwrap();
    assert_eq!(refusal.reason, "InvalidPod");
    assert!(
        refusal.message.contains("spec.containers[0].name"),
        "{}",
        refusal.message
    );
    assert!(
        refusal.message.contains("spec.containers[1].image"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_pod_without_a_spec_is_refused_not_a_crash() {
    let mut hollow = pod("a", Vec::new());
    edit(&mut hollow, |pod| pod.spec = None);
    assert!(refusal(&admit(&[hollow], &[])["a"]).is_some());
}
