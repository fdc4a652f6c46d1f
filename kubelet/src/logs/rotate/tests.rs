use std::collections::BTreeMap;

use clone8s::cri::{ContainerConfig, ContainerMetadata, ImageSpec, PodSandboxConfig};

use super::*;
use crate::{
    clock::Clock,
    runtime::{
        RuntimeError, RuntimeErrorReason,
        fake::{FakeRuntime, Fault, ImageBehavior},
    },
};

const SMALL: u64 = 100;

struct Fixture {
    dir: tempfile::TempDir,
    runtime: FakeRuntime,
    rotation: Rotation,
    seconds: u64,
}

impl Fixture {
    /// With a running container "main", in its second run.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = FakeRuntime::new(Clock::Wall);
        runtime.add_image("app", ImageBehavior::default());
        let image = runtime
            .pull_image("app", PodSandboxConfig::default(), None)
            .await
            .unwrap();
        let sandbox = runtime
            .run_sandbox(PodSandboxConfig::default(), "")
            .await
            .unwrap();
        let labels = [
            (identity::MANAGED, "true"),
            (identity::POD_NAMESPACE, "default"),
            (identity::POD_NAME, "web"),
            (identity::POD_UID, "u1"),
            (identity::CONTAINER_NAME, "main"),
        ];
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
                attempt: 1,
            }),
            image: Some(ImageSpec {
                image: image.as_str().to_owned(),
                ..ImageSpec::default()
            }),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            annotations: BTreeMap::from([(identity::RESTART_COUNT.to_owned(), "1".to_owned())]),
            ..ContainerConfig::default()
        };
        let id = runtime
            .create_container(&sandbox, config, PodSandboxConfig::default())
            .await
            .unwrap();
        runtime.start_container(&id).await.unwrap();
        let kept = KeptLogs {
            time: Duration::MAX,
            room: u64::MAX,
        };
        let mut rotation = Rotation::new(dir.path().to_owned(), kept, Arc::new(runtime.clone()));
        rotation.largest = SMALL;
        fs::create_dir_all(dir.path().join("default_web_u1/main")).unwrap();
        Self {
            dir,
            runtime,
            rotation,
            seconds: 0,
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("default_web_u1/main/1.log")
    }

    /// Writes as the runtime does, then looks.
    async fn write_and_look(&mut self, size: u64) {
        let text = format!("{:>1$}", self.seconds, usize::try_from(size).unwrap());
        fs::write(self.log(), text).unwrap();
        self.seconds += 1;
        self.rotation
            .look(SystemTime::UNIX_EPOCH + Duration::from_secs(self.seconds))
            .await;
    }
}

#[tokio::test]
async fn a_log_that_is_not_large_stays() {
    let mut fixture = Fixture::new().await;
    fixture.write_and_look(SMALL - 1).await;
    assert!(fixture.log().exists() && moved_away(&fixture.log()).is_empty());
}

#[tokio::test]
async fn a_large_log_moves_away_and_only_the_newest_are_kept() {
    let mut fixture = Fixture::new().await;
    for _ in 0..8 {
        fixture.write_and_look(SMALL).await;
        assert!(!fixture.log().exists(), "the runtime would have opened a new one");
    }
    let kept: Vec<String> = moved_away(&fixture.log())
        .iter()
        .map(|path| fs::read_to_string(path).unwrap().trim().to_owned())
        .collect();
    assert_eq!(kept, ["4", "5", "6", "7"], "the oldest first");
    let reopened = fixture
        .runtime
        .calls()
        .iter()
        .filter(|call| call.starts_with("ReopenContainerLog"))
        .count();
    assert_eq!(reopened, 8);
}

#[tokio::test]
async fn a_runtime_that_cannot_reopen_keeps_its_log_in_its_place() {
    let mut fixture = Fixture::new().await;
    let error = RuntimeError {
        call: "ReopenContainerLog",
        reason: RuntimeErrorReason::Failed,
        message: "no".to_owned(),
    };
    fixture.runtime.inject("ReopenContainerLog", Fault::Fail(error));
    fixture.write_and_look(SMALL).await;
    assert!(fixture.log().exists() && moved_away(&fixture.log()).is_empty());
    fixture.write_and_look(SMALL).await;
    assert_eq!(moved_away(&fixture.log()).len(), 1, "the next look tries again");
}
