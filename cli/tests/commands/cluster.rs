//! An apiserver on a socket of its own, and the commands as a person runs them against it.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    sync::Arc,
};

use clone8s_apiserver::{Apiserver, Config, HistoryArgs, StoreConfig};
use clone8s_bus::local::LocalBus;
use clone8s_daemon::Shutdown;
use tempfile::TempDir;
use tokio::{process::Command, task::JoinSet};

/// An apiserver on the embedded store; ends with the test.
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    pub(crate) data_dir: PathBuf,
    shutdown: Shutdown,
    server: JoinSet<Result<(), clone8s_apiserver::Error>>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            data_dir: folder.path().join("data"),
            folder,
            shutdown: Shutdown::new(),
            server: JoinSet::new(),
        };
        cluster.serve().await;
        cluster
    }

    async fn serve(&mut self) {
        let config = Config {
            data_dir: self.data_dir.clone(),
            store: StoreConfig::Embedded {
                path: self.data_dir.join("store.redb"),
            },
            history: HistoryArgs::default(),
            socket: self.socket(),
            tls: None,
            metrics: None,
        };
        self.shutdown = Shutdown::new();
        let server = Apiserver::start(config, Arc::new(LocalBus::new()), self.shutdown.clone())
            .await
            .unwrap();
        self.server.spawn(server.serve());
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.serve().await;
    }

    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        self.server.join_next().await.unwrap().unwrap().unwrap();
    }

    /// Goes on from another data folder, which has its store in it.
    pub(crate) async fn move_to(&mut self, data_dir: PathBuf) {
        self.data_dir = data_dir;
        self.serve().await;
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        c8s(&format!("unix://{}", self.socket().display()), args)
    }

    /// What a command that must succeed prints.
    pub(crate) async fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().await.unwrap();
        assert!(output.status.success(), "c8s {args:?}: {}", words(&output.stderr));
        words(&output.stdout)
    }

    /// What a command that must fail says.
    pub(crate) async fn refused(&self, args: &[&str]) -> String {
        failure(&self.command(args).output().await.unwrap())
    }
}

pub(crate) fn c8s(server: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c8s"));
    command
        .env_clear()
        .args(["--server", server])
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

pub(crate) fn failure(output: &Output) -> String {
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}{}",
        words(&output.stdout),
        words(&output.stderr)
    );
    words(&output.stderr)
}

pub(crate) fn words(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
