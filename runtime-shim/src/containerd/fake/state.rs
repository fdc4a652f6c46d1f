//! What a containerd keeps.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    sync::Arc,
};

use bytes::Bytes;
use containerd_client::{
    services::v1 as api,
    types::{
        Mount,
        v1::{Process, Status as TaskStatus},
    },
};

use crate::{
    containerd::{ErrorKind, ProcessExit},
    ids::LeaseId,
};

#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) containers: BTreeMap<String, api::Container>,
    pub(crate) tasks: BTreeMap<String, Task>,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    pub(crate) blobs: BTreeMap<String, Blob>,
    /// Blobs that are being written.
    pub(crate) ingests: BTreeMap<String, Vec<u8>>,
    pub(crate) images: BTreeMap<String, api::Image>,
    pub(crate) leases: BTreeMap<String, Lease>,
    pub(super) last_pid: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(super) pid: u32,
    pub(super) status: TaskStatus,
    pub(super) exit: Option<ProcessExit>,
    /// Held open as containerd's shim process does, until the process ends.
    streams: Vec<Arc<File>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(super) parent: String,
    pub(super) kind: SnapshotKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SnapshotKind {
    Active,
    Committed,
}

#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(super) data: Bytes,
    pub(super) labels: HashMap<String, String>,
}

/// What a lease keeps from being collected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lease {
    pub(super) snapshots: BTreeSet<String>,
    pub(super) blobs: BTreeSet<String>,
}

impl State {
    pub(super) fn put_blob(&mut self, digest: &str, data: Bytes, labels: HashMap<String, String>) {
        self.blobs.insert(digest.to_owned(), Blob { data, labels });
    }

    pub(super) fn hold_blob(&mut self, lease: &LeaseId, digest: &str) -> Result<(), ErrorKind> {
        let lease = self.leases.get_mut(lease.as_str()).ok_or(ErrorKind::NotFound)?;
        lease.blobs.insert(digest.to_owned());
        Ok(())
    }

    pub(super) fn hold_snapshot(&mut self, lease: Option<&LeaseId>, key: &str) -> Result<(), ErrorKind> {
        if let Some(lease) = lease {
            let lease = self.leases.get_mut(lease.as_str()).ok_or(ErrorKind::NotFound)?;
            lease.snapshots.insert(key.to_owned());
        }
        Ok(())
    }
}

impl Task {
    pub(super) fn new(pid: u32, streams: &[&String]) -> io::Result<Self> {
        let open = |path: &&&String| {
            let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(flags)
                .open(path);
            file.map(Arc::new)
        };
        let streams = streams.iter().filter(|path| !path.is_empty());
        Ok(Self {
            pid,
            status: TaskStatus::Created,
            exit: None,
            streams: streams.map(|path| open(&path)).collect::<io::Result<_>>()?,
        })
    }

    pub(super) fn end(&mut self, exit: ProcessExit) {
        self.status = TaskStatus::Stopped;
        self.exit = Some(exit);
        self.streams.clear();
    }

    pub(super) fn process(&self, id: &str) -> Process {
        let exited_at = self.exit.map(|exit| exit.at.into());
        Process {
            id: id.to_owned(),
            container_id: id.to_owned(),
            pid: self.pid,
            status: self.status.into(),
            exit_status: self.exit.map_or(0, |exit| exit.code),
            exited_at,
            ..Default::default()
        }
    }
}

impl Blob {
    pub(super) fn info(&self, digest: &str) -> api::Info {
        api::Info {
            digest: digest.to_owned(),
            size: (self.data.len() as u64).cast_signed(),
            labels: self.labels.clone(),
            ..Default::default()
        }
    }
}

/// Something that can be mounted and has no users in it: no file system of the fake's is ever looked at otherwise.
pub(super) fn mount() -> Mount {
    Mount {
        r#type: "bind".into(),
        source: "/sys".into(),
        options: vec!["rbind".into(), "ro".into()],
        ..Default::default()
    }
}
