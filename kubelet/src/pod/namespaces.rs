//! Which namespaces of the node a pod and its containers use, and which are their own.

use clone8s::{
    cri::{NamespaceMode, NamespaceOption, UserNamespace},
    v1::PodSpec,
};

use crate::user_ranges::UserRange;

/// The same for the sandbox and for each of its containers (CRI v1, NamespaceOption).
pub(super) fn options(spec: &PodSpec, users: Option<UserRange>) -> NamespaceOption {
    let of_node = |is_shared: bool| {
        if is_shared {
            NamespaceMode::Node
        } else {
            NamespaceMode::Pod
        }
    };
    let processes = match (spec.host_pid, spec.share_process_namespace) {
        (true, _) => NamespaceMode::Node,
        (false, Some(true)) => NamespaceMode::Pod,
        (false, _) => NamespaceMode::Container,
    };
    NamespaceOption {
        network: of_node(spec.host_network).into(),
        pid: processes.into(),
        ipc: of_node(spec.host_ipc).into(),
        userns_options: users.map(|users| UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: users.mappings(),
            gids: users.mappings(),
        }),
        ..Default::default()
    }
}

/// Whether the pod has users and groups of its own.
pub(super) fn has_own_users(spec: &PodSpec) -> bool {
    spec.host_users == Some(false)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    type Edit = fn(&mut PodSpec);

    #[rstest]
    #[case::by_default(|_: &mut PodSpec| {}, [NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Pod])]
    #[case::network(
        |spec: &mut PodSpec| spec.host_network = true,
        [NamespaceMode::Node, NamespaceMode::Container, NamespaceMode::Pod]
    )]
    #[case::processes_of_the_node(
        |spec: &mut PodSpec| spec.host_pid = true,
        [NamespaceMode::Pod, NamespaceMode::Node, NamespaceMode::Pod]
    )]
    #[case::processes_of_the_pod(
        |spec: &mut PodSpec| spec.share_process_namespace = Some(true),
        [NamespaceMode::Pod, NamespaceMode::Pod, NamespaceMode::Pod]
    )]
    #[case::processes_of_each(
        |spec: &mut PodSpec| spec.share_process_namespace = Some(false),
        [NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Pod]
    )]
    #[case::ipc(
        |spec: &mut PodSpec| spec.host_ipc = true,
        [NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Node]
    )]
    fn the_modes_are_those_of_the_spec(#[case] edit: Edit, #[case] expected: [NamespaceMode; 3]) {
        let mut spec = PodSpec::default();
        edit(&mut spec);
        let options = options(&spec, None);
        assert_eq!([options.network(), options.pid(), options.ipc()], expected);
        assert_eq!(options.userns_options, None);
    }

    #[test]
    fn users_of_the_pods_own_are_its_range() {
        let spec = PodSpec {
            host_users: Some(false),
            ..Default::default()
        };
        assert!(has_own_users(&spec) && !has_own_users(&PodSpec::default()));
        let range = UserRange::nth(3);
        let users = options(&spec, Some(range)).userns_options.unwrap();
        assert_eq!(users.mode(), NamespaceMode::Pod);
        assert_eq!(users.uids, range.mappings());
        assert_eq!(users.gids, range.mappings());
    }
}
