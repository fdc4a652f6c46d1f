//! Until what was deleted is gone.

use std::{collections::HashSet, time::Duration};

use anyhow::{Result, anyhow, bail};
use clone8s::client::{Query, Resource};
use clone8s_daemon::channel::Channel;
use tokio::time::timeout;

use crate::{present, status::explain};

/// Waits for the objects with these uids, whichever others of their names there are. An error says what is still
/// there after the timeout, and how to see why.
pub(super) async fn until_gone<O: Resource>(
    channel: &Channel,
    query: &Query,
    uids: &HashSet<String>,
    limit: Duration,
) -> Result<()> {
    let gone = present::until::<O, _>(channel, query, |present| {
        let gone = uids.iter().all(|uid| !present.contains_key(uid));
        gone.then_some(())
    });
    match timeout(limit, gone).await {
        Ok(watched) => watched.map_err(|status| anyhow!(explain(&status))),
        Err(_) => bail!(
            "marked for deletion, but still there after {} s; see `c8s describe {} NAME`",
            limit.as_secs(),
            O::KIND.to_lowercase()
        ),
    }
}
