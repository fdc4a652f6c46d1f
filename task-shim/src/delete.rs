//! `delete`: clears away what a container has left whose server is gone. containerd calls it after every container,
//! so it looks before it starts anything.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use prost::Message as _;

use crate::{
    args::Args,
    clock,
    failure::{Failure, Result},
    messages::{ContainerRequest, DeleteResponse},
    mounts,
    runtime::Runtime,
    service, ttrpc,
};

/// What containerd makes of a container whose end nobody has seen: killed.
const KILLED: u32 = 128 + 9;
/// How long the pod's server may take: a creation may be under way. containerd itself waits for five seconds.
const ANSWER: Duration = Duration::from_secs(4);

pub(crate) fn delete(args: &Args) -> Result<DeleteResponse> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(Failure::file("find", "the working directory"))?,
    };
    if let Some(response) = discard(&bundle, &args.id) {
        return Ok(response);
    }
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

/// Has the server discard the container, where both are still there: it may be in the middle of creating it.
fn discard(bundle: &Path, id: &str) -> Option<DeleteResponse> {
    let stream = UnixStream::connect(socket(bundle)?).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    let message = ContainerRequest { id: id.to_owned() };
    let answer = ttrpc::call_blocking(&stream, service::POD, "Discard", &message).ok()?;
    DeleteResponse::decode(answer.as_slice()).ok()
}

fn socket(bundle: &Path) -> Option<PathBuf> {
    let address = fs::read_to_string(bundle.join("address")).ok()?;
    address.trim().strip_prefix("unix://").map(PathBuf::from)
}

/// A server that was killed has not removed its socket.
fn remove_dead_socket(bundle: &Path) {
    let Some(socket) = socket(bundle) else {
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
