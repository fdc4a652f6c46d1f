//! The way from a client to the apiserver: a socket of its own before the apiserver's, on which connections can break and
//! what is sent can stay away.

use std::path::{Path, PathBuf};

use clone8s_daemon::unix;
use futures::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use crate::schedule::Way;

/// Dropping it ends its connections.
#[derive(Debug)]
pub(crate) struct Link {
    path: PathBuf,
    way: watch::Sender<Way>,
    /// Counts what breaks every connection there is.
    breaks: watch::Sender<u32>,
    _serving: JoinSet<()>,
}

impl Link {
    /// Clients connect to `path`.
    pub(crate) async fn open(path: PathBuf, apiserver: &Path) -> Self {
        let (way, breaks) = (watch::Sender::new(Way::Open), watch::Sender::new(0));
        let mut connections = unix::listen(&path).await.unwrap();
        let apiserver = apiserver.to_owned();
        let (is, broken) = (way.subscribe(), breaks.subscribe());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Some(Ok(client)) = connections.next().await {
                while open.try_join_next().is_some() {}
                open.spawn(carry(client, apiserver.clone(), is.clone(), broken.clone()));
            }
        });
        Self {
            path,
            way,
            breaks,
            _serving: serving,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Breaks every connection that there is, as the end of the apiserver's process does.
    pub(crate) fn break_all(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }
}

async fn carry(
    client: UnixStream,
    apiserver: PathBuf,
    way: watch::Receiver<Way>,
    mut broken: watch::Receiver<u32>,
) {
    broken.mark_unchanged();
    let mut is = way.clone();
    let carrying = async {
        let mut is = way.clone();
        // A connection that nobody answers waits.
        is.wait_for(|way| *way != Way::Silent).await.ok()?;
        let server = UnixStream::connect(&apiserver).await.ok()?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = pump(from_client, to_server, way.clone()) => {}
            () = pump(from_server, to_client, way.clone()) => {}
        }
        Some(())
    };
    tokio::select! {
        _ = carrying => {}
        _ = is.wait_for(|way| *way == Way::Broken) => {}
        _ = broken.changed() => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        // Which comes again, as TCP sees to it, once the way is open.
        if way.wait_for(|way| *way == Way::Open).await.is_err()
            || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}
