//! `c8s completions`: what a shell needs to complete our command line.

use std::io;

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    pub shell: Shell,
}

pub fn run(args: &CompletionsArgs, out: &mut impl io::Write) -> Result<()> {
    // The generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Args::command(), "c8s", &mut script);
    Ok(out.write_all(&script)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_know_the_subcommands() {
        let mut script = Vec::new();
        run(&CompletionsArgs { shell: Shell::Bash }, &mut script).unwrap();
        assert!(String::from_utf8(script).unwrap().contains("completions"));
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_an_error_and_no_panic() {
        let mut full: &mut [u8] = &mut [];
        run(&CompletionsArgs { shell: Shell::Bash }, &mut full).unwrap_err();
    }
}
