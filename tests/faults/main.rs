//! Each durable step fails once, before and after it, by an error, a panic and the end of the process; what was accepted ends
//! once and whole all the same.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

mod keys;
#[path = "../support/reader.rs"]
mod reader;
mod requests;
mod slow;
mod streams;
mod webhooks;
mod workers;

const BINARY: &str = env!("CARGO_BIN_EXE_amalgam");

const RECIPE: &str = "\
merge_method: linear
models: [{model: examples/models/sort, parameters: {weight: 1}}, {model: examples/models/upper, parameters: {weight: 2}}]
";

/// Ways to fail, as the crate `fail` writes them.
const ERROR: &str = "return(error)";
const FULL: &str = "return(full)";
const PANIC: &str = "panic";
const KILL: &str = "return(kill)";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

impl Side {
    const BOTH: [Side; 2] = [Side::Before, Side::After];

    fn of(self, step: &str) -> String {
        match self {
            Side::Before => format!("{step}:before"),
            Side::After => format!("{step}:after"),
        }
    }
}

/// No step is left out: those of requests fail in a server, the others in a worker.
#[test]
fn every_step_is_made_to_fail() {
    let tested: Vec<&str> = [requests::STEPS, workers::STEPS, keys::STEPS, webhooks::STEPS, streams::STEPS].concat();
    let forgotten: Vec<&&str> = fault::STEPS.iter().filter(|step| !tested.contains(step)).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}
