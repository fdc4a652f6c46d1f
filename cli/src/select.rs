//! Which of a kind's objects a command is about.

use clap::Args;
use clone8s::client::{Query, Resource};

use crate::{namespace::NamespaceArgs, output::Scope};

#[derive(Debug, Clone, Args)]
pub struct SelectArgs {
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Objects of every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects with these labels, such as "app=web,tier in (a,b),!old"
    #[arg(
        short = 'l',
        long = "selector",
        value_name = "SELECTOR",
        default_value = "",
        hide_default_value = true
    )]
    pub label_selector: String,
    /// Only objects with these fields, such as "spec.nodeName=n1,status.phase!=Failed"
    #[arg(long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    pub field_selector: String,
}

impl SelectArgs {
    pub fn query<O: Resource>(&self) -> Query {
        let namespace = if self.all_namespaces {
            ""
        } else {
            self.namespace.of::<O>()
        };
        Query {
            namespace: namespace.to_owned(),
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
        }
    }

    /// The same, narrowed to an object's name.
    pub fn query_for<O: Resource>(&self, name: &str) -> Query {
        let mut query = self.query::<O>();
        let by_name = format!("metadata.name={name}");
        query.field_selector = if query.field_selector.is_empty() {
            by_name
        } else {
            format!("{},{by_name}", query.field_selector)
        };
        query
    }

    pub fn scope(&self) -> Scope {
        if self.all_namespaces {
            Scope::AllNamespaces
        } else {
            Scope::OneNamespace
        }
    }
}
