use super::*;
use crate::sources::{
    fixtures::{image, pod},
    view::{View, ViewSender},
};

fn view(pods: &[(&str, &str)]) -> View {
    View {
        pods: pods
            .iter()
            .map(|(name, image)| {
                let pod = Arc::new(pod(name, image));
                (PodKey::of(&pod), pod)
            })
            .collect(),
        spoken: true,
    }
}

#[test]
fn the_folder_comes_before_the_api_and_the_api_before_the_queue() {
    let views = Views {
        folder: view(&[("a", "folder")]),
        api: view(&[("a", "api"), ("b", "api")]),
        queue: view(&[("a", "queue"), ("b", "queue"), ("c", "queue")]),
    };
    let (desired, conflicts) = merge(&views);
    let won: Vec<_> = desired
        .values()
        .map(|desired| {
            (
                desired.pod.metadata.as_ref().unwrap().name.as_str(),
                image(&desired.pod),
            )
        })
        .collect();
    assert_eq!(won, [("a", "folder"), ("b", "api"), ("c", "queue")]);
    assert!(
        desired
            .values()
            .all(|desired| desired.source.name() == image(&desired.pod))
    );
    let lost: Vec<_> = conflicts
        .iter()
        .map(|conflict| (conflict.key.name.as_str(), conflict.runs, conflict.ignored))
        .collect();
    assert_eq!(
        lost,
        [
            ("a", Source::Folder, Source::Api),
            ("a", Source::Folder, Source::Queue),
            ("b", Source::Api, Source::Queue)
        ]
    );
}

#[tokio::test]
async fn the_set_is_complete_once_every_configured_source_has_spoken() {
    let views = Arc::new(watch::Sender::new(Views::of(&[Source::Folder, Source::Api])));
    let (sender, mut desired) = watch::channel(Desired::default());
    let shutdown = Shutdown::new();
    let _stop = shutdown.clone().drop_guard();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(Merge::new(views.subscribe(), sender).run(shutdown));

    ViewSender::new(Source::Folder, views.clone()).replace(view(&[("a", "folder")]));
    let first = desired
        .wait_for(|desired| desired.pods.len() == 1)
        .await
        .unwrap()
        .clone();
    assert!(!first.complete);
    ViewSender::new(Source::Api, views).replace(view(&[]));
    desired.wait_for(|desired| desired.complete).await.unwrap();
}
