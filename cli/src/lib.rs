//! `c8s`: the person's tool, and a whole cluster in one process.
//!
//! [`args`] is the command line; every subcommand is a module of its own.

pub mod apply;
pub mod args;
pub mod attach;
pub mod backup;
pub mod choice;
pub mod completions;
pub mod connection;
pub mod cordon;
pub mod cp;
pub mod debug;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod down;
pub mod drain;
pub mod exec;
pub mod files;
pub mod get;
pub mod image;
pub mod kind;
pub mod logs;
pub mod migrate;
pub mod namespace;
pub mod output;
pub mod place;
pub mod port_forward;
mod present;
pub mod push;
pub mod restore;
pub mod select;
pub mod session;
pub mod status;
pub mod terminal;
pub mod token;
pub mod top;
pub mod up;
pub mod wait;
pub mod watch;

use std::{
    io::{self, BufWriter, Write as _},
    process::ExitCode,
};

use args::{Args, Call, Command};
use clone8s_daemon::{
    process,
    supervisor::chain,
    telemetry::{self, Telemetry},
    traces::{self, Traces},
};
use connection::ConnectionArgs;
use cordon::Taking;
use tracing::Instrument as _;

/// Runs one command to its end.
pub fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Up(up) => up::run(&up, &args.telemetry),
        Command::Down(down) => down::run(&down, &args.telemetry),
        Command::Completions(completions) => finish(done(completions::run(&completions, &mut io::stdout()))),
        Command::Image(image) => finish(done(image::run(&image, &mut io::stdout()))),
        Command::Version => {
            println!("c8s {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Command::Call(call) => finish(run_call(call, &args.connection, &args.telemetry)),
    }
}

fn run_call(call: Call, connection: &ConnectionArgs, telemetry: &Telemetry) -> anyhow::Result<ExitCode> {
    process::install_tls_provider();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let traces = telemetry::init_traces(telemetry).unwrap_or_else(|error| {
            eprintln!("warning: {}", chain(&error));
            Traces::default()
        });
        let span = tracing::trace_span!(target: traces::TARGET, "c8s");
        let result = Box::pin(make_calls(call, connection)).instrument(span).await;
        traces.flush().await;
        result.map_err(|error| status::name_server(error, &connection.server))
    });
    // A read of the standard input cannot be given up: the process ends without waiting for it.
    runtime.shutdown_background();
    result
}

async fn make_calls(call: Call, connection: &ConnectionArgs) -> anyhow::Result<ExitCode> {
    let out = &mut BufWriter::new(io::stdout().lock());
    let result = match call {
        Call::Apply(args) => done(apply::run(&args, &connection.connect()?, out).await),
        Call::Diff(args) => diff::run(&args, connection, out).await,
        Call::Get(args) => done(get::run(&args, &connection.connect()?, out).await),
        Call::Describe(args) => done(describe::run(&args, &connection.connect()?, out).await),
        Call::Delete(args) => done(delete::run(&args, &connection.connect()?, out).await),
        Call::Cordon(args) => done(cordon::run(&args, Taking::NoPods, &connection.connect()?, out).await),
        Call::Uncordon(args) => done(cordon::run(&args, Taking::Pods, &connection.connect()?, out).await),
        Call::Drain(args) => done(drain::run(&args, &connection.connect()?, out).await),
        Call::Logs(args) => done(logs::run(&args, &connection.connect()?, out).await),
        Call::Exec(args) => exec::run(&args, &connection.connect()?, out).await,
        Call::Attach(args) => done(attach::run(&args, &connection.connect()?, out).await),
        Call::Debug(args) => done(debug::run(&args, &connection.connect()?, out).await),
        Call::PortForward(args) => done(port_forward::run(&args, connection, out).await),
        Call::Cp(args) => done(cp::run(&args, &connection.connect()?).await),
        Call::Top(args) => done(top::run(&args, &connection.connect()?, out).await),
        Call::Wait(args) => done(wait::run(&args, &connection.connect()?, out).await),
        Call::Watch(args) => done(watch::run(&args, &connection.connect()?, out).await),
        Call::Token(args) => done(token::run(&args, &connection.connect()?, out).await),
        Call::Push(args) => done(push::run(&args, out).await),
        Call::Backup(args) => done(backup::run(&args, &connection.connect()?, out).await),
        Call::Restore(args) => done(restore::run(&args, out).await),
        Call::Migrate(args) => done(migrate::run(&args, out).await),
    };
    // What was printed before an error is worth seeing.
    let flushed = out.flush();
    let code = result?;
    flushed?;
    Ok(code)
}

fn done(result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
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
