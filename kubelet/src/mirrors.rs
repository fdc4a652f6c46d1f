//! Shows the pods of the node's manifest folder and queue in the API, as mirrors (`clone8s::mirror`).
//!
//! ```text
//! desired, mirrors ─► plan ─► create, delete ─► apiserver ─► watch of the node's pods ─► mirrors
//! ```
//! The pods themselves run with or without any of this; `status::sync` carries their status to the mirrors.

mod plan;

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use clone8s::{
    client::{DeleteOptions, Resource as _},
    object::Object as _,
    v1::{Node, OwnerReference, Pod},
};
use clone8s_daemon::{Shutdown, channel::Channel, supervisor::chain};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Code, Status};

use self::plan::{Plan, Step, plan};
use crate::{
    ApiChannel,
    desired::{Desired, PodKey},
    has_changed,
    pod::memory::doubled,
    status::PodStatuses,
};

/// The mirrors that the apiserver has of this node's pods, by their own names.
pub(crate) type Mirrors = Arc<BTreeMap<PodKey, Arc<Pod>>>;

const DEADLINE: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_mins(1);
/// How long what was done may take to come back on the watch before it is done again.
const ECHO: Duration = Duration::from_secs(5);

/// Makes and removes mirrors for as long as the kubelet runs.
pub(crate) struct MirrorKeeper {
    node: String,
    desired: watch::Receiver<Desired>,
    statuses: watch::Receiver<PodStatuses>,
    mirrors: watch::Receiver<Option<Mirrors>>,
    api: ApiChannel,
    tried: BTreeMap<PodKey, Tried>,
}

/// The last attempt at a step that is still to be done.
struct Tried {
    step: Step,
    failures: u32,
    again_at: Instant,
}

impl MirrorKeeper {
    pub(crate) fn new(
        node: &str,
        desired: watch::Receiver<Desired>,
        statuses: watch::Receiver<PodStatuses>,
        mirrors: watch::Receiver<Option<Mirrors>>,
        api: ApiChannel,
    ) -> Self {
        Self {
            node: node.to_owned(),
            desired,
            statuses,
            mirrors,
            api,
            tried: BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            never = self.keep() => never,
        }
    }

    async fn keep(&mut self) -> Result<(), Infallible> {
        loop {
            let plan = self.plan();
            let waits_for_ends = plan.waits_for_ends;
            let again_at = self.carry_out(plan).await;
            let idle = Instant::now() + LAST_RETRY;
            tokio::select! {
                () = has_changed(&mut self.desired) => {}
                () = has_changed(&mut self.mirrors) => {}
                () = has_changed(&mut self.api) => {}
                () = has_changed(&mut self.statuses), if waits_for_ends => {}
                () = sleep_until(again_at.unwrap_or(idle)), if again_at.is_some() => {}
            }
        }
    }

    fn plan(&mut self) -> Plan {
        // Before the apiserver has told what it has, nobody knows what is missing.
        let Some(mirrors) = self.mirrors.borrow_and_update().clone() else {
            return Plan::default();
        };
        let statuses = Arc::clone(&self.statuses.borrow_and_update());
        plan(&self.node, &self.desired.borrow_and_update(), &statuses, &mirrors)
    }

    /// Takes the steps that are due; says when the next one is.
    async fn carry_out(&mut self, plan: Plan) -> Option<Instant> {
        self.tried
            .retain(|key, tried| plan.steps.get(key) == Some(&tried.step));
        let channel = self.api.borrow_and_update().clone()?;
        for (key, step) in plan.steps {
            let now = Instant::now();
            if self.tried.get(&key).is_some_and(|tried| tried.again_at > now) {
                continue;
            }
            let outcome = timeout(DEADLINE, take(&channel, &self.node, &key, &step))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the apiserver did not answer")));
            self.note(key, step, outcome);
        }
        self.tried.values().map(|tried| tried.again_at).min()
    }

    fn note(&mut self, key: PodKey, step: Step, outcome: Result<(), Status>) {
        let now = Instant::now();
        let failures = match (&outcome, self.tried.get(&key)) {
            (Ok(()), _) => 0,
            (Err(_), None) => 1,
            (Err(_), Some(tried)) => tried.failures.saturating_add(1),
        };
        if let Err(status) = outcome {
            // Once for each that cannot be made; that the apiserver is away is told by those who talk to it all the time.
            if failures == 1 && status.code() != Code::Unavailable {
                tracing::warn!(mirror = %key, reason = chain(&status), "a pod of this node's own is not shown in the API");
            } else {
                tracing::debug!(mirror = %key, reason = chain(&status), "the mirror is not kept yet");
            }
        }
        let wait = match failures {
            0 => ECHO,
            failures => doubled(FIRST_RETRY, LAST_RETRY, failures - 1),
        };
        let tried = Tried {
            step,
            failures,
            again_at: now + wait,
        };
        self.tried.insert(key, tried);
    }
}

async fn take(channel: &Channel, node: &str, key: &PodKey, step: &Step) -> Result<(), Status> {
    match step {
        Step::Create(mirror) => {
            // It goes when its node goes.
            let node = Node::get(channel, "", node).await?;
            let mut mirror = (**mirror).clone();
            mirror.metadata_mut().owner_references = vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.name().to_owned(),
                uid: node.uid().to_owned(),
                controller: true,
                block_owner_deletion: false,
            }];
            Pod::create(channel, mirror).await.map(drop)
        }
        Step::Delete { uid } => {
            let options = DeleteOptions {
                uid: uid.clone(),
                grace_period_seconds: Some(0),
                ..DeleteOptions::default()
            };
            match Pod::delete(channel, &key.namespace, &key.name, &options).await {
                // It is gone, or another has its name.
                Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => Ok(()),
                outcome => outcome.map(drop),
            }
        }
    }
}
