//! Where the runtime writes what containers say.

mod entry;
mod join;
mod keep;
mod last_words;
mod rotate;
mod tail;

use std::path::{Path, PathBuf};

pub(crate) use self::{
    join::Joiner,
    keep::{keep, take_into_use},
    last_words::last_words,
    rotate::moved_away,
    tail::{Start, Wanted, start},
};
pub use self::{keep::KeptLogs, rotate::Rotation};

use crate::desired::{PodKey, PodUid};

/// The folder of one pod's logs: `<root>/<namespace>_<name>_<uid>`.
pub fn pod_dir(root: &Path, key: &PodKey, uid: &PodUid) -> PathBuf {
    root.join(format!("{}_{}_{uid}", key.namespace, key.name))
}

/// One run's log file within the pod's folder: `<container>/<restart>.log`.
pub fn container_file(container: &str, restart: u32) -> PathBuf {
    Path::new(container).join(format!("{restart}.log"))
}
