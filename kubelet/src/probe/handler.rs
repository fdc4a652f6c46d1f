//! One question to a container, in each of its forms.

use std::time::Duration;

use clone8s::v1::{Container, ExecAction, GrpcAction, HttpGetAction, Probe, TcpSocketAction, probe::Handler};
use tokio::{net::TcpStream, time::timeout};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::http;
use crate::{
    pod::observed::Run,
    runtime::{ContainerId, Runtime, RuntimeErrorReason},
};

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    /// Why it is bad.
    Bad(String),
    /// Nothing was learnt about the container, and why.
    Nothing(String),
}

/// Whom to ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    pub(super) run: ContainerId,
    /// The pod's address; None while it is not known.
    address: Option<String>,
    /// The container's named ports.
    ports: Vec<(String, i32)>,
}

impl Place {
    pub(crate) fn of(container: &Container, run: &Run, address: Option<&str>) -> Self {
        let ports = container
            .ports
            .iter()
            .map(|port| (port.name.clone(), port.container_port))
            .collect();
        Self {
            run: run.id.clone(),
            address: address.map(str::to_owned),
            ports,
        }
    }

    /// With what is named in a hook already resolved, as [`crate::pod::hook::resolved`] does.
    pub(crate) fn of_id(run: ContainerId, address: Option<&str>) -> Self {
        Self {
            run,
            address: address.map(str::to_owned),
            ports: Vec::new(),
        }
    }

    /// The run that is asked.
    pub fn run(&self) -> &ContainerId {
        &self.run
    }

    /// The host to connect to: the one that is named, or the pod's.
    pub(crate) fn host(&self, named: &str) -> Result<String, String> {
        if !named.is_empty() {
            return Ok(named.to_owned());
        }
        self.address
            .clone()
            .ok_or_else(|| "the pod's address is not known".to_owned())
    }

    /// A port by number or by name.
    pub(crate) fn port(&self, port: &str) -> Result<u16, String> {
        let number = port.parse().ok().or_else(|| {
            let named = self.ports.iter().find(|(name, _)| name == port);
            named.map(|(_, number)| *number)
        });
        number
            .and_then(|number: i32| u16::try_from(number).ok())
            .ok_or_else(|| format!("the container has no port {port:?}"))
    }
}

/// Asks once, within the probe's time limit.
pub(super) async fn ask(runtime: &dyn Runtime, place: &Place, probe: &Probe) -> Answer {
    let seconds = u64::try_from(probe.timeout_seconds).unwrap_or(1).max(1);
    let limit = Duration::from_secs(seconds);
    let asked = async {
        match &probe.handler {
            Some(Handler::HttpGet(get)) => http_get(place, get).await,
            Some(Handler::TcpSocket(socket)) => tcp_socket(place, socket).await,
            Some(Handler::Grpc(grpc)) => grpc_check(place, grpc).await,
            Some(Handler::Exec(_)) | None => Answer::Nothing("the probe has no handler".to_owned()),
        }
    };
    if let Some(Handler::Exec(command)) = &probe.handler {
        // The runtime keeps the limit, and ends the command at it.
        return exec(runtime, place, command, limit).await;
    }
    timeout(limit, asked)
        .await
        .unwrap_or_else(|_| Answer::Bad(format!("no answer within {seconds} s")))
}

async fn exec(runtime: &dyn Runtime, place: &Place, command: &ExecAction, limit: Duration) -> Answer {
    match runtime.exec(&place.run, &command.command, limit).await {
        Ok(output) if output.exit_code == 0 => Answer::Good,
        Ok(output) => Answer::Bad(output.describe()),
        Err(error) if error.reason == RuntimeErrorReason::Timeout => {
            Answer::Bad(format!("the command did not end within {} s", limit.as_secs()))
        }
        Err(error) => Answer::Nothing(error.message),
    }
}

pub(crate) async fn http_get(place: &Place, get: &HttpGetAction) -> Answer {
    let target = match (place.host(&get.host), place.port(&get.port)) {
        (Ok(host), Ok(port)) => http::Target { host, port },
        (Err(why), _) | (_, Err(why)) => return Answer::Nothing(why),
    };
    match http::get(&target, get).await {
        Ok(response) if (200..400).contains(&response.status) => Answer::Good,
        Ok(response) => Answer::Bad(format!("HTTP status {}: {}", response.status, response.beginning)),
        Err(why) => Answer::Bad(why),
    }
}

async fn tcp_socket(place: &Place, socket: &TcpSocketAction) -> Answer {
    let (host, port) = match (place.host(&socket.host), place.port(&socket.port)) {
        (Ok(host), Ok(port)) => (host, port),
        (Err(why), _) | (_, Err(why)) => return Answer::Nothing(why),
    };
    match TcpStream::connect((host.as_str(), port)).await {
        Ok(_) => Answer::Good,
        Err(error) => Answer::Bad(format!("connect to {host}:{port}: {error}")),
    }
}

async fn grpc_check(place: &Place, grpc: &GrpcAction) -> Answer {
    let host = match place.host("") {
        Ok(host) => host,
        Err(why) => return Answer::Nothing(why),
    };
    let authority = http::authority(&host, u16::try_from(grpc.port).unwrap_or(0));
    let endpoint = match tonic::transport::Endpoint::from_shared(format!("http://{authority}")) {
        Ok(endpoint) => endpoint,
        Err(error) => return Answer::Nothing(error.to_string()),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => {
            let why = clone8s_daemon::supervisor::chain(&error);
            return Answer::Bad(format!("connect to {authority}: {why}"));
        }
    };
    let request = HealthCheckRequest {
        service: grpc.service.clone(),
    };
    match HealthClient::new(channel).check(request).await {
        Ok(response) => match response.into_inner().status() {
            ServingStatus::Serving => Answer::Good,
            other => Answer::Bad(format!("the service is {}", other.as_str_name())),
        },
        Err(status) => Answer::Bad(format!("Health/Check: {}: {}", status.code(), status.message())),
    }
}

#[cfg(test)]
mod tests;
