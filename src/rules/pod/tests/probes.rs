//! Probes and readiness gates.

use super::*;
use crate::v1::{HttpGetAction, PodReadinessGate, Probe, probe::Handler};

fn probe(handler: Handler) -> Probe {
    Probe {
        handler: Some(handler),
        ..Probe::default()
    }
}

fn http_get(port: &str) -> Handler {
    Handler::HttpGet(HttpGetAction {
        port: port.to_owned(),
        ..HttpGetAction::default()
    })
}

#[test]
fn a_probe_gets_the_defaults_of_the_contract() {
    let mut pod = pod();
    pod.spec.as_mut().unwrap().containers[0].liveness_probe = Some(probe(http_get("8080")));
    pod.set_defaults();
    let found = pod.spec.unwrap().containers.remove(0).liveness_probe.unwrap();
    let times = (
        found.initial_delay_seconds,
        found.timeout_seconds,
        found.period_seconds,
        found.success_threshold,
        found.failure_threshold,
    );
    assert_eq!(times, (0, 1, 10, 1, 3));
    let Some(Handler::HttpGet(get)) = found.handler else {
        panic!("{:?}", found.handler);
    };
    assert_eq!((get.path.as_str(), get.scheme.as_str()), ("/", "HTTP"));
}

#[test]
fn a_probe_asks_somebody_within_bounds() {
    let found = after(|spec| {
        let app = &mut spec.containers[0];
        app.ports.push(ContainerPort {
            name: "web".into(),
            container_port: 80,
            ..ContainerPort::default()
        });
        app.startup_probe = Some(probe(http_get("web")));
        app.liveness_probe = Some(Probe {
            success_threshold: 2,
            period_seconds: -1,
            ..probe(http_get("wep"))
        });
        app.readiness_probe = Some(Probe {
            termination_grace_period_seconds: Some(5),
            ..Probe::default()
        });
        spec.readiness_gates.push(PodReadinessGate {
            condition_type: "Ready".into(),
        });
    });
    assert_eq!(
        found,
        [
            "spec.containers[0].livenessProbe.periodSeconds: must be from 1 to 86400, but is -1",
            "spec.containers[0].livenessProbe.httpGet.port: must be a port's number, or the name of a port of the \
             container; is \"wep\"; did you mean \"web\"?",
            "spec.containers[0].livenessProbe.successThreshold: must be 1 for startup and liveness, but is 2",
            "spec.containers[0].readinessProbe: must have a handler: exec, httpGet, tcpSocket or grpc",
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: cannot be set: a container that is not \
             ready is not stopped",
            "spec.readinessGates[0].conditionType: \"Ready\" is a condition that the node itself sets",
        ]
    );
}
