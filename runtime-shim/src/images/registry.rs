//! A registry client (OCI distribution spec 1.1), for pulling.
//!
//! ```text
//! hosts.toml ─► places ─┐                    ┌─► manifest
//! credentials ──────────┴─► Repository ─────┴─► blob, over breaks, from the place that has it
//! ```

mod blob;
mod challenge;
mod credentials;
mod endpoint;
mod failure;
mod hosts;
mod rounds;
mod token;
mod transport;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use clone8s::cri;
use tokio::sync::Semaphore;

use self::{
    credentials::Login,
    endpoint::Endpoint,
    failure::Failure,
    hosts::{Host, is_loopback},
    rounds::Rounds,
    transport::Transport,
};
use super::{
    ImageError, ImageName, Result,
    digest::Digest,
    name::{Reference, Version},
};
use crate::{config::ImagesConfig, table::lock};

/// All registries, as this host is set up to reach them.
#[derive(Debug)]
pub(super) struct Registries {
    hosts_dir: PathBuf,
    auth_file: Option<PathBuf>,
    plain_http: BTreeSet<String>,
    transport: Transport,
    downloads: usize,
    /// By registry: one that hangs keeps nobody from another.
    slots: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// One repository at all the places that may have it.
#[derive(Debug)]
pub(super) struct Repository {
    /// For errors.
    pub(super) image: String,
    registry: String,
    endpoints: Vec<Endpoint>,
    /// Who may download from this registry now.
    pub(super) slots: Arc<Semaphore>,
}

impl Registries {
    pub(super) fn new(config: &ImagesConfig, plain_http: BTreeSet<String>) -> Self {
        Self {
            hosts_dir: config.hosts_dir.clone(),
            auth_file: config.auth_file.clone(),
            plain_http,
            transport: Transport::new(config.connect_limit, config.silence_limit),
            downloads: config.downloads,
            slots: Mutex::default(),
        }
    }

    /// Reads the configuration for a repository as it is now.
    pub(super) fn open(
        &self,
        reference: &Reference,
        auth: Option<&cri::AuthConfig>,
    ) -> Result<Arc<Repository>> {
        let image = ImageName::from(reference).to_string();
        let registry = &reference.registry;
        let login = Login::read(&image, auth, self.auth_file.as_deref())?;
        let hosts = hosts::load(&self.hosts_dir, registry, self.plain_http.contains(registry))?;
        let endpoint = |host: Host| {
            let local = host.base.host_str().is_some_and(is_loopback);
            let client = self.transport.client(&host.tls, local);
            let client = client.map_err(|problem| ImageError::Hosts {
                path: self.hosts_dir.clone(),
                problem: format!("{}: {problem}", host.name()),
            })?;
            let credentials = login.for_host(&host.name(), registry, &reference.repository);
            Ok(Endpoint::new(
                host,
                client,
                registry,
                &reference.repository,
                credentials,
            ))
        };
        let endpoints = hosts.into_iter().map(endpoint).collect::<Result<_>>()?;
        let mut slots = lock(&self.slots);
        // Those that nobody downloads from any more.
        slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        let slots = slots
            .entry(registry.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(self.downloads)));
        Ok(Arc::new(Repository {
            image,
            registry: registry.clone(),
            endpoints,
            slots: Arc::clone(slots),
        }))
    }
}

impl Repository {
    /// The digest of a version, where a place tells it; asking costs no download where those are counted.
    pub(super) async fn digest(&self, version: &Version) -> Option<Digest> {
        for place in self.places_for(version) {
            match self.endpoints[place].head(&version.to_string()).await {
                Ok(digest) => return digest,
                Err(failure) => self.passed_over(place, &failure),
            }
        }
        None
    }

    /// A manifest or index, whose digest is the version's where that is one.
    pub(super) async fn manifest(&self, version: &Version) -> Result<(Digest, Bytes)> {
        let mut rounds = Rounds::new(self.places_for(version));
        let asked = version.to_string();
        while let Some(place) = rounds.next().await {
            let failure = match self.endpoints[place].manifest(&asked).await {
                Ok((digest, document)) => match version {
                    Version::Digest(expected) if *expected != digest => {
                        Failure::Wrong(format!("sent a manifest {digest} for {expected}"))
                    }
                    _ => return Ok((digest, document)),
                },
                Err(failure) => failure,
            };
            self.passed_over(place, &failure);
            rounds.failed(place, failure);
        }
        Err(self.explain(rounds.into_failures()))
    }

    /// The name of a place.
    pub(super) fn host(&self, place: usize) -> String {
        self.endpoints
            .get(place)
            .map_or_else(|| self.registry.clone(), |endpoint| endpoint.host.name())
    }

    /// How many places may have its blobs.
    pub(super) fn has_others(&self, than: &[usize]) -> bool {
        let places = self.places(|host| host.capabilities.pull);
        places.iter().any(|place| !than.contains(place))
    }

    fn places(&self, capable: impl Fn(&Host) -> bool) -> Vec<usize> {
        let hosts = self.endpoints.iter().enumerate();
        hosts
            .filter(|(_, endpoint)| capable(&endpoint.host))
            .map(|(place, _)| place)
            .collect()
    }

    /// A tag means what a place says that it means; a digest is the same everywhere.
    fn places_for(&self, version: &Version) -> Vec<usize> {
        match version {
            Version::Tag(_) => self.places(|host| host.capabilities.resolve),
            Version::Digest(_) => self.places(|host| host.capabilities.pull),
        }
    }

    fn passed_over(&self, place: usize, failure: &Failure) {
        let host = self.host(place);
        tracing::debug!(image = self.image, host, problem = failure.brief(), "no manifest");
    }

    /// What the last place says, which is the registry itself, and in short what the others do.
    fn explain(&self, mut failures: BTreeMap<usize, Failure>) -> ImageError {
        let Some((place, last)) = failures.pop_last() else {
            return ImageError::Registry {
                image: self.image.clone(),
                registry: self.registry.clone(),
                problem:
                    "no host in its hosts.toml may be asked for this; add the capabilities pull and resolve"
                        .into(),
                also: String::new(),
            };
        };
        let others: Vec<_> = failures
            .iter()
            .map(|(place, failure)| format!("{} {}", self.host(*place), failure.brief()))
            .collect();
        let also = if others.is_empty() {
            String::new()
        } else {
            format!(" (asked before: {})", others.join("; "))
        };
        // Under its own name, which is not always the image's: docker.io's is registry-1.docker.io.
        let host = self.host(place);
        let registry = if self.endpoints[place].host.is_mirror || host == self.registry {
            host
        } else {
            format!("{} ({host})", self.registry)
        };
        last.explain(&self.image, &registry, also)
    }
}

#[cfg(test)]
mod tests;
