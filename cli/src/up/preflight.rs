//! What must be there before anything starts, each with the next step.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use super::layout::{Cluster, Runtime};

/// A unix socket's address holds 108 bytes with the closing zero.
const MAX_SOCKET_PATH: usize = 107;

pub(super) fn check_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("must be root: containers need mounts, namespaces and cgroups; try `sudo c8s up`");
    }
    Ok(())
}

pub(super) fn check(cluster: &Cluster) -> Result<()> {
    check_root()?;
    let layout = cluster.layout();
    let mut sockets = vec![
        layout.apiserver_socket(),
        layout.shim_socket(),
        cluster.containerd_socket(),
    ];
    // containerd adds a second one beside its own.
    sockets.push(PathBuf::from(format!(
        "{}.ttrpc",
        cluster.containerd_socket().display()
    )));
    if let Some(long) = sockets
        .iter()
        .find(|path| path.as_os_str().len() > MAX_SOCKET_PATH)
    {
        bail!(
            "{}: too long for a socket's path (at most {MAX_SOCKET_PATH} bytes); choose a shorter --run-dir",
            long.display()
        );
    }
    match &cluster.runtime {
        Runtime::Existing(socket) if !socket.exists() => bail!(
            "--containerd-socket {}: no such file; is that containerd running?",
            socket.display()
        ),
        Runtime::Existing(_) => Ok(()),
        Runtime::Own => programs(&["containerd", "runc"]),
    }
}

fn programs(names: &[&str]) -> Result<()> {
    let missing: Vec<_> = names
        .iter()
        .copied()
        .filter(|name| find(name).is_none())
        .collect();
    if !missing.is_empty() {
        bail!(
            "not found in PATH: {}; install containerd and runc (Debian, Ubuntu: apt-get install containerd runc), \
             or name a containerd that runs already with --containerd-socket",
            missing.join(", ")
        );
    }
    Ok(())
}

/// The program's path by PATH.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_the_way_to_get_it() {
        let error = programs(&["sh", "containerd-that-nobody-has"])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("not found in PATH: containerd-that-nobody-has;"),
            "{error}"
        );
        assert!(error.contains("apt-get install containerd"), "{error}");
    }

    #[test]
    fn a_run_folder_too_deep_for_sockets_is_refused() {
        let cluster = Cluster {
            run_dir: format!("/{}", "x".repeat(90)).into(),
            data_dir: "/var/lib/x".into(),
            node_name: "n1".into(),
            runtime: Runtime::Own,
            bridge: "b0".into(),
            pod_cidr: "10.1.0.0/16".parse().unwrap(),
        };
        let error = check(&cluster).unwrap_err().to_string();
        // The test may run without root, which is refused first.
        assert!(
            error.contains("--run-dir") || error.contains("must be root"),
            "{error}"
        );
    }
}
