//! `c8s wait`: until objects are as they are to be.

mod goal;

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
use clone8s::client::{Query, Resource};
use clone8s_daemon::channel::Channel;
use futures::{StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use self::goal::{Goal, Met};
use crate::{
    choice::{Choice, ChoiceArgs, Target},
    kind::{label, with_kind, with_kind_of},
    present::{self, Present},
    status::{explain, none_failed},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s wait pod hello
  c8s wait -f manifests/ --timeout 60
  c8s wait pod job --for status.phase=Succeeded
  c8s wait pods -l app=web --for condition=Ready=False
  c8s wait pods --all --for delete

What is not there yet is waited for, too. Of manifests, objects that have no conditions are waited for until they are there. A pod that has ended otherwise ends the wait at once, with an error.")]
pub struct WaitArgs {
    #[command(flatten)]
    choice: ChoiceArgs,
    /// condition=TYPE or condition=TYPE=STATUS, FIELD=VALUE such as status.phase=Succeeded, create, or delete
    #[arg(long = "for", value_name = "GOAL", default_value = "condition=Ready")]
    goal: Goal,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

/// Waits for all at the same time. Tells of each that is as it is to be, then fails with those that are not.
pub async fn run(args: &WaitArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut waits = FuturesUnordered::new();
    match args.choice.parse("wait")? {
        Choice::Selected(kind) => waits.push(with_kind!(kind, O => selected::<O>(args, channel, deadline)?)),
        Choice::Named(targets) => {
            for target in targets {
                waits.push(with_kind!(target.kind, O => named::<O>(args, channel, &target, deadline)?));
            }
        }
    }
    let mut errors = Vec::new();
    while let Some(ended) = waits.next().await {
        match ended {
            Ok(lines) => {
                for line in lines {
                    writeln!(out, "{line}")?;
                }
                // Another may take long.
                out.flush()?;
            }
            Err(Failure::Late(error)) => errors.push(error),
            Err(Failure::Never(error)) => bail!(error),
        }
    }
    none_failed(&errors)
}

/// A line for each object that is as it is to be.
type Wait<'a> = LocalBoxFuture<'a, Result<Vec<String>, Failure>>;

/// Why a wait has ended otherwise.
#[derive(Debug)]
enum Failure {
    /// The time is over, for the others, too.
    Late(String),
    /// It will never be as it is to be, and no other is waited for.
    Never(String),
}

fn selected<'a, O: Resource>(
    args: &'a WaitArgs,
    channel: &'a Channel,
    deadline: Instant,
) -> Result<Wait<'a>> {
    let goal = goal::<O>(args)?;
    let query = args.choice.query::<O>();
    Ok(Box::pin(async move {
        let mut look = Look::new(goal, O::PLURAL.to_owned());
        if *goal != Goal::Deleted {
            return wait::<O>(args, channel, query, look, deadline).await;
        }
        // What is selected no longer has not gone: the watch is of all that there is.
        let (found, _) = O::list_all(channel, &query)
            .await
            .map_err(|status| Failure::Never(explain(&status)))?;
        look.awaits(&found);
        let place = Query {
            namespace: query.namespace,
            ..Query::default()
        };
        wait::<O>(args, channel, place, look, deadline).await
    }))
}

fn named<'a, O: Resource>(
    args: &'a WaitArgs,
    channel: &'a Channel,
    target: &Target,
    deadline: Instant,
) -> Result<Wait<'a>> {
    let look = Look::new(goal::<O>(args)?, label::<O>(&target.name));
    let query = target.query::<O>(&args.choice);
    Ok(Box::pin(wait::<O>(args, channel, query, look, deadline)))
}

/// What is waited for of a kind. Config maps and their like have no conditions: among manifests they are as they are to be
/// once they are there.
fn goal<O: Resource>(args: &WaitArgs) -> Result<&Goal> {
    match args.goal.check::<O>() {
        Err(_) if args.choice.is_declared() && args.goal.is_condition() => Ok(&Goal::Created),
        checked => checked.map(|()| &args.goal),
    }
}

async fn wait<O: Resource>(
    args: &WaitArgs,
    channel: &Channel,
    query: Query,
    mut look: Look<'_>,
    deadline: Instant,
) -> Result<Vec<String>, Failure> {
    let seen = present::until::<O, _>(channel, &query, |present| look.at(present));
    match timeout_at(deadline, seen).await {
        Ok(Ok(Ok(labels))) => Ok(labels
            .into_iter()
            .map(|label| format!("{label}: {}", look.goal))
            .collect()),
        Ok(Ok(Err(why))) => Err(Failure::Never(why)),
        Ok(Err(status)) => Err(Failure::Never(format!("{}: {}", look.what, explain(&status)))),
        Err(_) => Err(Failure::Late(format!(
            "after {} s {}",
            args.timeout,
            look.missing.join("\n")
        ))),
    }
}

/// How far what one watch shows is from the goal.
struct Look<'a> {
    goal: &'a Goal,
    /// What is waited for.
    what: String,
    /// What was there at first, by uid, where its end is waited for: others of the same names do not count.
    first: Option<BTreeMap<String, String>>,
    /// What each object was found to be, with its revision, by uid.
    known: BTreeMap<String, (i64, Met)>,
    /// What was missing when it was last looked.
    missing: Vec<String>,
}

impl<'a> Look<'a> {
    fn new(goal: &'a Goal, what: String) -> Self {
        let missing = vec![format!("{what}: the apiserver has not told yet")];
        Self {
            goal,
            what,
            first: None,
            known: BTreeMap::new(),
            missing,
        }
    }

    /// The end of these is waited for.
    fn awaits<O: Resource>(&mut self, objects: &[O]) {
        let labels = objects
            .iter()
            .map(|one| (one.uid().to_owned(), label::<O>(one.name())));
        self.first = Some(labels.collect());
    }

    /// Some when the wait is over: with the labels of all, or with what will never be.
    fn at<O: Resource>(&mut self, present: &Present<O>) -> Option<Result<Vec<String>, String>> {
        if *self.goal == Goal::Deleted {
            return self.at_end(present).map(Ok);
        }
        self.known.retain(|uid, _| present.contains_key(uid));
        self.missing.clear();
        let mut met = Vec::new();
        for (uid, object) in present {
            let revision = object.resource_version();
            let known = self.known.entry(uid.clone());
            let known = known.or_insert_with(|| (revision, self.goal.look(object)));
            if known.0 != revision {
                *known = (revision, self.goal.look(object));
            }
            let label = label::<O>(object.name());
            match &known.1 {
                Met::Yes => met.push(label),
                Met::NotYet(why) => self
                    .missing
                    .push(format!("{label}: {why}; see `c8s describe {label}`")),
                Met::Never(why) => {
                    return Some(Err(format!("{label}: {why}; see `c8s describe {label}`")));
                }
            }
        }
        if present.is_empty() {
            self.missing.push(format!("{}: not there", self.what));
        }
        met.sort();
        self.missing.is_empty().then_some(Ok(met))
    }

    fn at_end<O: Resource>(&mut self, present: &Present<O>) -> Option<Vec<String>> {
        let labels = || {
            let there = present.iter();
            there.map(|(uid, object)| (uid.clone(), label::<O>(object.name())))
        };
        let first = self.first.get_or_insert_with(|| labels().collect());
        let left = first.iter().filter(|(uid, _)| present.contains_key(*uid));
        self.missing = left
            .map(|(_, label)| format!("{label}: still there; see `c8s describe {label}`"))
            .collect();
        self.missing.is_empty().then(|| first.values().cloned().collect())
    }
}
