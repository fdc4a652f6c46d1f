//! `serve`: the pod's server, one thread, until the pod has no containers any more.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    task::{JoinSet, LocalSet},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    args::Args,
    events::Events,
    failure::{Failure, Result},
    pod::Pod,
    service, ttrpc,
};

/// How long a server without containers waits for one: containerd may have died between a start and what follows it,
/// or keep a connection for a container whose deletion it has given up when its caller went away.
const IDLE: Duration = Duration::from_secs(15);
/// How long connections may take to end after the last container's.
const GOODBYE: Duration = Duration::from_secs(3);

pub(crate) fn serve(args: &Args, socket: &Path) -> Result<()> {
    let failed = || Failure::file::<io::Error>("serve", socket);
    // Signals for containerd's process group are not for this one.
    rustix::process::setsid().map_err(Failure::file("serve", socket))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Failure::file("serve", socket))?;
    die_before_containerd();
    let listener: OwnedFd = io::stdin().as_fd().try_clone_to_owned().map_err(failed())?;
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true).map_err(failed())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(failed())?;
    LocalSet::new()
        .block_on(&runtime, run(args, socket, listener))
        .map_err(failed())
}

/// As containerd's own shims: where memory is short, a shim goes before containerd, whose score it has inherited.
fn die_before_containerd() {
    let file = "/proc/self/oom_score_adj";
    let score = fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(score) = score.filter(|score| *score < 1000) {
        // A higher score is always allowed; without it nothing is lost but a preference.
        let _ = fs::write(file, (score + 1).to_string());
    }
}

async fn run(args: &Args, socket: &Path, listener: std::os::unix::net::UnixListener) -> io::Result<()> {
    // First of all: no child's end may be missed.
    let mut children = signal(SignalKind::child())?;
    let listener = UnixListener::from_std(listener)?;
    let (events, publisher) = Events::start(&args.namespace, events_socket(args));
    let pod = Rc::new(Pod::new(&args.namespace, socket.to_owned(), events));
    let mut connections = JoinSet::new();
    loop {
        let end = pod.empty_from().map(|from| from.max(Instant::now() + IDLE));
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let pod = Rc::clone(&pod);
                connections.spawn_local(answer(pod, stream));
            }
            Some(()) = children.recv() => pod.reaper.reap(),
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = pod.stopping.notified() => break,
            // How long to wait is another matter now.
            () = pod.lessened.notified() => {}
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                // A call of a connection that was there may have come meanwhile.
                if pod.is_empty() {
                    break;
                }
            }
        }
    }
    // Whoever comes now starts another server.
    drop(listener);
    let _ = fs::remove_file(socket);
    let _ = timeout(GOODBYE, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    drop((connections, pod));
    publisher.flush().await;
    Ok(())
}

async fn answer(pod: Rc<Pod>, stream: UnixStream) {
    // A broken connection ends; containerd makes another.
    let _ = ttrpc::serve(stream, move |request| service::handle(Rc::clone(&pod), request)).await;
}

/// containerd tells its shims, and otherwise has it beside its gRPC socket.
fn events_socket(args: &Args) -> Option<PathBuf> {
    match std::env::var_os("TTRPC_ADDRESS") {
        Some(path) if !path.is_empty() => Some(path.into()),
        _ if args.address.is_empty() => None,
        _ => Some(format!("{}.ttrpc", args.address).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::ContainerRequest;

    /// A server as [`run`] runs it, after `call` on a connection that is closed again; how long it lived.
    fn lifetime_after(call: impl FnOnce(&std::os::unix::net::UnixStream)) -> Duration {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        call(&stream);
        drop(stream);
        LocalSet::new().block_on(&runtime, async {
            let began = Instant::now();
            run(&Args::default(), &socket, listener).await.unwrap();
            assert!(!socket.exists());
            began.elapsed()
        })
    }

    #[test]
    fn a_server_that_nobody_calls_ends() {
        assert!(lifetime_after(|_| ()) < IDLE + Duration::from_secs(1));
    }

    #[test]
    fn a_server_waits_for_an_announced_container_and_ends_when_it_does_not_come() {
        let lifetime = lifetime_after(|stream| {
            let message = ContainerRequest { id: "c1".into() };
            ttrpc::send_blocking(stream, service::POD, "Expect", &message).unwrap();
        });
        assert!(lifetime > IDLE + Duration::from_secs(5), "{lifetime:?}");
        assert!(lifetime < Duration::from_secs(50), "{lifetime:?}");
    }
}
