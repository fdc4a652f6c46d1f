//! The rules of hooks, and of what an init container can have.

use super::probe::{check_exec, check_http_get, set_http_defaults};
use crate::{
    rules::check::Check,
    v1::{Container, LifecycleHandler, PodSpec, SleepAction, lifecycle_handler::Handler},
};

pub(super) fn set_defaults(container: &mut Container) {
    let hooks = container.lifecycle.iter_mut();
    for hook in hooks.flat_map(|lifecycle| [&mut lifecycle.post_start, &mut lifecycle.pre_stop]) {
        if let Some(Handler::HttpGet(get)) = hook.as_mut().and_then(|hook| hook.handler.as_mut()) {
            set_http_defaults(get);
        }
    }
}

pub(super) fn check_lifecycle(c: &mut Check, container: &Container, spec: &PodSpec) {
    let Some(lifecycle) = &container.lifecycle else {
        return;
    };
    c.field("lifecycle", |c| {
        for (field, hook) in [
            ("postStart", &lifecycle.post_start),
            ("preStop", &lifecycle.pre_stop),
        ] {
            if let Some(hook) = hook {
                c.field(field, |c| check_hook(c, hook, container, spec));
            }
        }
    });
}

fn check_hook(c: &mut Check, hook: &LifecycleHandler, container: &Container, spec: &PodSpec) {
    match &hook.handler {
        None => c.wrong("must have a handler: exec, httpGet or sleep"),
        Some(Handler::Exec(exec)) => c.field("exec", |c| check_exec(c, exec)),
        Some(Handler::HttpGet(get)) => c.field("httpGet", |c| check_http_get(c, get, container)),
        Some(Handler::Sleep(sleep)) => c.field("sleep", |c| check_sleep(c, *sleep, spec)),
    }
}

fn check_sleep(c: &mut Check, sleep: SleepAction, spec: &PodSpec) {
    let grace = spec.termination_grace_period_seconds.unwrap_or_default();
    if !(1..=i64::from(grace)).contains(&sleep.seconds) {
        c.field("seconds", |c| {
            c.wrong(format!(
                "must be from 1 to the pod's terminationGracePeriodSeconds ({grace}), but is {}",
                sleep.seconds
            ));
        });
    }
}

/// One that runs to its end is neither asked nor told anything; a sidecar is like any container.
pub(super) fn check_init_container(c: &mut Check, container: &Container) {
    if !container.restart_policy.is_empty() && !container.is_sidecar() {
        c.field("restartPolicy", |c| {
            c.wrong(format!(
                "must be \"Always\", which makes a sidecar of an init container, or be left out, but is {:?}",
                container.restart_policy
            ));
        });
        return;
    }
    if container.is_sidecar() {
        return;
    }
    for (field, is_set) in [
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if is_set {
            c.field(field, |c| {
                c.wrong(
                    "cannot be set on an init container that runs to its end; restartPolicy: Always makes it a sidecar",
                );
            });
        }
    }
}
