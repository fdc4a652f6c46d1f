//! Waiting for a condition, never for a time.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// Long enough for a machine that compiles something else beside the tests: only a test that fails waits as long.
pub const BOUND: Duration = Duration::from_mins(2);

/// [`BOUND`], or as many seconds as `CLONE8S_TEST_PATIENCE` says: for machines that are emulated.
pub(crate) fn bound() -> Duration {
    let told = std::env::var("CLONE8S_TEST_PATIENCE").ok();
    let told = told.map(|seconds| seconds.parse().expect("CLONE8S_TEST_PATIENCE in seconds"));
    told.map_or(BOUND, Duration::from_secs)
}

/// Asks `probe` until it succeeds, and gives its answer.
///
/// # Panics
/// After two minutes, or as long as the environment says, with what the last probe saw.
pub async fn until<T, F, Fut>(what: &str, probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<T>>,
{
    until_within(bound(), what, probe).await
}

/// [`until`] with a bound of its own.
pub async fn until_within<T, F, Fut>(bound: Duration, what: &str, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + bound;
    let mut last_seen = "nothing: the first look did not end".to_owned();
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => last_seen = format!("{error:#}"),
            Err(_) => {}
        }
        assert!(
            Instant::now() < deadline,
            "waited {bound:?} for: {what}\nlast seen: {last_seen}"
        );
        sleep(Duration::from_millis(30)).await;
    }
}

/// Looks again and again for `span`, and panics as soon as the condition no longer holds.
pub async fn holds_for<F, Fut>(span: Duration, what: &str, mut probe: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let end = Instant::now() + span;
    while Instant::now() < end {
        if let Err(error) = probe().await {
            panic!("no longer true: {what}\nseen: {error:#}");
        }
        sleep(Duration::from_millis(100)).await;
    }
}
