//! Events live for an hour: they tell people what happened, the objects tell what is.

use std::time::{Duration, SystemTime};

use clone8s::{object::Object as _, v1::Event, wire::ListRequest};
use clone8s_daemon::{Shutdown, clock};
use tokio::time::sleep;

use crate::{
    access::Scope,
    error::ApiError,
    registry::{DeleteOptions, Key, Registry, Seen},
    time::system_time,
};

/// How long an event stays after it last happened.
const LIFETIME: Duration = Duration::from_hours(1);

/// How often old events are looked for, which is how much longer than that one may stay.
const SWEEP_EVERY: Duration = Duration::from_mins(2);

/// Deletes old events until shutdown. Several apiservers may do it side by side.
pub(crate) async fn sweep(registry: Registry, shutdown: Shutdown) -> Result<(), ApiError> {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(SWEEP_EVERY) => {}
        }
        let swept = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            swept = sweep_once(&registry, clock::now()) => swept,
        };
        match swept {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "deleted old events"),
            // The next sweep tries again, and nothing depends on it.
            Err(error) => {
                tracing::warn!(
                    error = clone8s_daemon::supervisor::chain(&error),
                    "cannot delete old events"
                );
            }
        }
    }
}

async fn sweep_once(registry: &Registry, now: SystemTime) -> Result<usize, ApiError> {
    let mut request = ListRequest::default();
    let mut count = 0;
    loop {
        let page = registry.list::<Event>(&Scope::Cluster, &request).await?;
        for event in page.objects::<Event>()?.iter().filter(|event| is_old(event, now)) {
            let options = DeleteOptions {
                // One that has happened again meanwhile stays.
                seen: Seen {
                    uid: event.uid().to_owned(),
                    resource_version: event.resource_version(),
                },
                ..DeleteOptions::default()
            };
            match registry
                .delete(&Scope::Cluster, &Key::<Event>::of(event)?, &options)
                .await
            {
                Ok(_) => count += 1,
                Err(ApiError::NotFound(_) | ApiError::Stale { .. } | ApiError::WrongState { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(count);
        }
        request.page_token = page.next_page_token;
    }
}

/// An event's own times may be wrong by its teller's clock, so it stays at least as long after its creation.
fn is_old(event: &Event, now: SystemTime) -> bool {
    let created = event.metadata.as_ref().and_then(|meta| meta.creation_timestamp);
    let last = [created, event.last_timestamp, event.first_timestamp]
        .into_iter()
        .flatten()
        .filter_map(|time| system_time(&time))
        .filter(|time| *time <= now)
        .max();
    last.is_none_or(|last| now.duration_since(last).is_ok_and(|age| age > LIFETIME))
}

#[cfg(test)]
mod tests {
    use clone8s::v1::ObjectMeta;

    use super::*;
    use crate::time::timestamp;

    const HOUR: Duration = Duration::from_hours(1);

    fn event(created: SystemTime, last: Option<SystemTime>) -> Event {
        Event {
            metadata: Some(ObjectMeta {
                creation_timestamp: Some(timestamp(created)),
                ..ObjectMeta::default()
            }),
            last_timestamp: last.map(timestamp),
            ..Event::default()
        }
    }

    #[test]
    fn an_event_is_old_an_hour_after_it_last_happened() {
        let start = SystemTime::UNIX_EPOCH + 1_000 * HOUR;
        let once = event(start, None);
        assert!(!is_old(&once, start + HOUR));
        assert!(is_old(&once, start + HOUR + Duration::from_secs(1)));
        let again = event(start, Some(start + HOUR / 2));
        assert!(!is_old(&again, start + HOUR + Duration::from_secs(1)));
        assert!(is_old(&again, start + 2 * HOUR));
    }

    #[test]
    fn a_time_in_the_future_does_not_keep_an_event_for_ever() {
        let start = SystemTime::UNIX_EPOCH + 1_000 * HOUR;
        let ahead = event(start, Some(start + 1_000 * HOUR));
        assert!(is_old(&ahead, start + 2 * HOUR));
    }
}
