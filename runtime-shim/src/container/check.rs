//! What is wrong with a container's config in itself, by field.

use std::path::{Component, Path};

use clone8s::cri;

use crate::{
    error::{Error, Result},
    oci::not_a_plain_path,
    sandbox,
};

pub(crate) fn check(config: &cri::ContainerConfig, of_sandbox: &cri::PodSandboxConfig) -> Result<()> {
    let refuse = |field: &str, problem: &str| Err(Error::invalid(format!("config.{field}"), problem));
    if config
        .metadata
        .as_ref()
        .is_none_or(|metadata| metadata.name.is_empty())
    {
        return refuse("metadata.name", "missing");
    }
    if config.image.as_ref().is_none_or(|image| image.image.is_empty()) {
        return refuse("image.image", "missing");
    }
    for (field, words) in [("command", &config.command), ("args", &config.args)] {
        if let Some(index) = words.iter().position(|word| word.contains('\0')) {
            return refuse(&format!("{field}[{index}]"), "has a NUL in it");
        }
    }
    if let Some(index) = config.envs.iter().position(|env| env.value.contains(&0)) {
        return refuse(&format!("envs[{index}].value"), "has a NUL in it");
    }
    if !config.working_dir.is_empty()
        && let Some(problem) = not_a_plain_path(&config.working_dir)
    {
        return refuse("working_dir", &format!("{:?} {problem}", config.working_dir));
    }
    let log = Path::new(&config.log_path);
    if !log
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return refuse(
            "log_path",
            &format!(
                "{:?} must be relative to the log directory and within it",
                config.log_path
            ),
        );
    }
    let Some(security) = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
    else {
        return Ok(());
    };
    if security.privileged && !sandbox::is_privileged(of_sandbox) {
        return refuse(
            "linux.security_context.privileged",
            "its sandbox is not privileged, so that no container in it can be",
        );
    }
    for (field, paths) in [
        ("masked_paths", &security.masked_paths),
        ("readonly_paths", &security.readonly_paths),
    ] {
        for (index, path) in paths.iter().enumerate() {
            if let Some(problem) = not_a_plain_path(path) {
                let field = format!("linux.security_context.{field}[{index}]");
                return refuse(&field, &format!("{path:?} {problem}"));
            }
        }
    }
    Ok(())
}

pub(super) fn is_privileged(config: &cri::ContainerConfig) -> bool {
    let security = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    security.is_some_and(|security| security.privileged)
}
