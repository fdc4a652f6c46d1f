//! `c8s`: see `c8s --help`.

use std::process::ExitCode;

use clap::Parser as _;
use clone8s_cli::args::Args;

// `c8s up` is a long-lived daemon that decodes and encodes all day: mimalloc gives freed pages back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    clone8s_cli::run(Args::parse())
}
