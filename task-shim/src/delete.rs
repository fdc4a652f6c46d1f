//! `delete`: clears away what a container has left whose server is gone. containerd calls it after every container,
//! so it looks before it starts anything.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    args::Args,
    clock,
    failure::{Failure, Result},
    messages::DeleteResponse,
    mounts,
    runtime::Runtime,
};

/// What containerd makes of a container whose end nobody has seen: killed.
const KILLED: u32 = 128 + 9;

pub(crate) fn delete(args: &Args) -> Result<DeleteResponse> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(Failure::file("find", "the working directory"))?,
    };
    let runtime = Runtime::recorded(&bundle);
    if let Some(runtime) = runtime.filter(|runtime| runtime.knows(&args.id)) {
        let mut command: Command = runtime.command(None);
        command.args(["delete", "--force", &args.id]);
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(Failure::file("start", runtime.program()))?;
        if !output.status.success() && runtime.knows(&args.id) {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failure::Runtime {
                call: "delete --force",
                message,
            });
        }
    }
    mounts::unmount(&bundle.join("rootfs"))?;
    remove_dead_socket(&bundle);
    Ok(DeleteResponse {
        pid: pid(&bundle),
        exit_status: KILLED,
        exited_at: Some(clock::now()),
    })
}

fn pid(bundle: &Path) -> u32 {
    fs::read_to_string(bundle.join("init.pid"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or_default()
}

/// A server that was killed has not removed its socket.
fn remove_dead_socket(bundle: &Path) {
    let Ok(address) = fs::read_to_string(bundle.join("address")) else {
        return;
    };
    let Some(socket) = address.trim().strip_prefix("unix://").map(PathBuf::from) else {
        return;
    };
    if UnixStream::connect(&socket).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    {
        // Another container's call may have been faster.
        let _ = fs::remove_file(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_with_nothing_left_starts_nothing_and_a_dead_servers_socket_goes() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        fs::write(dir.path().join("address"), format!("unix://{}", socket.display())).unwrap();
        fs::write(dir.path().join("init.pid"), "42").unwrap();
        let options = crate::messages::Options {
            binary_name: "/no/such/program".into(),
            ..Default::default()
        };
        Runtime::new(&options, "test", dir.path())
            .record(dir.path())
            .unwrap();
        let args = Args {
            id: "c1".into(),
            bundle: Some(dir.path().to_owned()),
            ..Args::default()
        };
        let answer = delete(&args).unwrap();
        assert_eq!((answer.pid, answer.exit_status), (42, 137));
        assert!(!socket.exists());
    }
}
