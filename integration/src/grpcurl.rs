//! Runs grpcurl, as a person would.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use serde_json::Value;

use crate::{Process, Sandbox, command, pki::Pair};

/// Where the calls go.
#[derive(Debug, Clone)]
pub enum Target {
    /// The root-only socket.
    Unix(PathBuf),
    Tls {
        address: String,
        ca_file: PathBuf,
        pair: Option<Pair>,
    },
}

/// grpcurl with a target.
#[derive(Debug, Clone)]
pub struct Grpcurl {
    target: Target,
}

impl Grpcurl {
    pub fn unix(socket: &Path) -> Self {
        Self {
            target: Target::Unix(socket.to_owned()),
        }
    }

    /// Over TLS, with a client certificate or without.
    pub fn tls(address: &str, ca_file: &Path, pair: Option<Pair>) -> Self {
        Self {
            target: Target::Tls {
                address: address.to_owned(),
                ca_file: ca_file.to_owned(),
                pair,
            },
        }
    }

    /// The services that reflection names.
    pub fn list(&self) -> anyhow::Result<Vec<String>> {
        Ok(command::run(self.command(None).arg("list"))?
            .lines()
            .map(str::to_owned)
            .collect())
    }

    pub fn list_methods(&self, service: &str) -> anyhow::Result<Vec<String>> {
        Ok(command::run(self.command(None).args(["list", service]))?
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// A symbol's declaration.
    pub fn describe(&self, symbol: &str) -> anyhow::Result<String> {
        command::run(self.command(None).args(["describe", symbol]))
    }

    /// A call with one answer.
    pub fn call(&self, method: &str, request: &Value) -> anyhow::Result<Value> {
        let answer = command::run(self.command(Some(request)).arg(method))?;
        if answer.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&answer).with_context(|| format!("{method} answered {answer}"))
    }

    /// A call whose answers end.
    pub fn call_for_all(&self, method: &str, request: &Value) -> anyhow::Result<Vec<Value>> {
        let answers = command::run(self.command(Some(request)).arg(method))?;
        let answers = serde_json::Deserializer::from_str(&answers).into_iter();
        answers
            .collect::<Result<_, _>>()
            .with_context(|| format!("{method} answered something else than messages"))
    }

    /// What grpcurl says about a call that must fail.
    pub fn refusal(&self, method: &str, request: &Value) -> anyhow::Result<String> {
        let output = command::output(self.command(Some(request)).arg(method))?;
        anyhow::ensure!(!output.success, "{method} was not refused: {}", output.stdout);
        Ok(output.stderr)
    }

    /// A stream that goes on until it is dropped.
    pub fn stream(&self, sandbox: &Sandbox, name: &str, method: &str, request: &Value) -> Stream {
        let call = self.command_with(&[], Some(request));
        let process = sandbox.process(name, call.get_program()).args(call.get_args());
        Stream(process.arg(method).started())
    }

    fn command(&self, request: Option<&Value>) -> Command {
        self.command_with(&["-max-time", "20"], request)
    }

    fn command_with(&self, flags: &[&str], request: Option<&Value>) -> Command {
        let mut command = Command::new(program());
        command.stdin(std::process::Stdio::null()).args(flags);
        if let Some(request) = request {
            command.arg("-d").arg(request.to_string());
        }
        match &self.target {
            Target::Unix(socket) => {
                // Without an authority, grpcurl before 1.9 names the path, which HTTP/2 does not take.
                command
                    .args(["-plaintext", "-authority", "localhost", "-unix"])
                    .arg(socket);
            }
            Target::Tls {
                address,
                ca_file,
                pair,
            } => {
                command.arg("-cacert").arg(ca_file);
                if let Some(pair) = pair {
                    command
                        .arg("-cert")
                        .arg(&pair.certificate_file)
                        .arg("-key")
                        .arg(&pair.key_file);
                }
                command.arg(address);
            }
        }
        command
    }
}

/// A stream that somebody reads.
#[derive(Debug)]
pub struct Stream(Process);

impl Stream {
    /// The messages that have come whole.
    pub fn messages(&self) -> Vec<Value> {
        let shown = self.0.log();
        let messages = serde_json::Deserializer::from_str(&shown).into_iter();
        messages.map_while(Result::ok).collect()
    }
}

/// The one that scripts/test keeps, or the one in PATH.
fn program() -> PathBuf {
    if let Some(path) = env::var_os("CLONE8S_GRPCURL") {
        return path.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let kept = cache.and_then(|cache| {
        let kept = cache.join("clone8s").read_dir().ok()?.flatten();
        kept.map(|entry| entry.path().join("grpcurl"))
            .find(|path| path.exists())
    });
    kept.unwrap_or_else(|| "grpcurl".into())
}
