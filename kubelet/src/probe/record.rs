//! What probes have found, on disk: `<data>/pods/<uid>/health`.
//!
//! Written beside and renamed over, so that it is whole after a kill at any moment. It need not survive a loss of
//! power, which the containers do not survive either.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::Health;
use crate::runtime::ContainerId;

/// One pod's record.
#[derive(Debug)]
pub(super) struct Record {
    path: Option<PathBuf>,
}

impl Record {
    /// Of no pod: keeps nothing.
    pub(super) fn nowhere() -> Self {
        Self { path: None }
    }

    /// The pod's record, and what it holds.
    pub(super) async fn open(pod_dir: &Path) -> (Self, BTreeMap<ContainerId, Health>) {
        let path = pod_dir.join("health");
        let found = match tokio::fs::read(&path).await {
            Ok(bytes) => serde_json::from_slice::<BTreeMap<String, Health>>(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "what probes had found cannot be read; they ask anew");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        let found = found
            .into_iter()
            .map(|(id, health)| (ContainerId::new(id), health))
            .collect();
        (Self { path: Some(path) }, found)
    }

    pub(super) async fn save(&self, health: &BTreeMap<ContainerId, Health>) {
        let Some(path) = &self.path else { return };
        let named: BTreeMap<_, _> = health.iter().map(|(id, health)| (id.as_str(), health)).collect();
        if let Err(error) = write(path, &named).await {
            tracing::warn!(path = %path.display(), %error, "what probes have found is not kept; a restart asks anew");
        }
    }
}

async fn write(path: &Path, health: &BTreeMap<&str, &Health>) -> io::Result<()> {
    let bytes = serde_json::to_vec(health)?;
    let beside = path.with_extension("new");
    tokio::fs::write(&beside, bytes).await?;
    tokio::fs::rename(&beside, path).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::ProbeKind;

    #[tokio::test]
    async fn what_was_saved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (record, nothing) = Record::open(dir.path()).await;
        assert!(nothing.is_empty());
        let health = BTreeMap::from([(
            ContainerId::new("c1"),
            Health {
                started: true,
                ready: false,
                failed: Some(ProbeKind::Liveness),
            },
        )]);
        record.save(&health).await;
        assert_eq!(Record::open(dir.path()).await.1, health);
        std::fs::write(dir.path().join("health"), "garbage").unwrap();
        assert!(Record::open(dir.path()).await.1.is_empty());
    }
}
