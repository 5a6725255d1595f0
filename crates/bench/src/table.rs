//! Results as a table in Markdown.

use crate::child::Merged;
use crate::floor::Floor;
use crate::methods::Measured;

/// One method, measured several times, each beside a floor of its own.
pub struct Row {
    pub method: &'static Measured,
    pub runs: Vec<(Floor, Merged)>,
}

/// Least, median and greatest.
struct Spread(f64, f64, f64);

impl Spread {
    fn of(numbers: impl Iterator<Item = f64>) -> Spread {
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        Spread(numbers[0], numbers[numbers.len() / 2], numbers[numbers.len() - 1])
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.1, self.0, self.2)
    }
}

pub fn head() -> String {
    let head = [
        "method",
        "models",
        "bytes in",
        "bytes out",
        "floor s",
        "wall s",
        "CPU s",
        "anonymous MiB",
        "ratio to floor",
        "with the floor on the disk",
        "target",
    ];
    format!("| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()))
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let spread = |of: &dyn Fn(&(Floor, Merged)) -> f64| Spread::of(self.runs.iter().map(of));
        let (_, last) = self.runs[self.runs.len() - 1];
        let anonymous = self.runs.iter().map(|(_, merged)| merged.peak_anonymous).max().unwrap_or(0);
        write!(
            f,
            "| {} | {} | {:.2} GB | {:.2} GB | {:.2} | {} | {:.2} | {} | {} | {} | {:.2} |",
            self.method.name,
            self.method.models(),
            last.bytes_in as f64 / 1e9,
            last.bytes_out as f64 / 1e9,
            spread(&|(floor, _)| floor.copied.as_secs_f64()).1,
            spread(&|(_, merged)| merged.wall),
            spread(&|(_, merged)| merged.cpu).1,
            anonymous.div_ceil(1 << 20),
            spread(&|(floor, merged)| merged.wall / floor.copied.as_secs_f64()),
            spread(&|(floor, merged)| merged.wall / floor.synced.as_secs_f64()),
            self.method.target,
        )
    }
}
