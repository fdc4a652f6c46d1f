//! The generated services, bound to what does the work. A handler maps messages and nothing else.

mod maintenance;
mod objects;
mod pods;
mod registration;
mod tunnel;

use std::sync::Arc;

use clone8s::{
    for_each_kind,
    v1::{
        self, maintenance_service_server::MaintenanceServiceServer, pod_service_server::PodServiceServer,
        registration_service_server::RegistrationServiceServer, tunnel_service_server::TunnelServiceServer,
    },
};
use clone8s_daemon::Shutdown;
use tonic::{codec::CompressionEncoding, service::Routes};

pub(crate) use self::objects::MoreCalls;
use self::objects::ObjectService;
use crate::{pki::Pki, registration::Registrar, registry::Registry, tunnel::Tunnels};

/// What the services work on.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) registry: Registry,
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) registrar: Registrar,
    pub(crate) pki: Arc<Pki>,
    /// Ends what a call has under way.
    pub(crate) shutdown: Shutdown,
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

/// What pods have beside the calls of all kinds.
pub(crate) fn pod_calls(backend: &Arc<Backend>) -> MoreCalls {
    MoreCalls::new(served!(PodServiceServer, backend))
}

macro_rules! object_services {
    ($($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*) => {
        fn object_services(backend: &Arc<Backend>) -> Routes {
            Routes::default()$(.add_service(ObjectService::<v1::$kind>::new(backend)))*
        }
    };
}
for_each_kind!(object_services);

/// Every service of the API.
pub(crate) fn routes(backend: &Arc<Backend>) -> Routes {
    object_services(backend)
        .add_service(served!(MaintenanceServiceServer, backend))
        .add_service(served!(RegistrationServiceServer, backend))
        .add_service(served!(TunnelServiceServer, backend))
}
