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
    time::{sleep, timeout},
};

use crate::{
    args::Args,
    events::Events,
    failure::{Failure, Result},
    pod::Pod,
    service, ttrpc,
};

/// How long a server without containers and callers waits for one: containerd may have died between a start and
/// what follows it.
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
        let is_idle = connections.is_empty() && pod.is_empty();
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let pod = Rc::clone(&pod);
                connections.spawn_local(answer(pod, stream));
            }
            Some(()) = children.recv() => pod.reaper.reap(),
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = pod.stopping.notified() => break,
            () = sleep(IDLE), if is_idle => break,
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
