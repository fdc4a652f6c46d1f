//! What must hold at every moment of a history, whatever fails. Pure: [`Checker::take`] is given one entry after another
//! and answers with the first rule that it breaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use clone8s::{object::Object as _, rules::NODE_NOT_READY, v1::Pod};

use crate::history::{Entry, Fact, NodeName, Run, Wishes, restarts};

/// A kubelet that has acknowledged the end of a pod may have a call under way for so long.
const CALL: Duration = Duration::from_secs(2);
/// A status may be on its way for so long: over retries, store and apiserver away. What it says of an older time is no lie.
const STATUS: Duration = Duration::from_secs(45);

/// A rule, and how it was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) rule: &'static str,
    pub(crate) how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.how)
    }
}

fn broken(rule: &'static str, how: impl fmt::Display) -> Result<(), Broken> {
    let how = how.to_string();
    Err(Broken { rule, how })
}

/// What the history says so far.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    /// By uid, as the store has them now.
    pods: BTreeMap<String, Stored>,
    /// The uids that the store has let go.
    removed: BTreeSet<String>,
    wanted: BTreeMap<(NodeName, String), Wanted>,
    told: BTreeMap<(NodeName, String), Duration>,
    running: BTreeMap<(NodeName, String), Running>,
    /// By uid and container: the count of the last run, and whether it ended well by itself.
    last: BTreeMap<(String, String), Last>,
}

#[derive(Debug)]
struct Stored {
    pod: Pod,
    spec_changed: Duration,
}

#[derive(Debug)]
struct Wanted {
    image: Option<&'static str>,
    changed: Duration,
}

#[derive(Debug)]
struct Running {
    run: Run,
    since: Duration,
}

#[derive(Debug)]
struct Last {
    run: Run,
    succeeded: bool,
}

impl Checker {
    pub(crate) fn take(&mut self, entry: &Entry) -> Result<(), Broken> {
        let at = entry.at;
        match &entry.fact {
            Fact::Step(_) => Ok(()),
            Fact::Stored(pod) => self.stored(at, pod),
            Fact::Removed(uid) => self.removed(uid),
            Fact::Wanted { node, pod, image } => {
                let (image, changed) = (*image, at);
                self.wanted
                    .insert((*node, pod.clone()), Wanted { image, changed });
                Ok(())
            }
            Fact::Told { node, uid } => {
                self.told.entry((*node, uid.clone())).or_insert(at);
                Ok(())
            }
            Fact::StartAsked { node, run } => self.start_asked(at, node, run),
            Fact::StopAsked { node, id } => self.stop_asked(node, id),
            Fact::Started { node, id, run } => self.started(at, node, id, run),
            Fact::Ended { node, id, code } => {
                if let Some(ended) = self.running.remove(&(*node, id.clone()))
                    && let Some(last) = self.last.get_mut(&name_of(&ended.run))
                {
                    last.succeeded = *code == Some(0);
                }
                Ok(())
            }
        }
    }

    /// The pods that the store has now, and what the nodes are to have besides.
    pub(crate) fn wanted(&self) -> (Vec<Pod>, Wishes) {
        let pods = self.pods.values().map(|stored| stored.pod.clone());
        let wanted = self.wanted.iter();
        let wanted = wanted.map(|(key, wanted)| (key.clone(), wanted.image));
        (pods.collect(), wanted.collect())
    }

    fn stored(&mut self, at: Duration, new: &Pod) -> Result<(), Broken> {
        let Some(old) = self.pods.get(new.uid()) else {
            let (pod, spec_changed) = (new.clone(), at);
            self.pods
                .insert(new.uid().to_owned(), Stored { pod, spec_changed });
            return Ok(());
        };
        let name = new.name();
        let (was, is) = (node_of(&old.pod), node_of(new));
        if !was.is_empty() && was != is {
            return broken(
                "a pod stays on its node",
                format!("{name} went from {was} to {is:?}"),
            );
        }
        let (was, is) = (phase(&old.pod), phase(new));
        let is_over = matches!(was, "Succeeded" | "Failed");
        if (is_over && was != is) || (was == "Running" && matches!(is, "" | "Pending")) {
            return broken(
                "a phase never goes back",
                format!("{name} went from {was} to {is:?}"),
            );
        }
        for (container, count) in restarts(&old.pod) {
            let now = restarts(new).find(|(other, _)| *other == container);
            if now.is_none_or(|(_, now)| now < count) {
                let now = now.map(|(_, now)| now);
                return broken(
                    "restarts never go back",
                    format!("{name}/{container}: {count}, then {now:?}"),
                );
            }
        }
        let spec_changed = if old.pod.spec.as_ref().map(|spec| &spec.containers)
            == new.spec.as_ref().map(|spec| &spec.containers)
        {
            old.spec_changed
        } else {
            at
        };
        let loses = ready(&old.pod).0 == "True" && ready(new).0 != "True";
        let has_reason = is_ending(new) || ready(new).1 == NODE_NOT_READY || spec_changed + STATUS > at;
        if loses && !has_reason && self.is_well(at, new) {
            return broken(
                "a healthy pod stays ready",
                format!("{name}: ready is {:?}", ready(new)),
            );
        }
        let pod = new.clone();
        self.pods
            .insert(new.uid().to_owned(), Stored { pod, spec_changed });
        Ok(())
    }

    /// All of its containers have been running for longer than a status is on its way.
    fn is_well(&self, at: Duration, pod: &Pod) -> bool {
        let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        containers.all(|container| {
            self.running.values().any(|Running { run, since }| {
                run.uid == pod.uid() && run.container == container.name && *since + STATUS <= at
            })
        })
    }

    fn removed(&mut self, uid: &str) -> Result<(), Broken> {
        self.removed.insert(uid.to_owned());
        self.pods.remove(uid);
        match self.running.iter().find(|(_, running)| running.run.uid == uid) {
            Some(((node, id), Running { run, .. })) => broken(
                "a pod is removed once nothing of it runs",
                format!("{id} {run} runs on {node}"),
            ),
            None => Ok(()),
        }
    }

    fn start_asked(&self, at: Duration, node: NodeName, run: &Run) -> Result<(), Broken> {
        let told = self.told.get(&(node, run.uid.clone()));
        if let Some(told) = told.filter(|told| **told + CALL < at) {
            return broken(
                "a container of a terminating pod is never started",
                format!("{run}; {node} was told at {:.3}", told.as_secs_f64()),
            );
        }
        Ok(())
    }

    fn stop_asked(&self, node: NodeName, id: &str) -> Result<(), Broken> {
        let Some(Running { run, since }) = self.running.get(&(node, id.to_owned())) else {
            return Ok(());
        };
        let has_reason = if let Some(Stored { pod, spec_changed }) = self.pods.get(&run.uid) {
            let spec = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut wanted = spec.filter(|one| one.name == run.container);
            is_ending(pod) || spec_changed > since || wanted.all(|one| one.image != run.image)
        } else {
            let wanted = self.wanted.get(&(node, run.pod.clone()));
            self.removed.contains(&run.uid)
                || wanted
                    .is_some_and(|wanted| wanted.changed > *since || wanted.image != Some(run.image.as_str()))
        };
        if has_reason {
            return Ok(());
        }
        broken("nothing is stopped without a reason", format!("{run} on {node}"))
    }

    fn started(&mut self, at: Duration, node: NodeName, id: &str, run: &Run) -> Result<(), Broken> {
        if let Some(((other, id), _)) = self
            .running
            .iter()
            .find(|(_, running)| running.run.uid == run.uid && running.run.container == run.container)
        {
            return broken(
                "a container runs once at a time",
                format!("{run} on {node}, and {id} on {other}"),
            );
        }
        if self.removed.contains(&run.uid) {
            return broken("what was removed never runs", format!("{run} on {node}"));
        }
        match self.pods.get(&run.uid) {
            Some(Stored { pod, .. }) => {
                if node_of(pod) != node {
                    return broken(
                        "a pod runs where it is bound",
                        format!("{run} on {node}, and not {:?}", node_of(pod)),
                    );
                }
                if matches!(phase(pod), "Succeeded" | "Failed") {
                    return broken("a pod that is over stays over", format!("{run} on {node}"));
                }
            }
            None if self.wanted.contains_key(&(node, run.pod.clone())) => {}
            None => return broken("only what somebody wants runs", format!("{run} on {node}")),
        }
        if let Some(Last {
            run: before,
            succeeded,
        }) = self.last.get(&name_of(run))
        {
            let is_own = !self.pods.contains_key(&run.uid);
            // The node's own pods keep their uid from one life to the next.
            if before.count >= run.count && !is_own {
                return broken(
                    "each run has a number of its own",
                    format!("{before}, then {run}"),
                );
            }
            let policy = self.pods.get(&run.uid).map_or("", |stored| policy(&stored.pod));
            let once = policy == "Never" || (policy == "OnFailure" && *succeeded);
            if once && before.image == run.image {
                return broken(
                    "the restart policy holds",
                    format!("{policy}: {before}, then {run}"),
                );
            }
        }
        let (run, since) = (run.clone(), at);
        self.last.insert(
            name_of(&run),
            Last {
                run: run.clone(),
                succeeded: false,
            },
        );
        self.running.insert((node, id.to_owned()), Running { run, since });
        Ok(())
    }
}

fn name_of(run: &Run) -> (String, String) {
    (run.uid.clone(), run.container.clone())
}

pub(crate) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().map_or("", |spec| &spec.node_name)
}

pub(crate) fn policy(pod: &Pod) -> &str {
    pod.spec.as_ref().map_or("", |spec| &spec.restart_policy)
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().map_or("", |status| &status.phase)
}

pub(crate) fn is_ending(pod: &Pod) -> bool {
    let metadata = pod.metadata.as_ref();
    metadata.is_some_and(|metadata| metadata.deletion_timestamp.is_some())
}

/// Status and reason of the pod's readiness; empty before there is one.
pub(crate) fn ready(pod: &Pod) -> (&str, &str) {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    let mut of_type = conditions.filter(|one| one.r#type == "Ready");
    of_type.next().map_or(("", ""), |one| (&one.status, &one.reason))
}

#[cfg(test)]
mod tests;
