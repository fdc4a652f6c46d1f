use clone8s::v1::{EmptyDirVolumeSource, NodeStats, PodStats, Volume, VolumeStats, volume::Source};
use tokio::task::JoinSet;

use super::*;
use crate::{
    desired::DesiredPod,
    pod::testing::{container, pod},
    stats::{HostReading, Sample},
};

fn limited() -> DesiredPod {
    let mut pod = pod("p", vec![container("a", "a:1")]);
    let spec = Arc::make_mut(&mut pod.pod).spec.get_or_insert_default();
    spec.volumes.push(Volume {
        name: "v".into(),
        source: Some(Source::EmptyDir(EmptyDirVolumeSource {
            size_limit: "1Ki".into(),
            ..Default::default()
        })),
    });
    pod
}

fn desired(pods: &[DesiredPod]) -> Desired {
    Desired {
        pods: Arc::new(pods.iter().map(|pod| (pod.key(), pod.clone())).collect()),
        complete: true,
    }
}

#[allow(clippy::unnecessary_wraps, reason = "as it is taken")]
fn sample(used_bytes: u64) -> Option<Arc<Sample>> {
    let stats = PodStats {
        uid: "p-uid".into(),
        volumes: vec![VolumeStats {
            name: "v".into(),
            used_bytes,
        }],
        ..Default::default()
    };
    Some(Arc::new(Sample {
        stats: NodeStats {
            pods: vec![stats],
            ..Default::default()
        },
        host: HostReading::default(),
    }))
}

#[tokio::test]
async fn an_eviction_outlives_the_kubelet_and_goes_with_its_pod() {
    let dir = tempfile::tempdir().unwrap();
    let pods = watch::Sender::new(desired(&[limited()]));
    let samples = watch::Sender::new(sample(1024));
    let mut tasks = JoinSet::new();
    let open = || Evictor::open(dir.path(), pods.subscribe(), samples.subscribe()).unwrap();

    let (evictor, mut evictions) = open();
    tasks.spawn(evictor.run(Shutdown::new()));
    samples.send_replace(sample(1025));
    let found = evictions
        .wait_for(|evictions| !evictions.is_empty())
        .await
        .unwrap()
        .clone();
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ";
    assert_eq!(
        found.get(&PodUid::new("p-uid")).map(String::as_str),
        Some(message)
    );
    tasks.abort_all();

    // It has been emptied meanwhile, and is evicted all the same.
    samples.send_replace(sample(0));
    let (evictor, mut evictions) = open();
    assert_eq!(*evictions.borrow(), found);
    tasks.spawn(evictor.run(Shutdown::new()));
    pods.send_replace(desired(&[]));
    evictions
        .wait_for(|evictions| evictions.is_empty())
        .await
        .unwrap();
    assert_eq!(fs::read_dir(dir.path().join("evictions")).unwrap().count(), 0);
}
