//! What the services of all kinds have in common: one macro binds a kind's six calls to the registry.

/// A request's namespace, for kinds that have namespaces.
macro_rules! namespace_of {
    (namespaced $request:ident) => {
        std::mem::take(&mut $request.namespace)
    };
    (cluster $request:ident) => {
        String::new()
    };
}

/// A delete's grace period, for kinds whose objects take time to end.
macro_rules! grace_of {
    (graceful $request:ident) => {
        $request.grace_period_seconds
    };
    (at_once $request:ident) => {
        None
    };
}

/// Implements a kind's service on [`super::Backend`]; what the kind has beside the six calls follows in braces.
macro_rules! objects_service {
    (
        $service:path, $Kind:ty, $one:ident, $many:ident, $spaces:ident, $ends:ident;
        $create:ident $CreateRequest:ident $CreateResponse:ident,
        $get:ident $GetRequest:ident $GetResponse:ident,
        $list:ident $ListRequest:ident $ListResponse:ident,
        $update:ident $UpdateRequest:ident $UpdateResponse:ident,
        $delete:ident $DeleteRequest:ident $DeleteResponse:ident,
        $watch:ident $WatchRequest:ident $WatchResponse:ident,
        { $($more:tt)* }
    ) => {
        #[tonic::async_trait]
        impl $service for $crate::services::Backend {
            async fn $create(
                &self,
                request: tonic::Request<$CreateRequest>,
            ) -> Result<tonic::Response<$CreateResponse>, tonic::Status> {
                let scope = $crate::access::scope(&request)?;
                let request = request.into_inner();
                let commit = $crate::registry::Commit::unless(request.validate_only);
                let object = self.registry.create(&scope, request.$one, commit).await?;
                Ok(tonic::Response::new($CreateResponse { $one: Some(object) }))
            }

            async fn $get(
                &self,
                request: tonic::Request<$GetRequest>,
            ) -> Result<tonic::Response<$GetResponse>, tonic::Status> {
                let scope = $crate::access::scope(&request)?;
                #[allow(unused_mut)]
                let mut request = request.into_inner();
                let namespace = namespace_of!($spaces request);
                let key = $crate::registry::Key::<$Kind>::parse(&namespace, &request.name)?;
                let object = self.registry.get(&scope, &key).await?;
                Ok(tonic::Response::new($GetResponse { $one: Some(object) }))
            }

            async fn $list(
                &self,
                request: tonic::Request<$ListRequest>,
            ) -> Result<tonic::Response<$ListResponse>, tonic::Status> {
                let scope = $crate::access::scope(&request)?;
                #[allow(unused_mut)]
                let mut request = request.into_inner();
                let namespace = namespace_of!($spaces request);
                let request = $crate::registry::ListRequest {
                    namespace,
                    label_selector: request.label_selector,
                    field_selector: request.field_selector,
                    page_size: request.page_size,
                    page_token: request.page_token,
                };
                let page = self.registry.list(&scope, &request).await?;
                Ok(tonic::Response::new($ListResponse {
                    $many: page.items,
                    next_page_token: page.next_page_token,
                    resource_version: page.revision.0,
                }))
            }

            async fn $update(
                &self,
                request: tonic::Request<$UpdateRequest>,
            ) -> Result<tonic::Response<$UpdateResponse>, tonic::Status> {
                let scope = $crate::access::scope(&request)?;
                let request = request.into_inner();
                let commit = $crate::registry::Commit::unless(request.validate_only);
                let object = self.registry.update(&scope, request.$one, commit).await?;
                Ok(tonic::Response::new($UpdateResponse { $one: Some(object) }))
            }

            async fn $delete(
                &self,
                request: tonic::Request<$DeleteRequest>,
            ) -> Result<tonic::Response<$DeleteResponse>, tonic::Status> {
                let scope = $crate::access::scope(&request)?;
                #[allow(unused_mut)]
                let mut request = request.into_inner();
                let namespace = namespace_of!($spaces request);
                let key = $crate::registry::Key::<$Kind>::parse(&namespace, &request.name)?;
                let options = $crate::registry::DeleteOptions {
                    grace: grace_of!($ends request),
                    seen: $crate::registry::Seen {
                        uid: request.uid,
                        resource_version: request.resource_version,
                    },
                };
                let object = self.registry.delete(&scope, &key, &options).await?;
                Ok(tonic::Response::new($DeleteResponse { $one: Some(object) }))
            }

            async fn $watch(
                &self,
                request: tonic::Request<$WatchRequest>,
            ) -> Result<tonic::Response<tonic::codegen::BoxStream<$WatchResponse>>, tonic::Status> {
                let scope = $crate::access::scope(&request)?;
                #[allow(unused_mut)]
                let mut request = request.into_inner();
                let namespace = namespace_of!($spaces request);
                let request = $crate::registry::WatchRequest {
                    namespace,
                    label_selector: request.label_selector,
                    field_selector: request.field_selector,
                    resource_version: request.resource_version,
                    send_initial_state: request.send_initial_state,
                };
                let events = self.registry.watch::<$Kind>(&scope, &request).await?;
                let responses = futures::StreamExt::map(events, |event| {
                    let event = event?;
                    Ok($WatchResponse {
                        r#type: event.kind.into(),
                        $one: event.object,
                        resource_version: event.revision.0,
                    })
                });
                Ok(tonic::Response::new(Box::pin(responses)))
            }

            $($more)*
        }
    };
}
