//! Whether this apiserver is alive, and whether it has what it needs of others, told by gRPC's health service and by the
//! metrics.
//!
//! The two differ: without its store or its broker an apiserver is to be left running, and may have to be left out.
//! "" and every service of the API are SERVING from the start to the shutdown. `readiness` is while nothing is missing;
//! `readiness.store` and `readiness.broker` say what is.

use std::{convert::Infallible, sync::Arc, time::Duration};

use clone8s_daemon::{Shutdown, supervisor::chain};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    access,
    metrics::Metrics,
    store::{Size, Store},
};

const ALL_PARTS: &str = "readiness";
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A store that takes longer for so little is not there.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// What an apiserver can be without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Store,
    Broker,
}

impl Part {
    /// As the metrics name it.
    fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Broker => "broker",
        }
    }

    /// As the health service names it.
    fn service(self) -> &'static str {
        match self {
            Self::Store => "readiness.store",
            Self::Broker => "readiness.broker",
        }
    }
}

/// Says that the process and all of its services are there.
pub(crate) async fn tell_alive(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status("", status).await;
    for service in access::services() {
        health.set_service_status(service, status).await;
    }
}

/// Tells of the parts, and how large the store is, until shutdown; then that nothing is served any more.
pub(crate) async fn keep(
    health: HealthReporter,
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
    mut bus_takes: watch::Receiver<bool>,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let mut told = Told {
        health,
        metrics,
        store: None,
        broker: None,
    };
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let has_broker = *bus_takes.borrow_and_update();
        told.tell(Part::Broker, has_broker).await;
        tokio::select! {
            _ = ticks.tick() => {
                let size = look(&*store).await;
                told.tell(Part::Store, size.is_some()).await;
                if let Some(size) = size {
                    told.metrics.store(size);
                }
            }
            // Its sender lives as long as the outbox.
            Ok(()) = bus_takes.changed() => {}
            () = shutdown.cancelled() => break,
        }
    }
    tell_alive(&told.health, ServingStatus::NotServing).await;
    told.health
        .set_service_status(ALL_PARTS, ServingStatus::NotServing)
        .await;
    Ok(())
}

async fn look(store: &dyn Store) -> Option<Size> {
    match timeout(LOOK_TIMEOUT, store.size()).await {
        Ok(Ok(size)) => Some(size),
        Ok(Err(error)) => {
            tracing::debug!(error = chain(&error), "the store does not say how large it is");
            None
        }
        Err(_) => None,
    }
}

/// What was said last of each part.
struct Told {
    health: HealthReporter,
    metrics: Arc<Metrics>,
    store: Option<bool>,
    broker: Option<bool>,
}

impl Told {
    async fn tell(&mut self, part: Part, is_there: bool) {
        let told = match part {
            Part::Store => &mut self.store,
            Part::Broker => &mut self.broker,
        };
        if *told == Some(is_there) {
            return;
        }
        *told = Some(is_there);
        self.metrics.ready(part.name(), is_there);
        self.health
            .set_service_status(part.service(), serving(is_there))
            .await;
        let all_are_there = self.store == Some(true) && self.broker == Some(true);
        self.health
            .set_service_status(ALL_PARTS, serving(all_are_there))
            .await;
    }
}

fn serving(is_it: bool) -> ServingStatus {
    if is_it {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}
