//! The folder and the mark of one test.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;

use crate::{
    leak,
    process::{MARK, Process},
};

/// A test's own folder and id. Make it first: what a test declares first is dropped last.
///
/// Cheap to clone; the folder goes with the last clone.
#[derive(Debug, Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: String,
    dir: TempDir,
    environment: Vec<(String, String)>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    pub fn new() -> Self {
        Self::with_environment([])
    }

    /// One whose processes have these variables.
    pub fn with_environment(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        clone8s_daemon::process::install_tls_provider();
        // Short: a unix socket's path holds 107 bytes.
        let dir = tempfile::Builder::new()
            .prefix("c8t")
            .tempdir()
            .expect("a temporary folder");
        let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        Self {
            inner: Arc::new(Inner {
                id,
                dir,
                environment: variables.into_iter().collect(),
            }),
        }
    }

    /// Eight hexadecimal digits that no other test has.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    pub fn dir(&self) -> &Path {
        self.inner.dir.path()
    }

    /// A new folder in the test's.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder in the temporary folder");
        path
    }

    /// A process that carries the test's mark and logs to the test's folder.
    pub fn process(&self, name: &str, program: impl Into<std::ffi::OsString>) -> Process {
        Process::new(self.dir(), name, program)
            .env(MARK, self.id())
            .envs(self.inner.environment.iter().cloned())
    }

    /// Panics when anything of this test is left: a process, a mount, a network namespace.
    /// Call it when everything that the test started should be gone.
    pub async fn assert_nothing_left(&self) {
        crate::wait::until("the test leaves nothing behind", || async {
            let left = leak::of(self);
            anyhow::ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
            Ok(())
        })
        .await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A mount that a failed test left would make the folder's removal reach into it.
        leak::unmount_below(self.dir.path());
    }
}
