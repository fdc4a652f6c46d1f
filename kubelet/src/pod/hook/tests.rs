use std::sync::Arc;

use clone8s::{
    cri::{ContainerConfig, ContainerMetadata, PodSandboxConfig},
    v1::{ContainerPort, SleepAction},
};

use super::*;
use crate::{
    pod::testing::{container, runs},
    runtime::fake::{CommandBehavior, FakeRuntime, Fault, ImageBehavior},
};

/// A running container in a runtime in memory, and a folder for records.
struct Scene {
    runtime: FakeRuntime,
    clock: Clock,
    dir: tempfile::TempDir,
    id: ContainerId,
}

impl Scene {
    async fn new() -> Self {
        let clock = Clock::virtual_from(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let runtime = FakeRuntime::new(clock);
        runtime.add_image("web:1", ImageBehavior::default());
        let image = runtime
            .pull_image("web:1", PodSandboxConfig::default(), None)
            .await
            .unwrap();
        let sandbox = PodSandboxConfig::default();
        let place = runtime.run_sandbox(sandbox.clone(), "").await.unwrap();
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "web".to_owned(),
                attempt: 0,
            }),
            image: Some(clone8s::cri::ImageSpec {
                image: image.as_str().to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let id = runtime.create_container(&place, config, sandbox).await.unwrap();
        runtime.start_container(&id).await.unwrap();
        Self {
            runtime,
            clock,
            dir: tempfile::tempdir().unwrap(),
            id,
        }
    }

    fn records(&self) -> HookRecords {
        HookRecords::of(self.dir.path())
    }

    async fn perform(&self, handler: LifecycleHandler) -> HookEnd {
        let call = HookCall {
            uid: PodUid::new("p-uid"),
            container: "web".to_owned(),
            place: Place::of_id(self.id.clone(), None),
            handler,
        };
        let runtime = Arc::new(self.runtime.clone());
        perform(
            runtime.as_ref(),
            self.clock,
            &self.records(),
            Hook::PostStart,
            &call,
            None,
        )
        .await
    }

    fn execs(&self) -> usize {
        let calls = self.runtime.calls();
        calls.iter().filter(|call| call.starts_with("ExecSync")).count()
    }
}

fn sleeps(seconds: i64) -> LifecycleHandler {
    LifecycleHandler {
        handler: Some(Handler::Sleep(SleepAction { seconds })),
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_has_ended_is_not_done_again_and_its_end_is_known() {
    let scene = Scene::new().await;
    let fails = CommandBehavior {
        takes: Duration::from_secs(3),
        exit_code: 7,
    };
    scene.runtime.set_command("web", "opens", fails);
    let first = scene.perform(runs("opens")).await;
    assert_eq!(first, HookEnd::Failed("exit code 7".to_owned()));
    assert_eq!(scene.perform(runs("opens")).await, first);
    assert_eq!(scene.execs(), 1);
    let found = scene.records().load().await;
    assert_eq!(found[&(scene.id.clone(), Hook::PostStart)].end, Some(first));

    scene.records().forget(&scene.id).await;
    assert!(scene.records().load().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_command_that_was_cut_off_is_not_done_again() {
    let scene = Scene::new().await;
    let slow = CommandBehavior {
        takes: Duration::from_mins(1),
        exit_code: 0,
    };
    scene.runtime.set_command("web", "opens", slow);
    let cut = tokio::time::timeout(Duration::from_secs(5), scene.perform(runs("opens"))).await;
    assert!(cut.is_err());
    let end = scene.perform(runs("opens")).await;
    assert!(
        matches!(&end, HookEnd::Unknown(why) if why.contains("not repeated")),
        "{end:?}"
    );
    assert_eq!(scene.execs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sleep_that_was_cut_off_goes_on() {
    let scene = Scene::new().await;
    let begun = scene.clock.now();
    let cut = tokio::time::timeout(Duration::from_secs(5), scene.perform(sleeps(12))).await;
    assert!(cut.is_err());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.perform(sleeps(12)).await, HookEnd::Succeeded);
    assert_eq!(scene.clock.now().duration_since(begun).unwrap().as_secs(), 12);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_does_not_fail_a_hook() {
    let scene = Scene::new().await;
    let away = crate::runtime::RuntimeError {
        call: "ExecSync",
        reason: RuntimeErrorReason::Unavailable,
        message: "connection refused".to_owned(),
    };
    scene.runtime.inject("ExecSync", Fault::Fail(away));
    let end = scene.perform(runs("opens")).await;
    assert_eq!(end, HookEnd::Unknown("connection refused".to_owned()));
}

#[test]
fn a_resolved_hook_needs_nothing_of_the_spec() {
    let mut web = container("web", "web:1");
    web.ports.push(ContainerPort {
        name: "admin".to_owned(),
        container_port: 8081,
        ..Default::default()
    });
    let hook = LifecycleHandler {
        handler: Some(Handler::HttpGet(HttpGetAction {
            port: "admin".to_owned(),
            ..Default::default()
        })),
    };
    let mut spec = PodSpec::default();
    for (host_network, host) in [(false, ""), (true, "192.0.2.1")] {
        spec.host_network = host_network;
        let found = resolved(&hook, &spec, &web, "192.0.2.1");
        let Some(Handler::HttpGet(get)) = found.handler else {
            panic!("{found:?}");
        };
        assert_eq!((get.port.as_str(), get.host.as_str()), ("8081", host));
    }
}
