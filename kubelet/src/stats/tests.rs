use std::time::Duration;

use clone8s_bus::{EventBus as _, METRICS_EXCHANGE, Queue, local::LocalBus};
use prost::Message as _;
use tokio::{task::JoinSet, time::timeout};

use super::*;
use crate::runtime::CriRuntime;

#[tokio::test]
async fn samples_reach_every_reader_and_the_bus_also_without_a_runtime() {
    let mut config = Config::new("node-1");
    config.intervals.stats = Duration::from_millis(50);
    // Nobody answers there: the node is sampled all the same.
    let runtime: Arc<dyn Runtime> = Arc::new(CriRuntime::new("/nowhere/runtime.sock".as_ref()));
    let (sampler, mut samples) =
        Sampler::new(Arc::new(config), runtime, watch::channel(Desired::default()).1);
    let bus = LocalBus::new();
    let queue = Queue::Temporary {
        exchange: METRICS_EXCHANGE,
        pattern: "nodes.*".to_owned(),
    };
    let mut subscription = bus.subscribe(queue, 8).await.unwrap();
    let publisher = Publisher::new(samples.clone(), Arc::new(bus));
    let mut tasks = JoinSet::new();
    tasks.spawn(sampler.run(Shutdown::new()));
    tasks.spawn(publisher.run(Shutdown::new()));

    let soon = Duration::from_secs(20);
    let sample = timeout(soon, samples.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .clone()
        .unwrap();
    assert_eq!(sample.stats.node_name, "node-1");
    assert!(sample.stats.memory.unwrap().total_bytes > 0);
    let mut second = subscription.next().await.unwrap();
    // Of the first sample there is no rate yet.
    for _ in 0..20 {
        let stats = NodeStats::decode(second.message().body.clone()).unwrap();
        assert_eq!(second.message().kind, "clone8s.v1.NodeStats");
        second.ack().await.unwrap();
        if stats.cpu.unwrap().usage_nano_cores > 0 {
            return;
        }
        second = timeout(soon, subscription.next()).await.unwrap().unwrap();
    }
    panic!("no sample had a rate");
}
