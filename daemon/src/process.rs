//! A program's frame: TLS provider, telemetry, signals, exit code.

use std::{future::Future, process::ExitCode};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{Shutdown, memory, supervisor::chain, telemetry, telemetry::Telemetry};

/// Runs a service until it ends by itself or by SIGTERM or SIGINT. A second signal exits at once.
///
/// Call it from a `main` without a runtime: it makes one with a thread for each core.
pub fn run<F, E>(telemetry: &Telemetry, service: impl FnOnce(Shutdown) -> F) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    run_on(telemetry, None, service)
}

/// The same on so many threads, but never on more than there are cores.
pub fn run_on<F, E>(
    telemetry: &Telemetry,
    threads: Option<usize>,
    service: impl FnOnce(Shutdown) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    install_tls_provider();
    memory::map_large_pieces();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        let cores = std::thread::available_parallelism().map_or(threads, usize::from);
        builder.worker_threads(threads.min(cores));
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // There are no logs yet: they begin within the runtime.
            eprintln!("error: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let traces = {
        let _within = runtime.enter();
        telemetry::init(telemetry)
    };
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::new();
        // Dropped, and so ended, with the service.
        let mut aside = JoinSet::new();
        aside.spawn(cancel_on_signal(shutdown.clone()));
        aside.spawn(memory::give_back());
        let outcome = service(shutdown).await.map_err(Into::into);
        traces.flush().await;
        outcome
    });
    // Blocking calls that ignore the shutdown must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(error.as_ref()), "stopped");
            ExitCode::FAILURE
        }
    }
}

/// Makes aws-lc-rs the process's TLS provider; harmless when called again.
pub fn install_tls_provider() {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

async fn cancel_on_signal(shutdown: Shutdown) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("cannot listen for signals");
        return;
    };
    for again in [false, true] {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if again {
            tracing::warn!(signal = name, "second signal: exiting at once");
            std::process::exit(130);
        }
        tracing::info!(signal = name, "stopping");
        shutdown.cancel();
    }
}
