use std::sync::Arc;

use clone8s::v1::{AppArmorProfile, Capabilities, Sysctl};
use rstest::rstest;

use super::*;
use crate::pod::testing::{container, pod};

type Edit = fn(&mut PodSpec);

fn node() -> NodeFacts {
    NodeFacts {
        cgroup_parent: "/clone8s/podu".to_owned(),
        log_root: "/logs".into(),
        memory: 1 << 30,
        page_sizes: Vec::new(),
        resolv_conf: String::new(),
        users: None,
        host_ip: "192.0.2.1".into(),
        seccomp_profiles: "/profiles".into(),
        hostname: "web".into(),
    }
}

fn spec(edit: impl FnOnce(&mut PodSpec)) -> PodSpec {
    let mut pod = pod("web", vec![container("app", "app:1")]);
    let spec = Arc::make_mut(&mut pod.pod).spec.get_or_insert_default();
    edit(spec);
    spec.clone()
}

fn of_pod(spec: &mut PodSpec) -> &mut PodSecurityContext {
    spec.security_context.get_or_insert_default()
}

fn own(spec: &mut PodSpec) -> &mut SecurityContext {
    spec.containers[0].security_context.get_or_insert_default()
}

#[allow(clippy::unnecessary_wraps, reason = "as it is taken")]
fn seccomp(kind: &str, local: &str) -> Option<SeccompProfile> {
    Some(SeccompProfile {
        r#type: kind.into(),
        localhost_profile: local.into(),
    })
}

fn of_app(spec: &PodSpec, user: Option<&ImageUser>) -> LinuxContainerSecurityContext {
    of_container(spec, &spec.containers[0], user, &node())
}

#[test]
fn a_container_has_what_it_says_itself_and_else_what_its_pod_says() {
    let spec = spec(|spec| {
        *of_pod(spec) = PodSecurityContext {
            run_as_user: Some(1000),
            run_as_group: Some(3000),
            run_as_non_root: Some(true),
            supplemental_groups: vec![4000, 2000],
            supplemental_groups_policy: "Strict".into(),
            fs_group: Some(2000),
            seccomp_profile: seccomp("Unconfined", ""),
            app_armor_profile: Some(AppArmorProfile {
                r#type: "Localhost".into(),
                localhost_profile: "mine".into(),
            }),
            se_linux_options: Some(SeLinuxOptions {
                level: "s0".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        *own(spec) = SecurityContext {
            run_as_user: Some(1001),
            seccomp_profile: seccomp("Localhost", "a/b.json"),
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                add: vec!["NET_ADMIN".into()],
                drop: vec!["ALL".into()],
            }),
            ..Default::default()
        };
        spec.containers.push(container("other", "other:1"));
    });
    let app = of_app(&spec, None);
    assert_eq!(app.run_as_user, Some(Int64Value { value: 1001 }));
    assert_eq!(app.run_as_group, Some(Int64Value { value: 3000 }));
    assert_eq!(app.supplemental_groups, [4000, 2000]);
    assert_eq!(app.supplemental_groups_policy(), SupplementalGroupsPolicy::Strict);
    let local = app.seccomp.unwrap();
    assert_eq!(local.profile_type(), ProfileType::Localhost);
    assert_eq!(local.localhost_ref, "/profiles/a/b.json");
    assert_eq!(app.apparmor.unwrap().localhost_ref, "mine");
    assert_eq!(app.selinux_options.unwrap().level, "s0");
    assert!(app.no_new_privs && app.readonly_rootfs);
    assert_eq!(app.capabilities.unwrap().drop_capabilities, ["ALL"]);

    let other = of_container(&spec, &spec.containers[1], None, &node());
    assert_eq!(other.run_as_user, Some(Int64Value { value: 1000 }));
    assert_eq!(other.seccomp.unwrap().profile_type(), ProfileType::Unconfined);
    assert!(!other.no_new_privs && !other.readonly_rootfs);
    assert_eq!(of_sandbox(&spec, &node()).selinux_options.unwrap().level, "s0");
}

#[rstest]
#[case::who_says_nothing(|_: &mut PodSpec| {}, ProfileType::RuntimeDefault)]
#[case::privileged(|spec: &mut PodSpec| own(spec).privileged = Some(true), ProfileType::Unconfined)]
#[case::as_said(|spec: &mut PodSpec| own(spec).seccomp_profile = seccomp("Unconfined", ""), ProfileType::Unconfined)]
#[case::over_the_pods(
    |spec: &mut PodSpec| {
        of_pod(spec).seccomp_profile = seccomp("Unconfined", "");
        own(spec).seccomp_profile = seccomp("RuntimeDefault", "");
    },
    ProfileType::RuntimeDefault
)]
fn system_calls_are_filtered_unless_somebody_says_otherwise(
    #[case] edit: Edit,
    #[case] expected: ProfileType,
) {
    let app = of_app(&spec(edit), None);
    assert_eq!(app.seccomp.unwrap().profile_type(), expected);
    assert_eq!(app.apparmor, None, "the runtime's choice");
}

#[rstest]
#[case::by_default(|_: &mut PodSpec| {}, false)]
#[case::default(|spec: &mut PodSpec| own(spec).proc_mount = "Default".into(), false)]
#[case::unmasked(|spec: &mut PodSpec| own(spec).proc_mount = "Unmasked".into(), true)]
#[case::privileged(|spec: &mut PodSpec| own(spec).privileged = Some(true), true)]
fn paths_of_the_kernel_are_hidden_unless_asked_otherwise(#[case] edit: Edit, #[case] open: bool) {
    let app = of_app(&spec(edit), None);
    assert_eq!(app.masked_paths.is_empty(), open);
    assert_eq!(app.readonly_paths.is_empty(), open);
}

#[test]
fn a_group_needs_a_user_beside_it_which_is_the_images() {
    let spec = spec(|spec| of_pod(spec).run_as_group = Some(5));
    assert!(needs_image_user(&spec, &spec.containers[0]));
    let numbered = of_app(&spec, Some(&ImageUser::Number(7)));
    assert_eq!(numbered.run_as_user, Some(Int64Value { value: 7 }));
    let named = of_app(&spec, Some(&ImageUser::Name("web".into())));
    assert_eq!((named.run_as_user, named.run_as_username.as_str()), (None, "web"));
}

fn non_root(spec: &mut PodSpec) {
    of_pod(spec).run_as_non_root = Some(true);
}

#[rstest]
#[case::not_asked(|_: &mut PodSpec| {}, None, None)]
#[case::another_number(non_root, Some(ImageUser::Number(1000)), None)]
#[case::root(non_root, Some(ImageUser::Number(0)), Some("image will run as root"))]
#[case::a_name(non_root, Some(ImageUser::Name("web".into())), Some("non-numeric user (web)"))]
#[case::the_spec_says_whom(
    |spec: &mut PodSpec| { non_root(spec); own(spec).run_as_user = Some(7); },
    None,
    None
)]
#[case::the_spec_says_root(
    |spec: &mut PodSpec| { non_root(spec); own(spec).run_as_user = Some(0); },
    None,
    Some("runAsUser breaks non-root policy")
)]
#[case::the_container_may(
    |spec: &mut PodSpec| { non_root(spec); own(spec).run_as_non_root = Some(false); },
    Some(ImageUser::Number(0)),
    None
)]
fn who_must_not_be_root_is_not_started_as_root(
    #[case] edit: Edit,
    #[case] image: Option<ImageUser>,
    #[case] expected: Option<&str>,
) {
    let spec = spec(edit);
    let checked = check_user(&spec, &spec.containers[0], image.as_ref());
    match expected {
        None => assert_eq!(checked, Ok(())),
        Some(text) => assert!(
            checked.as_ref().is_err_and(|message| message.contains(text)),
            "{checked:?}"
        ),
    }
}

#[test]
fn an_images_user_is_a_number_a_name_or_root() {
    let image = |uid: Option<i64>, name: &str| Image {
        uid: uid.map(|value| Int64Value { value }),
        username: name.into(),
        ..Default::default()
    };
    assert_eq!(ImageUser::of(&image(Some(5), "")), ImageUser::Number(5));
    assert_eq!(ImageUser::of(&image(None, "web")), ImageUser::Name("web".into()));
    assert_eq!(ImageUser::of(&image(None, "")), ImageUser::Number(0));
}

#[test]
fn parameters_go_to_the_sandbox_by_their_names_with_dots() {
    let spec = spec(|spec| {
        of_pod(spec).sysctls = vec![Sysctl {
            name: "net/ipv4/tcp_syncookies".into(),
            value: "1".into(),
        }];
    });
    let expected = [("net.ipv4.tcp_syncookies".to_owned(), "1".to_owned())];
    assert_eq!(sysctls(&spec), expected.into());
}
