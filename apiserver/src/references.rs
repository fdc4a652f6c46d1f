//! What a node may read of what its pods refer to: a config map or a secret by its name, while a pod that is bound to
//! the node names it. Mirrors do not count: the node itself says what they refer to.

use clone8s::{
    mirror::is_mirror,
    references::References,
    selector::FieldSelector,
    v1::Pod,
    wire::{ListRequest, WatchRequest},
};

use crate::{
    access::Scope,
    error::ApiError,
    kind::Kind,
    registry::{Key, Registry},
};

/// Pods a page, when a node's pods are looked through.
const PAGE: i32 = 500;

/// The scope of a caller for a get of this one object.
pub(crate) async fn for_get<K: Kind>(
    registry: &Registry,
    scope: Scope,
    key: &Key<K>,
) -> Result<Scope, ApiError> {
    let object = key.name();
    widened::<K>(registry, scope, &object.namespace, &object.name).await
}

/// The scope of a caller for a watch. A node's must be of one object, which its selector and its namespace name.
pub(crate) async fn for_watch<K: Kind>(
    registry: &Registry,
    scope: Scope,
    request: &WatchRequest,
) -> Result<Scope, ApiError> {
    // A selector that is wrong is told as such by the watch itself.
    let selector = FieldSelector::<K>::parse(&request.field_selector).unwrap_or_default();
    let name = selector.required("metadata.name").unwrap_or_default();
    widened::<K>(registry, scope, &request.namespace, name).await
}

/// For a request that can meet no object but this one: a node whose pods refer to it may read it, as if it had the
/// whole cluster.
async fn widened<K: Kind>(
    registry: &Registry,
    scope: Scope,
    namespace: &str,
    name: &str,
) -> Result<Scope, ApiError> {
    let (Scope::Node(node), Some(named)) = (&scope, K::REFERENCES) else {
        return Ok(scope);
    };
    let is_of_one = !namespace.is_empty() && !name.is_empty();
    if is_of_one
        && refers(registry, &scope, node, namespace, |references| {
            named(references).contains(name)
        })
        .await?
    {
        return Ok(Scope::Cluster);
    }
    Err(scope.forbidden(
        format!("read {} {name:?}", K::KIND),
        "no pod of that node refers to it by its name",
    ))
}

/// Whether a pod of the node, in this namespace, refers to what is asked for.
async fn refers(
    registry: &Registry,
    scope: &Scope,
    node: &str,
    namespace: &str,
    asked: impl Fn(&References) -> bool,
) -> Result<bool, ApiError> {
    let mut request = ListRequest {
        namespace: namespace.to_owned(),
        field_selector: format!("spec.nodeName={node}"),
        page_size: PAGE,
        ..ListRequest::default()
    };
    loop {
        let page = registry.list::<Pod>(scope, &request).await?;
        for pod in page.objects::<Pod>()? {
            let asks = |spec| asked(&References::of(spec));
            if !is_mirror(&pod) && pod.spec.as_ref().is_some_and(asks) {
                return Ok(true);
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(false);
        }
        request.page_token = page.next_page_token;
    }
}
