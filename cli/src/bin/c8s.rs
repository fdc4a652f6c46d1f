//! `c8s`: see `c8s --help`.

use std::process::ExitCode;

use clap::Parser as _;
use clone8s_cli::args::Args;

fn main() -> ExitCode {
    clone8s_cli::run(Args::parse())
}
