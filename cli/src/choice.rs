//! Which objects a command acts on: by kind and name, by selector, all of a kind, or whatever files declare.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use clone8s::{
    client::{Query, Resource},
    object::AnyObject,
};

use crate::{
    files::FileArgs,
    kind::{Kind, ObjectArgs},
    namespace::NamespaceArgs,
};

#[derive(Debug, Args)]
pub struct ChoiceArgs {
    #[command(flatten)]
    what: ObjectArgs,
    /// What these manifests declare: a file, a folder, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "PATH", conflicts_with = "what")]
    files: Vec<PathBuf>,
    /// Go into the folders of a folder too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// The objects of the kind with these labels, such as "app=web,tier in (a,b)"
    #[arg(
        short = 'l',
        long = "selector",
        value_name = "SELECTOR",
        conflicts_with = "files"
    )]
    label_selector: Option<String>,
    /// The objects of the kind with these fields, such as "status.phase=Failed"
    #[arg(long, value_name = "SELECTOR", conflicts_with = "files")]
    field_selector: Option<String>,
    /// Every object of the kind in the namespace
    #[arg(long, conflicts_with_all = ["files", "label_selector", "field_selector"])]
    all: bool,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
}

/// What was chosen.
#[derive(Debug)]
pub enum Choice {
    /// What the selectors say of a kind, or all of it.
    Selected(Kind),
    Named(Vec<Target>),
}

/// One object.
#[derive(Debug, Clone)]
pub struct Target {
    pub kind: Kind,
    /// None for that of the command line.
    namespace: Option<String>,
    pub name: String,
}

impl ChoiceArgs {
    /// `command` is the one that is to be told how to say it.
    pub fn parse(&self, command: &str) -> Result<Choice> {
        if self.is_declared() {
            return self.declared();
        }
        let (kind, names) = self.what.parse()?;
        match (self.selects(), names.is_empty()) {
            (true, true) => Ok(Choice::Selected(kind)),
            (true, false) => bail!("say which by name, by selector or by --all, not by two of them"),
            (false, true) => {
                bail!("say which: c8s {command} KIND NAME, KIND -l SELECTOR, KIND --all, or -f FILE")
            }
            (false, false) => {
                let target = |name| Target {
                    kind,
                    namespace: None,
                    name,
                };
                Ok(Choice::Named(names.into_iter().map(target).collect()))
            }
        }
    }

    /// Whether manifests say which.
    pub fn is_declared(&self) -> bool {
        !self.files.is_empty()
    }

    fn declared(&self) -> Result<Choice> {
        let files = FileArgs {
            files: self.files.clone(),
            recursive: self.recursive,
        };
        let declared = files.read()?;
        let targets = declared.iter().map(|one| Target::of(&one.document.object));
        Ok(Choice::Named(targets.collect()))
    }

    /// An empty selector would mean every object.
    fn selects(&self) -> bool {
        let says = |selector: &Option<String>| selector.as_ref().is_some_and(|it| !it.trim().is_empty());
        self.all || says(&self.label_selector) || says(&self.field_selector)
    }

    /// What [`Choice::Selected`] stands for.
    pub fn query<O: Resource>(&self) -> Query {
        Query {
            namespace: self.namespace.of::<O>().to_owned(),
            label_selector: self.label_selector.clone().unwrap_or_default(),
            field_selector: self.field_selector.clone().unwrap_or_default(),
        }
    }
}

impl Target {
    fn of(object: &AnyObject) -> Self {
        Self {
            kind: Kind::of(object),
            namespace: Some(object.namespace().to_owned()).filter(|namespace| !namespace.is_empty()),
            name: object.name().to_owned(),
        }
    }

    /// The object alone.
    pub fn query<O: Resource>(&self, args: &ChoiceArgs) -> Query {
        let namespace = self.namespace.as_deref();
        Query {
            namespace: namespace.unwrap_or_else(|| args.namespace.of::<O>()).to_owned(),
            field_selector: format!("metadata.name={}", self.name),
            ..Query::default()
        }
    }
}
