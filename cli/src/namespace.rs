//! Which namespace a command works in.

use clap::Args;
use clone8s::object::Object;

pub const DEFAULT: &str = "default";

#[derive(Debug, Clone, Args)]
pub struct NamespaceArgs {
    /// The namespace to work in
    #[arg(short = 'n', long, default_value = DEFAULT, env = "CLONE8S_NAMESPACE")]
    pub namespace: String,
}

impl NamespaceArgs {
    /// The namespace for a kind: none where the kind has none.
    pub fn of<O: Object>(&self) -> &str {
        if O::NAMESPACED { &self.namespace } else { "" }
    }
}
