//! `c8s`: see `c8s --help`.

use std::process::ExitCode;

use clap::Parser as _;
use clone8s_cli::args::Args;

fn main() -> ExitCode {
    // `c8s up` serves CRI too.
    if let Some(code) = clone8s_runtime_shim::run_if_asked() {
        return code;
    }
    clone8s_cli::run(Args::parse())
}
