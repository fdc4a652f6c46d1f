//! AddEphemeralContainer: the one way in which a pod comes to have a container for a look into it.

use clone8s::{
    object::Object as _,
    rules::{Rules as _, check_added_container},
    v1::{AddEphemeralContainerRequest, EphemeralContainer, Pod},
};

use crate::{
    access::Scope,
    error::ApiError,
    registry::{Key, Registry, Seen, WriteOptions, check_writable, validate},
};

/// Adds a container to a pod that has not ended and is not about to.
pub(crate) async fn add(
    registry: &Registry,
    scope: &Scope,
    request: AddEphemeralContainerRequest,
) -> Result<Pod, ApiError> {
    let options = WriteOptions::parse(
        "AddEphemeralContainer",
        request.validate_only,
        &request.request_id,
    )?;
    let key = Key::<Pod>::parse(&request.namespace, &request.name)?;
    let Some(container) = request.container else {
        return Err(ApiError::field("the request", "container", "is missing"));
    };
    let seen = Seen {
        uid: request.uid,
        resource_version: request.resource_version,
    };
    registry
        .modify(scope, &key, &seen, &options, |current: &Pod| {
            check_writable(&key, current)?;
            check_goes_on(&key, current)?;
            with(current, container.clone())
        })
        .await
}

fn check_goes_on(key: &Key<Pod>, pod: &Pod) -> Result<(), ApiError> {
    let phase = pod.status.as_ref().map_or("", |status| status.phase.as_str());
    let is_ending = pod
        .metadata()
        .is_some_and(|meta| meta.deletion_timestamp.is_some());
    let (reason, description) = match phase {
        _ if is_ending => ("BEING_DELETED", "it is being deleted".to_owned()),
        "Succeeded" | "Failed" => (
            "POD_ENDED",
            format!("it has ended ({phase}), and nothing starts in it any more; c8s logs has what it wrote"),
        ),
        _ => return Ok(()),
    };
    Err(ApiError::WrongState {
        object: key.name(),
        reason,
        description,
    })
}

fn with(current: &Pod, container: EphemeralContainer) -> Result<Pod, ApiError> {
    let mut pod = current.clone();
    let spec = pod.spec.get_or_insert_default();
    spec.ephemeral_containers.push(container);
    let violations = check_added_container(spec);
    pod.set_defaults();
    validate(&pod, violations)?;
    Ok(pod)
}
