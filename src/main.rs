//! The program: hands its arguments to [`latchkey::cli`] and ends with its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // What is not UTF-8 is no argument that any command knows.
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    latchkey::cli::run(&arguments)
}
