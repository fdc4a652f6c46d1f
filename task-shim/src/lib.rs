//! The process between containerd and the OCI runtime: containerd's shim API (runtime v2, task API 2), in one small
//! process for all containers of a pod.
//!
//! ```text
//! containerd ──exec──► start ──► (a server runs?) ──no──► serve, on a socket that is open already
//!      │                  └── prints the socket's address
//!      ├──ttrpc──► serve ──► runc | crun ──► the container's process, which becomes serve's child
//!      │             └──ttrpc──► containerd: events
//!      └──exec──► delete: what a container left whose server is gone
//! ```
//!
//! A container without a terminal has its caller's FIFOs as its output: nothing is copied here, and what it writes
//! waits for a caller that is away. See [`stdio`].

mod args;
mod cgroup;
mod clock;
mod container;
mod delete;
mod events;
mod failure;
mod messages;
mod metrics;
mod mounts;
mod oom;
mod pod;
mod process;
pub mod readiness;
mod reaper;
mod runtime;
mod server;
mod service;
mod spec;
mod start;
mod stdio;
mod ttrpc;

use std::{io::Write as _, process::ExitCode};

use prost::Message as _;

use crate::{
    args::{Args, Command},
    failure::Failure,
};

/// The program's name, by which containerd finds it for the runtime `io.containerd.clone8s.v1`.
pub const NAME: &str = "containerd-shim-clone8s-v1";

/// Whether this program was called as containerd calls its shims, so that [`main`] is to be called and nothing else.
pub fn is_called() -> bool {
    Args::are_a_shims(&words())
}

/// The program. It does nothing that a container's start need not wait for.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn words() -> Vec<String> {
    std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

fn run() -> Result<(), Failure> {
    let args = Args::parse(&words()).map_err(|problem| Failure::Invalid {
        field: "arguments",
        problem,
    })?;
    let output = match &args.command {
        Command::Start => start::start(&args)?.into_bytes(),
        Command::Delete => delete::delete(&args)?.encode_to_vec(),
        Command::Serve { socket } => return server::serve(&args, socket),
        Command::Info => info().encode_to_vec(),
        Command::Version => format!("{NAME} {}\n", env!("CARGO_PKG_VERSION")).into_bytes(),
    };
    std::io::stdout()
        .write_all(&output)
        .map_err(Failure::file("write to", "the standard output"))
}

/// `containerd.types.RuntimeInfo`, as far as it says anything.
#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    version: Option<RuntimeVersion>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeVersion {
    #[prost(string, tag = "1")]
    version: String,
}

fn info() -> RuntimeInfo {
    RuntimeInfo {
        name: "io.containerd.clone8s.v1".into(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
        }),
    }
}
