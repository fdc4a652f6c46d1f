//! What lists and their streamed forms have in common: the filter, and the parts.

use clone8s::cri;
use futures::{StreamExt as _, stream};

use super::{Cri, Parts};
use crate::{error::Error, filter};

impl Cri {
    pub(super) fn sandboxes(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> Result<Vec<cri::PodSandbox>, Error> {
        self.shim.known()?;
        let filter = filter.unwrap_or_default();
        let all = self
            .shim
            .table
            .sandboxes()
            .into_iter()
            .map(|sandbox| cri::PodSandbox::from(&*sandbox));
        Ok(all.filter(|sandbox| filter::sandbox(&filter, sandbox)).collect())
    }

    pub(super) fn containers(
        &self,
        filter: Option<cri::ContainerFilter>,
    ) -> Result<Vec<cri::Container>, Error> {
        self.shim.known()?;
        let filter = filter.unwrap_or_default();
        let all = self
            .shim
            .table
            .containers()
            .into_iter()
            .map(|container| cri::Container::from(&*container));
        Ok(all
            .filter(|container| filter::container(&filter, container))
            .collect())
    }

    pub(super) async fn all_container_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Vec<cri::ContainerStats>, Error> {
        self.shim.known()?;
        let filter = filter.unwrap_or_default();
        let wanted = cri::ContainerFilter {
            id: filter.id,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
            state: None,
        };
        let mut containers = self.shim.table.containers();
        containers.retain(|container| filter::container(&wanted, &cri::Container::from(&**container)));
        Ok(self.shim.stats_of(containers).await)
    }

    pub(super) async fn all_sandbox_stats(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Result<Vec<cri::PodSandboxStats>, Error> {
        self.shim.known()?;
        let filter = filter.unwrap_or_default();
        let wanted = cri::PodSandboxFilter {
            id: filter.id,
            label_selector: filter.label_selector,
            state: None,
        };
        let mut sandboxes = self.shim.table.sandboxes();
        sandboxes.retain(|sandbox| filter::sandbox(&wanted, &cri::PodSandbox::from(&**sandbox)));
        Ok(self.shim.sandbox_stats_of(sandboxes).await)
    }

    pub(super) async fn all_metrics(&self) -> Result<Vec<cri::PodSandboxMetrics>, Error> {
        self.shim.known()?;
        Ok(self.shim.metrics_of(self.shim.table.sandboxes()).await)
    }
}

/// How many items go in one part of a streamed list.
const PART: usize = 256;

pub(super) fn in_parts<T: Send + 'static, R: Send + 'static>(
    all: Vec<T>,
    wrap: impl Fn(Vec<T>) -> R + Send + 'static,
) -> Parts<R> {
    stream::iter(all)
        .chunks(PART)
        .map(move |part| Ok(wrap(part)))
        .boxed()
}
