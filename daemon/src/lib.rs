//! Process plumbing that every service shares.
//!
//! A `main` reads its arguments, calls [`process::run`] with the service's own `run(config, shutdown)`, and maps
//! the result to an exit code; everything long-lived inside belongs to a [`Supervisor`].

pub mod backoff;
pub mod cgroups;
pub mod channel;
pub mod clock;
pub mod endpoint;
pub mod etcd;
pub mod log_file;
pub mod memory;
pub mod outcome;
pub mod process;
pub mod supervisor;
pub mod telemetry;
pub mod traces;
pub mod unix;
pub mod within;

pub use supervisor::Supervisor;
/// Told to every task: finish what you do, then return.
pub use tokio_util::sync::CancellationToken as Shutdown;
