//! `amalgam logs`: what a job has logged, and with `--follow` what it logs.

use serde_json::json;

use crate::cli::LogsArgs;
use crate::report::Failure;

pub async fn run(args: LogsArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let mut query = Vec::new();
    if args.follow {
        query.push(("follow", "true".to_owned()));
    }
    query.extend(args.tail.map(|lines| ("tail", lines.to_string())));
    let as_json = args.server.json;
    let mut lines = Lines::default();
    let told = client.logs(&args.job, &query, &mut |piece| lines.push(piece, |line| show(line, as_json))).await;
    lines.end(|line| show(line, as_json));
    told.map_err(|error| Failure::client(error, as_json))
}

fn show(line: &str, as_json: bool) {
    if as_json { println!("{}", json!({ "line": line })) } else { println!("{line}") }
}

/// Pieces of a text, joined to its lines.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn push(&mut self, piece: &[u8], mut on_line: impl FnMut(&str)) {
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(&rest[..end]);
            on_line(&String::from_utf8_lossy(&self.begun));
            self.begun.clear();
            rest = &rest[end + 1..];
        }
        self.begun.extend_from_slice(rest);
    }

    fn end(self, mut on_line: impl FnMut(&str)) {
        if !self.begun.is_empty() {
            on_line(&String::from_utf8_lossy(&self.begun));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_the_text_was_cut() {
        let text = "one\n\ntwo ä\nlast";
        for cut in 0..text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for piece in [&text.as_bytes()[..cut], &text.as_bytes()[cut..]] {
                lines.push(piece, |line| seen.push(line.to_owned()));
            }
            lines.end(|line| seen.push(line.to_owned()));
            assert_eq!(seen, ["one", "", "two ä", "last"], "{cut}");
        }
    }
}
