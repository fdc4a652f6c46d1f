//! `c8s wait`: until objects are as they are to be.

mod goal;

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::{Result, anyhow};
use clap::Args;
use clone8s::client::{Query, Resource};
use clone8s_daemon::channel::Channel;
use futures::{StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use self::goal::{Goal, Met};
use crate::{
    choice::{Choice, ChoiceArgs, Target},
    kind::{with_kind, with_kind_of},
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

What is not there yet is waited for, too. A pod that has ended otherwise ends the wait at once, with an error.")]
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
            Ok(labels) => {
                for label in labels {
                    writeln!(out, "{label}: {}", args.goal)?;
                }
                // Another may take long.
                out.flush()?;
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    none_failed(&errors)
}

/// The labels of what is as it is to be.
type Wait<'a> = LocalBoxFuture<'a, Result<Vec<String>>>;

fn selected<'a, O: Resource>(
    args: &'a WaitArgs,
    channel: &'a Channel,
    deadline: Instant,
) -> Result<Wait<'a>> {
    args.goal.check::<O>()?;
    let look = Look::new(&args.goal, O::PLURAL.to_owned());
    Ok(Box::pin(wait::<O>(
        args,
        channel,
        args.choice.query::<O>(),
        look,
        deadline,
    )))
}

fn named<'a, O: Resource>(
    args: &'a WaitArgs,
    channel: &'a Channel,
    target: &Target,
    deadline: Instant,
) -> Result<Wait<'a>> {
    args.goal.check::<O>()?;
    let look = Look::new(&args.goal, label::<O>(&target.name));
    Ok(Box::pin(wait::<O>(
        args,
        channel,
        target.query::<O>(&args.choice),
        look,
        deadline,
    )))
}

async fn wait<O: Resource>(
    args: &WaitArgs,
    channel: &Channel,
    query: Query,
    mut look: Look<'_>,
    deadline: Instant,
) -> Result<Vec<String>> {
    let seen = present::until::<O, _>(channel, &query, |present| look.at(present));
    match timeout_at(deadline, seen).await {
        Ok(Ok(ended)) => ended.map_err(|why| anyhow!(why)),
        Ok(Err(status)) => Err(anyhow!("{}: {}", look.what, explain(&status))),
        Err(_) => Err(anyhow!(
            "after {} s {}; see `c8s describe {}`",
            args.timeout,
            look.missing.join("\n"),
            O::KIND.to_lowercase()
        )),
    }
}

fn label<O: Resource>(name: &str) -> String {
    format!("{}/{name}", O::KIND.to_lowercase())
}

/// How far what one watch shows is from the goal.
struct Look<'a> {
    goal: &'a Goal,
    /// What is waited for.
    what: String,
    /// What was there at first, by uid, where its end is waited for: others of the same names do not count.
    first: Option<BTreeMap<String, String>>,
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
            missing,
        }
    }

    /// Some when the wait is over: with the labels of all, or with what will never be.
    fn at<O: Resource>(&mut self, present: &Present<O>) -> Option<Result<Vec<String>, String>> {
        if *self.goal == Goal::Deleted {
            return self.at_end(present).map(Ok);
        }
        let mut met = Vec::new();
        self.missing.clear();
        for object in present.values() {
            let label = label::<O>(object.name());
            match self.goal.look(object) {
                Met::Yes => met.push(label),
                Met::NotYet(why) => self.missing.push(format!("{label}: {why}")),
                Met::Never(why) => return Some(Err(format!("{label}: {why}"))),
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
            present
                .iter()
                .map(|(uid, object)| (uid.clone(), label::<O>(object.name())))
        };
        let first = self.first.get_or_insert_with(|| labels().collect());
        let left = first.iter().filter(|(uid, _)| present.contains_key(*uid));
        self.missing = left.map(|(_, label)| format!("{label}: still there")).collect();
        self.missing.is_empty().then(|| first.values().cloned().collect())
    }
}
