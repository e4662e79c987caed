//! What is asked of the operator at the terminal. A password comes from a prompt without echo or from standard input,
//! never as an argument, where every other user of the machine could read it.

use std::io::{self, BufRead, IsTerminal, Write};
use std::{process, thread};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The password that is chosen for a user: typed twice at a prompt, or one line of standard input.
///
/// # Errors
/// The two differ, or the input cannot be read.
pub fn chosen_password() -> Result<String, String> {
    if !io::stdin().is_terminal() {
        return read_line();
    }
    let password = prompt("Password: ")?;
    if prompt("The same again: ")? != password { Err("the two passwords differ".into()) } else { Ok(password) }
}

/// Whether the operator types yes.
///
/// # Errors
/// Nobody can be asked: standard input is no terminal.
pub fn confirm(question: &str) -> Result<bool, String> {
    if !io::stdin().is_terminal() {
        return Err("standard input is no terminal to ask: repeat with --yes".into());
    }
    let _ = write!(io::stderr(), "{question} Type yes: ");
    Ok(read_line()? == "yes")
}

/// A line that the terminal does not show. Echo is on again whatever ends the wait.
fn prompt(question: &str) -> Result<String, String> {
    let terminal = io::stdin();
    let shown = tcgetattr(&terminal).map_err(|error| error.to_string())?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| error.to_string())?;
    let (waiting, before) = (signals.handle(), shown.clone());
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &before);
            let _ = writeln!(io::stderr());
            process::exit(1);
        }
    });
    // Echo is turned off before the question, so that nothing typed after it is shown.
    tcsetattr(&terminal, OptionalActions::Flush, &hidden).map_err(|error| error.to_string())?;
    let _ = write!(io::stderr(), "{question}");
    let line = read_line();
    waiting.close();
    let restored = tcsetattr(&terminal, OptionalActions::Flush, &shown);
    let _ = writeln!(io::stderr());
    restored.map_err(|error| error.to_string())?;
    line
}

/// One line without its end; nothing else is taken from it.
fn read_line() -> Result<String, String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|error| error.to_string())?;
    let end = line.trim_end_matches('\n').len();
    line.truncate(end);
    // The end of a line in a file from elsewhere, which nobody could type at a login.
    if line.ends_with('\r') { Err("the line ends in a carriage return".into()) } else { Ok(line) }
}
