//! The `holdfast` command: the node, and questions to one that runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_agents::cli::main()
}
