//! The OCI runtime: runc, or any program that takes its arguments.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure, Result},
    messages::Options,
    reaper::Reaper,
};

/// Where the runtime keeps its state, as containerd's own shim has it.
const ROOT: &str = "/run/containerd/runc";
/// What systemd has told containerd, and containerd's environment us. runc takes it for an order: to wait until the
/// container says that it is ready, and to hand it descriptors.
const OF_SYSTEMD: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];
/// What is kept of a runtime's own words about a failure.
const MAX_MESSAGE: u64 = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Runtime {
    program: PathBuf,
    root: PathBuf,
    systemd_cgroup: bool,
}

impl Runtime {
    pub(crate) fn new(options: &Options, namespace: &str, default_root: &Path) -> Self {
        let root = match options.root.as_str() {
            "" => default_root,
            root => Path::new(root),
        };
        Self {
            program: match options.binary_name.as_str() {
                "" => "runc".into(),
                name => name.into(),
            },
            root: root.join(namespace),
            systemd_cgroup: options.systemd_cgroup,
        }
    }

    pub(crate) fn of_options(options: &Options, namespace: &str) -> Self {
        Self::new(options, namespace, Path::new(ROOT))
    }

    /// Leaves in the bundle what [`crate::delete`] needs to know.
    pub(crate) fn record(&self, bundle: &Path) -> Result<()> {
        let path = record(bundle);
        // Text and a truth value always have a JSON form.
        let text = serde_json::to_vec(self).unwrap_or_default();
        fs::write(&path, text).map_err(Failure::file("write", path))
    }

    pub(crate) fn recorded(bundle: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(record(bundle)).ok()?).ok()
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Whether the runtime has a state for the container.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.root.join(id).exists()
    }

    /// The program with its general arguments; `log` gets its own words.
    pub(crate) fn command(&self, log: Option<&Path>) -> Command {
        let mut command = Command::new(&self.program);
        for name in OF_SYSTEMD {
            command.env_remove(name);
        }
        command.arg("--root").arg(&self.root);
        if let Some(log) = log {
            command.arg("--log").arg(log).args(["--log-format", "json"]);
        }
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command
    }

    /// Runs one of its commands on a container to its end, without input and output.
    pub(crate) async fn run(
        &self,
        reaper: &Reaper,
        bundle: &Path,
        call: &'static str,
        words: &[&str],
    ) -> Result<()> {
        let log = log(bundle);
        // What a runtime says before it knows of its log.
        let errors =
            File::from(memfd_create("stderr", MemfdFlags::CLOEXEC).map_err(Failure::file("make", "stderr"))?);
        let stderr = errors.try_clone().map_err(Failure::file("open", "stderr"))?;
        let mut command = self.command(Some(&log));
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        self.finish(reaper, bundle, call, command, Some(errors)).await
    }

    /// Runs a command that was made by [`Self::command`] with the log of this bundle. Why it failed is in that log, or
    /// else in `errors`.
    pub(crate) async fn finish(
        &self,
        reaper: &Reaper,
        bundle: &Path,
        call: &'static str,
        mut command: Command,
        errors: Option<File>,
    ) -> Result<()> {
        let log = log(bundle);
        let seen = fs::metadata(&log).map_or(0, |file| file.len());
        // Never waited for by itself: the reaper waits for every child.
        let child = command.spawn().map_err(Failure::file("start", &self.program))?;
        // What the command holds of the container's output must end with the container.
        drop(command);
        let code = reaper.expect(child.id()).await;
        if code == 0 {
            return Ok(());
        }
        let message = said(&log, seen)
            .or_else(|| last_line(errors?))
            .unwrap_or_else(|| format!("ended with {code}, and gave no reason"));
        Err(Failure::Runtime { call, message })
    }
}

/// The runtime's log of one container.
pub(crate) fn log(bundle: &Path) -> PathBuf {
    bundle.join("log.json")
}

fn record(bundle: &Path) -> PathBuf {
    bundle.join("clone8s-runtime.json")
}

/// The last message that a log has got since it was `seen` bytes long.
fn said(log: &Path, seen: u64) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        msg: String,
    }
    let mut file = File::open(log).ok()?;
    file.seek(SeekFrom::Start(seen)).ok()?;
    let mut text = String::new();
    file.take(MAX_MESSAGE).read_to_string(&mut text).ok()?;
    let last = text
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<Line>(line).ok());
    last.map(|line| line.msg)
}

/// What stands at the end of a file that somebody else has written to.
fn last_line(mut file: File) -> Option<String> {
    file.rewind().ok()?;
    let mut text = Vec::new();
    file.take(MAX_MESSAGE).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    last.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_runtime_is_remembered_as_it_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Runtime::recorded(dir.path()), None);
        let options = Options {
            binary_name: "crun".into(),
            systemd_cgroup: true,
            ..Options::default()
        };
        let runtime = Runtime::of_options(&options, "k8s.io");
        runtime.record(dir.path()).unwrap();
        assert_eq!(Runtime::recorded(dir.path()), Some(runtime.clone()));
        assert_eq!(runtime.root, Path::new("/run/containerd/runc/k8s.io"));
        assert_eq!(
            Runtime::of_options(&Options::default(), "a").program,
            Path::new("runc")
        );
    }

    #[test]
    fn a_failure_is_told_in_the_last_words_of_the_runtime() {
        let dir = tempfile::tempdir().unwrap();
        let path = log(dir.path());
        let old = "{\"level\":\"error\",\"msg\":\"old\"}\n";
        fs::write(
            &path,
            format!("{old}{{\"msg\":\"first\"}}\n{{\"msg\":\"exec: not found\"}}\nnoise\n"),
        )
        .unwrap();
        assert_eq!(said(&path, old.len() as u64).as_deref(), Some("exec: not found"));
        assert_eq!(said(&path, 1 << 20), None);
    }

    #[test]
    fn a_runtime_that_knows_no_log_yet_is_heard_too() {
        let mut errors = tempfile::tempfile().unwrap();
        errors
            .write_all(b"usage: ...\nunknown command checkpoint\n\n")
            .unwrap();
        assert_eq!(last_line(errors).as_deref(), Some("unknown command checkpoint"));
        assert_eq!(last_line(tempfile::tempfile().unwrap()), None);
    }
}
