//! What a member sees of the others, and what it does next.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{EXPIRE, RENEW};
use crate::store::Revision;

/// Another apiserver, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Other {
    /// The write of its membership; None for one that is leaving, or has left a lease behind.
    pub(super) membership: Option<Revision>,
    /// The write of its last lease.
    pub(super) lease: Option<Revision>,
    pub(super) alone: bool,
    /// When its last sign of life was seen.
    pub(super) since: Instant,
}

/// A write of one of another's keys; None where the key is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Membership(Option<Revision>),
    Lease { written: Option<Revision>, alone: bool },
}

/// The next thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write the lease.
    Lease { alone: bool },
    /// Take the membership of one that shows no sign of life.
    Expel { identity: String, other: Other },
    /// Nothing until then, or until something is seen.
    Wait(Instant),
}

#[derive(Debug)]
pub(super) struct View {
    others: BTreeMap<String, Other>,
    /// What the own lease says.
    alone: bool,
    /// When the own lease is to be written again.
    renew: Instant,
}

impl View {
    /// Of a member whose lease is still to be written.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            others: BTreeMap::new(),
            alone: false,
            renew: now,
        }
    }

    /// Takes in a write of one of another's keys.
    pub(super) fn see(&mut self, identity: &str, sign: Sign, now: Instant) {
        let other = self.others.entry(identity.to_owned()).or_insert(Other {
            membership: None,
            lease: None,
            alone: false,
            since: now,
        });
        match sign {
            Sign::Membership(written) => other.membership = written,
            Sign::Lease { written, alone } => (other.lease, other.alone) = (written, alone),
        }
        other.since = now;
        if other.membership.is_none() && other.lease.is_none() {
            self.others.remove(identity);
        }
    }

    /// Takes in all that there are; who has written nothing since it was seen last has shown no sign of life.
    pub(super) fn see_all<'s>(&mut self, signs: impl IntoIterator<Item = (&'s str, Sign)>, now: Instant) {
        let before = std::mem::take(&mut self.others);
        for (identity, sign) in signs {
            self.see(identity, sign, now);
        }
        for (identity, other) in &mut self.others {
            if let Some(before) = before.get(identity)
                && (before.membership, before.lease) == (other.membership, other.lease)
            {
                other.since = before.since;
            }
        }
    }

    /// The lease was written.
    pub(super) fn leased(&mut self, alone: bool, sent: Instant) {
        self.alone = alone;
        self.renew = sent + RENEW;
    }

    /// Whether another may still rely on being alone.
    pub(super) fn another_is_alone(&self) -> bool {
        self.members().any(|(_, other)| other.alone)
    }

    /// Whether nobody else can write.
    pub(super) fn is_alone(&self) -> bool {
        self.members().next().is_none()
    }

    fn members(&self) -> impl Iterator<Item = (&String, &Other)> {
        self.others.iter().filter(|(_, other)| other.membership.is_some())
    }

    pub(super) fn next(&self, now: Instant) -> Step {
        let alone = self.is_alone();
        // First of all: others wait for a member to say that it is no longer alone.
        if self.alone != alone || now >= self.renew {
            return Step::Lease { alone };
        }
        let oldest = self.others.iter().min_by_key(|(_, other)| other.since);
        match oldest {
            Some((identity, other)) if now >= other.since + EXPIRE => Step::Expel {
                identity: identity.clone(),
                other: other.clone(),
            },
            Some((_, other)) => Step::Wait(self.renew.min(other.since + EXPIRE)),
            None => Step::Wait(self.renew),
        }
    }
}
