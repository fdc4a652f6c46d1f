//! `c8s`: the person's tool, and a whole cluster in one process.
//!
//! [`args`] is the command line; every subcommand is a module of its own.

pub mod args;
pub mod completions;

use std::{io, process::ExitCode};

use args::{Args, Command};

/// Runs one command to its end.
pub fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Completions(completions) => {
            completions::run(&completions, &mut io::stdout());
            ExitCode::SUCCESS
        }
    }
}
