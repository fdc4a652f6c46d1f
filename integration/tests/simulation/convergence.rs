//! What a cluster must come to once nothing fails any more: what runs is what is wanted, and nothing else is left. Pure.

use clone8s::{object::Object as _, v1::Pod};

use crate::{
    history::{NodeName, Run, Wishes},
    rules::{is_ending, node_of, phase, ready},
};

/// What somebody wants, and what there is.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// As the store has them.
    pub(crate) pods: Vec<Pod>,
    pub(crate) wanted: Wishes,
    pub(crate) nodes: Vec<Found>,
}

/// On one node.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) node: NodeName,
    pub(crate) running: Vec<Run>,
    /// The uids of all pods of which anything is left.
    pub(crate) uids: Vec<String>,
}

/// What is not yet as it must be, in words.
pub(crate) fn missing(state: &State) -> Vec<String> {
    let mut missing = Vec::new();
    for pod in &state.pods {
        if let Err(reason) = check_pod(pod, &state.nodes) {
            missing.push(format!("{}: {reason}", pod.name()));
        }
    }
    let is_of_api = |uid: &str| state.pods.iter().any(|pod| pod.uid() == uid);
    for ((node, pod), image) in &state.wanted {
        let on_node = state.nodes.iter().filter(|found| found.node == *node);
        let own = on_node.flat_map(|found| &found.running);
        let images: Vec<_> = own
            .filter(|run| run.pod == *pod && !is_of_api(&run.uid))
            .map(|run| run.image.as_str())
            .collect();
        if images != image.iter().copied().collect::<Vec<_>>() {
            missing.push(format!("{pod} of {node}: {images:?} and not {image:?}"));
        }
    }
    for Found { node, running, uids } in &state.nodes {
        for uid in uids {
            let of_api = state
                .pods
                .iter()
                .any(|pod| pod.uid() == uid && node_of(pod) == *node);
            let of_node = running
                .iter()
                .any(|run| run.uid == *uid && state.wanted.contains_key(&(*node, run.pod.clone())));
            if !of_api && !of_node {
                missing.push(format!(
                    "{node} has something of pod {uid}, which nobody wants there"
                ));
            }
        }
    }
    missing
}

fn check_pod(pod: &Pod, nodes: &[Found]) -> Result<(), String> {
    if is_ending(pod) {
        return Err("is still to end".to_owned());
    }
    let Some(found) = nodes.iter().find(|found| found.node == node_of(pod)) else {
        return Err(format!("is on node {:?}", node_of(pod)));
    };
    let running: Vec<_> = found.running.iter().filter(|run| run.uid == pod.uid()).collect();
    if matches!(phase(pod), "Succeeded" | "Failed") {
        return match running.first() {
            Some(run) => Err(format!("is over, and {run} runs")),
            None => Ok(()),
        };
    }
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    for container in containers {
        let fits = |run: &&Run| run.container == container.name && run.image == container.image;
        if !running.iter().copied().any(|run| fits(&run)) {
            return Err(format!("{} of {} does not run", container.name, container.image));
        }
    }
    match (phase(pod), ready(pod)) {
        ("Running", ("True", _)) => Ok(()),
        told => Err(format!("runs, and is told to be {told:?}")),
    }
}

#[cfg(test)]
mod tests;
