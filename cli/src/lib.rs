//! `c8s`: the person's tool, and a whole cluster in one process.
//!
//! [`args`] is the command line; every subcommand is a module of its own.

pub mod apply;
pub mod args;
pub mod completions;
pub mod connection;
pub mod cordon;
pub mod delete;
pub mod describe;
pub mod down;
pub mod files;
pub mod get;
pub mod image;
pub mod kind;
pub mod logs;
pub mod namespace;
pub mod output;
pub mod push;
pub mod select;
pub mod status;
pub mod token;
pub mod up;
pub mod watch;

use std::{
    io::{self, BufWriter, Write as _},
    process::ExitCode,
};

use args::{Args, Call, Command};
use clone8s_daemon::process;
use connection::ConnectionArgs;
use cordon::Taking;

/// Runs one command to its end.
pub fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Up(up) => up::run(&up, &args.telemetry),
        Command::Down(down) => down::run(&down, &args.telemetry),
        Command::Completions(completions) => {
            completions::run(&completions, &mut io::stdout());
            ExitCode::SUCCESS
        }
        Command::Image(image) => finish(image::run(&image, &mut io::stdout())),
        Command::Version => {
            println!("c8s {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Command::Call(call) => finish(run_call(call, &args.connection)),
    }
}

fn run_call(call: Call, connection: &ConnectionArgs) -> anyhow::Result<()> {
    process::install_tls_provider();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let out = &mut BufWriter::new(io::stdout().lock());
        let result = match call {
            Call::Apply(args) => apply::run(&args, &connection.connect()?, out).await,
            Call::Get(args) => get::run(&args, &connection.connect()?, out).await,
            Call::Describe(args) => describe::run(&args, &connection.connect()?, out).await,
            Call::Delete(args) => delete::run(&args, &connection.connect()?, out).await,
            Call::Cordon(args) => cordon::run(&args, Taking::NoPods, &connection.connect()?, out).await,
            Call::Uncordon(args) => cordon::run(&args, Taking::Pods, &connection.connect()?, out).await,
            Call::Logs(args) => logs::run(&args, &connection.connect()?, out).await,
            Call::Watch(args) => watch::run(&args, &connection.connect()?, out).await,
            Call::Token(args) => token::run(&args, &connection.connect()?, out).await,
            Call::Push(args) => push::run(&args, out).await,
        };
        // What was printed before an error is worth seeing.
        let flushed = out.flush();
        result?;
        Ok(flushed?)
    })
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader, such as `head`, has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
