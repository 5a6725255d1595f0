//! How commands end: an exit code for scripts, words for people.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use client::ClientError;
use recipe::{Problem, Refusal};
use serde_json::json;

/// The work failed, or the server cannot do it.
pub const FAILED: u8 = 1;
/// The input was refused; nothing was done.
pub const REFUSED: u8 = 2;
/// As shells tell of a command that a signal has ended.
const SIGNALLED: u8 = 128;

#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    /// What `--json` prints to standard output in place of the message.
    json: Option<serde_json::Value>,
}

impl Failure {
    pub fn failed(message: impl fmt::Display) -> Failure {
        Failure { code: FAILED, message: message.to_string(), json: None }
    }

    pub fn refused(message: impl fmt::Display) -> Failure {
        Failure { code: REFUSED, message: message.to_string(), json: None }
    }

    /// A signal came before the end.
    pub fn interrupted(signal: u8, message: impl fmt::Display) -> Failure {
        Failure { code: SIGNALLED + signal, message: message.to_string(), json: None }
    }

    pub fn is_refusal(&self) -> bool {
        self.code == REFUSED
    }

    /// What else is to be known.
    pub fn and(mut self, more: impl fmt::Display) -> Failure {
        self.message += &format!("; {more}");
        self
    }

    /// Says the same on standard output where JSON is asked for, and there is none of it yet.
    pub fn in_json(mut self, as_json: bool) -> Failure {
        if as_json && self.json.is_none() {
            self.json = Some(json!({"detail": self.message}));
        }
        self
    }

    /// Every problem as `FILE:LINE:COLUMN: /pointer: detail`, as compilers print them.
    pub fn recipe(file: &Path, refusal: &Refusal, as_json: bool) -> Failure {
        warn(file, &refusal.warnings);
        let lines: Vec<String> = refusal.problems.iter().map(|p| placed(file, p)).collect();
        let json = as_json.then(|| json!({"ok": false, "errors": refusal.problems, "warnings": refusal.warnings}));
        Failure { code: REFUSED, message: lines.join("\nerror: "), json }
    }

    pub fn tell(self) -> ExitCode {
        if let Some(json) = &self.json {
            println!("{json}");
        }
        eprintln!("error: {}", self.message);
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    /// As from a [`ClientError`], with the problem document on standard output where JSON is asked for, or else the reason.
    pub fn client(error: ClientError, as_json: bool) -> Failure {
        let json = match &error {
            ClientError::Refused(refused) if as_json => Some(refused.problem.clone()),
            _ => None,
        };
        Failure { json, ..Failure::from(error) }.in_json(as_json)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match &error {
            ClientError::Refused(refused) if (400..500).contains(&refused.status) => {
                Failure { code: REFUSED, message: error.to_string(), json: None }
            }
            _ => Failure::failed(error),
        }
    }
}

pub fn warn(file: &Path, warnings: &[Problem]) {
    for warning in warnings {
        eprintln!("warning: {}", placed(file, warning));
    }
}

fn placed(file: &Path, problem: &Problem) -> String {
    let place = match (problem.line, problem.column) {
        (Some(line), Some(column)) => format!("{}:{line}:{column}", file.display()),
        _ => file.display().to_string(),
    };
    let pointer = if problem.pointer.is_empty() { String::new() } else { format!("{}: ", problem.pointer) };
    format!("{place}: {pointer}{}", problem.detail)
}
