//! The command line: which command was meant, with what. What is not understood is named.

use std::fmt::Write;

use super::CommandError;
use crate::config::Environment;

/// One command. The help is made from these texts, and the parameters are checked against them.
pub struct Command {
    /// One word, or several between spaces.
    pub name: &'static str,
    /// At most one operand in upper case, and at most one option in brackets.
    pub parameters: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// What the command does.
    pub run: fn(&Environment, &Arguments<'_>) -> Result<(), CommandError>,
}

/// What a command was given.
#[derive(Default)]
pub struct Arguments<'a> {
    /// The operand; empty for a command that takes none.
    pub operand: &'a str,
    /// Whether the option stands there.
    pub has_option: bool,
}

/// What the command line asks for.
pub enum Invocation<'a> {
    /// To print a text.
    Print(String),
    /// To run a command.
    Run(&'static Command, Arguments<'a>),
}

/// What is asked for, and the file of settings, where `--env-file` names one.
///
/// # Errors
/// The argument that is not understood, or the operand that is missing.
pub fn parse<'a>(
    commands: &'static [Command],
    arguments: &[&'a str],
) -> Result<(Option<&'a str>, Invocation<'a>), CommandError> {
    match arguments {
        ["--env-file"] => Err(usage("--env-file wants a FILE")),
        ["--env-file", path, rest @ ..] => Ok((Some(path), invocation(commands, rest)?)),
        _ => Ok((None, invocation(commands, arguments)?)),
    }
}

fn invocation<'a>(commands: &'static [Command], arguments: &[&'a str]) -> Result<Invocation<'a>, CommandError> {
    match arguments {
        ["--help" | "-h" | "help"] => return Ok(Invocation::Print(help(commands, ""))),
        ["--version" | "-V"] => {
            return Ok(Invocation::Print(concat!("latchkey ", env!("CARGO_PKG_VERSION"), "\n").into()));
        }
        ["--help" | "-h" | "help" | "--version" | "-V", extra, ..] => {
            return Err(usage(&format!("unknown argument {extra:?}: latchkey --help")));
        }
        _ => {}
    }
    let words: Vec<&str> = arguments.iter().copied().take_while(|word| !["--help", "-h"].contains(word)).collect();
    let wants_help = words.len() < arguments.len();
    // Without the name of a command, the server is meant.
    let is_default = words.first().is_none_or(|word| word.starts_with('-'));
    let rest_of = |command: &Command| {
        let name: Vec<&str> = command.name.split(' ').collect();
        words.strip_prefix(name.as_slice()).map(<[&str]>::to_vec)
    };
    let found =
        commands.iter().filter_map(|command| Some((command, rest_of(command)?))).min_by_key(|(_, rest)| rest.len());
    let (command, rest) = match (found, commands.first()) {
        (Some(found), _) => found,
        (None, Some(serve)) if is_default && !wants_help => (serve, words),
        _ => return unknown_command(commands, &words, wants_help),
    };
    if wants_help {
        return Ok(Invocation::Print(help(commands, command.name)));
    }
    checked(command, &rest).map(|arguments| Invocation::Run(command, arguments))
}

/// The help of a group such as `user`, or the error that names what is not understood.
fn unknown_command<'a>(
    commands: &'static [Command],
    words: &[&str],
    wants_help: bool,
) -> Result<Invocation<'a>, CommandError> {
    let group = words.first().copied().unwrap_or_default();
    let is_group = commands.iter().any(|command| command.name.split(' ').next() == Some(group));
    match words {
        [_] if is_group && wants_help => Ok(Invocation::Print(help(commands, group))),
        [_] if is_group => Err(usage(&format!("{group} wants a command after it: latchkey {group} --help"))),
        [_, second, ..] if is_group => {
            Err(usage(&format!("unknown command {group} {second:?}: latchkey {group} --help")))
        }
        _ => Err(usage(&format!("unknown command {group:?}: latchkey --help"))),
    }
}

fn checked<'a>(command: &Command, rest: &[&'a str]) -> Result<Arguments<'a>, CommandError> {
    let usage = |what: String| {
        usage(&format!("{what}\nusage: latchkey [--env-file FILE] {} {}", command.name, command.parameters))
    };
    let wants_operand = command.parameters.starts_with(|c: char| c.is_ascii_uppercase());
    let mut arguments = Arguments::default();
    for argument in rest {
        if command.parameters.contains(&format!("[{argument}]")) && !arguments.has_option {
            arguments.has_option = true;
        } else if wants_operand && arguments.operand.is_empty() && !argument.is_empty() && !argument.starts_with('-') {
            arguments.operand = argument;
        } else {
            return Err(usage(format!("unknown argument {argument:?}")));
        }
    }
    if wants_operand && arguments.operand.is_empty() {
        let operand = command.parameters.split(' ').next().unwrap_or_default();
        return Err(usage(format!("{} wants {operand}", command.name)));
    }
    Ok(arguments)
}

/// The usage of the commands whose name begins so.
fn help(commands: &[Command], name: &str) -> String {
    let mut text = String::from(super::ABOUT);
    text.push_str("\nusage: latchkey [--env-file FILE] [COMMAND]\n\n");
    for command in commands.iter().filter(|command| command.name.starts_with(name)) {
        let usage = format!("{} {}", command.name, command.parameters);
        let _ = writeln!(text, "  {usage:<25} {}", command.about);
    }
    text.push_str(super::NOTES);
    text
}

fn usage(message: &str) -> CommandError {
    CommandError::Usage(message.to_owned())
}
