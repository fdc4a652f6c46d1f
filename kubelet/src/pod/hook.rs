//! Hooks: what is done after a container's start and before its stop.
//!
//! ```text
//! started ──► postStart ──(over)──► probes …      to be stopped ──► preStop ──(over, or its time is up)──► stop signal
//!                 └──(fails)──► stopped
//! ```
//! Each is done once for one run. That it has begun is on disk before it begins: `<data>/pods/<uid>/hooks`. One that was
//! cut off by the end of the kubelet is not done again, because nobody knows how far it came; a sleep goes on.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clone8s::v1::{Container, HttpGetAction, LifecycleHandler, PodSpec, lifecycle_handler::Handler};
use serde::{Deserialize, Serialize};

use super::{
    memory::Memory,
    observed::{Observed, PostStart, RunState},
};
use crate::{
    clock::Clock,
    desired::{DesiredPod, PodUid},
    probe::{
        Place,
        handler::{Answer, http_get},
    },
    runtime::{ContainerId, Runtime, RuntimeErrorReason},
};

/// A command's, where nothing else bounds it; the end of its pod gives it up.
const LONGEST: Duration = Duration::from_hours(24);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    PostStart,
    PreStop,
}

impl Hook {
    const ALL: [Self; 2] = [Self::PostStart, Self::PreStop];

    fn extension(self) -> &'static str {
        match self {
            Self::PostStart => "post-start",
            Self::PreStop => "pre-stop",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        })
    }
}

/// One hook of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct HookCall {
    pub uid: PodUid,
    /// The container's name in the spec.
    pub container: String,
    pub place: Place,
    pub handler: LifecycleHandler,
}

/// How far a hook is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRecord {
    pub begun_at: SystemTime,
    /// None while it is under way, or was when the kubelet ended.
    pub end: Option<HookEnd>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookEnd {
    Succeeded,
    Failed(String),
    /// It may have been done, or a part of it.
    Unknown(String),
}

/// A hook that needs nothing of its pod's spec any more: ports are numbers, and a server on the node's network has the
/// node's address.
pub fn resolved(
    hook: &LifecycleHandler,
    spec: &PodSpec,
    container: &Container,
    host_ip: &str,
) -> LifecycleHandler {
    let mut hook = hook.clone();
    if let Some(Handler::HttpGet(HttpGetAction { port, host, .. })) = &mut hook.handler {
        let named = container.ports.iter().find(|one| one.name == *port);
        if let Some(named) = named {
            *port = named.container_port.to_string();
        }
        if host.is_empty() && spec.host_network {
            host_ip.clone_into(host);
        }
    }
    hook
}

/// Adds to what the runtime says of the pod's runs how far their postStart hooks are.
pub(super) fn annotate(pod: &DesiredPod, memory: &Memory, observed: &mut Observed) {
    let uid = pod.uid();
    for run in observed.containers.iter_mut().filter(|run| run.uid == uid) {
        let container = pod.spec().container(&run.name);
        let lifecycle = container
            .as_ref()
            .and_then(|container| container.lifecycle.as_ref());
        let has_hook = lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some());
        if !has_hook || !matches!(run.state, RunState::Running { .. }) {
            continue;
        }
        let record = memory.hooks.get(&(run.id.clone(), Hook::PostStart));
        run.post_start = match record.and_then(|record| record.end.as_ref()) {
            None => PostStart::Pending,
            Some(HookEnd::Failed(_)) => PostStart::Failed,
            Some(HookEnd::Succeeded | HookEnd::Unknown(_)) => PostStart::Over,
        };
    }
}

/// The records of one pod's hooks.
#[derive(Debug, Clone)]
pub(super) struct HookRecords {
    dir: PathBuf,
}

impl HookRecords {
    pub(super) fn of(pod_dir: &Path) -> Self {
        Self {
            dir: pod_dir.join("hooks"),
        }
    }

    /// What an earlier kubelet has left.
    pub(super) async fn load(&self) -> BTreeMap<(ContainerId, Hook), HookRecord> {
        let mut found = BTreeMap::new();
        let Ok(mut entries) = tokio::fs::read_dir(&self.dir).await else {
            return found;
        };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let path = entry.path();
            let of = Hook::ALL
                .into_iter()
                .find(|hook| path.extension().is_some_and(|end| end == hook.extension()));
            let id = path.file_stem().and_then(|stem| stem.to_str());
            if let (Some(hook), Some(id)) = (of, id)
                && let Some(record) = self.read(&ContainerId::new(id), hook).await
            {
                found.insert((ContainerId::new(id), hook), record);
            }
        }
        found
    }

    /// Forgets the hooks of a run that is gone.
    pub(super) async fn forget(&self, id: &ContainerId) {
        for hook in Hook::ALL {
            let _ = tokio::fs::remove_file(self.path(id, hook)).await;
        }
    }

    async fn read(&self, id: &ContainerId, hook: Hook) -> Option<HookRecord> {
        let bytes = tokio::fs::read(self.path(id, hook)).await.ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    async fn save(&self, id: &ContainerId, hook: Hook, record: &HookRecord) {
        let path = self.path(id, hook);
        let written = async {
            let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
            tokio::fs::create_dir_all(&self.dir).await?;
            let beside = path.with_extension(format!("{}-new", hook.extension()));
            tokio::fs::write(&beside, bytes).await?;
            tokio::fs::rename(&beside, &path).await
        };
        if let Err(error) = written.await {
            tracing::warn!(path = %path.display(), %error, "a hook is not recorded; after a restart it is done again");
        }
    }

    fn path(&self, id: &ContainerId, hook: Hook) -> PathBuf {
        self.dir.join(format!("{id}.{}", hook.extension()))
    }
}

/// A hook that goes on wherever it was.
pub(super) fn is_sleep(call: &HookCall) -> bool {
    matches!(call.handler.handler, Some(Handler::Sleep(_)))
}

/// Does a hook, unless it has been begun before. `limit` is a command's.
pub(super) async fn perform(
    runtime: &dyn Runtime,
    clock: Clock,
    records: &HookRecords,
    hook: Hook,
    call: &HookCall,
    limit: Option<Duration>,
) -> HookEnd {
    let id = call.place.run();
    let known = records.read(id, hook).await;
    if let Some(HookRecord { end: Some(end), .. }) = known {
        return end;
    }
    let begun_at = known
        .as_ref()
        .map_or_else(|| clock.now(), |record| record.begun_at);
    let end = if known.is_some() && !is_sleep(call) {
        HookEnd::Unknown("the kubelet ended while it was done; it is not repeated".to_owned())
    } else {
        if known.is_none() {
            records.save(id, hook, &HookRecord { begun_at, end: None }).await;
        }
        run(runtime, clock, call, begun_at, limit.unwrap_or(LONGEST)).await
    };
    let record = HookRecord {
        begun_at,
        end: Some(end.clone()),
    };
    records.save(id, hook, &record).await;
    end
}

async fn run(
    runtime: &dyn Runtime,
    clock: Clock,
    call: &HookCall,
    begun_at: SystemTime,
    limit: Duration,
) -> HookEnd {
    match &call.handler.handler {
        None => HookEnd::Succeeded,
        Some(Handler::Sleep(sleep)) => {
            let over_at = begun_at + Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
            let rest = over_at.duration_since(clock.now()).unwrap_or_default();
            tokio::time::sleep(rest).await;
            HookEnd::Succeeded
        }
        Some(Handler::HttpGet(get)) => match http_get(&call.place, get).await {
            Answer::Good => HookEnd::Succeeded,
            Answer::Bad(why) | Answer::Nothing(why) => HookEnd::Failed(why),
        },
        Some(Handler::Exec(exec)) => match runtime.exec(call.place.run(), &exec.command, limit).await {
            Ok(output) if output.exit_code == 0 => HookEnd::Succeeded,
            Ok(output) => HookEnd::Failed(output.describe()),
            // The command may have run, or run on.
            Err(error) if error.reason == RuntimeErrorReason::Unavailable => HookEnd::Unknown(error.message),
            Err(error) => HookEnd::Failed(error.message),
        },
    }
}

#[cfg(test)]
mod tests;
