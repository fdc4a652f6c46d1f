//! Where a cluster of one machine has its things.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clone8s_runtime_shim::PodRanges;
use serde::{Deserialize, Serialize};

/// What `c8s down` must know of a cluster; kept in the run folder while there is anything to take down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Cluster {
    pub(crate) run_dir: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) node_name: String,
    pub(crate) runtime: Runtime,
    pub(crate) bridge: String,
    pub(crate) pod_cidr: PodRanges,
}

/// Which containerd runs the containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Runtime {
    /// One of our own, with its own folders.
    Own,
    /// Somebody else's, by its socket: we touch nothing there but our namespace.
    Existing(PathBuf),
}

/// The paths in a run folder and a data folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) run_dir: PathBuf,
    pub(crate) data_dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(run_dir: &Path, data_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            data_dir: data_dir.to_owned(),
        }
    }

    /// Locked by the process that runs the cluster, which writes its id into it.
    pub(crate) fn lock(&self) -> PathBuf {
        self.run_dir.join("up.pid")
    }
    pub(crate) fn cluster(&self) -> PathBuf {
        self.run_dir.join("cluster.json")
    }
    pub(crate) fn apiserver_socket(&self) -> PathBuf {
        self.run_dir.join("apiserver.sock")
    }
    pub(crate) fn shim_socket(&self) -> PathBuf {
        self.run_dir.join("shim.sock")
    }
    pub(crate) fn shim_state(&self) -> PathBuf {
        self.run_dir.join("shim")
    }
    pub(crate) fn containerd_run(&self) -> PathBuf {
        self.run_dir.join("containerd")
    }
    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.containerd_run().join("containerd.sock")
    }

    /// Says that a folder is a cluster's, so that nothing else is ever purged.
    pub(crate) fn marker(&self) -> PathBuf {
        self.data_dir.join("clone8s-data")
    }
    pub(crate) fn apiserver_data(&self) -> PathBuf {
        self.data_dir.join("apiserver")
    }
    pub(crate) fn kubelet_data(&self) -> PathBuf {
        self.data_dir.join("kubelet")
    }
    pub(crate) fn shim_data(&self) -> PathBuf {
        self.data_dir.join("shim")
    }
    /// Network configuration for this cluster's pods alone; without any, the built-in bridge. The host's own in
    /// /etc/cni is for what the host runs.
    pub(crate) fn cni_conf(&self) -> PathBuf {
        self.data_dir.join("cni")
    }
    pub(crate) fn containerd_data(&self) -> PathBuf {
        self.data_dir.join("containerd")
    }
    pub(crate) fn logs(&self) -> PathBuf {
        self.data_dir.join("logs")
    }
    /// What the process of a cluster in the background writes.
    pub(crate) fn up_log(&self) -> PathBuf {
        self.logs().join("up.log")
    }
    pub(crate) fn containerd_log(&self) -> PathBuf {
        self.logs().join("containerd.log")
    }
}

impl Cluster {
    pub(crate) fn layout(&self) -> Layout {
        Layout::new(&self.run_dir, &self.data_dir)
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        match &self.runtime {
            Runtime::Own => self.layout().containerd_socket(),
            Runtime::Existing(socket) => socket.clone(),
        }
    }

    /// Remembers the cluster for `c8s down`, whatever happens to this process.
    pub(crate) fn save(&self) -> Result<()> {
        let path = self.layout().cluster();
        let text = serde_json::to_vec_pretty(self)?;
        // Written beside and renamed: a reader never sees half a file.
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The cluster of a run folder; None when there is nothing to take down.
    pub(crate) fn load(run_dir: &Path) -> Result<Option<Self>> {
        let path = Layout::new(run_dir, Path::new("")).cluster();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{}: not written by this version of c8s", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_cluster_loads_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster {
            run_dir: dir.path().to_owned(),
            data_dir: "/var/lib/x".into(),
            node_name: "n1".into(),
            runtime: Runtime::Existing("/run/containerd.sock".into()),
            bridge: "b0".into(),
            pod_cidr: "10.1.0.0/16".parse().unwrap(),
        };
        assert_eq!(Cluster::load(dir.path()).unwrap(), None);
        cluster.save().unwrap();
        assert_eq!(Cluster::load(dir.path()).unwrap(), Some(cluster));
    }
}
