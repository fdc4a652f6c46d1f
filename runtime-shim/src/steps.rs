//! How long the parts of a call take, for the bench and for whoever looks into a slow pod.

use std::future::Future;

use tokio::time::Instant;

/// Runs one step of a call and records its duration at debug level, within the call's span.
pub(crate) async fn timed<T>(step: &'static str, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let outcome = work.await;
    tracing::debug!(step, micros = began.elapsed().as_micros(), "step");
    outcome
}
