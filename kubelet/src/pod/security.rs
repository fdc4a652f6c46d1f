//! Who a pod's processes are and what they may do: from its security contexts to CRI's. Pure.

use std::path::Path;

use clone8s::{
    cri::{
        Capability, Image, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
        SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
    },
    rules::sysctl,
    v1::{Container, PodSecurityContext, PodSpec, SeLinuxOptions, SeccompProfile, SecurityContext},
};

use super::{
    cri::NodeFacts,
    hash,
    masks::{MASKED_PATHS, READONLY_PATHS},
    namespaces,
};

/// Whom an image names as its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    Number(i64),
    Name(String),
}

impl ImageUser {
    pub fn of(image: &Image) -> Self {
        match (&image.uid, image.username.as_str()) {
            (Some(uid), _) => Self::Number(uid.value),
            (None, "") => Self::Number(0),
            (None, name) => Self::Name(name.to_owned()),
        }
    }
}

/// What holds for a container: its own settings, and the pod's where it has none.
pub fn effective(spec: &PodSpec, container: &Container) -> SecurityContext {
    let mut own = container.security_context.clone().unwrap_or_default();
    let Some(pod) = &spec.security_context else {
        return own;
    };
    own.run_as_user = own.run_as_user.or(pod.run_as_user);
    own.run_as_group = own.run_as_group.or(pod.run_as_group);
    own.run_as_non_root = own.run_as_non_root.or(pod.run_as_non_root);
    own.seccomp_profile = own.seccomp_profile.or_else(|| pod.seccomp_profile.clone());
    own.app_armor_profile = own.app_armor_profile.or_else(|| pod.app_armor_profile.clone());
    own.se_linux_options = own.se_linux_options.or_else(|| pod.se_linux_options.clone());
    own
}

/// Whether the image's user must be known before the container can be made.
pub fn needs_image_user(spec: &PodSpec, container: &Container) -> bool {
    let context = effective(spec, container);
    // CRI v1, LinuxContainerSecurityContext.run_as_group: only beside a user.
    context.run_as_user.is_none() && (context.run_as_non_root == Some(true) || context.run_as_group.is_some())
}

/// Why a container that must not run as root is not started.
pub fn check_user(spec: &PodSpec, container: &Container, image: Option<&ImageUser>) -> Result<(), String> {
    let context = effective(spec, container);
    if context.run_as_non_root != Some(true) {
        return Ok(());
    }
    let name = &container.name;
    match (context.run_as_user, image) {
        (Some(0), _) => Err(format!(
            "container's runAsUser breaks non-root policy: container {name} has runAsNonRoot and runAsUser 0"
        )),
        (None, Some(ImageUser::Number(0)) | None) => Err(format!(
            "container has runAsNonRoot and image will run as root: set runAsUser of container {name}, or name another \
             user in its image"
        )),
        (Some(_), _) | (None, Some(ImageUser::Number(_))) => Ok(()),
        (None, Some(ImageUser::Name(user))) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root: set \
             runAsUser of container {name}"
        )),
    }
}

/// Whether only a runtime will do that can leave out the groups that images put their users in.
pub fn needs_strict_groups(spec: &PodSpec) -> bool {
    spec.security_context
        .as_ref()
        .is_some_and(|context| groups_policy(context) == SupplementalGroupsPolicy::Strict)
}

/// The group that the pod's volumes belong to.
pub fn fs_group(spec: &PodSpec) -> Option<u32> {
    let group = spec.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Parameters of the kernel in the sandbox's namespaces.
pub(super) fn sysctls(spec: &PodSpec) -> std::collections::BTreeMap<String, String> {
    let sysctls = spec.security_context.iter().flat_map(|context| &context.sysctls);
    sysctls
        .filter_map(|sysctl| Some((sysctl::name(&sysctl.name)?, sysctl.value.clone())))
        .collect()
}

pub(super) fn of_sandbox(spec: &PodSpec, node: &NodeFacts) -> LinuxSandboxSecurityContext {
    let none = PodSecurityContext::default();
    let context = spec.security_context.as_deref().unwrap_or(&none);
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces::options(spec, node.users)),
        privileged: hash::is_privileged(spec),
        selinux_options: context.se_linux_options.as_ref().map(se_linux),
        // Where a process holds the sandbox, it needs nothing beyond.
        seccomp: Some(profile(ProfileType::RuntimeDefault)),
        ..Default::default()
    }
}

/// `user` is the image's, where it must be known.
pub(super) fn of_container(
    spec: &PodSpec,
    container: &Container,
    user: Option<&ImageUser>,
    node: &NodeFacts,
) -> LinuxContainerSecurityContext {
    let context = effective(spec, container);
    let none = PodSecurityContext::default();
    let of_pod = spec.security_context.as_deref().unwrap_or(&none);
    let privileged = context.privileged == Some(true);
    let is_open = privileged || context.proc_mount == "Unmasked";
    let hidden = |paths: &[&str]| -> Vec<String> {
        if is_open {
            return Vec::new();
        }
        paths.iter().map(|path| (*path).to_owned()).collect()
    };
    let (uid, user_name) = match (context.run_as_user, user) {
        (Some(uid), _) => (Some(uid), String::new()),
        (None, Some(ImageUser::Number(uid))) => (Some(*uid), String::new()),
        (None, Some(ImageUser::Name(name))) => (None, name.clone()),
        (None, None) => (None, String::new()),
    };
    LinuxContainerSecurityContext {
        seccomp: Some(seccomp(
            context.seccomp_profile.as_ref(),
            privileged,
            &node.seccomp_profiles,
        )),
        apparmor: context
            .app_armor_profile
            .as_ref()
            .map(|wanted| local_profile(&wanted.r#type, || wanted.localhost_profile.clone())),
        selinux_options: context.se_linux_options.as_ref().map(se_linux),
        capabilities: context.capabilities.map(|capabilities| Capability {
            add_capabilities: capabilities.add,
            drop_capabilities: capabilities.drop,
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(namespaces::options(spec, node.users)),
        run_as_user: uid.map(|value| Int64Value { value }),
        run_as_username: user_name,
        run_as_group: context.run_as_group.map(|value| Int64Value { value }),
        supplemental_groups: groups(of_pod),
        supplemental_groups_policy: groups_policy(of_pod).into(),
        readonly_rootfs: context.read_only_root_filesystem == Some(true),
        no_new_privs: context.allow_privilege_escalation == Some(false),
        masked_paths: hidden(&MASKED_PATHS),
        readonly_paths: hidden(&READONLY_PATHS),
        ..Default::default()
    }
}

/// The group of the volumes is one of every process, too.
fn groups(context: &PodSecurityContext) -> Vec<i64> {
    let mut groups = context.supplemental_groups.clone();
    groups.extend(context.fs_group.filter(|group| !groups.contains(group)));
    groups
}

fn groups_policy(context: &PodSecurityContext) -> SupplementalGroupsPolicy {
    match context.supplemental_groups_policy.as_str() {
        "Strict" => SupplementalGroupsPolicy::Strict,
        _ => SupplementalGroupsPolicy::Merge,
    }
}

/// Whoever says nothing is confined, unless privileged.
fn seccomp(wanted: Option<&SeccompProfile>, privileged: bool, profiles: &Path) -> SecurityProfile {
    match wanted {
        Some(wanted) => local_profile(&wanted.r#type, || {
            profiles
                .join(&wanted.localhost_profile)
                .to_string_lossy()
                .into_owned()
        }),
        None if privileged => profile(ProfileType::Unconfined),
        None => profile(ProfileType::RuntimeDefault),
    }
}

fn local_profile(kind: &str, reference: impl FnOnce() -> String) -> SecurityProfile {
    match kind {
        "Localhost" => SecurityProfile {
            localhost_ref: reference(),
            ..profile(ProfileType::Localhost)
        },
        "Unconfined" => profile(ProfileType::Unconfined),
        _ => profile(ProfileType::RuntimeDefault),
    }
}

fn profile(kind: ProfileType) -> SecurityProfile {
    SecurityProfile {
        profile_type: kind.into(),
        ..Default::default()
    }
}

fn se_linux(options: &SeLinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: options.user.clone(),
        role: options.role.clone(),
        r#type: options.r#type.clone(),
        level: options.level.clone(),
    }
}

#[cfg(test)]
mod tests;
