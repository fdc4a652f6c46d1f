use std::collections::BTreeSet;

use clone8s::v1::{Event, EventSource, Node, ObjectMeta, Pod, PodSpec};
use prost::Message as _;

use super::{identity::Identity, table::RPCS, *};

const FOR_NODES: &[&str] = &[
    "PodService/CreatePod",
    "PodService/GetPod",
    "PodService/ListPods",
    "PodService/DeletePod",
    "PodService/WatchPods",
    "PodService/UpdatePodStatus",
    "NodeService/CreateNode",
    "NodeService/GetNode",
    "NodeService/ListNodes",
    "NodeService/UpdateNode",
    "NodeService/WatchNodes",
    "NodeService/UpdateNodeStatus",
    "ConfigMapService/GetConfigMap",
    "ConfigMapService/WatchConfigMaps",
    "SecretService/GetSecret",
    "SecretService/WatchSecrets",
    "EventService/CreateEvent",
    "EventService/GetEvent",
    "EventService/UpdateEvent",
    "LeaseService/CreateLease",
    "LeaseService/GetLease",
    "LeaseService/UpdateLease",
    "RegistrationService/RegisterNode",
    "RegistrationService/RenewNodeCertificate",
    "TunnelService/WatchNodeCalls",
    "TunnelService/AnswerNodeCall",
];

/// The path of every call of every service that the contracts describe.
fn every_rpc() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(clone8s::FILE_DESCRIPTOR_SET).unwrap();
    set.file
        .iter()
        .filter(|file| file.package() == "clone8s.v1")
        .flat_map(|file| &file.service)
        .flat_map(|service| {
            let name = service.name();
            service
                .method
                .iter()
                .map(move |method| format!("/clone8s.v1.{name}/{}", method.name()))
        })
        .collect()
}

fn node(name: &str) -> Identity {
    Identity::Node(name.into())
}

#[test]
fn the_table_has_every_rpc_of_the_contracts_and_no_other() {
    let table: BTreeSet<String> = RPCS
        .iter()
        .map(|(path, _)| (*path).to_owned())
        .filter(|path| path.starts_with("/clone8s."))
        .collect();
    assert_eq!(table, every_rpc());
}

#[test]
fn root_and_administrators_may_call_everything() {
    let admin = Identity::Admin { name: "ann".into() };
    for path in every_rpc() {
        assert_eq!(
            authorize(&Identity::Root, &path).unwrap(),
            Scope::Cluster,
            "{path}"
        );
        assert_eq!(authorize(&admin, &path).unwrap(), Scope::Cluster, "{path}");
    }
}

#[test]
fn a_node_may_make_the_calls_for_nodes_and_no_other() {
    for path in every_rpc() {
        let allowed = FOR_NODES.iter().any(|rpc| path.ends_with(&format!(".{rpc}")));
        match authorize(&node("n1"), &path) {
            Ok(scope) => {
                assert!(allowed, "{path} is allowed");
                assert_eq!(scope, Scope::Node("n1".into()));
            }
            Err(error) => {
                assert!(!allowed, "{path} is refused");
                assert_eq!(tonic::Status::from(error).code(), tonic::Code::PermissionDenied);
            }
        }
    }
}

#[test]
fn without_a_certificate_only_registration_is_open() {
    for path in every_rpc() {
        match authorize(&Identity::Anonymous, &path) {
            Ok(scope) => {
                assert!(path.ends_with("/RegisterNode"), "{path} is open");
                assert_eq!(scope, Scope::Nothing);
            }
            Err(error) => {
                assert_eq!(tonic::Status::from(error).code(), tonic::Code::Unauthenticated);
            }
        }
    }
}

#[test]
fn a_certificate_for_neither_is_told_so() {
    let stranger = Identity::Stranger {
        subject: "O=guests, CN=bob".into(),
    };
    for path in every_rpc() {
        if path.ends_with("/RegisterNode") {
            continue;
        }
        let error = authorize(&stranger, &path).unwrap_err();
        assert!(error.to_string().contains("CN=bob may not call"), "{error}");
    }
}

#[rstest::rstest]
#[case("/grpc.health.v1.Health/Check")]
#[case("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")]
#[case("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")]
fn health_and_reflection_are_open(#[case] path: &str) {
    assert!(authorize(&Identity::Anonymous, path).is_ok());
}

#[test]
fn a_call_that_is_not_in_the_table_is_closed() {
    assert!(authorize(&node("n1"), "/clone8s.v1.PodService/Unheard").is_err());
    assert!(authorize(&Identity::Anonymous, "/").is_err());
}

fn pod_on(node: &str) -> Pod {
    Pod {
        spec: Some(PodSpec {
            node_name: node.into(),
            ..PodSpec::default()
        }),
        ..Pod::default()
    }
}

#[test]
fn a_node_sees_itself_its_pods_and_its_events_alone() {
    let scope = Scope::Node("n1".into());
    let named = |name: &str| Node {
        metadata: Some(ObjectMeta {
            name: name.into(),
            ..ObjectMeta::default()
        }),
        ..Node::default()
    };
    let told_by = |host: &str| Event {
        source: Some(EventSource {
            component: "kubelet".into(),
            host: host.into(),
        }),
        ..Event::default()
    };
    assert!(scope.admits_node(named("n1").node()) && !scope.admits_node(named("n2").node()));
    assert!(
        scope.admits_node(pod_on("n1").node())
            && !scope.admits_node(pod_on("n2").node())
            && !scope.admits_node(pod_on("").node())
    );
    assert!(
        scope.admits_node(told_by("n1").node())
            && !scope.admits_node(told_by("n2").node())
            && !scope.admits_node(told_by("").node())
    );
    assert!(!scope.admits_node(clone8s::v1::Secret::default().node()));
}

#[test]
fn a_node_cannot_decide_that_its_pod_is_to_go() {
    let scope = Scope::Node("n1".into());
    assert!(scope.check_delete(&pod_on("n1"), 30).is_err());
    assert!(scope.check_delete(&pod_on("n1"), 0).is_ok());
    assert!(Scope::Cluster.check_delete(&pod_on("n1"), 30).is_ok());
}
