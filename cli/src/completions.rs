//! `c8s completions`: what a shell needs to complete our command line.

use std::io;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    pub shell: Shell,
}

pub fn run(args: &CompletionsArgs, out: &mut impl io::Write) {
    clap_complete::generate(args.shell, &mut crate::args::Args::command(), "c8s", out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_know_the_subcommands() {
        let mut script = Vec::new();
        run(&CompletionsArgs { shell: Shell::Bash }, &mut script);
        assert!(String::from_utf8(script).unwrap().contains("completions"));
    }
}
