//! The rules of a container's probes.

use super::{super::meta, default_to};
use crate::{
    rules::check::Check,
    v1::{Container, ExecAction, HttpGetAction, Probe, probe::Handler},
};

const MAX_SECONDS: i32 = 24 * 3600;
const MAX_THRESHOLD: i32 = 1_000_000;
const MAX_WORDS: usize = 1000;
const MAX_HEADERS: usize = 100;

pub(super) fn set_defaults(container: &mut Container) {
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    for probe in probes.into_iter().flatten() {
        for (value, default) in [
            (&mut probe.timeout_seconds, 1),
            (&mut probe.period_seconds, 10),
            (&mut probe.success_threshold, 1),
            (&mut probe.failure_threshold, 3),
        ] {
            if *value == 0 {
                *value = default;
            }
        }
        if let Some(Handler::HttpGet(get)) = &mut probe.handler {
            set_http_defaults(get);
        }
    }
}

pub(super) fn set_http_defaults(get: &mut HttpGetAction) {
    default_to(&mut get.path, "/");
    default_to(&mut get.scheme, "HTTP");
}

pub(super) fn check_probes(c: &mut Check, container: &Container) {
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let Some(probe) = probe else { continue };
        c.field(field, |c| {
            check_times(c, probe);
            check_handler(c, probe, container);
            if field == "readinessProbe" {
                if probe.termination_grace_period_seconds.is_some() {
                    c.field("terminationGracePeriodSeconds", |c| {
                        c.wrong("cannot be set: a container that is not ready is not stopped");
                    });
                }
            } else if probe.success_threshold != 1 {
                c.field("successThreshold", |c| {
                    c.wrong(format!(
                        "must be 1 for startup and liveness, but is {}",
                        probe.success_threshold
                    ));
                });
            }
        });
    }
}

fn check_times(c: &mut Check, probe: &Probe) {
    for (field, value, least, most) in [
        ("initialDelaySeconds", probe.initial_delay_seconds, 0, MAX_SECONDS),
        ("timeoutSeconds", probe.timeout_seconds, 1, MAX_SECONDS),
        ("periodSeconds", probe.period_seconds, 1, MAX_SECONDS),
        ("successThreshold", probe.success_threshold, 1, MAX_THRESHOLD),
        ("failureThreshold", probe.failure_threshold, 1, MAX_THRESHOLD),
    ] {
        if !(least..=most).contains(&value) {
            c.field(field, |c| {
                c.wrong(format!("must be from {least} to {most}, but is {value}"));
            });
        }
    }
    if let Some(seconds) = probe.termination_grace_period_seconds {
        c.field("terminationGracePeriodSeconds", |c| {
            meta::grace(c, seconds);
            if seconds == 0 {
                c.wrong("must be more than 0");
            }
        });
    }
}

fn check_handler(c: &mut Check, probe: &Probe, container: &Container) {
    match &probe.handler {
        None => c.wrong("must have a handler: exec, httpGet, tcpSocket or grpc"),
        Some(Handler::Exec(exec)) => c.field("exec", |c| check_exec(c, exec)),
        Some(Handler::HttpGet(get)) => c.field("httpGet", |c| check_http_get(c, get, container)),
        Some(Handler::TcpSocket(socket)) => c.field("tcpSocket", |c| {
            c.field("port", |c| check_port(c, &socket.port, container));
            c.field("host", |c| check_host(c, &socket.host));
        }),
        Some(Handler::Grpc(grpc)) => c.field("grpc", |c| {
            c.field("port", |c| c.port(grpc.port));
            c.field("service", |c| c.at_most(&grpc.service, 1024));
        }),
    }
}

pub(super) fn check_exec(c: &mut Check, exec: &ExecAction) {
    if exec.command.is_empty() {
        c.field("command", |c| c.wrong("must have at least one word"));
    }
    c.list("command", &exec.command, MAX_WORDS, |c, word| {
        super::container::check_argument(c, word);
    });
}

pub(super) fn check_http_get(c: &mut Check, get: &HttpGetAction, container: &Container) {
    c.field("port", |c| check_port(c, &get.port, container));
    c.field("host", |c| check_host(c, &get.host));
    c.field("scheme", |c| c.one_of(&get.scheme, &["HTTP", "HTTPS"]));
    c.field("path", |c| {
        c.at_most(&get.path, 4096);
        if get
            .path
            .contains(|letter: char| letter.is_control() || letter == ' ')
        {
            c.wrong("must not contain spaces; write %20");
        }
    });
    c.list("httpHeaders", &get.http_headers, MAX_HEADERS, |c, header| {
        c.field("name", |c| {
            let allowed = |letter: char| letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter);
            if header.name.is_empty() || !header.name.chars().all(allowed) {
                c.wrong(format!("must be the name of a header, but is {:?}", header.name));
            }
        });
        c.field("value", |c| {
            if header.value.contains(|letter: char| letter.is_control()) {
                c.wrong("must be one line");
            }
        });
    });
}

/// A number, or the name of one of the container's ports.
pub(super) fn check_port(c: &mut Check, port: &str, container: &Container) {
    if let Ok(number) = port.parse() {
        c.port(number);
        return;
    }
    let known = || {
        container
            .ports
            .iter()
            .map(|port| port.name.as_str())
            .filter(|name| !name.is_empty())
    };
    if !known().any(|name| name == port) {
        let mut sentence =
            format!("must be a port's number, or the name of a port of the container; is {port:?}");
        if let Some(near) = crate::names::nearest(port, known()) {
            sentence = format!("{sentence}; did you mean {near:?}?");
        }
        c.wrong(sentence);
    }
}

pub(super) fn check_host(c: &mut Check, host: &str) {
    c.at_most(host, crate::names::MAX_SUBDOMAIN);
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-.:_".contains(letter);
    if !host.chars().all(allowed) {
        c.wrong(format!("must be an IP address or a host's name, but is {host:?}"));
    }
}
