//! The program: hands its arguments to [`latchkey::cli`] and ends with its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    latchkey::cli::run(&arguments)
}
