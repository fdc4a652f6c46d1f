//! Whether runtime and network are ready (CRI, Status).

mod info;

use std::collections::BTreeMap;

use crate::{
    features,
    shim::{Readiness, Shim},
};
use clone8s::cri;

impl Shim {
    pub(crate) async fn status(&self, verbose: bool) -> cri::StatusResponse {
        let readiness = self.readiness.borrow().clone();
        let (ready, reason, message) = match &readiness {
            Readiness::Ready { .. } => (true, "", String::new()),
            Readiness::Waiting(reason) => (false, "ContainerdNotReady", reason.clone()),
        };
        let runtime = condition("RuntimeReady", ready, reason, message);
        let found = self.network.condition().await;
        let reason = match (found.ready, found.message.as_str()) {
            (false, _) => "NetworkPluginNotReady",
            (true, "") => "",
            (true, _) => "ConfigurationPassedOver",
        };
        let network = condition("NetworkReady", found.ready, reason, found.message);
        cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![runtime, network],
            }),
            info: if verbose {
                self.info(&readiness).await
            } else {
                BTreeMap::new()
            },
            runtime_handlers: self.handlers_with_features().await,
            features: Some(features::of_the_shim()),
        }
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: String) -> cri::RuntimeCondition {
    cri::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    }
}
