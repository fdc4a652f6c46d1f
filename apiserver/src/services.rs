//! The generated services, bound to what does the work. A handler maps messages and nothing else.

#[macro_use]
mod objects;
mod config_maps;
mod events;
mod namespaces;
mod nodes;
mod pods;
mod registration;
mod secrets;
mod tunnel;

use std::sync::Arc;

use clone8s::v1::{
    config_map_service_server::ConfigMapServiceServer, event_service_server::EventServiceServer,
    namespace_service_server::NamespaceServiceServer, node_service_server::NodeServiceServer,
    pod_service_server::PodServiceServer, registration_service_server::RegistrationServiceServer,
    secret_service_server::SecretServiceServer, tunnel_service_server::TunnelServiceServer,
};
use tonic::{codec::CompressionEncoding, service::Routes};

use crate::{registration::Registrar, registry::Registry, tunnel::Tunnels};

/// What the services work on.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) registry: Registry,
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) registrar: Registrar,
}

/// The largest message that is taken: an object at its limit, and room around it.
const LARGEST_REQUEST: usize = 4 * 1024 * 1024;

macro_rules! served {
    ($server:ident, $backend:expr) => {
        $server::from_arc(Arc::clone($backend))
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Zstd)
            .max_decoding_message_size(LARGEST_REQUEST)
    };
}

/// Every service of the API.
pub(crate) fn routes(backend: &Arc<Backend>) -> Routes {
    Routes::default()
        .add_service(served!(PodServiceServer, backend))
        .add_service(served!(NodeServiceServer, backend))
        .add_service(served!(NamespaceServiceServer, backend))
        .add_service(served!(ConfigMapServiceServer, backend))
        .add_service(served!(SecretServiceServer, backend))
        .add_service(served!(EventServiceServer, backend))
        .add_service(served!(RegistrationServiceServer, backend))
        .add_service(served!(TunnelServiceServer, backend))
}
