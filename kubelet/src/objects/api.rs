//! Config maps and secrets of the apiserver: a watch for each that a pod of the API refers to.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Duration,
};

use clone8s::{
    client::{From, Query, Resource},
    references::References,
    v1::{ConfigMap, Secret, WatchEventType},
};
use clone8s_daemon::{Shutdown, backoff, channel::Channel};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};
use tonic::Status;

use super::{Entries, Known, ObjectKind, ObjectRef, ObjectsSender};
use crate::{
    ApiChannel,
    desired::{Desired, Source},
};

/// A watch that lasted this long was a good one.
const LASTING: Duration = Duration::from_secs(30);

/// Follows what the desired pods refer to.
pub(crate) struct ApiObjects {
    desired: watch::Receiver<Desired>,
    api: ApiChannel,
    objects: ObjectsSender,
    watches: JoinSet<()>,
    active: BTreeMap<ObjectRef, AbortHandle>,
}

impl ApiObjects {
    pub(crate) fn new(desired: watch::Receiver<Desired>, api: ApiChannel, objects: ObjectsSender) -> Self {
        Self {
            desired,
            api,
            objects,
            watches: JoinSet::new(),
            active: BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        loop {
            self.follow_wanted();
            tokio::select! {
                changed = self.desired.changed() => if changed.is_err() { break },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
        shutdown.cancelled().await;
        Ok(())
    }

    fn follow_wanted(&mut self) {
        while self.watches.try_join_next().is_some() {}
        let desired = self.desired.borrow_and_update().clone();
        let wanted: BTreeSet<ObjectRef> = desired
            .pods
            .values()
            .filter(|pod| pod.source == Source::Api)
            .flat_map(|pod| ObjectRef::all(&pod.key().namespace, &References::of(pod.spec())))
            .collect();
        self.active.retain(|object, watch| {
            let stays = wanted.contains(object);
            if !stays {
                watch.abort();
            }
            stays
        });
        self.objects.forget_api(|object| !wanted.contains(object));
        for object in wanted {
            if !self.active.contains_key(&object) {
                let follow = follow(object.clone(), self.api.clone(), self.objects.clone());
                let watch = self.watches.spawn(follow);
                self.active.insert(object, watch);
            }
        }
    }
}

/// Keeps what is known of one object up to date until it is given up.
async fn follow(object: ObjectRef, mut api: ApiChannel, objects: ObjectsSender) {
    let mut delays = backoff::reconnect();
    loop {
        let channel = api.wait_for(Option::is_some).await.map(|channel| channel.clone());
        let Ok(Some(channel)) = channel else {
            // The node will have no other way to the apiserver.
            return std::future::pending().await;
        };
        let begun = Instant::now();
        let ended = match object.kind {
            ObjectKind::ConfigMap => watch_one::<ConfigMap>(&channel, &object, &objects).await,
            ObjectKind::Secret => watch_one::<Secret>(&channel, &object, &objects).await,
        };
        let reason = ended.err().map(|status| status.to_string()).unwrap_or_default();
        tracing::debug!(%object, reason, "the watch of an object has ended");
        if begun.elapsed() > LASTING {
            delays = backoff::reconnect();
        }
        sleep(delays.next().unwrap_or(LASTING)).await;
    }
}

async fn watch_one<O: Resource>(
    channel: &Channel,
    object: &ObjectRef,
    objects: &ObjectsSender,
) -> Result<(), Status>
where
    Entries: std::convert::From<O>,
{
    let query = Query {
        namespace: object.namespace.clone(),
        label_selector: String::new(),
        field_selector: format!("metadata.name={}", object.name),
    };
    let mut events = O::watch(channel, &query, From::InitialState).await?;
    let mut found = false;
    while let Some(event) = events.next().await? {
        let known = match (event.kind, event.object) {
            (WatchEventType::Added | WatchEventType::Modified, Some(stored)) => {
                found = true;
                Some(Known::Found(Entries::from(stored).into()))
            }
            (WatchEventType::Deleted, _) => Some(Known::Absent),
            (WatchEventType::Synced, _) if !found => Some(Known::Absent),
            _ => None,
        };
        if let Some(known) = known {
            objects.set_api(object, known);
        }
    }
    Ok(())
}
