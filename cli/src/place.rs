//! Where a cluster that is not up keeps its store and its certificates.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::up::{DEFAULT_DATA_DIR, Held, Layout};

#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The data folder of `c8s up`
    #[arg(long, env = "CLONE8S_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// The data folder of an API server that is a program of its own [default: that of the API server of `c8s up`]
    #[arg(long, value_name = "DIR")]
    apiserver_dir: Option<PathBuf>,
}

/// The folder of an API server; no `c8s up` uses it for as long as this lives.
#[derive(Debug)]
pub(crate) struct Place {
    apiserver: PathBuf,
    _data: Option<Held>,
}

impl PlaceArgs {
    pub(crate) fn take(&self) -> Result<Place> {
        if let Some(apiserver) = &self.apiserver_dir {
            return Ok(Place {
                apiserver: apiserver.clone(),
                _data: None,
            });
        }
        let layout = Layout::new(Path::new(""), &std::path::absolute(&self.data_dir)?);
        Ok(Place {
            apiserver: layout.apiserver_data(),
            _data: Some(Held::of_data(&layout)?),
        })
    }
}

impl Place {
    pub(crate) fn apiserver(&self) -> &Path {
        &self.apiserver
    }

    /// Of the embedded store.
    pub(crate) fn store_file(&self) -> PathBuf {
        self.apiserver.join("store.redb")
    }
}
