//! Calls for a pod that its node answers, by its tunnel.

pub(crate) mod logs;
pub(crate) mod streams;

use clone8s::v1::Pod;

use crate::{
    access::Scope,
    error::ApiError,
    kind::Kind as _,
    registry::{Key, Registry},
};

/// A pod that is on a node.
struct Placed {
    key: Key<Pod>,
    pod: Pod,
    node: String,
}

impl Placed {
    async fn find(registry: &Registry, scope: &Scope, namespace: &str, name: &str) -> Result<Self, ApiError> {
        let key = Key::<Pod>::parse(namespace, name)?;
        let pod = registry.get_object(scope, &key).await?;
        let Some(node) = pod.node() else {
            return Err(ApiError::WrongState {
                object: key.name(),
                reason: "NOT_BOUND",
                description: "it is not on a node yet, so there is no node to ask; its events say why".into(),
            });
        };
        Ok(Self {
            node: node.to_owned(),
            key,
            pod,
        })
    }

    /// The container that is meant, by its name if it has been named.
    fn container(&self, named: &str) -> Result<String, ApiError> {
        let spec = self.pod.spec.as_ref();
        let chosen = spec.map(|spec| spec.choose_container(named)).transpose();
        match chosen {
            Ok(name) => Ok(name.unwrap_or_default().to_owned()),
            Err(error) => Err(self.field("container", error.to_string())),
        }
    }

    fn namespace(&self) -> String {
        self.key.namespace().to_owned()
    }

    /// A field of the call that cannot be so.
    fn field(&self, field: &str, description: impl Into<String>) -> ApiError {
        ApiError::field(self.key.name().to_string(), field, description)
    }
}
