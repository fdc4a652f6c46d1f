//! The rules of what a container mounts.

use crate::{
    names,
    rules::check::{Check, Seen},
    v1::{Container, PodSpec, VolumeMount},
};

const MAX_MOUNTS: usize = 100;
const MAX_SUB_PATH: usize = 4096;

pub(super) fn check_mounts(c: &mut Check, container: &Container, spec: &PodSpec) {
    let mut paths = Seen::new();
    c.list(
        "volumeMounts",
        &container.volume_mounts,
        MAX_MOUNTS,
        |c, mount| {
            c.field("name", |c| {
                let known = || spec.volumes.iter().map(|volume| volume.name.as_str());
                if known().any(|name| name == mount.name) {
                    return;
                }
                let mut sentence = format!("{:?} is not a volume of the pod", mount.name);
                if let Some(near) = names::nearest(&mount.name, known()) {
                    sentence = format!("{sentence}; did you mean {near:?}?");
                }
                c.wrong(sentence);
            });
            c.field("mountPath", |c| {
                c.absolute_path(&mount.mount_path);
                if paths.again(mount.mount_path.trim_end_matches('/').to_owned()) {
                    c.wrong(format!("{:?} is mounted already", mount.mount_path));
                }
            });
            c.field("subPath", |c| check_sub_path(c, &mount.sub_path));
            c.field("subPathExpr", |c| {
                check_sub_path(c, &mount.sub_path_expr);
                if !mount.sub_path_expr.is_empty() && !mount.sub_path.is_empty() {
                    c.wrong("cannot be beside subPath: one of them says which part of the volume");
                }
            });
            check_propagation(c, container, mount);
            check_recursive_read_only(c, mount);
        },
    );
}

fn check_sub_path(c: &mut Check, path: &str) {
    c.at_most(path, MAX_SUB_PATH);
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        c.wrong(format!("must be a relative path without \"..\", but is {path:?}"));
    }
}

fn check_propagation(c: &mut Check, container: &Container, mount: &VolumeMount) {
    c.field("mountPropagation", |c| {
        let propagations = ["", "None", "HostToContainer", "Bidirectional"];
        c.one_of(&mount.mount_propagation, &propagations);
        let security = container.security_context.as_ref();
        let is_privileged = security.is_some_and(|security| security.privileged == Some(true));
        if mount.mount_propagation == "Bidirectional" && !is_privileged {
            c.wrong("needs a privileged container: its mounts become the node's");
        }
    });
}

fn check_recursive_read_only(c: &mut Check, mount: &VolumeMount) {
    c.field("recursiveReadOnly", |c| {
        let words = ["", "Disabled", "IfPossible", "Enabled"];
        c.one_of(&mount.recursive_read_only, &words);
        if !matches!(mount.recursive_read_only.as_str(), "IfPossible" | "Enabled") {
            return;
        }
        if !mount.read_only {
            c.wrong("needs readOnly beside it");
        }
        if !matches!(mount.mount_propagation.as_str(), "" | "None") {
            c.wrong("cannot be beside mountPropagation: what comes later would not be read-only");
        }
    });
}
