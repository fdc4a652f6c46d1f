//! Runs crictl, as a person would.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use serde_json::Value;

use crate::{Process, Sandbox, command, command::Output};

/// crictl on one CRI socket.
#[derive(Debug, Clone)]
pub struct Crictl {
    socket: PathBuf,
    dir: PathBuf,
    sandbox: Sandbox,
}

impl Crictl {
    pub fn new(sandbox: &Sandbox, socket: &Path) -> Self {
        let dir = sandbox.make_dir("crictl");
        // Else it would read the machine's own.
        fs::write(dir.join("crictl.yaml"), "").expect("a file");
        Self {
            socket: socket.to_owned(),
            dir,
            sandbox: sandbox.clone(),
        }
    }

    /// What it writes; an error where it fails.
    pub fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        command::run(self.command().args(args))
    }

    /// What it writes as JSON.
    pub fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let answer = self.run(args)?;
        serde_json::from_str(&answer).with_context(|| format!("crictl {args:?} answered {answer}"))
    }

    /// How it ends, with what is typed into it.
    pub fn with_input(&self, args: &[&str], input: &[u8]) -> anyhow::Result<Output> {
        let path = self.dir.join(format!("input-{}", uuid::Uuid::new_v4().simple()));
        fs::write(&path, input)?;
        let input = fs::File::open(&path)?;
        command::output(self.command().args(args).stdin(input))
    }

    /// On a terminal of so many rows and columns.
    pub fn on_terminal(&self, rows: u16, columns: u16, args: &[&str]) -> anyhow::Result<Output> {
        let crictl = self.command();
        let quoted: Vec<_> = std::iter::once(crictl.get_program())
            .chain(crictl.get_args())
            .map(|word| quote(&word.to_string_lossy()))
            .chain(args.iter().map(|word| quote(word)))
            .collect();
        let line = format!("stty rows {rows} cols {columns} -echo; exec {}", quoted.join(" "));
        let mut script = Command::new("script");
        script
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .stdin(std::process::Stdio::null());
        command::output(&mut script)
    }

    /// One that goes on until it is dropped; its log is what it writes.
    pub fn started(&self, name: &str, args: &[&str]) -> Process {
        let crictl = self.command();
        self.sandbox
            .process(name, crictl.get_program())
            .args(crictl.get_args())
            .args(args)
            .started()
    }

    /// A file for crictl to read.
    pub fn file(&self, name: &str, content: &Value) -> String {
        let path = self.dir.join(name);
        fs::write(&path, content.to_string()).expect("a file");
        path.display().to_string()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command
            .arg("--config")
            .arg(self.dir.join("crictl.yaml"))
            .arg("--runtime-endpoint")
            .arg(format!("unix://{}", self.socket.display()))
            .args(["--timeout", "60s"]);
        command
    }
}

/// For a shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The one that scripts/test keeps, or the one in PATH.
fn program() -> PathBuf {
    if let Some(path) = env::var_os("CLONE8S_CRICTL") {
        return path.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let kept = cache
        .and_then(|cache| fs::read_dir(cache.join("clone8s")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("crictl"))
        .find(|path| path.is_file());
    kept.unwrap_or_else(|| "crictl".into())
}
