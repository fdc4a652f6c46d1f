//! Probes for people.

use clone8s::v1::{Container, HttpGetAction, Probe, lifecycle_handler::Handler as Hook, probe::Handler};

use super::Page;

pub(super) fn describe_probes(container: &Container, page: &mut Page) {
    for (name, probe) in [
        ("Startup probe", &container.startup_probe),
        ("Liveness probe", &container.liveness_probe),
        ("Readiness probe", &container.readiness_probe),
    ] {
        page.field(name, probe.as_ref().map(sentence).unwrap_or_default());
    }
}

pub(super) fn describe_hooks(container: &Container, page: &mut Page) {
    let lifecycle = container.lifecycle.clone().unwrap_or_default();
    for (name, hook) in [
        ("After start", &lifecycle.post_start),
        ("Before stop", &lifecycle.pre_stop),
    ] {
        let handler = hook.as_ref().and_then(|hook| hook.handler.as_ref());
        let done = handler.map(|handler| match handler {
            Hook::Exec(exec) => format!("run {}", exec.command.join(" ")),
            Hook::HttpGet(get) => format!("GET {}", url(get)),
            Hook::Sleep(sleep) => format!("wait {} s", sleep.seconds),
        });
        page.field(name, done.unwrap_or_default());
    }
}

/// "GET http://:8080/ready every 5 s from 10 s on, within 1 s; bad after 3, good after 1".
fn sentence(probe: &Probe) -> String {
    let asked = match &probe.handler {
        None => "nothing".to_owned(),
        Some(Handler::Exec(exec)) => format!("run {}", exec.command.join(" ")),
        Some(Handler::HttpGet(get)) => format!("GET {}", url(get)),
        Some(Handler::TcpSocket(socket)) => format!("connect to {}:{}", socket.host, socket.port),
        Some(Handler::Grpc(grpc)) if grpc.service.is_empty() => format!("gRPC health on :{}", grpc.port),
        Some(Handler::Grpc(grpc)) => format!("gRPC health of {} on :{}", grpc.service, grpc.port),
    };
    let delay = match probe.initial_delay_seconds {
        0 => String::new(),
        seconds => format!(" from {seconds} s on"),
    };
    format!(
        "{asked} every {} s{delay}, within {} s; bad after {}, good after {}",
        probe.period_seconds, probe.timeout_seconds, probe.failure_threshold, probe.success_threshold
    )
}

fn url(get: &HttpGetAction) -> String {
    let scheme = get.scheme.to_ascii_lowercase();
    format!("{scheme}://{}:{}{}", get.host, get.port, get.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_one_line() {
        let probe = Probe {
            handler: Some(Handler::HttpGet(HttpGetAction {
                path: "/ready".into(),
                port: "8080".into(),
                scheme: "HTTP".into(),
                ..Default::default()
            })),
            initial_delay_seconds: 10,
            timeout_seconds: 1,
            period_seconds: 5,
            success_threshold: 1,
            failure_threshold: 3,
            ..Default::default()
        };
        assert_eq!(
            sentence(&probe),
            "GET http://:8080/ready every 5 s from 10 s on, within 1 s; bad after 3, good after 1"
        );
    }
}
