//! The scheduler and the reconcilers, clients of the API with no private door to the store.
//!
//! - [`scheduler`] places pods without a node.
//! - [`node_monitor`] marks nodes that fall silent, and ends the pods of nodes that are gone.
//! - [`events`] tells people what they did.
//! - [`reflector`] is how each of them sees the cluster: list and watch, over every break.
//!
//! Two instances at a time do no harm: every write names the revision that it was decided on, and the second of two
//! is refused.

mod conditions;
mod events;
mod node_monitor;
pub mod reflector;
pub mod scheduler;
mod time;

use std::{convert::Infallible, future::Future, time::Duration};

use clone8s_daemon::{Shutdown, Supervisor, channel::Channel, supervisor::SupervisorError};

/// What the controllers need.
#[derive(Debug, Clone)]
pub struct Config {
    /// To the apiserver; it may come and go.
    pub channel: Channel,
    /// A node that has not been heard for this long is silent; a node object that is missing for this long is lost.
    pub node_grace_period: Duration,
}

/// What [`Config::node_grace_period`] usually is.
pub const NODE_GRACE_PERIOD: Duration = Duration::from_secs(40);

/// A write on its way may finish; it is repeated after a restart otherwise.
const GRACE: Duration = Duration::from_secs(2);

/// Runs every controller until shutdown.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), SupervisorError> {
    let mut supervisor = Supervisor::new(shutdown.clone());
    let channel = config.channel;
    supervisor.spawn(
        "scheduler",
        endless(scheduler::run(channel.clone(), shutdown.clone())),
    );
    supervisor.spawn(
        "node-monitor",
        endless(node_monitor::run(
            channel.clone(),
            config.node_grace_period,
            shutdown.clone(),
        )),
    );
    supervisor.run(GRACE).await
}

async fn endless(controller: impl Future<Output = ()>) -> Result<(), Infallible> {
    controller.await;
    Ok(())
}
