//! Leases keep what has no name yet. That of a pull, which begins when the registry has answered, keeps what has come until
//! the image has its name, and over a broken-off pull until the next.
//!
//! ```text
//! begin ─► (the one that an earlier pull of this image has left, or a new one) ─► done: gone
//!                                                                              └► broken off: left for the next pull
//! ```
//!
//! Those of other calls are of no use to anybody once the call has ended, which may be while containerd is away: they go when
//! the shim looks at what there is. containerd drops all of them by itself after a day, with what nothing else needs.

use std::{
    collections::HashSet,
    ops::Deref,
    sync::Mutex,
    time::{Duration, UNIX_EPOCH},
};

use super::{ImageError, Images, Result, digest::Digest};
use crate::{containerd::ContainerdError, ids::LeaseId, table::lock};

/// An older lease may expire during the pull.
const FRESH: Duration = Duration::from_hours(12);

/// A lease while a call uses it. Once the call has ended or was given up, it is left to whoever looks for such.
pub(super) struct LeaseInUse<'i> {
    used: &'i Mutex<HashSet<LeaseId>>,
    lease: LeaseId,
}

impl Deref for LeaseInUse<'_> {
    type Target = LeaseId;

    fn deref(&self) -> &LeaseId {
        &self.lease
    }
}

impl Drop for LeaseInUse<'_> {
    fn drop(&mut self) {
        lock(self.used).remove(&self.lease);
    }
}

impl Images {
    pub(super) async fn new_lease(&self, purpose: &str) -> Result<LeaseInUse<'_>> {
        let lease = LeaseId::new(purpose);
        // Before it is there for others to see, who remove what nobody uses.
        lock(&self.leases).insert(lease.clone());
        let lease = self.in_use(lease);
        self.containerd.create_lease(&lease).await?;
        Ok(lease)
    }

    pub(super) async fn drop_lease(&self, lease: LeaseInUse<'_>) -> Result<()> {
        Ok(self.containerd.delete_lease(&lease).await?)
    }

    fn in_use(&self, lease: LeaseId) -> LeaseInUse<'_> {
        LeaseInUse {
            used: &self.leases,
            lease,
        }
    }

    /// Removes leases of calls that were cut off or given up; those of pulls are for the next one.
    pub(crate) async fn discard_leases(&self) -> Result<(), ContainerdError> {
        for lease in self.containerd.list_leases().await? {
            let is_used = lock(&self.leases).contains(&lease);
            if lease.is_the_shims() && !lease.is_for_later() && !is_used {
                self.containerd.delete_lease(&lease).await?;
            }
        }
        Ok(())
    }

    /// A lease for pulling an image, with what an earlier pull of it has got.
    pub(super) async fn begin_lease(&self, name: &str) -> Result<LeaseInUse<'_>> {
        let purpose = purpose(name);
        let left = self.left_over(&purpose).await?;
        let now = seconds_now();
        for lease in left {
            let made = made_at(&lease).unwrap_or_default();
            let fresh = now.saturating_sub(made) < FRESH.as_secs();
            // Whoever puts it in first has it; a pull that was ending just then may have taken it away.
            if fresh && lock(&self.leases).insert(lease.clone()) {
                let lease = self.in_use(lease);
                if self.left_over(&purpose).await?.contains(&*lease) {
                    return Ok(lease);
                }
            }
        }
        self.new_lease(&format!("{purpose}-{now}")).await
    }

    /// Ends a lease as the pull's outcome asks for.
    pub(super) async fn end_lease(
        &self,
        name: &str,
        lease: LeaseInUse<'_>,
        failure: Option<&ImageError>,
    ) -> Result<()> {
        match failure {
            Some(error) if error.is_passing() => {
                self.discard_unpacking(&lease).await?;
                tracing::debug!(image = name, lease = %*lease, "what has come is kept for the next pull");
                return Ok(());
            }
            Some(_) => self.discard_unpacking(&lease).await?,
            None => self.drop_left_over(name).await?,
        }
        self.drop_lease(lease).await
    }

    /// Drops what earlier pulls of an image have left, except for those that are under way.
    pub(super) async fn drop_left_over(&self, name: &str) -> Result<()> {
        for left in self.left_over(&purpose(name)).await? {
            if !lock(&self.leases).contains(&left) {
                self.containerd.delete_lease(&left).await?;
            }
        }
        Ok(())
    }

    async fn left_over(&self, purpose: &str) -> Result<Vec<LeaseId>> {
        let prefix = format!("{}{purpose}-", LeaseId::PREFIX);
        let leases = self.containerd.list_leases().await?;
        Ok(leases
            .into_iter()
            .filter(|lease| lease.as_str().starts_with(&prefix))
            .collect())
    }
}

fn purpose(name: &str) -> String {
    let hash = Digest::of(name.as_bytes());
    let hex = hash.trim_start_matches("sha256:");
    format!("{}{}", LeaseId::OF_PULL, &hex[..16])
}

fn seconds_now() -> u64 {
    clone8s_daemon::clock::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// From `clone8s-pull-<image>-<seconds>-<random>`.
fn made_at(lease: &LeaseId) -> Option<u64> {
    lease.as_str().rsplit('-').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_tells_its_image_and_its_age() {
        let lease = LeaseId::from(format!("clone8s-{}-1700000000-abc", purpose("app:1")));
        assert_eq!(made_at(&lease), Some(1_700_000_000));
        assert!(lease.is_for_later() && lease.is_the_shims());
        let of_a_call = LeaseId::from(format!("{}{}", LeaseId::PREFIX, LeaseId::random()));
        assert!(of_a_call.is_the_shims() && !of_a_call.is_for_later());
        assert_ne!(purpose("app:1"), purpose("app:2"));
    }
}
